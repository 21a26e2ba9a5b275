"""The loop: budget, failures, resuming, honest scores. The record's own rules are tested in test_storage."""

from __future__ import annotations

import itertools
import math
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune import Choice, Float, Int, Observation, Space, Status, Study, UserError
from partune.export.export import export
from partune.optimizers import ALGORITHMS
from partune.optimizers.soo import SOO
from partune.record.record import Record
from partune.report.facts import Facts
from partune.report.markdown import markdown
from partune.report.sentences import badge
from partune.report.words import stopped_words
from partune.study import FutileError, StoppedError, UntrustworthyError, Watcher
from partune.study.loop import SPARE
from partune.trial import Config, Trial
from partune.trial.names import FreshRun
from partune.verdict.winner import judge
from tests.support.printed import printed
from tests.support.simulated import SEARCH, SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))
PLANE = Space(x=Float(-5, 5), y=Float(-5, 5))


def himmelblau(config: Config) -> float:
    x, y = float(config["x"]), float(config["y"])
    return -((x * x + y - 11) ** 2) - (x + y * y - 7) ** 2


def outcomes(study: Study) -> list[tuple[int, dict[str, object], str, float]]:
    return [(t.number, dict(t.config), str(t.status), t.score) for t in study.trials]


class Interrupt(Watcher):
    """Presses Ctrl-C when a trial starts."""

    def __init__(self, at: int) -> None:
        self.at = at

    def started(self, trial: Trial) -> None:
        if trial.number == self.at:
            raise KeyboardInterrupt


def test_a_study_in_memory_finds_the_best() -> None:
    study = Study(PLANE, himmelblau, "random", seed=3).run(25)
    assert len(study.trials) == 25
    assert study.best.score == max(himmelblau(t.config) for t in study.trials)
    assert study.verdict is None


def test_the_optimisers_seconds_are_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of proposals and of what it does with results; that of the last result is nobody's."""
    clock = iter(range(1000))
    monkeypatch.setattr("partune.study.loop.time.perf_counter", lambda: next(clock))  # a second from look to look
    found = Study(PLANE, himmelblau, "random").run(4)
    assert [t.observation.cost["search_seconds"] for t in found.trials if t.observation is not None] == [1, 2, 2, 2]


@cache
def unbroken_study(algorithm: str) -> Study:
    return Study(PLANE, himmelblau, algorithm, seed=1).run(13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "stop"),
    [  # in the ordinary run each algorithm stops in the midst, and at one of the ends in turn
        pytest.param(algorithm, stop, marks=() if stop in (5, (0, 1, 11)[number % 3]) else pytest.mark.thorough)
        for number, algorithm in enumerate(ALGORITHMS)
        for stop in (0, 1, 5, 11)
    ],
)
def test_an_interrupted_study_continues_as_the_unbroken_one(algorithm: str, stop: int, tmp_path: Path) -> None:
    unbroken = unbroken_study(algorithm)
    broken = Study(PLANE, himmelblau, algorithm, seed=1, directory=tmp_path / "s", watcher=Interrupt(stop))
    with pytest.raises(KeyboardInterrupt):
        broken.run(13)
    broken.close()
    resumed = Study(PLANE, himmelblau, algorithm, seed=1, directory=tmp_path / "s", resume=True)
    assert len(resumed.trials) == stop + 1  # the interrupted one is recorded, and runs again
    assert resumed.trials[-1].status is Status.RUNNING
    resumed.run(13)
    assert outcomes(resumed) == outcomes(unbroken)
    assert [t.attempts for t in resumed.trials] == [2 if t.number == stop else 1 for t in resumed.trials]
    assert [t.seed for t in resumed.trials] == [t.seed for t in unbroken.trials]


def test_an_algorithm_is_a_name_a_path_a_class_or_an_instance() -> None:
    forms = ["soo", "partune.optimizers.soo:SOO", SOO, SOO(PLANE)]
    found = [outcomes(Study(PLANE, himmelblau, form).run(9)) for form in forms]
    assert found[1:] == found[:1] * 3


def test_a_larger_budget_extends_a_finished_study(tmp_path: Path) -> None:
    first = Study(PLANE, himmelblau, "soo", directory=tmp_path / "s").run(7)
    first.close()
    extended = Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", resume=True).run(20)
    assert outcomes(extended) == outcomes(Study(PLANE, himmelblau, "soo").run(20))
    assert len(extended.run(20).trials) == 20  # nothing more to do


