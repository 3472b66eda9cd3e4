"""The command lines as a user meets them: what they answer, and what they say to a mistake."""

import functools
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from tests.support import commands
from tf_blurdiff import command_line, export, sample
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.errors import UserError

TRAIN = ["train", "--config", "digits.yaml"]
MODEL = "{run}/model.keras"
PROGRESS = re.compile(r"(statistics|training|sampling): +\d+%")
# A name: the command line, and what its one message must say.
MISTAKES = {
    "no config": (["train"], "--config"),
    "strength of nothing": (["sample", "--model=digits", "--strength=0.3"], "--strength is for --image, which is not"),
    "cutoff of nothing": (["sample", "--model=digits", "--cutoff=0.3"], "--cutoff is for --detail_seed, which is not"),
    "nobody's home": (["sample", "--model=~nobody at all/x.keras"], "model file not found: ~nobody at all/x.keras"),
    "unknown flag": ([*TRAIN, "--steps", "3"], "Unknown command line flag 'steps'"),
    "stray word": ([*TRAIN, "train.steps=3"], "unexpected argument: train.steps=3"),
    "missing file": (["train", "--config", "nowhere.yaml"], "nowhere.yaml: no such file; expected a path or one of"),
    "unknown key": ([*TRAIN, "--set", "train.lr=0.1"], "train.lr"),
    "wrong type": ([*TRAIN, "--set", "train.steps=many"], "train.steps: got 'many', expected a valid integer"),
    "cannot halve": ([*TRAIN, "--set", "data.image_size=9"], "data.image_size: got 9, expected a multiple of 2"),
    "no folder": (
        [*TRAIN, "--set", "data.source=image_folder", "--set", "data.root=nowhere"],
        "root: got 'nowhere'",
    ),
    "empty folder": ([*TRAIN, "--set", "data.source=image_folder", "--set", "data.root=empty"], "no image"),
    "cut picture": (
        [*TRAIN, *commands.overrides(commands.TINY), "--run_dir", "cut"]
        + ["--set", "data.source=image_folder", "--set", "data.root=pictures", "--set", "data.max_corrupt=0"],
        "cannot read the image 'pictures/07.png'",
    ),
    "other config": (
        [*TRAIN, *commands.overrides(commands.TINY), "--run_dir", "{run}", "--set", "train.seed=9"],
        "was begun with another config: train.seed (0 there, 9 here)",
    ),
    "run_dir is a file": ([*TRAIN, "--run_dir", "{run}/metrics.jsonl"], "is a file; expected a folder"),
    "no model": (["sample"], "--model"),
    "missing model": (["sample", "--model", "nowhere.keras"], "model file not found: nowhere.keras"),
    "corrupt model": (["sample", "--model", "corrupt.keras"], "corrupt.keras is not a .keras file that can be read"),
    "cut model": (
        ["sample", "--model", "cut.keras"],
        "cut.keras is not a .keras file that can be read: it is damaged or cut short",
    ),
    "unknown sampler": (
        ["sample", "--model", MODEL, "--sampler", "euler"],
        "sampler must be one of ancestral, ancestral2, ddim,",
    ),
    "sampler of another process": (["sample", "--model", MODEL, "--sampler", "cold"], "sampler 'cold' needs a process"),
    "prediction of another process": ([*TRAIN, "--set", "model.prediction=less_blurred"], "model.prediction"),
    "two ways": (
        ["sample", "--model", MODEL, "--noise_seed", "1", "--detail_seed", "2"],
        "give one of --noise_seed and --detail_seed, not both",
    ),
    "two ways from seed 0": (
        ["sample", "--model", MODEL, "--interpolate_to", "0", "--detail_seed", "0"],
        "give one of --interpolate_to and --detail_seed, not both",
    ),
    "no picture": (["sample", "--model", MODEL, "--image", "nowhere.png"], "cannot read the image 'nowhere.png'"),
    "no steps": (["sample", "--model", MODEL, "--num_steps", "0"], "num_steps must be an integer of 1 or more"),
    "no images": (["sample", "--model", MODEL, "--num_images", "0"], "--num_images must be 1 or more. Received: 0"),
    "one image of a way": (["sample", "--model", MODEL, "--num_images", "1", "--trajectory"], "--num_images must be"),
    "text for a number": (["sample", "--model", MODEL, "--num_images", "ten"], "--num_images=ten"),
    "eta": (["sample", "--model", MODEL, "--eta", "2"], "eta must be in [0, 1]. Received: 2.0"),
    "labels": (["sample", "--model", MODEL, "--labels", "1"], "has no labels"),
    "devices for a grid": (["sample", "--model", MODEL, "--strategy", "mirrored"], "are for images from seeds into"),
    "replicas between seeds": (
        ["sample", "--model", MODEL, "--interpolate_to", "9", "--out_dir", "between", "--replicas", "2"],
        "--strategy and --replicas are for images from seeds",
    ),
    "array between seeds": (
        ["sample", "--model", MODEL, "--interpolate_to", "9", "--out", "x.npz"],
        "an .npz is for images from seeds; expected a picture for --out. Received: x.npz",
    ),
    "array and folder": (
        ["sample", "--model", MODEL, "--out", "x.npz", "--out_dir", "x"],
        "give --out_dir or an .npz, not both",
    ),
    "no workers": (
        ["sample", "--model", MODEL, "--out", "x.npz", "--strategy", "multi_worker"],
        "strategy multi_worker needs the environment variable TF_CONFIG",
    ),
    "others over generated": (
        ["sample", "--model", MODEL, "--detail_seed", "1", "--out_dir", "generated"],
        "--out_dir must be another folder: generated holds images that were made otherwise",
    ),
    "a path too long": (
        ["train", "--config", f"{'x' * 300}.yaml", "--run_dir", "run"],
        "x.yaml: File name too long",
    ),
    "over another path": (
        ["sample", "--model", MODEL, "--interpolate_to", "5", "--num_images", "4", "--out_dir", "between_seeds"],
        "--out_dir must be another folder: between_seeds/between_7.png is there, and may be of another call",
    ),
    "seed of a classifier": (
        ["train_classifier", "--config", "digits.yaml", "--seed", "-1", "--out", "c.keras"],
        "seed must be an integer of 0 or more, below 2^31. Received: -1",
    ),
    "a form that is not written": (
        ["sample", "--model", MODEL, "--out", "x.gif"],
        "--out must end in .png, .jpg, .jpeg, .webp or .npz. Received: x.gif",
    ),
    "unwritable": (["sample", "--model", MODEL, "--out", "corrupt.keras/x.png"], "cannot be written"),
    "nothing to launch": (["launch", "--num_workers", "2"], "give the command after --, such as"),
    "nothing to export": (["export"], "give --model and --out"),
    "verify and export": (
        ["export", "--model", MODEL, "--out", "served", "--verify", "served/1"],
        "--verify checks an export that is there; --model is for another call",
    ),
    "version 0 of another form": (
        ["export", "--model", MODEL, "--out", "x.onnx", "--format", "onnx", "--version", "0"],
        "--version is for --format savedmodel",
    ),
    "version 0": (["export", "--model", MODEL, "--out", "served", "--version", "0"], "version must be an integer of 1"),
    "quality of no steps": (
        ["export", "--model", MODEL, "--out", "served", "--quality_steps", "10,0"],
        "quality_steps must be an integer of 1 or more, below 2^31. Received: 0",
    ),
    "quality in words": (
        ["export", "--model", MODEL, "--out", "served", "--quality_steps", "high"],
        "--quality_steps: model file not found: high; expected a .keras file",
    ),
    "few images to score": (
        ["evaluate", "--model", MODEL, "--config", "digits.yaml", "--num_images", "5", "--cache_dir", "c"],
        "num_images must be an integer of 20 or more",
    ),
    "unknown features": (
        ["evaluate", "--model", MODEL, "--config", "digits.yaml", "--features", "vgg", "--cache_dir", "c"],
        "features must be one of",
    ),
    "features that cannot be told apart": (
        ["evaluate", "--model", MODEL, "--config", "digits.yaml"]
        + ["--features", "classifier:a", "--features", "classifier:b"],
        "--features must be of different kinds. Received: classifier:a, classifier:b",
    ),
    "bound of one image": (
        ["evaluate", "--model", MODEL, "--config", "digits.yaml", "--bits_images", "1"],
        "--bits_images must be an integer of 2 or more, below 2^31. Received: 1",
    ),
    "times that do not divide steps": (
        ["evaluate", "--model", MODEL, "--config", "digits.yaml", "--bits_steps", "10", "--bits_times", "3"],
        "--bits_times must divide --bits_steps, 10. Received: 3",
    ),
    "classifier in another format": (
        ["train_classifier", "--config", "digits.yaml", "--out", "c.h5"],
        "--out must be a .keras file",
    ),
    "a file where a folder will be": (["export", "--model", MODEL, "--out", "x.keras"], "is made by --format keras"),
    "nothing to verify": (["export", "--verify", "nowhere/1"], "nowhere/1 is no export of tf_blurdiff"),
}


