"""The benchmarks as a user runs them, in their smallest form: each in a fork of one process."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks import BENCHMARKS
from tests.support import commands, models
from tf_blurdiff.evaluation.classifier import ImageClassifier

# Each is trained by the config of that name; here none is trained.
RUNS = {
    "digits": {"process": "blurring"},
    "digits_gaussian": {"process": "gaussian"},
    "digits_heat_dissipation": {
        "process": "heat_dissipation", "prediction": "less_blurred", "sampler": "heat", "num_steps": 6,
    },
    "digits_cold": {"process": "cold", "prediction": "x0", "sampler": "cold"},
    "digits_labels": {"process": "blurring", "label_dropout": 0.1},
}  # fmt: skip


def model_file(name):
    return f"runs/{name}/model.keras"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run directory for each config of digits."""
    folder = tmp_path_factory.mktemp("reader")
    for name, settings in RUNS.items():
        network = models.small_network(num_classes=10 if name == "digits_labels" else None)
        (folder / "runs" / name).mkdir(parents=True)
        models.randomized(models.make(network, **{"num_steps": 3, **settings})).save(folder / model_file(name))
    return folder


def run(command_lines, folder):
    """Runs programs of the benchmarks, `{name: [place, argument, ...]}`, and returns `{name: finished process}`."""
    words = [[BENCHMARKS / f"{place}.py", *arguments] for place, *arguments in command_lines.values()]
    return dict(zip(command_lines, commands.run_forked(words, cwd=folder, timeout=1800)))


def tables(done):
    """The tables that a program printed: for each a list of rows, each a dict of the titles."""
    assert done.returncode == 0, done.stderr
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", done.stdout, re.MULTILINE):
        titles, _, *rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()]
        found.append([dict(zip(titles, row, strict=True)) for row in rows])
    return found


def figures(rows, *columns):
    """The numbers of these columns; of a mean and its deviation the mean."""
    return np.array([[float(row[column].split(" ± ")[0]) for column in columns] for row in rows])


MISTAKES = {
    "exports/exports --model=nothing.keras": "model file not found: nothing.keras",
    "exports/exports --model=digits --picture=a.gif": "--picture=a.gif: must end in .png, .pdf, .svg",
    "quality/restoration --model=digits --out=.": "--out=.: must end in .png, .pdf, .svg",
    "quality/restoration --model=digits --out=file/a.png": "--out file/a.png cannot be written",
    "quality/restoration --model=digits --set=data.image_size=16 --set=network.attention_resolutions=[8]":
        "--config: images (8, 8, 1), the model's, are expected. Received: (16, 16, 1)",
    "quality/digits --part=guidance --model=digits": "--model: a model with labels is expected for --part guidance",
    "quality/digits --part=solvers --model=fashion_mnist": "--model: images (8, 8, 1) are expected",
    "quality/digits_students --teacher=digits --students=nowhere": "--students: a folder of distill is expected",
    "quality/digits_students --teacher=fashion_mnist": "--teacher: images (8, 8, 1) are expected",
    "quality/digits_students --teacher=digits --out=a.txt": "--out must end in .png",
    "quality/as_asked --samples=file/a.npz --classifier=a.keras": "a.keras",
    "quality/panels --panel=few=digits,ddim": "TITLE=MODEL or TITLE=MODEL,SAMPLER,CALLS. Received: few=digits,ddim",
    "quality/panels --panel=colour=emoji": "one size and one channel are expected. Received: colour: (32, 32, 3)",
    "quality/panels --panel=a=digits_4 --panel=b=fashion_mnist_4": "Received: a: (8, 8, 1), b: (28, 28, 1)",
    "quality/panels --panel=a=digits --panel=a=digits_4": "--panel: each title may be given once. Received: a, a",
    "quality/panels --panel=digits --out=a.txt": "--out must end in .png",
    "quality/digits --part=solvers --out=a.png": "--out is for --part families and guidance",
    "quality/digits --part=families --model=digits": "--model is for --part solvers and guidance",
    "quality/digits --part=solvers --model=digits --calls=x": "--calls must be integers of 1 or more. Received: x",
    "quality/miniature --part=tables --order_out=a.txt": "--order_out must end in .png",
    "quality/miniature --part=tables --runs=nowhere": "nowhere holds no reports; --part evaluate makes them",
    "data/image_folder --root=new --photographs=nowhere": "--num_patches: got 20000, expected at most 0",
    "data/image_folder --root=new --cache_gb=x": "--cache_gb: got x, expected numbers of 0 or more",
    "data/pipeline --sizes=8x8x2": "--sizes: got '8x8x2', expected sizes such as 28x28x1",
    "data/fashion_mnist": "--data_dir must have a value",
    "data/emoji": "--root must have a value",
    "data/emoji --root=.": "--root . is not an empty folder",
    "data/emoji --root=new --font=nowhere.ttf": "--font nowhere.ttf cannot be read",
    "speed/__main__ --parts=nothing": "parts must be of training, forward,",
    "speed/__main__ --parts=startup --diffusers_python=nowhere --out=kept.md": "nowhere cannot be run",
    "speed/__main__ --parts=blurring --out=file/a.md": "--out file/a.md cannot be written",
    "speed/full_size --rows=nothing": "--rows must be of cifar10, lsun,",
    "speed/full_size --batch_sizes=2,2": "--batch_sizes must be two numbers of 1 or more. Received: 2,2",
    "gpu/__main__ --parts=training,nothing": "long, resume. Received: nothing",
    "gpu/__main__ --seconds=soon": "--seconds: invalid float value: 'soon'",
    "gpu/__main__ --small --out=file/out": "gpu: --out file/out cannot be made: Not a directory",
    "gpu/__main__ --parts=layers": "gpu: TensorFlow finds no GPU here; --small runs on a processor",
}  # fmt: skip


