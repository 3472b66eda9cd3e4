"""Every command in the README and the guides: run here as it stands, or named as one that cannot be."""

import itertools
import json
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import pytest
import yaml

from tests.support import commands
from tests.support.picture_folders import mixed
from tf_blurdiff.config.loading import load_config

READMES = [commands.ROOT / folder / "README.md" for folder in (".", "export", "weights")]
CONTRIBUTING = commands.ROOT / "CONTRIBUTING.md"
PAGES = [*READMES, CONTRIBUTING, *(commands.ROOT / "docs").glob("*.md")]
PROGRAMS = (
    "for", "python", "make", "curl", "docker", "tensorflow_model_server", "kubectl",
    "git", "pip", "tensorboard",
)  # fmt: skip
# What is not run, by its start, and why.
NOT_RUN = {
    "make ": "calls this test suite, or is the sum of what is run here",
    "python -m pytest": "calls this test suite",
    "python -m tf_blurdiff.config.reference": "has a test of its own",
    "python -m tf_blurdiff.train --config mine.yaml": "has a test of its own",
    "python -m tf_blurdiff.sample --model runs/mine": "has a test of its own",
    "python -m tf_blurdiff.export --model runs/mine": "has a test of its own",
    "pip install": "the tests' environment has all of it",
    "docker ": "needs a container engine",
    "kubectl ": "needs a cluster",
    "tensorflow_model_server": "in no package registry",
    "python export/client.py --model classes": "needs a served model with labels",
    "python export/client.py --model digits --signature png_": "needs pictures and an export with --restoration",
    "python -m tf_blurdiff.export --model runs/emoji": "has a test of its own",
    "python benchmarks/data/fashion_mnist.py": "needs a Debian package with the data",
    "python benchmarks/data/emoji.py": "needs a Debian package with the font",
    "python -m tf_blurdiff.train --config emoji": "needs its pictures",
    "python -m tf_blurdiff.evaluate --model emoji": "needs its pictures",
    "python -m tf_blurdiff.evaluate --model runs/miniature": "needs that data, and an hour of training",
    "python -m tf_blurdiff.train --config fashion_mnist": "needs that data",
    "python -m tf_blurdiff.evaluate --model fashion_mnist": "needs that data",
    "python -m tf_blurdiff.evaluate --model runs/clothes_1": "needs that data",
    "python -m tf_blurdiff.train_classifier --config fashion_mnist": "needs that data",
    "python -m tf_blurdiff.distill --model fashion_mnist": "needs that data",
    "python -m tf_blurdiff.train_classifier --config digits.yaml --set": "as the one that is run, and longer",
    "python -m tf_blurdiff.distill --model runs/digits/model.keras --config digits.yaml --set train": (
        "as the one that is run, and longer"
    ),
    "python benchmarks/quality/miniature.py": "needs that data, and hours",
    "python benchmarks/quality/digits_predictions.py": "has a test of its own, and needs hours",
    "python benchmarks/quality/digits_students.py": "has a test of its own",
    "python benchmarks/quality/panels.py": "has a test of its own",
    "python benchmarks/quality/as_asked.py": "has a test of its own",
    "python -m tf_blurdiff.sample --model fashion_mnist --num_images 1000": "as the one that is run, and longer",
    "python benchmarks/data/image_folder.py": "needs Debian packages with photographs",
    "python benchmarks/quality/restoration.py": "needs a model that was trained on a part of the digits",
    "python benchmarks/speed/full_size.py": "needs many minutes and 10 GB",
    "python benchmarks/gpu --seconds": "needs a GPU; its small form is run",
}


def commands_of(page):
    """The commands on indented or fenced lines, continued lines joined; a line of Python's `for` is none."""
    text = page.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        fenced_or_indented = re.match(r"(    )?(\.venv/bin/)?(?P<command>\S.*)", line)
        if fenced_or_indented and fenced_or_indented["command"].split()[0] in PROGRAMS and not line.endswith(":"):
            yield " ".join(fenced_or_indented["command"].split())


def to_run(page):
    return [line for line in commands_of(page) if not line.startswith(tuple(NOT_RUN))]


