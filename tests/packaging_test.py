"""The wheel: it carries configs and weights, and works from an empty folder without the checkout."""

import subprocess
import sys
import zipfile

import pytest

from tests.support import commands


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, commands.ROOT]
    result = subprocess.run(pip, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("tf_blurdiff-*.whl")
    return wheel


def test_it_holds_the_package_the_configs_and_the_weights_alone(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(commands.ROOT)) for path in (commands.ROOT / "tf_blurdiff").rglob("*.py")}
    configs = {f"tf_blurdiff/configs/{path.name}" for path in (commands.ROOT / "configs").glob("*.yaml")}
    weights = {f"tf_blurdiff/weights/{path.name}" for path in (commands.ROOT / "weights").iterdir()}
    assert names == modules | configs | weights and len(configs) >= 4 and len(weights) == 3


def test_it_works_from_an_empty_folder(wheel, tmp_path):
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = commands.environment(PYTHONPATH=str(site))

    def run(name, *arguments):
        command = commands.command(name, *arguments)
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr

    where = commands.run_python("import tf_blurdiff; print(tf_blurdiff.__file__)", cwd=folder, env=environment)
    assert where.startswith(str(site))
    run("sample", "--model", "digits", "--num_images", 4, "--num_steps", 5, "--out", "shipped.png")
    settings = [setting for setting in commands.TINY if not setting.startswith("train.steps")]
    run("train", "--config", "digits.yaml", *commands.overrides([*settings, "train.steps=20"]))
    run("sample", "--model", "runs/digits/model.keras", "--num_images", 4)
    run("export", "--model", "runs/digits/model.keras", "--out", "served/digits")
    assert (folder / "samples.png").is_file() and (folder / "served" / "digits" / "1" / "saved_model.pb").is_file()