@pytest.fixture(scope="module")
def done(folder):
    """What each mistake is answered."""
    (folder / "file").touch()
    (folder / "kept.md").write_text("an hour's results")
    return run({line: line.split() for line in MISTAKES}, folder)


@pytest.mark.slow
def test_families_are_scored_and_drawn(slowly_done, folder):
    (rows,) = tables(slowly_done["families"])
    assert [row["family"] for row in rows] == ["gaussian", "blurring", "heat dissipation", "cold"]
    assert [(row["sampler"], row["calls"]) for row in rows[2:]] == [("heat", "6"), ("cold", "3")]
    # An untrained network's images are farther from digits than digits are from each other.
    assert (figures(rows, "pixels", "hidden layer") > 1.0).all()
    assert ["±" in row["bits per dimension"] for row in rows] == [True, True, False, False]
    with Image.open(folder / "families.png") as picture:
        assert picture.width > 3 * 36 / 6 * 5 * 8


@pytest.mark.slow
def test_restoration_has_a_column_for_each_feature_network(slowly_done, folder):
    """Every row's figures are numbers, and an image as blurred as given is nearer than a stranger."""
    (rows,) = tables(slowly_done["restoration"])
    columns = ["PSNR, dB", "SSIM", "distance, pixels", "distance, dct_energies"]
    assert list(rows[0]) == ["task", "what", *columns]
    assert [row["what"] for row in rows if row["task"] == "twice the size"] == [
        "pixels repeated", "bicubic", "linear estimate", "restored", "mean of 2 seeds",
    ]  # fmt: skip
    assert len(rows) == 13 and np.isfinite(figures(rows, *columns)).all()
    assert 0.0 < float(rows[0]["distance, pixels"]) < 1.0
    assert "<svg" in (folder / "sheet.svg").read_text()


@pytest.mark.slow
def test_trainings_of_a_prediction_become_a_row(slowly_done, folder):
    (row,) = tables(slowly_done["predictions"])[0]
    assert (row["family"], row["prediction"], row["trainings"]) == ("blurring", "v", "2")
    assert row["ancestral2"].count(" ± ") == 2 and float(row["multistep3"].split()[0]) > 1.0
    assert len(list((folder / "predictions").glob("blurring_v_*/model.keras"))) == 2


@pytest.mark.slow
def test_a_folder_of_patches_is_cut_damaged_and_read(slowly_done, folder):
    (rows,) = tables(slowly_done["image_folder"])
    assert [row["cache_gb"] for row in rows] == ["0"]
    # Of noise, a file that is zeros after its start can still be unpacked to as many pixels: two of the ten.
    assert rows[0]["damaged, named"] in ("8 of 10 in 8 lines", "10 of 10 in 10 lines")
    assert (figures(rows, "images/s, epoch 3", "peak MB, epoch 3") > 0).all()
    assert len(list((folder / "patches").rglob("*.png"))) == 100


@pytest.mark.slow
def test_the_pipeline_s_speed_has_a_row_for_each_size_source_and_flip(slowly_done):
    (rows,) = tables(slowly_done["pipeline"])
    assert [row["image"] for row in rows] == ["8x8x1"] * 4 + ["4x6x3"] * 4
    assert [(row["source"], row["flips"]) for row in rows[:4]] == [
        ("array", "no"), ("array", "yes"), ("folder, kept", "no"), ("folder, kept", "yes"),
    ]  # fmt: skip
    assert (figures(rows, "median", "lowest", "highest", "µs a batch") > 0).all()