def test_failures_are_results_and_the_run_goes_on() -> None:
    def half(config: Config) -> float:
        if float(config["x"]) > 0:
            raise RuntimeError("no\nroom")
        return float("nan") if float(config["y"]) > 0 else himmelblau(config)

    study = Study(PLANE, half, "soo").run(40)
    errors = {t.observation.error for t in study.trials if t.observation is not None and t.status is Status.FAILED}
    assert errors == {"RuntimeError: no room", "the score is nan"}
    assert len(study.trials) == 40  # failed ones count
    assert float(study.best.config["x"]) <= 0


def test_a_study_without_a_score_says_why() -> None:
    with pytest.raises(ValueError, match="no trial has ended yet"):
        _ = Study(PLANE, himmelblau, "soo").best
    with pytest.raises(ValueError, match="all 3 trials failed, first: the score is nan"):
        _ = Study(PLANE, lambda config: float("nan"), "soo").run(3).best


@pytest.mark.slow
def test_an_exhausted_space_ends_the_study_early() -> None:
    pytest.importorskip("torch")  # Optuna's Gaussian process is one of the algorithms
    space = Space(a=Choice(["x", "y"]), b=Int(1, 3))
    for algorithm in ALGORITHMS:
        study = Study(space, lambda config: float(config["b"]), algorithm).run(50)
        assert len(study.trials) == 6, algorithm
        assert {tuple(t.config.values()) for t in study.trials} == {(a, b) for a in "xy" for b in (1, 2, 3)}


def test_several_workers_run_the_same_number_of_trials() -> None:
    study = Study(PLANE, himmelblau, "bo", options={"n_init": 4}).run(12, workers=3)
    assert [t.number for t in study.trials] == list(range(12))
    assert len({tuple(t.config.items()) for t in study.trials}) == 12
    assert sorted(t.told for t in study.trials if t.told is not None) == list(range(12))


def test_the_optimiser_never_sees_more_than_the_score(tmp_path: Path) -> None:
    study = Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s")
    seen: list[Observation] = []
    tell = study.optimizer.tell
    study.optimizer.tell = lambda p, o: (seen.append(o), tell(p, o))[1]  # type: ignore[method-assign,assignment]
    study.run(4)
    assert len(seen) == 4
    assert all(set(o.scores) <= {"score"} and not o.items for o in seen)


# ----- honest scores


def test_anchors_come_first_and_are_free_of_budget(tmp_path: Path) -> None:
    objective = SimulatedTuning()
    study = Study(SPACE, objective, "random", directory=tmp_path / "s").run(5)
    assert objective.calls[:3] == ["base", "0:0", "0:0.0002"]
    assert objective.calls[-1] == f"adapter:{study.best.number:04d}"
    assert len(study.trials) == 5
    fresh = {FreshRun(whose, run) for whose in (study.best.number, "defaults") for run in range(1, 5)}
    assert set(study.anchors) == {"base", "zero", "defaults", "winner"} | fresh
    assert study.anchors["zero"].config == {"learning_rate": 0.0, "lora_r": 16}


@pytest.mark.slow
def test_a_real_gain_is_called_better_and_none_is_not(tmp_path: Path) -> None:
    large = Study(SPACE, SimulatedTuning(gain=0.4, items=2000), "random", directory=tmp_path / "a").run(12).verdict
    assert large is not None
    assert large.better_than == ("base", "defaults")
    none = Study(SPACE, SimulatedTuning(gain=0.0), "random", directory=tmp_path / "b").run(12).verdict
    assert none is not None
    assert none.better_than == ()


def test_learning_rate_zero_that_changes_answers_stops_the_study(tmp_path: Path) -> None:
    study = Study(SPACE, SimulatedTuning(faulty=True), "random", directory=tmp_path / "s")
    with pytest.raises(UntrustworthyError, match="learning rate 0 must leave"):
        study.run(5)
    assert study.trials == []
    study.close()
    again = Study(SPACE, SimulatedTuning(faulty=True), "random", directory=tmp_path / "s", resume=True)
    with pytest.raises(UntrustworthyError):
        again.run(5)


