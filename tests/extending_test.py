"""docs/extending.md: what is the user's own trains, is loaded in another process, and is named by the command alone."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.support import commands

PAGE = (commands.ROOT / "docs" / "extending.md").read_text()
LINES = re.findall(r"^    python (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reader's folder, with the page's two files."""
    folder = tmp_path_factory.mktemp("own")
    for name, language in {"my_package.py": "python", "mine.yaml": "yaml"}.items():
        (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
        (folder / name).write_text(text)
    (folder / "quits.py").write_text("import sys\nsys.exit(3)\n")
    return folder


@pytest.fixture(scope="module")
def forks(folder):
    with commands.Forks(folder, env=commands.environment(PYTHONPATH=str(folder))) as forks:
        yield forks


@pytest.fixture(scope="module")
def done(forks):
    """The page's commands, after they have run in their order."""
    return {line: forks.run(*line.split()) for line in LINES}


@pytest.mark.slow
def test_the_pages_commands_run(done, folder):
    assert len(LINES) == 3
    for line, each in done.items():
        assert each.returncode == 0, (line, each.stderr)
    card = (folder / "runs" / "mine" / "README.md").read_text()
    assert "1,000 of own my_package.squares" in card and "A diffusion model, my_package.my_process, of 8x8" in card
    assert "--model runs/mine/model.keras --imports my_package --out" in card
    assert Image.open(folder / "large.png").size[0] > 32
    assert (folder / "served" / "mine" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_a_model_whose_package_is_not_named_says_what_is_missing(forks, done):
    done = forks.run("-m", "tf_blurdiff.sample", "--model=runs/mine")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert (
        "holds a class MyNet, which nothing has brought: import its package first, on the command line" in done.stderr
    )


@pytest.mark.slow
def test_the_parts_are_what_they_should_be(forks, done):
    """In another process, where the file is loaded from what the command has named."""
    program = """
import numpy as np
from tf_blurdiff.own_code import import_packages
import_packages(["my_package"])
import my_package, tf_blurdiff as bd
model = bd.load_model("runs/mine")
noise = model.process.noise
assert isinstance(model.network, my_package.MyNet) and model.network.width == 8
assert model.sampler == "straight" and model.class_names == ("small", "large")
assert isinstance(noise, my_package.LinearLogSNR) and model.process.max_blur_sigma(8) == 1.5
t = np.linspace(0, 1, 9, dtype="float32")
log_a, log_sigma = map(np.asarray, noise(t))
np.testing.assert_allclose(np.exp(2 * log_a) + np.exp(2 * log_sigma), 1, rtol=1e-5)
np.testing.assert_allclose(noise.time_of(log_a - log_sigma), t, atol=1e-6)
np.testing.assert_allclose(model.sample([3], labels=[1]), model.sample([3], labels=[1], sampler="ddim"), atol=1e-4)
"""
    done = forks.run("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "imports: got 'my_package', expected a package that the command names: --imports=my_package imports it"),
        (["--imports=nowhere"], "--imports: cannot import 'nowhere': ModuleNotFoundError: No module named 'nowhere'"),
        (["--imports=quits"], "--imports: cannot import 'quits': SystemExit: 3"),
        (["--set=network.class=os.system"], "network.class: got 'os.system', expected package.name, of a package that"),
        (["--set=network.class=my_package.No"], "network.class: got 'my_package.No': module 'my_package' has no attr"),
        (["--set=network.class=MyNet"], "network.class: got 'MyNet', expected package.name, of a package in imports"),
        (["--set=network.depth=3"], "network.class: my_package.MyNet cannot be called: Unrecognized keyword arguments"),
        (["--set=process.name=x"], "process.class: my_package.my_process cannot be called: my_process() got an unexp"),
        (["--set=process.key=x"], "process.class: my_package.my_process cannot be called: my_process() got an unexp"),
        (
            ["--set=network.class=my_package.squares"],
            "network.class: my_package.squares cannot be called: squares() got",
        ),
        (
            ["--set=process.class=my_package.squares"],
            "process.class: my_package.squares cannot be called: squares() got",
        ),
        (["--set=data.class=my_package.my_process"], "data.class: my_package.my_process cannot be called"),
        (["--set=data.labels=[one,one]"], "data.labels: got ['one', 'one'], expected a list with each name once"),
        (["--set=data.labels=[one]"], "data.labels: got 1 names, expected 2: one for each label"),
        (["--set=data.labels=folders"], "data.labels: got 'folders', expected a valid list or null"),
        (["--set=data.split=train"], "squares() got an unexpected keyword argument 'split' (own_code.py, line"),
        (["--set=imports=my_package"], "imports: got 'my_package', expected a valid list"),
        (["--set=network=3"], "network: got 3, expected a mapping with the keys channels, multipliers"),
        (["--set=sample.sampler=crooked"], "sample.sampler: got 'crooked', expected one of ancestral, ancestral2"),
    ],
)
def test_a_mistake_is_one_line(forks, words, message):
    words = words if not words or words[0].startswith("--imports") else ["--imports=my_package", *words]
    done = forks.run("-m", "tf_blurdiff.train", "--config=mine.yaml", "--run_dir=wrong", *words)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_arrays_of_another_kind_are_named():
    from tf_blurdiff.data import own_images
    from tf_blurdiff.errors import UserError

    white = np.zeros((4, 8, 8, 1), np.uint8)
    for returned, message in {
        "floats": (
            white.astype(float),
            "got float64 of shape (4, 8, 8, 1), expected a NumPy array, uint8 of shape (N, 8",
        ),
        "another shape": (white[:, :4], "got uint8 of shape (4, 4, 8, 1)"),
        "none": (white[:0], "got uint8 of shape (0, 8, 8, 1)"),
        "a list": ([1], "got list of shape None"),
        "labels of one": (
            (white, [1]),
            "got labels int64 of shape (1,), expected integers of 0 or more, of shape (4,)",
        ),
        "labels below 0": ((white, [0, -1, 0, 0]), "got labels int64"),
    }.values():
        with pytest.raises(UserError) as caught:
            own_images(lambda shape, returned=returned: returned, (8, 8, 1), 0.0, False)
        assert message in str(caught.value)
    with pytest.raises(UserError, match=r"data\.labels: got 1 names, expected null, since there are no labels"):
        own_images(lambda shape: white, (8, 8, 1), 0.0, False, class_names=["one"])
    shapes = []
    images = own_images(lambda shape: shapes.append(shape) or np.zeros((9, *shape), np.uint8), (8, 8, 1), 0.2, True)
    assert shapes == [(9, 9, 1)] and images.held_out.num_images + images.num_images == 9