@pytest.fixture(scope="module")
def slowly_done(folder):
    """What those that take long printed, by their names."""
    digits = ["quality/digits", f"--model={model_file('digits')}", "--num_images=36"]
    exported = [f"--model={model_file(name)}" for name in ("digits", "digits_cold")]
    own = {"num_steps": 2, "sampler": "ddim", "grid": "uniform", "distilled_guidance": 1.0}
    (folder / "students" / "steps_2").mkdir(parents=True)
    models.randomized(models.make(models.small_network(), **own)).save(folder / "students" / "steps_2" / "model.keras")
    (folder / "photographs").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "photographs" / "noise.jpg")
    for label, name in enumerate(("asked", "other")):
        classifier = ImageClassifier((8, 8, 1), num_classes=3 - label)
        classifier.logits.bias.assign(100.0 * np.eye(3 - label)[1])  # It sees label 1 everywhere.
        classifier.save(folder / f"{name}.keras")
    asked = {"image": np.zeros((8, 8, 8, 1), np.uint8), "label": np.array([0, 1, 2, 0, 1, 2, 0, 1])}
    np.savez(folder / "asked.npz", **asked)
    small = {
        "asked": ["quality/as_asked", "--samples=asked.npz", "--classifier=asked.keras"],
        "asked of another": ["quality/as_asked", "--samples=asked.npz", "--classifier=other.keras"],
        "families": ["quality/digits", "--part=families", "--num_images=36", "--bits_images=2", "--out=families.png"],
        "restoration": [
            "quality/restoration", f"--model={model_file('digits')}", "--num_images=6", "--num_seeds=2",
            "--features=pixels", "--features=dct_energies", "--out=sheet.svg",
        ],
        "image_folder": [
            "data/image_folder", "--root=patches", "--photographs=photographs", "--num_patches=100", "--batch_size=16",
            "--cache_gb=0",
        ],
        "pipeline": [
            "data/pipeline", "--sizes=8x8x1,4x6x3", "--rounds=1", "--seconds=0", "--megabytes=1", "--num_files=10",
            "--batch_size=16",
        ],
        "predictions": [
            "quality/digits_predictions", "--runs=predictions", "--only=blurring, v", "--seeds=2", "--steps=102",
            "--num_images=36", "--jobs=2",
        ],
        "students": [
            "quality/digits_students", f"--teacher={model_file('digits')}", "--students=students", "--num_images=36",
            "--sets=2", "--out=students.png",
        ],
        "panels": [
            "quality/panels", "--panel=guided=fashion_mnist,ddim,2", "--panel=student=fashion_mnist_4",
            "--num_images=4", "--guidance_scale=1.5", "--out=panels.png",
        ],
        "solvers": [*digits, "--part=solvers", "--calls=2"],
        "precision": [*digits, "--part=precision"],
        "classifier": [*digits, "--part=classifier"],
        "guidance": [
            "quality/digits", "--part=guidance", f"--model={model_file('digits_labels')}", "--num_images=40",
            "--out=labels.png",
        ],
        "solver_convergence": ["quality/solver_convergence"],
        "exports": ["exports/exports", *exported, "--picture=sheet.png", "--out=served"],
        "blurring": ["speed/__main__", "--parts=blurring", "--sizes=8x8x1", "--rounds=1", "--diffusers_python=none"],
        "limit": ["speed/limit", "--sizes=8x8x1", "--rounds=1"],
        "full_size": ["speed/full_size", "--rows=DDPM's network for CIFAR-10", "--batch_sizes=1,2"],
    }  # fmt: skip
    return run(small, folder)


@pytest.mark.slow
@pytest.mark.parametrize("part, number", [("precision", 2), ("classifier", 8)])
def test_a_part_of_digits_has_a_row_for_each_way_of_sampling(slowly_done, part, number):
    (rows,) = tables(slowly_done[part])
    assert len(rows) == number and len({tuple(row.values()) for row in rows}) == number
    assert (figures(rows, "pixels", "hidden layer") > 1.0).all()


@pytest.mark.slow
def test_a_student_has_a_row_after_its_teacher_in_as_many_calls(slowly_done, folder):
    (rows,) = tables(slowly_done["students"])
    assert [(row["calls"], row["who"]) for row in rows] == [("3", "teacher"), ("2", "teacher"), ("2", "student")]
    assert rows[1]["sampler"].endswith(", its best") and rows[2]["sampler"] == "ddim"
    assert (figures(rows, "pixels", "hidden layer") > 1.0).all()
    assert all(" ± " in row["pixels"] and " ± " in row["hidden layer"] for row in rows)
    assert (folder / "students.png").is_file()


