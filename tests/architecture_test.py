"""The order of imports that docs/architecture.md states, held against the code."""

import ast
import doctest
import graphlib
import importlib
import pathlib
import re

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tf_blurdiff"
# Each runs as `python -m tf_blurdiff.NAME`.
COMMANDS = {path.stem for path in PACKAGE.glob("*.py") if "command_line.run(" in path.read_text()}
# Modules, and the `__init__` of each folder, by the names that they are imported by.
ITS_OWN = [PACKAGE / f"{name}.py" for name in ("__init__", "__main__", "_startup")]
PATHS = sorted(path for path in PACKAGE.rglob("*.py") if path not in ITS_OWN)
NAMES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in PATHS}


def order_of_places():
    """The page's line of imports: sets of places, from the lowest up."""
    (line,) = re.findall(r"^ +(\S.* <- .*)$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    *floors, last = (set(floor.split(", ")) for floor in line.split(" <- "))
    assert last == {"commands"}
    return [*floors, COMMANDS]


FLOORS = order_of_places()
FLOOR_OF = {place: number for number, places in enumerate(FLOORS) for place in places}


def imported(path):
    """The modules of the package that a file imports, by their dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tf_blurdiff":
            yield from (f"tf_blurdiff.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tf_blurdiff."):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & set(NAMES.values())
            yield from inside or {node.module}
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("tf_blurdiff."))


def place_of(name):
    return name.split(".")[1]


def test_the_page_names_every_place():
    assert {place_of(name) for name in NAMES.values()} == set(FLOOR_OF)


def test_the_page_names_every_module():
    words = set(re.findall(r"\w+", (ROOT / "docs" / "architecture.md").read_text()))
    assert not {name.split(".")[-1] for name in NAMES.values()} - words


@pytest.mark.parametrize("path", PATHS, ids=NAMES.values())
def test_imports_point_down(path):
    place = place_of(NAMES[path])
    others = {place_of(name) for name in imported(path)} - {place}
    assert not {other for other in others if FLOOR_OF[other] > FLOOR_OF[place]}


@pytest.mark.parametrize("path", PATHS, ids=NAMES.values())
def test_other_folders_import_what_a_folder_names(path):
    """What its `__init__` names, or modules; of the mathematics, modules and what is in them."""
    place, inside = place_of(NAMES[path]), []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").count(".") == 2:
            inside += [node.module] if node.module.startswith("tf_blurdiff.") else []
    assert not [name for name in inside if place_of(name) not in (place, "diffusion")]


def test_no_circle_of_imports():
    graph = {NAMES[path]: set(imported(path)) & set(NAMES.values()) for path in PATHS}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(PATHS)


@pytest.mark.parametrize("name", [name for name in NAMES.values() if place_of(name) not in COMMANDS])
def test_docstring_examples_run(name):
    result = doctest.testmod(importlib.import_module(name), extraglobs={"np": np, "keras": keras})
    assert result.failed == 0