@pytest.mark.slow
def test_a_resumed_study_scores_no_anchor_twice(tmp_path: Path) -> None:
    Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s").run(4).close()
    objective = SimulatedTuning()
    resumed = Study(SPACE, objective, "random", directory=tmp_path / "s", resume=True).run(4)
    assert objective.calls == []
    assert resumed.verdict == judge(resumed.record, resumed.best)
    assert resumed.verdict is not None


@pytest.mark.slow
def test_a_new_winner_gets_a_verdict_of_its_own(tmp_path: Path) -> None:
    first = Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s").run(2)
    first.close()
    later = Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s", resume=True).run(40)
    assert later.best.config != first.best.config
    assert later.anchors["winner"].config == later.best.config


@pytest.mark.slow
def test_a_lost_adapter_is_trained_again(tmp_path: Path) -> None:
    study = Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s", watcher=Interrupt(5))
    with pytest.raises(KeyboardInterrupt):
        study.run(9)
    study.close()
    study.record.artifacts.prune([])
    objective = SimulatedTuning()
    resumed = Study(SPACE, objective, "random", directory=tmp_path / "s", resume=True).run(6)
    assert resumed.record.adapter(resumed.best.number).is_dir()
    assert resumed.verdict is not None


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "kept"), [(1, 1), (3, 3), ("all", 11)])
def test_only_the_best_adapters_stay(keep: int | str, kept: int, tmp_path: Path) -> None:
    study = Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", keep=keep).run(12)
    done = sorted((t for t in study.trials if t.status is Status.DONE), key=lambda t: (-t.score, t.number))
    folders = {each.name for each in (tmp_path / "s" / "adapters").iterdir()}
    expected = done if keep == "all" else done[:kept]
    assert folders == {"defaults", *(f"{t.number:04d}" for t in expected)}