@pytest.mark.slow
def test_labels_that_a_classifier_sees_are_counted(slowly_done):
    (rows,) = tables(slowly_done["asked"])
    assert [list(row.values()) for row in rows] == [
        ["0", "3", "0.000"], ["1", "3", "1.000"], ["2", "2", "0.000"], ["all", "8", "0.375"],
    ]  # fmt: skip
    other = slowly_done["asked of another"]
    assert other.returncode == 2 and "(8, 8, 1) and 2 labels. Received: asked.npz of images (8, 8, 1)" in other.stderr


@pytest.mark.slow
def test_panels_are_beside_each_other(slowly_done, folder):
    assert slowly_done["panels"].returncode == 0, slowly_done["panels"].stderr
    with Image.open(folder / "panels.png") as picture:
        assert picture.width > 2 * 2 * 2 * 28 and picture.height > 2 * 2 * 28
        panels = np.split(np.asarray(picture)[24:], [picture.width // 2], axis=1)
    assert all(panel.std() > 30 for panel in panels)


@pytest.mark.slow
def test_solvers_have_a_row_each_and_a_column_for_each_number_of_calls(slowly_done):
    (rows,) = tables(slowly_done["solvers"])
    cells = [row["2 calls"].split(" / ") for row in rows]
    # In two calls multistep3 is multistep2.
    assert len(cells) == 6 and len(set(map(tuple, cells))) == 5
    assert (np.array(cells, float) > 1.0).all()


@pytest.mark.slow
def test_guidance_asks_for_every_label(slowly_done, folder):
    (rows,) = tables(slowly_done["guidance"])
    assert [row["guidance scale"] for row in rows] == ["1.0", "1.5", "2.0", "3.0"]
    shares = figures(rows, "as asked", "rarest right class")
    assert (shares[:, 1] <= shares[:, 0]).all() and (shares[:, 0] < 0.6).all()
    accuracy = re.search(r"right of the real digits' other half: (0\.\d+)", slowly_done["guidance"].stdout)
    assert float(accuracy[1]) > 0.95
    assert (folder / "labels.png").is_file()


@pytest.mark.slow
def test_of_solvers_with_an_exact_denoiser_higher_orders_fall_faster(slowly_done):
    for rows in tables(slowly_done["solver_convergence"]):
        slopes = {(row["sampler"], row["grid"]): float(row["slope"]) for row in rows}
        assert 0.7 < slopes["ddim", "quadratic"] < 1.2 < slopes["multistep2", "quadratic"]
        assert slopes["multistep2", "quadratic"] < slopes["multistep3", "quadratic"]


@pytest.mark.slow
def test_exports_says_what_each_export_is_and_draws_it(slowly_done, folder):
    (rows,) = tables(slowly_done["exports"])
    assert [row["process"] for row in rows] == ["blurring", "cold"]
    for name, row, sampler in zip(("digits", "digits_cold"), rows, ("ancestral2, 3", "cold, 3")):
        size = sum(file.stat().st_size for file in (folder / "served" / name / "1").rglob("*") if file.is_file())
        assert (row["model"], row["sampler, steps"]) == (model_file(name), sampler)
        assert row["signatures"] == "serving_default, png"
        assert float(row["MB"]) == pytest.approx(size / 1e6, abs=0.05)
        assert row["known image"] == "the same" and int(row["all signatures"]) <= 1 and int(row["model.sample"]) <= 1
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_speeds_are_printed(slowly_done):
    (rows,) = tables(slowly_done["blurring"])
    assert [row["what"] for row in rows] == ["training step", "4 sampling steps"]
    assert (figures(rows, "gaussian, ms", "blurring, ms", "ratio: median") > 0).all()
    peaks, rows = tables(slowly_done["limit"])
    assert len(peaks) == 4
    assert (figures(rows, "GFLOP", "ms") > 0).all() and (figures(rows, "share of the peak") < 1.0).all()


@pytest.mark.slow
def test_full_sizes_are_measured(slowly_done):
    (rows,) = tables(slowly_done["full_size"])
    assert float(rows[0]["parameters, millions"]) == pytest.approx(38.3, abs=0.05)
    assert 0.0 < float(rows[0]["an image, GB"]) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_message(done, line):
    result = done[line]
    assert result.returncode == 2, result.stderr
    assert MISTAKES[line] in result.stderr and "Traceback" not in result.stderr
    assert "|" not in result.stdout


@pytest.mark.slow
def test_a_file_of_results_is_not_emptied_by_a_mistake(done, folder):
    assert done and (folder / "kept.md").read_text() == "an hour's results"
