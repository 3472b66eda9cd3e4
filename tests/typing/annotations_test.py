"""Every public function of the package says the types of its arguments and of its result."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "tf_blurdiff"
PATHS = sorted(PACKAGE.rglob("*.py"))


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


def public_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Those of a module and of its classes, private classes too; not functions inside of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from public_functions(child)
        elif is_public(child.name):
            yield child


def missing_annotations(text: str) -> list[str]:
    missing = []
    for function in public_functions(ast.parse(text)):
        each = function.args
        arguments = [*each.posonlyargs, *each.args, *each.kwonlyargs, each.vararg, each.kwarg]
        bare = [a.arg for a in arguments if a and a.annotation is None and a.arg not in ("self", "cls")]
        missing += [f"{function.name}({name})" for name in bare]
        missing += [f"{function.name} -> ?"] if function.returns is None else []
    return missing


def test_a_missing_annotation_is_seen():
    text = "class A:\n    def __init__(self, a, *b: int, **c): pass\n    def _d(self, e): pass\ndef f() -> None: pass"
    assert missing_annotations(text) == ["__init__(a)", "__init__(c)", "__init__ -> ?"]


@pytest.mark.parametrize("path", PATHS, ids=[str(path.relative_to(PACKAGE)) for path in PATHS])
def test_public_functions_have_annotations(path):
    assert not missing_annotations(path.read_text())
