"""What a study stands on is compared wherever it is gone on with."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partune import Float, Space, Study
from partune.errors import UserError
from partune.objectives.function import as_objective
from partune.objectives.synthetic import SYNTHETIC
from partune.trial import Config
from partune.trial.contents import Content, Difference, check, digest, first_difference, versions
from tests.support.simulated import SimulatedTuning

SPACE = Space(x=Float(-1, 1))


def square(config: Config) -> float:
    return -(float(config["x"]) ** 2)


def cube(config: Config) -> float:
    return float(config["x"]) ** 3


def scaled(config: Config, by: float = 1.0) -> float:
    return by * float(config["x"])


class Line:
    def __call__(self, config: Config) -> float:
        return float(config["x"])

    def half(self, config: Config) -> float:
        return float(config["x"]) / 2


def test_only_what_both_know_of_differs() -> None:
    then = {"rows": Content("a", "60 rows"), "old": Content("x"), "torch": Content("1", "1", False)}
    assert check(then, {"rows": Content("a", "60 rows"), "new": Content("y")}) is None
    note = check(then, {"rows": Content("a"), "torch": Content("2", "2", False)}, "on n7: ")
    assert note == "on n7: changed since this study began: torch (1 then, 2 now). Scores may differ a little"
    with pytest.raises(UserError, match=r"study began: rows \(60 rows then, 30 rows now\)\. New scores .* restore"):
        check(then, {"rows": Content("b", "30 rows")})


def test_the_first_difference_is_named() -> None:
    a = {"model": {"path": "a"}, "training": {"epochs": 1, "targets": "attention"}}
    assert first_difference(a, a) is None
    again = {**a, "training": {"epochs": 2, "targets": "attention"}}
    assert first_difference(a, again) == Difference("training.epochs", 1, 2)
    assert first_difference(a, {**a, "engine": "litgpt"}) == Difference("engine", None, "litgpt")
    assert first_difference({"k": 1}, {}, absent="the default") == Difference("k", 1, "the default")
    assert first_difference({"k": None}, {}) is None


def test_a_digest_knows_where_parts_end() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc") != digest(b"abc")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


NAMED: dict[str, tuple[Any, str]] = {
    "function": (square, f"{__name__}:square"),
    "method": (Line().half, f"{__name__}:Line.half"),
    "instance": (Line(), f"{__name__}:Line"),
    "partial": (functools.partial(scaled, by=2.0), f"{__name__}:scaled(by=2.0)"),
    "closure": (lambda config: 1.0, f"{__name__}:<lambda>"),
    "synthetic": ("branin", "branin"),
    "class": (SimulatedTuning(), "tests.support.simulated:SimulatedTuning"),
}


@pytest.mark.parametrize("case", list(NAMED))
def test_objectives_have_names(case: str) -> None:
    given, name = NAMED[case]
    assert as_objective(given).name == name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        (square, cube, f"function is {__name__}:square there, and {__name__}:cube here"),
        (
            functools.partial(scaled, by=1.0),
            functools.partial(scaled, by=3.0),
            r"function is .*scaled\(by=1.0\) there, and .*by=3.0",
        ),
        (square, SimulatedTuning(), "function is .*:square there, and tests.support.simulated:SimulatedTuning here"),
    ],
)
@pytest.mark.parametrize("how", ["resume", "join"])
def test_another_objective_is_refused_by_name(tmp_path: Path, first: Any, other: Any, said: str, how: str) -> None:
    Study(SPACE, first, "random", directory=tmp_path / "s").run(2).close()
    with pytest.raises(UserError, match=f"holds another study: {said}"):
        Study(SPACE, other, "random", directory=tmp_path / "s", resume=True, join=how == "join")
    study = Study(SPACE, first, "random", directory=tmp_path / "s", resume=True)
    assert len(study.run(3).trials) == 3
    study.close()


def test_two_synthetic_functions_are_two(tmp_path: Path) -> None:
    space = SYNTHETIC["branin"].space
    Study(space, "branin", "random", directory=tmp_path / "s").close()
    with pytest.raises(UserError, match="function is branin there, and himmelblau here"):
        Study(space, "himmelblau", "random", directory=tmp_path / "s", resume=True)


def test_a_script_that_is_run_has_no_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(square, "__module__", "__main__")
        Study(SPACE, square, "random", directory=tmp_path / "s").close()
    Study(SPACE, square, "random", directory=tmp_path / "s", resume=True).close()


def write(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Config], float]:
    (folder / "mine.py").write_text(f"def score(config):\n    return {body}\n")
    scope: dict[str, Any] = {}
    exec(compile((folder / "mine.py").read_text(), folder / "mine.py", "exec"), scope)
    found: Callable[[Config], float] = scope["score"]
    found.__module__ = "mine"
    return found


def test_a_function_whose_code_changed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Study(SPACE, write(tmp_path, "1.0", monkeypatch), "random", directory=tmp_path / "s").close()
    Study(SPACE, write(tmp_path, "1.0", monkeypatch), "random", directory=tmp_path / "s", resume=True).close()
    assert not recwarn.list
    Study(SPACE, write(tmp_path, "2.0", monkeypatch), "random", directory=tmp_path / "s", resume=True).close()
    (told,) = [str(each.message) for each in recwarn]
    assert told.startswith("changed since this study began: the code of mine:score.")


def old(directory: Path, **header: Any) -> None:
    """Makes the record one of before digests were noted; header: what else is changed in it."""
    lines = [json.loads(line) for line in (directory / "journal.log").read_text().splitlines()]
    for line in lines:
        if "partune" in line.get("user_attr", {}):
            own = line["user_attr"]["partune"]
            del own["contents"], own["function"]
            own.update(header)
    (directory / "journal.log").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_an_old_record_goes_on_with_a_note(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Study(SPACE, square, "random", directory=tmp_path / "s").run(2).close()
    old(tmp_path / "s")
    study = Study(SPACE, square, "random", directory=tmp_path / "s", resume=True)
    assert len(study.run(3).trials) == 3
    study.close()
    (told,) = [str(each.message) for each in recwarn]
    assert "was begun by an older partune, which recorded neither the objective nor digests" in told


def test_other_versions_are_told(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    now = {name: each.told for name, each in versions().items()}
    assert {"partune", "torch", "transformers", "peft", "lm-eval"} == set(now)
    Study(SPACE, square, "random", directory=tmp_path / "s").close()
    old(tmp_path / "s", versions=now | {"transformers": "4.0"})
    Study(SPACE, square, "random", directory=tmp_path / "s", resume=True).close()
    told = [str(each.message) for each in recwarn]
    assert any(
        f"transformers (4.0 then, {now['transformers']} now). Scores may differ a little" in each for each in told
    )


def test_studies_that_stand_on_different_contents_are_not_compared(tmp_path: Path) -> None:
    from partune.report.comparison.data import compare
    from partune.report.facts import Facts

    studies = [Study(SPACE, each, "random", n, tmp_path / str(n)) for n, each in enumerate([square, cube, square])]
    first, other, again = (Facts(study.run(3).record) for study in studies)
    assert not [each for each in compare([first, again])["notes"] if "different names" in each]
    told = [each for each in compare([first, other])["notes"] if "different names" in each]
    assert told == [f"The studies' objectives have different names: {__name__}:cube and {__name__}:square."]
    first.contents, again.contents = ({"the training rows": Content(each)} for each in ("these", "others"))
    with pytest.raises(UserError, match=r"0 and .*2 cannot be compared, because these differ: the training rows$"):
        compare([first, again])