# A run of seconds, whose network need not have learned anything.
SHORT = [*commands.TINY, "train.steps=20", "train.checkpoint_every=20", "train.sample_every=20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that looks like the checkout, where digits.yaml is a config of seconds."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("export", "benchmarks"):
        (folder / name).symlink_to(commands.ROOT / name)
    for path in commands.ROOT.glob("configs/digits*.yaml"):
        # Sampler and steps follow from the process.
        config = load_config(path, [*SHORT, "sample.num_steps=null", "sample.sampler=null"])
        (folder / path.name).write_text(yaml.safe_dump(config.model_dump(mode="json")))
    config = load_config("folder", [*SHORT, "sample.num_steps=null", "data.image_size=16"])
    (folder / "folder.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    mixed(folder / "photos", count=30)
    (folder / "docs").mkdir()
    return folder


@pytest.fixture(scope="module")
def forks(folder):
    with commands.Forks(folder, env=environment(folder)) as forks:
        yield forks


def environment(folder):
    # The interpreter's own folder is not searched: a symlink to it keeps its virtual environment.
    path = f"{pathlib.Path(sys.executable).parent}:/usr/bin:/bin"
    return commands.environment(PATH=path, HOME=str(folder))


def shell(line, folder, **kwargs):
    return subprocess.Popen(["bash", "-c", line], cwd=folder, env=environment(folder), text=True, **kwargs)


def output_of(line, folder, forks=None, timeout=300):
    """What a line prints, in the shell or, if it is Python's alone, in a fork."""
    program, *words = shlex.split(line)
    if forks and program == "python" and not re.search(r"[|&;<>$*]", line):
        process = forks.run(*words)
        output = process.stdout + process.stderr
    else:
        process = shell(line, folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"{line}\n{output}"
    return output


# What takes long, by its start.
SLOW = (
    "python -m tf_blurdiff.sample --model emoji",  # As of a run's model, of a larger network.
    "for ",
    "python benchmarks/",
    *(f"python -m tf_blurdiff.{name}" for name in ("launch", "visualize", "evaluate")),
    # As the first, on fewer images, on more devices and on own pictures.
    *(f"python -m tf_blurdiff.train --config digits.yaml --run_dir runs/{name}" for name in ("held_out", "two")),
    "python -m tf_blurdiff.train --config folder.yaml",
    "python -m tf_blurdiff.sample --model runs/clothes",
    "python -m tf_blurdiff.sample --model runs/digits/model.keras --num_images 100",
    "python -m tf_blurdiff.train_classifier",
    "python -m tf_blurdiff.distill",
    "python -m tf_blurdiff.sample --model runs/digits_4",
    "python -m tf_blurdiff.export --model runs/digits/model.keras --out served/digits --quality_steps",
    "python export/load_test.py",
    "python -m tf_blurdiff.sample --model fashion_mnist",  # As of `emoji`.
    # Alike.
    "python -m tf_blurdiff.export --model digits",
    "python -m tf_blurdiff.export --model emoji",
)


def is_slow(line):
    return line.startswith(SLOW)


def test_the_pages_commands_run_in_their_order(folder, forks):
    servers, ran = [], []
    lines = dict.fromkeys(line for page in PAGES for line in to_run(page) if not is_slow(line))
    try:
        for line in lines:
            if line.startswith("python export/local_server.py"):
                if not servers:
                    servers.append(shell(f"exec {line}", folder))
                continue
            assert '"error"' not in output_of(line, folder, forks), line
            ran.append(line)
    finally:
        for server in servers:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    assert servers and len(ran) >= 8
    assert (folder / "grid.png").is_file()


def slow_lines():
    everything = dict.fromkeys(line for page in PAGES for line in to_run(page))
    return [line for line in everything if is_slow(line)]


def is_training(line):
    return line.startswith(("for ", "python -m tf_blurdiff.train"))


@pytest.fixture(scope="module")
def trained_folder(folder):
    """The folder, in which every page's trainings have run and the digits are served."""
    output_of("python -m tf_blurdiff.train --config digits.yaml --run_dir runs/digits", folder)
    output_of("python -m tf_blurdiff.export --model runs/digits/model.keras --out served/digits", folder)
    server = shell("exec python export/local_server.py --model_name digits --model_base_path served/digits", folder)
    try:
        for line in filter(is_training, slow_lines()):
            output_of(line, folder)
        yield folder
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


@pytest.mark.slow
def test_the_pages_longer_commands_run(trained_folder):
    lines = [line for line in slow_lines() if not is_training(line) and not line.startswith("python benchmarks/")]
    assert len(lines) >= 6
    for line in lines:
        output_of(line, trained_folder, timeout=1800)


@pytest.mark.slow
def test_the_pages_benchmarks_run(trained_folder):
    lines = [line for line in slow_lines() if line.startswith("python benchmarks/")]
    assert len(lines) >= 6
    for line in lines:
        assert "|---|" in output_of(line, trained_folder, timeout=1800), line


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        *(
            pytest.param(page, marks=pytest.mark.slow)
            for page in ("weights/README.md", "docs/families.md", "docs/keras.md", "docs/restoration.md")
        ),
    ],
)
def test_a_pages_python_runs(forks, trained_run, page):
    (program,) = re.findall(r"```python\n(.*?)```", (commands.ROOT / page).read_text(), re.DOTALL)
    program = program.replace("runs/digits/model.keras", str(trained_run / "model.keras"))
    result = forks.run("-c", program)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_notebooks_cells_run_in_their_order(forks):
    cells = json.loads((commands.ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    result = forks.run("-c", program)
    assert result.returncode == 0, result.stderr
    assert "served/digits/1" in result.stdout


def test_what_is_not_run_is_still_on_a_page():
    lines = [line for page in PAGES for line in commands_of(page)]
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in lines), start


def test_the_files_to_touch_are_there():
    named = re.findall(r"(?:tf_blurdiff|tests|benchmarks|configs)/[\w/]*(?:\.py)?", CONTRIBUTING.read_text())
    assert len(named) > 20
    assert [name for name in named if not (commands.ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(commands.ROOT)))
def test_tables_rows_have_as_many_cells_as_titles(page):
    """One cell more, and a viewer shows no table but its text."""
    lines = page.read_text().splitlines()
    for above, line in enumerate(lines[1:]):
        if re.fullmatch(r" *\|( ?:?-+:? ?\|)+", line):
            rows = [
                lines[above],
                line,
                *itertools.takewhile(lambda row: row.strip().startswith("|"), lines[above + 2 :]),
            ]
            counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
            assert len(counts) == 1, lines[above]


def test_flags_in_commands_are_words():
    for page in PAGES:
        for line in to_run(page):
            assert shlex.split(line)