@pytest.fixture(scope="module")
def answers(trained_run, tmp_path_factory):
    """What each mistake is answered."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "corrupt.keras").write_bytes(b"not a zip file")
    whole = (trained_run / "model.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])

    (folder / "between_seeds").mkdir()
    (folder / "between_seeds" / "between_7.png").touch()
    (folder / "generated").mkdir()
    (folder / "generated" / "settings.json").write_text("{}")
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    for number in range(20):
        noise = np.random.default_rng(number).integers(0, 256, (40, 30), np.uint8)
        Image.fromarray(noise).save(folder / "pictures" / f"{number:02}.png")
    cut = folder / "pictures" / "07.png"
    cut.write_bytes(cut.read_bytes()[:600])

    # Each model is read once. What is wrong with a file is found each time.
    with pytest.MonkeyPatch.context() as patched:
        for command in (sample, export):
            patched.setattr(command, "load_model", functools.cache(command.load_model))
        return {
            name: commands.call(*(word.format(run=trained_run) for word in words), cwd=folder)
            for name, (words, _) in MISTAKES.items()
        }


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_status_2(answers, name):
    result, message = answers[name], MISTAKES[name][1]
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line and not PROGRESS.match(line)]
    assert len(lines) == 1, result.stderr


def test_a_process_of_its_own_says_the_same(answers, tmp_path):
    result, expected = commands.run(*MISTAKES["unknown flag"][0], cwd=tmp_path), answers["unknown flag"]
    assert (result.returncode, result.stdout, result.stderr) == (2, expected.stdout, expected.stderr)


@pytest.mark.parametrize(
    "name, flag",
    [
        ("train", "--run_dir"),
        ("sample", "--num_steps"),
        ("export", "--verify"),
        ("distill", "--teacher_steps"),
        ("launch", "--max_restarts"),
        ("evaluate", "--features"),
        ("train_classifier", "--epochs"),
        ("visualize", "--what"),
    ],
)
def test_help_answers(name, flag, tmp_path):
    result = commands.call(name, "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert flag in result.stdout and f"python -m tf_blurdiff.{name}" in result.stdout
    sampling = ("sample", "export", "evaluate", "visualize")
    for shared, names in (("--sampler", sampling), ("--grid", (*sampling, "distill"))):
        assert (shared in result.stdout) == (name in names)


@pytest.mark.slow
def test_help_answers_in_a_process_of_its_own(tmp_path):
    result, here = commands.run("export", "--help", cwd=tmp_path), commands.call("export", "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    # The line above the flags names the module, or its file.
    assert result.stdout.replace(f"{commands.ROOT}/tf_blurdiff/export.py:", "tf_blurdiff.export:") == here.stdout


def test_flags_that_are_not_a_command_s_own_are_refused(tmp_path):
    for name, flag in (("train", "--sampler"), ("export", "--labels"), ("evaluate", "--labels")):
        result = commands.call(name, flag, "1", cwd=tmp_path)
        assert result.returncode == 2 and f"Unknown command line flag '{flag[2:]}'" in result.stderr


FLAGS_AND_ARGUMENTS = [
    (
        "distill", "distill",
        "--config=digits.yaml --model=m --run_dir=r --steps=2 --guidance_scale=1.5 --stage_steps=7 --learning_rate=0.25"
        " --teacher_steps=16 --grid=uniform",
        {"steps": 2, "guidance_scale": 1.5, "stage_steps": 7, "peak_learning_rate": 0.25, "teacher_steps": 16,
         "grid": "uniform"},
    ),
    (
        "sample", "generate",
        "--model=digits --num_images=2 --out_dir=here --guidance_scale=1.5 --noise_seed=3 --batch_size=5 --eta=0.5"
        " --sampler=ddim --num_steps=6 --grid=uniform --delta=0.1",
        {"guidance_scale": 1.5, "noise_seed": 3, "batch_size": 5, "eta": 0.5, "sampler": "ddim", "num_steps": 6,
         "grid": "uniform", "delta": 0.1},
    ),
    (
        "export", "export_savedmodel",
        "--model=digits --out=here --restoration --keep=3 --quality_steps=5,7 --sampler=ddim --num_steps=6 --eta=0.5",
        {"restoration": True, "keep": 3, "quality_steps": [5, 7], "sampler": "ddim", "num_steps": 6, "eta": 0.5},
    ),
]  # fmt: skip


@pytest.mark.parametrize("command, function, flags, expected", FLAGS_AND_ARGUMENTS)
def test_flags_reach_the_library(monkeypatch, tmp_path, command, function, flags, expected):
    given = {}
    monkeypatch.setattr(f"tf_blurdiff.{command}.{function}", lambda *words, **named: given.update(named))
    result = commands.call(command, *flags.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {name: given.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "words, num_classes, expected",
    [
        ([], None, None),
        ([], 2, [0, 1, 0]),
        (["--labels=5"], 10, [5, 5, 5]),
        (["--labels=4,2"], 10, [4, 2, 4]),
        (["--labels=1"], None, [1, 1, 1]),  # The model says that it has none.
    ],
)
def test_labels_are_taken_in_turn(words, num_classes, expected):
    options = command_line.Flags()
    labels = options.shared("labels")
    options.values(["program", *words])
    assert command_line.labels_in_turn(labels, num_classes, 3) == expected


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--label=shoes"], [1, 1, 1]),
        (["--label=shoes", "--label=boots"], [1, 0, 1]),
        (["--labels=2", "--label=shoes"], [2, 1, 2]),
        (["--label=2"], [2, 2, 2]),
        (["--label=0"], [3, 3, 3]),  # A name goes before a number.
        ([], [0, 1, 2]),
    ],
)
def test_labels_have_names(words, expected):
    options = command_line.Flags()
    labels, label = options.shared("labels"), options.shared("label")
    options.values(["program", *words])
    assert command_line.labels_in_turn(labels, 4, 3, label, ("boots", "shoes", "hats", "0")) == expected


@pytest.mark.parametrize(
    "num_classes, names, message",
    [
        (2, ("boots", "shoes"), "--label must be one of boots, shoes; or a number from 0 to 1. Received: sandals"),
        (2, None, "--label must be a number from 0 to 1, for the model's labels have no names. Received: sandals"),
        (None, None, "--label must be left out, for the model has no labels. Received: sandals"),
    ],
)
def test_a_name_that_is_none_is_named(num_classes, names, message):
    options = command_line.Flags()
    labels, label = options.shared("labels"), options.shared("label")
    options.values(["program", "--label=sandals"])
    with pytest.raises(UserError) as caught:
        command_line.labels_in_turn(labels, num_classes, 3, label, names)
    assert message in str(caught.value)


@pytest.mark.parametrize("text, least, wanted", [("1,x", None, ""), ("", None, ""), ("3,0", 1, " of 1 or more")])
def test_what_is_no_list_of_integers_is_named(text, least, wanted):
    options = command_line.Flags()
    seeds = options.list("seeds", None, "Some.")
    options.values(["program", "--seeds=-3,7"])
    assert command_line.integers(seeds) == command_line.integers(seeds, least=-3) == [-3, 7]
    options.values(["program", f"--seeds={text}"])
    with pytest.raises(UserError) as caught:
        command_line.integers(seeds, least)
    assert str(caught.value) == f"--seeds must be integers{wanted}. Received: {text or 'nothing'}"


def test_only_the_flags_of_sampling_that_a_command_has_are_its_arguments():
    options = command_line.Flags()
    options.shared("grid"), options.shared("sampler", repeatable=True), options.shared("seed")
    options.values(["program", "--sampler=ddim", "--sampler=heat"])
    assert options.sampling_arguments() == {"grid": None, "sampler": ["ddim", "heat"]}
    options = command_line.Flags()
    options.sampling()
    options.values(["program", "--eta=0.5", "--num_steps=3"])
    assert options.sampling_arguments() == {
        "sampler": None, "num_steps": 3, "grid": None, "eta": 0.5, "delta": None,
    }  # fmt: skip


def test_sample_writes_a_grid_and_single_files(trained_run, trained_model, tmp_path):
    arguments = ["--num_images", 5, "--seed", 7, "--num_steps", 3, "--sampler", "ancestral", "--batch_size", 2]
    devices = ["--strategy", "mirrored", "--replicas", 2]
    files = ["--out", tmp_path / "new" / "grid.png", "--out_dir", tmp_path / "single"]
    command = ["--model", trained_run / "model.keras", *arguments, *devices, *files]
    result = commands.run("sample", *command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 replicas on CPU" in result.stdout
    names = sorted(path.name for path in (tmp_path / "single").glob("*.png"))
    assert names == ["seed_10.png", "seed_11.png", "seed_7.png", "seed_8.png", "seed_9.png"]
    grid = np.asarray(Image.open(tmp_path / "new" / "grid.png"), np.float32)
    expected = trained_model.sample(range(7, 12), num_steps=3, sampler="ancestral")[..., 0]
    expected = (expected + 1) * 127.5
    for number, seed in enumerate(range(7, 12)):
        image = np.asarray(Image.open(tmp_path / "single" / f"seed_{seed}.png"), np.float32)
        np.testing.assert_allclose(image, expected[number], atol=1)
        top, left = 2 + number // 3 * 66, 2 + number % 3 * 66
        np.testing.assert_array_equal(grid[top : top + 64 : 8, left : left + 64 : 8], image)


@pytest.mark.slow
def test_sample_draws_a_grid_alone(trained_run, trained_model, tmp_path):
    arguments = ["--num_images", 5, "--num_steps", 3, "--precision", "mixed_bfloat16"]
    result = commands.call("sample", "--model", trained_run / "model.keras", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    grid = np.asarray(Image.open(tmp_path / "samples.png"), np.float32)
    assert grid.shape == (2 + 2 * 66, 2 + 3 * 66)
    last = grid[68:132:8, 68:132:8]
    in_float32, in_bfloat16 = (
        (model.sample([4], num_steps=3)[0, :, :, 0] + 1) * 127.5
        for model in (trained_model, trained_model.in_precision("mixed_bfloat16"))
    )
    np.testing.assert_allclose(last, in_bfloat16, atol=1)
    assert np.abs(last - in_bfloat16).sum() < np.abs(last - in_float32).sum()


@pytest.mark.slow
def test_export_and_verify(trained_run, tmp_path):
    own = shutil.copytree(trained_run, tmp_path / "own", ignore=shutil.ignore_patterns("checkpoints"))
    (own / "README.md").write_text((own / "README.md").read_text() + "CC0, both.\n")
    arguments = ["--model", own, "--out", "served", "--precision", "mixed_bfloat16"]
    result = commands.call("export", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "export: served/1" in result.stdout
    assert (tmp_path / "served" / "1" / "assets.extra" / "README.md").read_text().endswith("\nCC0, both.\n")
    for verified in ("served/1", "served"):
        result = commands.call("export", "--verify", verified, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert f"{verified} is sound" in result.stdout
    graph = saved_model_pb2.SavedModel.FromString((tmp_path / "served" / "1" / "saved_model.pb").read_bytes())
    assert "DT_BFLOAT16" in str(graph)


GREY = np.full((3, 8, 8, 1), 200 / 127.5 - 1, "float32")
WAYS = {
    "noise": (["--noise_seed", 3], lambda m: m.sample([7, 8, 9], noise_seeds=[3, 3, 3], sampler="ancestral")),
    "between": (["--interpolate_to", 0], lambda m: m.interpolate(7, 0, 3, sampler="ancestral")),
    "bands": (
        ["--detail_seed", 1, "--cutoff", 0.5],
        lambda m: m.mix_bands([7, 8, 9], [1, 2, 3], 0.5, sampler="ancestral"),
    ),
    "image": (
        ["--image", "grey.png", "--strength", 0.5],
        lambda m: m.sample([7, 8, 9], images=GREY, strength=0.5, sampler="ancestral"),
    ),
    "trajectory": (["--trajectory"], lambda m: m.sample([7], sampler="ancestral", return_trajectory=True)[-1]),
}


# The slow ones differ from the other in the flags alone.
@pytest.mark.parametrize("name", [pytest.param(way, marks=[pytest.mark.slow] * (way != "image")) for way in WAYS])
def test_sample_knows_other_ways_to_use_seeds(trained_run, trained_model, tmp_path, name):
    Image.new("RGB", (20, 10), (200, 200, 200)).save(tmp_path / "grey.png")
    common = ["--model", trained_run / "model.keras", "--num_images", 3, "--seed", 7, "--sampler", "ancestral"]
    flags, by_the_model = WAYS[name]
    result = commands.call("sample", *common, *flags, "--out_dir", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    pictures = np.stack([np.asarray(Image.open(path), int) for path in sorted((tmp_path / "out").glob("*.png"))])
    assert pictures.shape == (3, 8, 8)
    expected = to_uint8(by_the_model(trained_model))[..., 0]
    np.testing.assert_allclose(pictures[-len(expected) :], expected, atol=1)