def strewn(folder: Path, elsewhere: Path, links: tuple[str, ...]) -> dict[str, str]:
    """Puts what is not partune's into a folder, links of some names too; by path, what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    elsewhere.mkdir(parents=True)
    for name in ("my-best", ".git", "0001-mine", "2024", "notes", "0002 copy", ".0003-draft", "readme.d"):
        (folder / name).mkdir()
        (folder / name / "text").write_text(f"{name} is mine")
    for name in (".DS_Store", "0001.txt", "07", ".nfs0001"):
        (folder / name).write_text(f"{name} is mine")
    for name in links:
        (elsewhere / name).mkdir()
        (elsewhere / name / "text").write_text(f"{name} is mine")
        (folder / name).symlink_to(elsewhere / name)
    (folder / "nowhere").symlink_to(elsewhere / "gone")
    return said(folder) | said(elsewhere)


def said(folder: Path) -> dict[str, str]:
    texts = {str(path): path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()}
    return {path: text for path, text in texts.items() if "is mine" in text}


@pytest.mark.slow
@pytest.mark.parametrize("shelf", ["adapters", "items"])
def test_what_is_not_partunes_is_neither_deleted_nor_in_the_way(shelf: str, tmp_path: Path) -> None:
    watcher = Interrupt(6)
    study = Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", keep=1, watcher=watcher)
    with pytest.raises(KeyboardInterrupt):
        study.run(12)
    study.close()
    lost = sorted((trial for trial in study.trials if trial.status.final), key=lambda trial: trial.score)[:2]
    links = tuple(f"{trial.number:04d}" for trial in lost)  # of trials whose adapters are not needed
    for name in links:
        shutil.rmtree(tmp_path / "s" / shelf / name, ignore_errors=True)
    there = strewn(tmp_path / "s" / shelf, tmp_path / "elsewhere", (*links, "a-link", ".0004-checkpoint"))
    for _ in range(2):
        study = Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", keep=1, resume=True).run(12)
        study.close()
    left = said(tmp_path / "s" / shelf) | said(tmp_path / "elsewhere")
    assert there.items() <= left.items()
    assert (tmp_path / "s" / shelf / "nowhere").is_symlink()
    with pytest.raises(UserError, match="has no adapter of trial 99; it has: "):
        export(tmp_path / "s", tmp_path / "out", trial=99)


def test_nothing_is_deleted_through_a_folder_that_is_a_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", keep="all").run(4).close()
    (tmp_path / "s" / "adapters").rename(tmp_path / "shared")
    (tmp_path / "s" / "adapters").symlink_to(tmp_path / "shared")
    before = {path.name for path in (tmp_path / "shared").iterdir()}
    Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", keep=1, resume=True).run(8).close()
    assert before <= {path.name for path in (tmp_path / "shared").iterdir()}
    assert caplog.text.count("adapters is a link, so partune deletes nothing there") == 1


def test_drafts_and_checkpoints_of_trials_that_fell_out_go(tmp_path: Path) -> None:
    study = Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", keep="all").run(4)
    study.close()
    worst = min(study.trials, key=lambda trial: trial.score).number
    names = [f".{worst:04d}-checkpoint", f".{worst:04d}-{'0f' * 16}", f"..{worst:04d}-checkpoint-{'0f' * 16}"]
    for name in (*names, "confirm.3.1"):
        (tmp_path / "s" / "adapters" / name).mkdir()
    Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", keep=1, resume=True).run(5).close()
    assert {path.name for path in (tmp_path / "s" / "adapters").iterdir()} == {
        "defaults",
        *(f"{trial.number:04d}" for trial in [study.best]),
    }


@pytest.mark.slow
def test_while_a_study_runs_the_leaders_adapters_and_what_runs_stay(tmp_path: Path) -> None:
    """After each trial, in a study that was interrupted and resumed: the best so far, and none that fell out."""
    seen: list[tuple[set[str], set[str]]] = []

    class Look(Interrupt):
        def finished(self, trial: Trial) -> None:
            done = sorted((t for t in study.trials if t.status is Status.DONE), key=lambda t: (-t.score, t.number))
            kept = {f"{t.number:04d}" for t in done[: 1 + SPARE]}
            seen.append((kept, {each.name for each in (tmp_path / "s" / "adapters").iterdir()} - {"defaults"}))

    study = Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", watcher=Look(9))
    with pytest.raises(KeyboardInterrupt):
        study.run(20)
    study.close()
    study = Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", watcher=Look(-1), resume=True)
    study.run(20)
    assert len(seen) == 20
    assert all(kept == there for kept, there in seen)


def test_per_item_results_are_on_disk_and_not_in_memory(tmp_path: Path) -> None:
    study = Study(SPACE, SimulatedTuning(), "random", directory=tmp_path / "s").run(3)
    for trial in study.trials:
        assert trial.observation is not None
        assert not trial.observation.items
        if trial.status is Status.DONE:
            packed = study.record.items("search", trial.number)
            assert packed["search/t/acc"].mean() == pytest.approx(trial.score)
    assert set(study.record.items("anchors", 0)) == {"search/t/acc", "verdict/t/acc", "test/t/acc"}
    assert np.isclose(study.record.items("anchors", 0)["search/t/acc"].mean(), study.anchors["base"].score)


# ----- refused


def test_bad_studies_are_refused_in_one_line(tmp_path: Path) -> None:
    Study(PLANE, himmelblau, "soo", directory=tmp_path / "s").run(3).close()

    def refused(message: str, **changes: object) -> None:
        arguments = {"space": PLANE, "algorithm": "soo", "directory": tmp_path / "s", **changes}
        with pytest.raises(UserError, match=message):
            Study(objective=himmelblau, **arguments)  # type: ignore[arg-type]

    refused("holds a study already")
    refused("a study of a different space", space=Space(x=Float(-5, 5), y=Float(-4, 5)), resume=True)
    refused("another study: algorithm is soo there, and random here", algorithm="random", resume=True)
    refused("another study: seed is 0 there, and 1 here", seed=1, resume=True)
    refused("another study: options.k is the default there, and 5 here", options={"k": 5}, resume=True)
    refused('no algorithm "sooo"; did you mean "soo"', algorithm="sooo")
    Study(PLANE, himmelblau, "bamsoo", directory=tmp_path / "b", options={"patience": None}).close()
    left_out = "another study: options.patience is None there, and the default here"
    refused(left_out, algorithm="bamsoo", directory=tmp_path / "b", resume=True)
    path = "partune.optimizers.optuna:OptunaSampler"
    settings = {"n_startup_trials": 3}
    Study(PLANE, himmelblau, path, directory=tmp_path / "o", options={"settings": settings}).close()
    left_out = "options.settings.n_startup_trials is 3 there, and the default here"
    refused(left_out, algorithm=path, directory=tmp_path / "o", options={"settings": {}}, resume=True)
    with pytest.raises(UserError, match=r"needs a partune\.Space, got dict"):
        Study({}, himmelblau, "soo")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="budget >= 1 must hold, got 0"):
        Study(PLANE, himmelblau, "soo").run(0)
    with pytest.raises(UserError, match="workers >= 1 must hold"):
        Study(PLANE, himmelblau, "soo").run(1, workers=0)
    with pytest.raises(UserError, match="so it needs a directory"):
        Study(SPACE, SimulatedTuning(), "random")
    with pytest.raises(UserError, match="no learning_rate"):
        Study(PLANE, SimulatedTuning(), "random", directory=tmp_path / "new")
    assert not (tmp_path / "new").exists()  # refused before anything is written


# ----- an objective that always fails


def unable(config: Config) -> float:
    raise KeyError(f"no column {int(float(config['x']) * 1000)}")


@pytest.mark.parametrize("budget", [0, -1, 2.5, True, math.nan, "3", None])
def test_a_budget_is_a_number_of_trials(budget: Any) -> None:
    with pytest.raises(UserError, match="budget must be an integer, and budget >= 1 must hold"):
        Study(PLANE, lambda config: 0.0, "random").run(budget)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": {"x": Float(0, 1)}}, "a study needs a partune.Space, got dict"),
        ({"objective": 3}, "an objective must be a function of a configuration, an Objective or a name, got 3"),
        ({"algorithm": 3}, "an algorithm is a name or a subclass"),
        ({"directory": 3}, "a study's directory must be a path, or None for memory, got 3"),
        ({"keep": "some"}, "keep: must be a number of adapters, at least 1, or all, got 'some'"),
        ({"keep": 0}, "keep: must be a number of adapters, at least 1, or all, got 0"),
        ({"keep": True}, "keep: must be a number of adapters, at least 1, or all, got True"),
        ({"confirm": "2"}, "confirm: input should be a valid integer, got '2'"),
        ({"noisy": "yes"}, "noisy must be true, false or None, got 'yes'"),
        ({"seed": True}, "a seed is an integer >= 0, got True"),
        ({"options": {"rate": math.nan}}, "options are recorded"),
    ],
)
def test_what_no_study_can_be_made_of_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Study(**{"space": PLANE, "objective": lambda config: 0.0, "algorithm": "random", **settings})
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_the_same_error_three_times_before_anything_has_a_score_stops_the_study(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is kept; another run is three trials more, as the cause may be mended."""
    study = Study(PLANE, unable, "random", directory=tmp_path / "s")
    with pytest.raises(
        FutileError, match=r"^3 trials failed with the same error before any had a score: KeyError: 'no"
    ):
        study.run(40, workers=workers)
    assert sum(trial.status is Status.FAILED for trial in study.trials) == 3
    study.close()
    study = Study(PLANE, unable, "random", directory=tmp_path / "s", resume=True)
    with pytest.raises(FutileError, match=f"partune resume {tmp_path / 's'}$"):
        study.run(40)
    assert sum(trial.status is Status.FAILED for trial in study.trials) == 6
    study.close()
    monkeypatch.setattr(unable, "__code__", himmelblau.__code__)  # the very function, mended
    mended = Study(PLANE, unable, "random", directory=tmp_path / "s", resume=True).run(12)
    assert sum(trial.status is Status.DONE for trial in mended.trials) == 6


