"""The wheel: what it holds and says of itself, and that it works from an empty folder without the checkout."""

import email
import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import tf_blurdiff as bd
from tests.support import commands

SOURCES = (
    "pyproject.toml", "setup.py", "README.md", "LICENSE", "tf_blurdiff_command.py",
    "tf_blurdiff", "configs", "weights", "export",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Of a copy: the checkout may have a folder build/ of other days, which setuptools would pack too.
    checkout = folder / "checkout"
    checkout.mkdir()
    for source in (commands.ROOT / name for name in SOURCES):
        if source.is_dir():
            shutil.copytree(source, checkout / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout / source.name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, checkout]
    result = subprocess.run(pip, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("tf_blurdiff-*.whl")
    return wheel


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_it_holds_the_package_its_command_and_what_is_beside_it_alone(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(commands.ROOT)) for path in (commands.ROOT / "tf_blurdiff").rglob("*.py")}
    configs = {f"tf_blurdiff/configs/{path.name}" for path in (commands.ROOT / "configs").glob("*.yaml")}
    weights = {f"tf_blurdiff/weights/{path.name}" for path in (commands.ROOT / "weights").iterdir()}
    kit = [path for path in (commands.ROOT / "export").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    kit = {f"tf_blurdiff/kit/{path.relative_to(commands.ROOT / 'export')}" for path in kit}
    assert names == modules | configs | weights | kit | {"tf_blurdiff/py.typed", "tf_blurdiff_command.py"}
    assert len(configs) >= 4 and len(weights) >= 3 and "tf_blurdiff/kit/tf_serving/compose.yaml" in kit


def test_it_brings_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        assert "tf_blurdiff = tf_blurdiff_command:main" in archive.read(name).decode().splitlines()


def test_it_has_the_packages_version_which_the_changelog_describes(metadata):
    assert metadata["Version"] == bd.__version__
    changes = (commands.ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == bd.__version__


def test_its_description_is_the_readme_without_what_an_index_cannot_show(metadata):
    description = metadata.get_payload(decode=True).decode()
    assert description.startswith("# tf_blurdiff") and len(description) > 5000
    addresses = re.findall(r"\]\(\s*([^)]*)\)", description)
    assert addresses and all(address.startswith("https://") for address in addresses)


@pytest.mark.slow
def test_it_works_from_an_empty_folder(wheel, tmp_path):
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    settings = commands.overrides([*commands.TINY, "train.steps=2"])

    def check(*results):
        for result in results:
            assert result.returncode == 0, result.stderr

    with commands.Forks(folder, env=commands.environment(PYTHONPATH=str(site))) as forks:
        where = forks.run("-c", "import tf_blurdiff; print(tf_blurdiff.__file__)")
        assert where.stdout.startswith(str(site))
        command = "-m", "tf_blurdiff.sample", "--num_images", 4
        check(
            forks.run("-m", "tf_blurdiff.train", "--config", "digits.yaml", *settings),
            *forks.run_all([
                (*command, "--model", "digits", "--num_steps", 5, "--out", "shipped.png"),
                (*command, "--model", "runs/digits/model.keras"),
                ("-m", "tf_blurdiff.export", "--model", "runs/digits/model.keras", "--out", "served/digits"),
            ]),
        )  # fmt: skip
    for words in (("--help",), ("client", "--help"), ("serve", "--help")):
        command = [sys.executable, "-m", "tf_blurdiff_command", *words]
        environment = commands.environment(PYTHONPATH=str(site))
        check(subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True))
    assert (folder / "samples.png").is_file() and (folder / "shipped.png").is_file()
    manifest = json.loads((folder / "served" / "digits" / "1" / "assets.extra" / "manifest.json").read_text())
    assert manifest["versions"]["tf_blurdiff"] == bd.__version__
