"""The layout: which room may know which, that nothing knows itself in a circle, and that tests lie where sources do.

Imports are read from the sources, those within functions too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import ROOT, order, rooms

SOURCES = ROOT / "src" / "partune"
TESTS = ROOT / "tests"

GROUND = ("errors", "demo", "runtime", "trial", "space", "config")
WINGS = ("optimizers", "finetune", "record", "workers")
FLOORS = (  # each room may know those of the floors below it, and what stands before it on its own
    GROUND,
    WINGS,
    ("objectives", "verdict"),
    ("study", "integrations", "report", "experiment", "bench", "export"),
    ("cli",),
)
FORBIDDEN = {  # room: what it must not reach, not through others either
    "optimizers": ("record", "objectives", "finetune", "study"),
    "report": ("study",),
    "export": ("study",),
}

LINES = 500

UNTESTED = {  # source files with logic and no test file of their path: where they are tested
    "__init__.py": "in test_rooms and through every name that it hands on",
    "cli/__init__.py": "with the commands that it calls",
    "demo/make.py": "by the files it wrote, which test_files compares",
    "experiment/files.py": "by test_run, which reads what it wrote",
    "experiment/options.py": "by test_protocol and test_run",
    "experiment/progress.py": "by test_run, which reads its lines",
    "experiment/sentences.py": "by test_findings and test_page, where its sentences stand",
    "finetune/acceptance.py": "by test_layers: it asks PEFT, which is asked there",
    "config/batch.py": "by test_sections and the workers' test_batch",
    "objectives/engine.py": "by test_finetune",
    "objectives/resident.py": "by test_finetune, which pickles objectives",
    "objectives/base.py": "by test_function and by the studies' tests",
    "record/looks.py": "by test_fresh_runs, whose studies have several verdicts",
    "report/figures/comparison.py": "by test_comparison, of the page that it is drawn in",
    "report/html/document.py": "by test_page and test_browser",
    "report/markdown.py": "by test_files",
    "report/plain_data.py": "by test_summary",
    "report/sentences.py": "by test_page and test_facts",
    "report/svg/panels.py": "by the pictures of the comparison's and the benchmarks' tests",
    "verdict/flips.py": "by test_paired",
    "report/tables.py": "by test_page and the terminal's test",
    "report/verdict_words.py": "by test_words and test_page",
    "study/calls.py": "by test_study and test_slots",
    "study/loop.py": "by test_study, test_slots and the drivers' test",
    "study/opening.py": "by test_study and test_settings",
    "study/seeds.py": "by test_study",
    "study/state.py": "by test_study and test_slots",
    "study/stopped.py": "by test_study",
    "study/watcher.py": "by whatever watches a study",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for path in sorted(SOURCES.rglob("*.py"))}


@cache
def imports() -> dict[str, frozenset[str]]:
    """The modules of partune that each module imports."""
    return {name: frozenset(imported(path)) for name, path in modules().items()}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules():
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


def room(module: str) -> str:
    """The room of a module: the package or file below partune; empty for partune itself."""
    return module.partition(".")[2].partition(".")[0]


def rooms_known() -> dict[str, set[str]]:
    known: dict[str, set[str]] = {}
    for module, others in imports().items():
        known.setdefault(room(module), set()).update(room(other) for other in others)
    return {name: {other for other in others if other not in ("", name)} for name, others in known.items()}


def reached(start: str) -> set[str]:
    known, seen, ahead = rooms_known(), set[str](), [start]
    while ahead:
        new = known.get(ahead.pop(), set()) - seen
        seen |= new
        ahead += new
    return seen


@pytest.mark.slow
def test_the_imports_are_all_seen() -> None:
    assert "partune.trial" in imports()["partune.space.space"]
    assert "partune.finetune.packed.engine" in imports()["partune.objectives.engine"]  # within a function


def test_nothing_imports_itself_in_a_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_partune_holds_rooms_and_three_modules() -> None:
    entries = {path.name for path in SOURCES.iterdir() if path.name not in ("__pycache__", "py.typed")}
    files = {"__init__.py", "__main__.py", "errors.py"}
    listed = {name for floor in FLOORS for name in floor}
    assert entries == files | (listed - {"errors"})


@pytest.mark.parametrize("name", sorted({name for floor in FLOORS for name in floor}))
def test_a_room_knows_only_lower_ones(name: str) -> None:
    level = next(k for k, floor in enumerate(FLOORS) if name in floor)
    below = {other for floor in FLOORS[:level] for other in floor}
    beside = set() if FLOORS[level] == WINGS else set(FLOORS[level])
    assert rooms_known().get(name, set()) <= below | beside


def test_the_machine_knows_nothing_of_tuning() -> None:
    assert rooms_known()["runtime"] == {"errors"}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_must_not_be_reached_is_not(name: str) -> None:
    assert not reached(name) & set(FORBIDDEN[name])


def test_no_file_is_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()}
    assert not {path.relative_to(SOURCES).as_posix() for path, length in lengths.items() if length > LINES}


def test_the_table_of_rooms_is_of_their_docstrings() -> None:
    _, written, _ = rooms.split(rooms.PAGE.read_text(encoding="utf-8"))
    assert written == rooms.table(), "python -m tests.support.rooms writes it"


def has_logic(path: Path) -> bool:
    """Return whether a source file holds a function or a class."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) for node in ast.parse(path.read_text(encoding="utf-8")).body)


@pytest.mark.slow
def test_the_tests_lie_where_the_sources_do() -> None:
    files = [path.relative_to(SOURCES) for path in modules().values() if has_logic(path)]
    lacking = {
        path.as_posix()
        for path in files
        if not (TESTS / path.parent / f"test_{path.parent.name if path.stem == '__init__' else path.stem}.py").is_file()
    }
    assert lacking == set(UNTESTED)


def test_the_files_that_run_first_exist() -> None:
    assert [path for path in order.FILES if not path.is_file()] == []