class Unfit(SimulatedTuning):
    """Its defaults train, and no trial of the search does."""

    def evaluate(self, trial: Trial, adapter: Path | None = None, parts: Any = SEARCH) -> Observation:
        if adapter is not None and adapter.name.isdecimal():
            raise RuntimeError("shapes 3 and 4 do not fit")
        return super().evaluate(trial, adapter, parts)


def test_a_fine_tuning_whose_trials_all_fail_stops_too(tmp_path: Path) -> None:
    """Base and defaults have scores; what counts are trials."""
    study = Study(SPACE, Unfit(), "random", directory=tmp_path / "my study")
    with pytest.raises(FutileError, match=r"RuntimeError: shapes 3 and 4 do not fit\. Correct .* resume '.*my study'$"):
        study.run(20)
    assert len(study.trials) == 3


def test_other_failures_stop_no_study() -> None:
    """Errors that differ; those after a score; a score that is none; memory that ran out; a budget that is spent."""
    kinds = (ValueError, KeyError, TypeError, RuntimeError, OSError, IndexError, ArithmeticError, LookupError)
    count, first = itertools.count(), itertools.count()

    def differing(config: Config) -> float:
        raise kinds[next(count) % len(kinds)]("no")

    def later(config: Config) -> float:
        return unable(config) if next(first) else 1.0

    def nan(config: Config) -> float:
        return math.nan

    def full(config: Config) -> Observation:
        return Observation.failure("out of memory: tried to allocate 3 GiB")

    for objective, budget in ((differing, 8), (later, 8), (nan, 8), (full, 8), (unable, 3)):
        assert len(Study(PLANE, objective, "random").run(budget).trials) == budget


