"""What `visualize` draws and says, in this process: most of each command would be TensorFlow's start."""

import csv
import functools
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support import commands
from tests.support.models import PROCESSES, make, randomized, small_network
from tf_blurdiff import visualize
from tf_blurdiff.data.pixels import to_uint8
from tf_blurdiff.visualization import inspection

# A name: the command, and what its one message must say.
MODEL, BY_LEVEL = ("--model", "model.keras"), ("--model", "by_level.keras")
MISTAKES = {
    "nothing": ([], "--what must have a value"),
    "unknown": (["backward"], "value should be one of <forward|schedules|trajectory|interpolate|solvers>"),
    "stray word": (["forward", "picture.png"], "unexpected argument: picture.png"),
    "flag of another": (
        ["forward", *MODEL],
        "--model is not for --what forward, which takes --config, --set, --image, --image_size, --num_images and --out",
    ),
    "picture for a model": (["solvers", *MODEL, "--image", "picture.png"], "--image is not for --what solvers"),
    "no model": (["trajectory"], "--what trajectory needs --model, a .keras file"),
    "missing model": (["solvers", "--model", "nowhere.keras"], "model file not found: nowhere.keras"),
    "no config": (["schedules", "--config", "nowhere.yaml"], "nowhere.yaml: no such file; expected a path or one of"),
    "unknown key": (["schedules", "--config", "digits", "--set", "process.blur=3"], "process.blur"),
    "nothing to override": (["schedules", "--set", "process.min_gain=0.1"], "--set overrides values of a config"),
    "no picture": (["forward", "--image", "nowhere.png"], "cannot read the image 'nowhere.png'"),
    "not a picture": (
        ["forward", "--image", "text.txt"],
        "cannot read the image 'text.txt' (not an image; expected a whole .bmp, ",
    ),
    "too large": (["forward", "--image_size", "5000"], "--image_size=5000"),
    "one time": (["forward", "--num_images", "1"], "--num_images=1"),
    "no suffix": (
        ["forward", "--out", "x"],
        "--out of --what forward must end in .png, .pdf, .svg, .gif, .webp, .apng",
    ),
    "a moving plot": (
        ["schedules", "--out", "x.gif"],
        "--out of --what schedules must end in .png, .pdf, .svg. Received",
    ),
    "a table of pictures": (
        ["interpolate", *MODEL, "--out", "x.csv"],
        "must end in .png, .pdf, .svg, .gif, .webp, .apng",
    ),
    "a folder": (["forward", "--out", "folder.png"], "--out folder.png cannot be written: it is a folder"),
    "in a file": (["forward", "--out", "text.txt/x.png"], "--out text.txt/x.png cannot be written: File exists"),
    "text for seeds": (["trajectory", *MODEL, "--seeds", "0,one"], "--seeds must be integers. Received: 0,one"),
    "no seeds": (["trajectory", *MODEL, "--seeds", ""], "--seeds must be integers. Received: nothing"),
    "huge seed": (["trajectory", *MODEL, "--seeds", str(2**64)], "seeds must be a list of at least one integer"),
    "many seeds": (
        ["trajectory", *MODEL, "--seeds", ",".join(map(str, range(33)))],
        "--seeds must be at most 32 for --what trajectory. Received: 33",
    ),
    "half a pair": (
        ["interpolate", *MODEL, "--seeds", "0,1,2"],
        "--seeds must be pairs for --what interpolate. Received",
    ),
    "a pair of one": (["interpolate", *MODEL, "--seeds", "3,3"], "interpolate goes between two different seeds"),
    "several steps": (
        ["trajectory", *MODEL, "--num_steps", "2,3"],
        "--num_steps must be one number for --what trajectory. Received: 2",
    ),
    "no steps": (["trajectory", *MODEL, "--num_steps", "0"], "num_steps must be an integer of 1 or more"),
    "sampler of another process": (["trajectory", *MODEL, "--sampler", "cold"], "sampler 'cold' needs a process"),
    "labels": (["interpolate", *MODEL, "--labels", "1"], "has no labels"),
    "few reference steps": (
        ["solvers", *MODEL, "--reference_steps", "80"],
        "num_steps must be below reference_steps (80). Received: 80",
    ),
    "solvers by level": (["solvers", *BY_LEVEL], "goes from level to level"),
    "grid of another process": (["trajectory", *BY_LEVEL, "--grid", "logsnr"], "grid uniform"),
}
WORKING = {
    "forward": ["forward", "--image", "picture.png", "--num_images", 3, "--out", "new/sheet.svg", "--out", "way.webp"],
    "forward of configs": [
        "forward", "--config", "digits", "--config", "digits_cold", "--set", "process.sigma_blur_max=0.7",
        "--num_images", 3, "--out", "configs.apng",
    ],
    "forward of runs": [
        "forward", "--config", "a/config.yaml", "--config", "b/config.yaml", "--num_images", 2, "--out", "r.svg",
    ],
    "forward in colour": ["forward", "--config", "cifar10", "--num_images", 2, "--out", "colour.gif"],
    "schedules": ["schedules", "--image_size", 12],
    "trajectory": ["trajectory", *MODEL, "--seeds", "-3,7", "--num_steps", 4, "--out", "a.png", "--out", "a.apng"],
    "trajectory by level": ["trajectory", *BY_LEVEL, "--seeds", "5", "--out", "by_level.apng"],
    "interpolate": [
        "interpolate", "--model", "labels.keras", "--seeds", "3,4,5,6", "--labels", "2", "--num_steps", 2,
        "--num_images", 4, "--out", "between.apng",
    ],
    "interpolate twice": [
        "interpolate", "--model", "labels.keras", "--seeds", "3,4,3,4", "--labels", "0,2", "--num_steps", 2,
        "--num_images", 2, "--out", "twice.apng",
    ],
    "solvers": [
        "solvers", *MODEL, "--num_steps", "4,2,4", "--reference_steps", 8, "--seeds", "3,4", "--grid", "quadratic",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def models():
    by_level = make(process="heat_dissipation", prediction="less_blurred")
    models = {"model": make(), "by_level": by_level, "labels": make(small_network(num_classes=3))}
    return {name: randomized(model) for name, model in models.items()}


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("visualize")
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    (folder / "text.txt").write_text("not a picture")
    (folder / "folder.png").mkdir()
    for run in ("a", "b"):
        (folder / run).mkdir()
        shutil.copy(commands.ROOT / "configs" / "digits.yaml", folder / run / "config.yaml")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def answered(folder):
    listed = {name: command for name, (command, _) in MISTAKES.items()} | WORKING
    (folder / "schedules.png").write_text("an older one")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(visualize, "load_model", functools.cache(visualize.load_model))
        return {
            name: commands.call("visualize", *(["--what", *command] if command else []), cwd=folder)
            for name, command in listed.items()
        }


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_status_2(answered, name):
    result = answered[name]
    assert result.returncode == 2, result.stderr
    assert MISTAKES[name][1] in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not result.stdout, result.stderr


def test_what_was_drawn_is_said_and_nothing_else_is_left(answered, folder):
    for name in WORKING:
        result = answered[name]
        assert result.returncode == 0, result.stderr
        for line in result.stdout.splitlines()[-len([each for each in WORKING[name] if each == "--out"]) or -1 :]:
            assert (folder / line.split(": ")[1]).is_file()
    made = {path.name for path in folder.iterdir()} - {"model.keras", "by_level.keras", "labels.keras", "a", "b"}
    assert made == {
        "text.txt", "folder.png", "picture.png", "new", "way.webp", "configs.apng", "schedules.png", "a.png", "a.apng",
        "by_level.apng", "between.apng", "solvers.png", "solvers.csv", "twice.apng", "r.svg", "colour.gif",
    }  # fmt: skip
    assert Image.open(folder / "schedules.png").size[0] > 1000  # The older one was overwritten.


def test_sampling_shows_its_progress(answered):
    for name in ("trajectory", "interpolate", "solvers"):
        assert "100%" in answered[name].stderr


def pictures_of(path, count, size):
    """The pictures of an animation, `[T, count, size, size, 3]`; each 128 pixels wide or more."""
    zoom, frames = max(1, 128 // size), []
    with Image.open(path) as animation:
        for number in range(animation.n_frames):
            animation.seek(number)
            frame = np.asarray(animation.convert("RGB"))[22 : 22 + zoom * size]
            lefts = [8 + place * (zoom * size + 8) for place in range(count)]
            frames.append([frame[::zoom, left : left + zoom * size : zoom] for left in lefts])
    return np.array(frames)


def test_forward_shows_the_four_families(answered, folder):
    pictures = pictures_of(folder / "way.webp", 4, 32)
    picture = np.asarray(Image.open(folder / "picture.png"), np.float32) / 127.5 - 1
    for number, process in enumerate(inspection.families().values()):
        expected = inspection.diffused(process, picture, np.linspace(0, 1, len(pictures)))
        np.testing.assert_allclose(pictures[:, number].astype(int), expected, atol=1)
    text = (folder / "new" / "sheet.svg").read_text()
    assert text.count("<image") == 4 * 3 and "heat_dissipation" in text and "t = 0.50" in text


def test_forward_follows_configs_and_overrides(answered, folder):
    pictures = pictures_of(folder / "configs.apng", 2, 8)
    from tf_blurdiff.config.loading import build_process, load_config

    for number, name in enumerate(("digits", "digits_cold")):
        process = build_process(load_config(name, ["process.sigma_blur_max=0.7"]))
        clean = pictures[0, 1, ..., :1].astype(np.float32) / 127.5 - 1  # Cold starts from the digit itself.
        expected = inspection.diffused(process, clean, np.linspace(0, 1, len(pictures)))
        np.testing.assert_allclose(pictures[:, number, ..., :1].astype(int), expected, atol=1)


def test_forward_of_runs_has_a_row_for_each_and_a_digit_in_any_number_of_colours(answered, folder):
    text = (folder / "r.svg").read_text()
    assert text.count("<image") == 2 * 2 and "<!-- a -->" in text and "<!-- b -->" in text
    assert Image.open(folder / "colour.gif").n_frames > 1


def test_trajectories_are_those_of_sample(answered, folder, models):
    expected = models["model"].sample([-3, 7], 4, return_trajectory=True)
    pictures = pictures_of(folder / "a.apng", 2, 8)[..., :1].astype(int)
    np.testing.assert_allclose(pictures, to_uint8(expected), atol=1)
    expected = models["by_level"].sample([5], return_trajectory=True)
    pictures = pictures_of(folder / "by_level.apng", 1, 8)[..., :1].astype(int)
    assert len(pictures) == PROCESSES["heat_dissipation"].num_levels + 1
    np.testing.assert_allclose(pictures, to_uint8(expected), atol=1)


def test_interpolations_are_those_of_interpolate(answered, folder, models):
    pictures = pictures_of(folder / "between.apng", 2, 8)[..., :1].astype(int)
    for number, pair in enumerate([(3, 4), (5, 6)]):
        expected = models["labels"].interpolate(*pair, 4, num_steps=2, labels=[2] * 4)
        np.testing.assert_allclose(pictures[:, number], to_uint8(expected), atol=1)
    pictures = pictures_of(folder / "twice.apng", 2, 8)[..., :1].astype(int)
    for number, label in enumerate((0, 2)):
        expected = models["labels"].interpolate(3, 4, 2, num_steps=2, labels=[label] * 2)
        np.testing.assert_allclose(pictures[:, number], to_uint8(expected), atol=1)


def test_errors_of_solvers_are_in_the_table_and_printed(answered, folder, models):
    with open(folder / "solvers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = inspection.solver_errors(models["model"], [3, 4], [2, 4], 8, grid="quadratic")
    assert len(rows) == len(expected) == 6
    printed = answered["solvers"].stdout.splitlines()
    for row, error, line in zip(rows, expected, printed[1:]):
        assert (row["sampler"], row["grid"], int(row["num_steps"])) == error[:3]
        assert float(row["error"]) == pytest.approx(error.error, rel=1e-3, abs=1e-6)
        assert line.split()[:3] == [error.sampler, error.grid, str(error.num_steps)]
        assert float(line.split()[3]) == pytest.approx(error.error, rel=1e-2, abs=1e-6)


def test_it_runs_as_a_user_starts_it(tmp_path):
    result = commands.run("visualize", "--what", "forward", "--num_images", 2, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "forward: forward.png\n", "")
