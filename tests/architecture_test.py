"""The layout that docs/architecture.md describes, held against the code."""

import ast
import doctest
import importlib
import pathlib

import keras
import numpy as np
import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "tf_blurdiff"
LEVELS = [
    {"_startup", "errors", "interruption", "dct", "stateless_random", "group_norm", "optimizers", "cpp_runtime"},
    {"schedules", "layers", "precision", "places", "observations", "devices", "checkpoints", "workers"},
    {"process", "unet"},
    {"predictions", "priors", "grids", "samplers", "image_files", "config_messages", "pretrained"},
    {"sampling_arguments", "likelihood", "image_folder", "tfds_images"},
    {"sampling", "restoration", "training_step", "data", "metrics", "inception", "efficientnet_lite"},
    {"model", "classifier", "reference"},
    {"config_checks", "pictures", "inspection", "features"},
    {"config", "generation", "signatures"},
    {"run_directory", "export_assets", "command_line", "evaluation"},
    {"reporting", "serving", "verification", "plotting", "evaluation_report"},
    {"training"},
    {"train", "sample", "export", "launch", "visualize", "evaluate", "train_classifier"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
COMMAND_LINES = LEVELS[-1]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tf_blurdiff":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tf_blurdiff."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("tf_blurdiff."))


def test_every_module_has_a_level():
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    upward = {name for name in imported_modules(PACKAGE / f"{module}.py") if LEVEL[name] >= LEVEL[module]}
    assert not upward


@pytest.mark.parametrize("module", [module for module in MODULES if module not in COMMAND_LINES])
def test_docstring_examples_run(module):
    names = {"np": np, "keras": keras}
    result = doctest.testmod(importlib.import_module(f"tf_blurdiff.{module}"), extraglobs=names)
    assert result.failed == 0
