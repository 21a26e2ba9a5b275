"""What a user names as `package.module:name`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

from partune import UserError
from partune.cli import main
from partune.objectives.synthetic import SYNTHETIC
from partune.runtime.plugins import load_named, modules_of_current_folder, qualified_name

LAZY = """\
def square(config):
    from {neighbour} import exponent
    return -config["x"] ** exponent
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that Python was not started in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return tmp_path


def test_a_name_is_found_in_the_current_folder_and_the_path_is_as_before(elsewhere: Path) -> None:
    (elsewhere / "plugins_one.py").write_text("import sys\n\nthing = 3\nsys.path.insert(0, 'new')\n")
    before = list(sys.path)
    assert load_named("plugins_one:thing", "objective") == 3
    assert sys.path == ["new", *before]  # what the module itself does stays
    with pytest.raises(UserError, match=r"cannot load the objective plugins_none:thing: No module named"):
        load_named("plugins_none:thing", "objective")
    assert sys.path == ["new", *before]


def test_contexts_within_each_other_are_one(elsewhere: Path) -> None:
    before = list(sys.path)
    with modules_of_current_folder():
        with modules_of_current_folder():
            pass
        assert sys.path == ["", *before]
    assert sys.path == before


def test_whatever_a_module_raises_is_one_line(elsewhere: Path) -> None:
    (elsewhere / "plugins_two.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match="cannot load the algorithm plugins_two:f: ZeroDivisionError: division by zero"):
        load_named("plugins_two:f", "algorithm")
    (elsewhere / "plugins_leaving.py").write_text("import sys\nsys.exit('no licence')\n")
    with pytest.raises(UserError, match=r"cannot load the metric plugins_leaving:f: SystemExit: sys.exit"):
        load_named("plugins_leaving:f", "metric")


def test_a_function_may_import_its_neighbours_when_it_is_called(elsewhere: Path) -> None:
    (elsewhere / "plugins_three.py").write_text(LAZY.format(neighbour="plugins_four"))
    (elsewhere / "plugins_four.py").write_text("exponent = 2\n")
    (elsewhere / "space.yaml").write_text("x: {float: [0, 1]}\n")
    tune = ["tune", "--objective", "plugins_three:square", "--space", "space.yaml", "--algorithm", "random"]
    assert main([*tune, "--budget", "2", "--name", "s"]) == 0
    assert "" not in sys.path


def test_names_lead_back_to_what_they_name() -> None:
    assert qualified_name(functools.reduce) == "_functools:reduce"
    assert load_named(qualified_name(Path), "class") is Path
    assert qualified_name(type(SYNTHETIC["branin"])) == type(SYNTHETIC["branin"]).__qualname__  # of partune's own