# ----- who is to blame


class Failing(SimulatedTuning):
    """Its base or its training with learning rate 0 fails for a reason of its own."""

    where: str = "zero"
    failure: str = "IndexError: index out of range in self"

    def score_base(self) -> Observation:
        return Observation.failure(self.failure) if self.where == "base" else super().score_base()

    def score_zero(self, trial: Trial) -> Observation:
        return Observation.failure(self.failure) if self.where == "zero" else super().score_zero(trial)


@pytest.mark.parametrize(
    "failure",
    ["IndexError: index out of range in self", "out of memory: tried to allocate 3 GiB", "the score is nan"],
)
def test_a_failure_with_learning_rate_0_is_no_disagreement(tmp_path: Path, failure: str) -> None:
    tuned = Failing()
    tuned.failure = failure
    with pytest.raises(StoppedError) as caught:
        Study(SPACE, tuned, "random", directory=tmp_path / "s").run(2)
    assert not isinstance(caught.value, UntrustworthyError)
    assert f"a few steps with learning rate 0, failed, so all others would too: {failure}. " in str(caught.value)
    assert "report" not in str(caught.value)


def test_a_full_disk_is_blamed_on_the_disk(tmp_path: Path) -> None:
    tuned = Failing()
    tuned.failure = "OSError: [Errno 28] No space left on device"
    with pytest.raises(UserError, match="No space left on device; correct this and resume the study"):
        Study(SPACE, tuned, "random", directory=tmp_path / "s").run(2)


def test_a_base_without_a_score_stops_the_study_and_is_scored_again(tmp_path: Path) -> None:
    tuned = Failing()
    tuned.where, tuned.failure = "base", "the score is nan"
    mended = Failing()
    mended.where = "nowhere"
    study = Study(SPACE, tuned, "random", directory=tmp_path / "s")
    with pytest.raises(
        StoppedError, match=r"^the untouched base model has no score to compare with: the score is nan$"
    ):
        study.run(2)
    study.close()
    why = "the untouched base model has no score to compare with: the score is nan"
    stopped = Facts(Record.open(tmp_path / "s", read_only=True))
    assert stopped.summary["stopped"] == why
    assert stopped_words(stopped.summary) in markdown(stopped).replace("\\", "")
    assert stopped_words(stopped.summary) in printed(stopped.summary, 1000)
    assert stopped_words(stopped.summary).startswith(f"The study stopped: {why}. Correct this")
    assert badge(stopped) == ("stopped", "bad")
    again = Study(SPACE, mended, "random", directory=tmp_path / "s", resume=True).run(2)
    assert again.anchors["base"].status is Status.DONE
    assert again.record.stopped is None


def test_a_function_that_ends_the_process_is_a_failed_trial() -> None:
    def leaves(config: Config) -> float:
        sys.exit(3)

    (trial,) = Study(Space(x=Float(0, 1)), leaves, "random").run(1).trials
    assert trial.status is Status.FAILED
    assert trial.observation is not None
    assert str(trial.observation.error).startswith("SystemExit: sys.exit(3) was called, which ends the whole process")


def test_every_trial_has_a_seed_of_its_own_which_the_studys_decides() -> None:
    seeds = [
        [trial.seed for trial in Study(PLANE, himmelblau, "random", seed=seed).run(6).trials] for seed in (3, 3, 4)
    ]
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 12
