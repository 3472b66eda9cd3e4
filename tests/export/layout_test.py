"""The kit works from wherever it lies: as scripts of a checkout, and as the part of a package."""

import ast
import shutil
import subprocess
import sys

import pytest

from tests.support import commands
from tests.support.programs import EXPORT

FOLDERS = ["endpoint", "dev_server"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_modules_of_a_folder_import_each_other_relatively_and_no_other_folders(folder):
    for path in (EXPORT / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {name.name.split(".")[0] for name in node.names} & {*FOLDERS, "tf_blurdiff"}, path
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 or node.module.split(".")[0] not in (*FOLDERS, "tf_blurdiff"), path


def test_a_copy_in_a_package_can_be_imported_and_run(tmp_path):
    shutil.copytree(EXPORT, tmp_path / "package" / "kit", ignore=shutil.ignore_patterns("__pycache__"))
    modules = ["endpoint.connection", "endpoint.load_levels", "endpoint.restoration_inputs", "dev_server.checks"]
    code = "\n".join(f"import package.kit.{module}" for module in modules)
    commands.run_python(code, cwd=tmp_path)
    for program in ("client", "load_test", "local_server"):
        path = tmp_path / "package" / "kit" / f"{program}.py"
        done = subprocess.run([sys.executable, path, "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "") and "flags:" in done.stdout
