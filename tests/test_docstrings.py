"""Docstrings say what parameters are. That they are there, and begin with a verb, is ruff's to check (pydocstyle)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.test_rooms import SOURCES, modules

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], method: bool = False) -> Iterator[tuple[Function, bool]]:
    """Yield public functions and methods, with whether they are methods."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, True)
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield node, method


def parameters(function: Function) -> list[str]:
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def lists_arguments(function: Function) -> bool:
    return "Args:" in (ast.get_docstring(function) or "")


FUNCTIONS = [
    (path.relative_to(SOURCES), function, method)
    for path in modules().values()
    for function, method in public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
]
# A method that implements one of its room's protocol or base class has its parameters there.
DECLARED = {
    (path.parts[0], function.name) for path, function, method in FUNCTIONS if method and lists_arguments(function)
}


@pytest.mark.parametrize("room", sorted({path.parts[0] for path, _, _ in FUNCTIONS}))
def test_public_functions_of_several_parameters_say_what_these_are(room: str) -> None:
    silent = [
        f"{path}: {function.name}"
        for path, function, method in FUNCTIONS
        if path.parts[0] == room
        and len(parameters(function)) > 1
        and not lists_arguments(function)
        and not (method and (room, function.name) in DECLARED)
    ]
    assert silent == []
