"""Fresh runs for the verdict: their seeds, what is scored, which adapter ships, what later looks cost."""

from __future__ import annotations

import re
import runpy
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune import Float, Int, Observation, Space, Study, UserError
from partune.export.export import export
from partune.objectives.base import observed_fresh
from partune.record.looks import Look
from partune.record.record import Record
from partune.report.facts import Facts
from partune.report.sentences import badge, headline, remarks
from partune.report.summary import summarise
from partune.report.terminal import brief, show
from partune.report.verdict_words import equal_words
from partune.runtime.rounding import measured
from partune.study import Watcher
from partune.trial import Status, Trial
from partune.trial.names import FreshRun, RunName
from partune.verdict import winner
from partune.verdict.assumed import Yardstick
from partune.verdict.limits import Limits
from partune.verdict.paired import level
from partune.verdict.winner import fresh_due, fresh_runs, judge, on_verdict_items, shipped, which_look
from partune.workers.base import Inline, WorkerLostError
from tests.support import ROOT
from tests.support.simulated import Died, Mortal, SimulatedTuning

SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "verdict_errors.py"))
SPACE = Space(learning_rate=Float(1e-6, 1e-3, log=True), lora_r=Int(2, 64, log=True))


@dataclass
class Seeded(SimulatedTuning):
    """Answers that depend on the run's seeds. runs: every run's (number, seed, order, parts)."""

    runs: list[tuple[int, int, int | None, frozenset[str]]] = field(default_factory=list)
    failing: int = 0  # fresh runs of the winner that diverge

    def evaluate(
        self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = frozenset({"search"})
    ) -> Observation:
        self.runs.append((trial.number, trial.seed, trial.order, frozenset(parts)))
        if self.failing and trial.order is not None and dict(trial.config) != self.defaults:
            self.failing -= 1
            raise FloatingPointError("loss diverged at step 3")
        found = super().evaluate(trial, adapter, parts)
        if adapter is not None:
            (adapter / "seed").write_text(str(trial.seed))
        return found

    def _score(self, accuracy: float, parts: Collection[str]) -> Observation:
        if self.runs and accuracy != 0.5:
            number = len(self.runs)
            accuracy += 0.002 * (number % 7)  # another run, other scores
        return super()._score(accuracy, parts)


def run(folder: Path, objective: SimulatedTuning | None = None, budget: int = 6, **options: Any) -> Study:
    return Study(SPACE, objective or Seeded(), "random", directory=folder / "s", **options).run(budget)


def again(folder: Path, objective: SimulatedTuning, budget: int, **options: Any) -> Study:
    return Study(SPACE, objective, "random", directory=folder / "s", resume=True, **options).run(budget)


def test_winner_and_defaults_run_again_with_other_seeds_and_orders(tmp_path: Path) -> None:
    objective = Seeded()
    study = run(tmp_path, objective)
    fresh = [each for each in objective.runs if each[2] is not None]
    assert len(fresh) == 8
    assert len({seed for _, seed, _, _ in fresh}) == len({order for _, _, order, _ in fresh}) == 8
    assert not {seed for _, seed, _, _ in fresh} & {trial.seed for trial in study.trials}
    assert {parts for _, _, _, parts in fresh} == {frozenset({"search", "verdict"})}  # test tasks are for one adapter
    assert len(fresh_runs(study.anchors, study.best.number)) == len(fresh_runs(study.anchors, "defaults")) == 4
    found = study.verdict
    assert found is not None
    assert found.seeds == 4
    assert found.over_base.runs == (4, 1)
    assert found.over_defaults is not None
    assert found.over_defaults.runs == (4, 5)  # the first of the defaults chose nothing
    adapters = {folder.name for folder in (tmp_path / "s" / "adapters").iterdir()}
    assert adapters == {"defaults", f"{study.best.number:04d}"}


class Together(Seeded):
    """Eight runs at once; a fresh run waits until all eight are under way."""

    all_there = threading.Barrier(8, timeout=20.0)

    def count_slots(self) -> int:
        return 8

    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        self.all_there.wait()
        return super().score_fresh(trial, adapter)


def test_the_fresh_runs_of_both_make_one_pack(tmp_path: Path) -> None:
    study = run(tmp_path, Together())
    fresh = [trial for name, trial in study.anchors.items() if isinstance(name, FreshRun)]
    assert [trial.status for trial in fresh] == [Status.DONE] * 8


def test_the_winners_first_run_does_not_count(tmp_path: Path) -> None:
    study = run(tmp_path)
    found = study.verdict
    assert found is not None
    names = [FreshRun(study.best.number, each) for each in range(1, 5)]
    scores = [study.anchors[name].observation.scores["verdict"] for name in names]  # type: ignore[union-attr]
    base = study.anchors["base"].observation
    assert base is not None
    assert found.over_base.gain == pytest.approx(np.mean(scores) - base.scores["verdict"])


@pytest.mark.slow
def test_nothing_runs_twice_and_more_seeds_are_added(tmp_path: Path) -> None:
    run(tmp_path).close()
    for seeds, further in ((4, 0), (6, 4)):
        objective = Seeded()
        study = again(tmp_path, objective, 6, seeds=seeds)
        assert len(objective.runs) == further
        assert study.verdict is not None
        assert study.verdict.seeds == seeds
        study.close()


@pytest.mark.slow
def test_without_fresh_runs_the_verdict_is_about_the_adapters_and_says_so(tmp_path: Path) -> None:
    study = run(tmp_path, seeds=0)
    assert set(study.anchors) == {"base", "zero", "defaults", "winner"}
    found = study.verdict
    assert found is not None
    assert found.seeds == 0
    assert found.over_base.test.startswith("McNemar")
    assert found.sentence.endswith("This compares one adapter of each; other seeds would give other adapters.")
    summary = summarise(study.record)
    facts = Facts(study.record)
    assert "judged by the one adapter that the search trained" in headline(facts)
    assert any("partune resume --seeds 4" in line for line in remarks(facts))
    assert summary["fresh"] == {"winner": [], "defaults": [], "baselines": {}}
    study.close()
    assert (later := again(tmp_path, Seeded(), 6)).verdict is not None  # they can be had later
    assert later.verdict is not None
    assert later.verdict.seeds == 4


class Stop(Watcher):
    """Interrupts a study in the midst of its fresh runs."""

    def anchored(self, name: RunName, trial: Trial) -> None:
        if isinstance(name, FreshRun) and name.run == 3:
            raise KeyboardInterrupt


def test_an_interrupted_study_goes_on_with_the_fresh_runs_that_are_missing(tmp_path: Path) -> None:
    study = Study(SPACE, Seeded(), "random", directory=tmp_path / "s", watcher=Stop())
    with pytest.raises(KeyboardInterrupt):
        study.run(6)
    assert study.verdict is None
    left = fresh_due(study.best, study.anchors, 4)
    assert 0 < len(left) < 8
    study.close()
    objective = Seeded()
    finished = again(tmp_path, objective, 6)
    assert len(objective.runs) == len(left)
    seeds = [trial.seed for name, trial in finished.anchors.items() if isinstance(name, FreshRun)]
    assert len(set(seeds)) == 8


@pytest.mark.slow
@pytest.mark.parametrize("ship", ["first", "median", "best"])
def test_the_adapter_that_ships_is_chosen_on_search_items(tmp_path: Path, ship: Any) -> None:
    study = run(tmp_path, ship=ship)
    number = study.best.number
    scores = sorted(each.score for each in fresh_runs(study.anchors, number))
    run_shipped = shipped(study.best, study.anchors, ship)
    wanted = run_shipped.seed
    assert run_shipped.score == {"first": study.best.score, "median": scores[1], "best": scores[-1]}[ship]
    assert (run_shipped is study.best) == (ship == "first")
    study.close()
    out = export(tmp_path / "s", tmp_path / "out")
    assert (out / "seed").read_text() == str(wanted)
    adapters = {folder.name for folder in (tmp_path / "s" / "adapters").iterdir()}
    assert adapters == {"defaults", f"{number:04d}"} | (set() if ship == "first" else {"winner"})
    summary = summarise(study.record)
    assert summary["best"]["adapter"] == str(
        tmp_path / "s" / "adapters" / ("winner" if ship != "first" else f"{number:04d}")
    )
    (line,) = (line for line in remarks(Facts(study.record)) if line.startswith("Fresh runs on the held-out items"))
    assert ("the winner's first run" in line) == (ship == "first")
    assert f"of {4 + (ship == 'first')} runs" in line
    row = next(line for line in (out / "README.md").read_text().splitlines() if line.startswith("| this one"))
    shipping = study.best if ship == "first" else study.anchors["winner"]
    assert shipping.observation is not None
    own_score = measured(shipping.score, shipping.observation.stderr)  # not that of the run that won
    assert row.startswith(f"| this one | {own_score}")
    own = export(tmp_path / "s", tmp_path / "own", trial=number)
    assert (own / "seed").read_text() == str(study.best.seed)
    assert ("the study ships another run's adapter" in (own / "README.md").read_text()) == (ship != "first")
    again(tmp_path, Seeded(), 6, ship="first").close()  # the choice may change
    (tmp_path / "out" / "seed").unlink()
    assert (export(tmp_path / "s", tmp_path / "second") / "seed").read_text() == str(study.best.seed)


def test_fresh_adapters_that_do_not_ship_go_though_all_of_the_search_are_kept(tmp_path: Path) -> None:
    run(tmp_path, ship="best", keep="all").close()
    again(tmp_path, Seeded(), 6, ship="best", keep="all", seeds=6).close()
    kept = {folder.name for folder in (tmp_path / "s" / "adapters").iterdir()}
    assert not {name for name in kept if name.startswith("fresh")}
    assert {"winner", "defaults"} < kept


@dataclass
class NoDefaults(Seeded):
    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        return Observation.failure("loss diverged at step 3")


def test_defaults_that_fail_leave_a_verdict_against_the_base(tmp_path: Path) -> None:
    study = run(tmp_path, NoDefaults())
    found = study.verdict
    assert found is not None
    assert (found.over_defaults, found.seeds) == (None, 4)
    assert found.better_than == ("base",)
    assert fresh_runs(study.anchors, "defaults") == []
    facts = Facts(study.record)
    assert "defaults" not in headline(facts)
    assert any("4 fresh runs of the winner, with other seeds" in line for line in remarks(facts))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("median", "best"), ("best", "median"), ("first", "best")])
def test_another_run_ships_when_its_adapter_is_gone_by_training_it_again(
    tmp_path: Path, before: Any, after: Any
) -> None:
    study = run(tmp_path, ship=before)
    study.close()
    objective = Seeded()
    later = again(tmp_path, objective, 6, ship=after)
    wanted = shipped(later.best, later.anchors, after)
    assert [(seed, order) for _, seed, order, _ in objective.runs] == [(wanted.seed, wanted.order)]
    later.close()
    assert (export(tmp_path / "s", tmp_path / "out") / "seed").read_text() == str(wanted.seed)


def test_a_winner_that_fails_with_other_seeds_is_not_better(tmp_path: Path) -> None:
    study = run(tmp_path, Seeded(failing=1))
    found = study.verdict
    assert found is not None
    assert (found.failed, found.seeds, found.better_than) == (1, 3, ())
    assert "1 of 4 fresh runs of the winner failed" in found.sentence
    facts = Facts(study.record)
    assert "1 of its 4 fresh runs failed" in headline(facts)
    assert badge(facts) == ("not shown better", "bad")


def test_a_winner_all_of_whose_fresh_runs_fail_is_judged_by_its_adapter_and_says_so(tmp_path: Path) -> None:
    study = run(tmp_path, Seeded(failing=4))
    found = study.verdict
    assert found is not None
    assert (found.failed, found.seeds, found.better_than) == (4, 0, ())
    facts = Facts(study.record)
    assert "4 of its 4 fresh runs failed" in headline(facts)
    assert "with the first run's adapter, on 400 held-out items" in headline(facts)
    assert any("because all fresh runs of the winner failed" in line for line in remarks(facts))
    assert not any("resume --seeds" in line for line in remarks(facts))


def test_the_means_that_are_compared_are_told(tmp_path: Path) -> None:
    study = run(tmp_path)
    found = study.verdict
    assert found is not None
    assert found.over_defaults is not None
    (line,) = (line for line in remarks(Facts(study.record)) if line.startswith("Fresh runs on the held-out items"))
    means = re.fullmatch(r".*\(mean (0\.\d+)\);.*first run's [\d.]+: (0\.\d+)\)\..*", line)
    assert means is not None
    assert float(means[1]) - float(means[2]) == pytest.approx(found.over_defaults.gain, abs=1e-3)
    assert any("look 1 at the study. It needs p ≤ 0.0375" in line for line in remarks(Facts(study.record)))


@pytest.mark.parametrize(("seeds", "ship"), [(1, "first"), (-1, "first"), (True, "first"), (1.5, "first")])
def test_bad_numbers_of_seeds_are_refused(tmp_path: Path, seeds: Any, ship: Any) -> None:
    with pytest.raises(UserError, match="seeds: must be 0 or at least 2"):
        Study(SPACE, Seeded(), "random", directory=tmp_path / "s", seeds=seeds, ship=ship)
    with pytest.raises(UserError, match="ship: input should be 'first', 'median' or 'best', got 'worst'"):
        Study(SPACE, Seeded(), "random", directory=tmp_path / "s", ship="worst")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="chooses among fresh runs"):
        Study(SPACE, Seeded(), "random", directory=tmp_path / "s", seeds=0, ship="best")
    assert not (tmp_path / "s").exists()


# ----- runs whose worker died


@dataclass
class Reloaded(Seeded):
    def reload(self, trial: Trial, adapter: Path, scored: Observation) -> Observation:
        return Observation({"score": 1.0, "items": 8})


class Dying(Inline):
    """A worker that dies of the fresh runs whose adapters have these names, and of the calls that say so."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is observed_fresh and args[2].name in self.names:
            lost: Future[Any] = Future()
            lost.set_exception(WorkerLostError("its worker died 3 times"))
            return lost
        return super().submit(fn, *args, **kwargs)


@pytest.mark.slow
def test_a_fresh_run_that_lost_its_worker_is_not_on_record_and_resume_runs_it(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    number = whole.best.number
    study = Study(
        SPACE, Seeded(), "random", directory=tmp_path / "s", workers=Dying(f"fresh.{number}.2", "fresh.defaults.3")
    )
    with pytest.raises(UserError) as caught:
        study.run(6)
    assert str(caught.value) == (
        f"results were lost: fresh run 2 of trial {number}, fresh run 3 of the defaults (its worker died 3 "
        f"times). To compute them: partune resume {tmp_path / 's'}"
    )
    assert len(fresh_runs(study.anchors, number)) == len(fresh_runs(study.anchors, "defaults")) == 3
    assert study.verdict is None
    assert brief(summarise(study.record)).endswith("If the study is not running, continue it with `partune resume`.")
    study.close()
    objective = Seeded()
    later = again(tmp_path, objective, 6)
    wanted = {whole.anchors[name].seed for name in (FreshRun(number, 2), FreshRun("defaults", 3))}
    assert {seed for _, seed, _, _ in objective.runs} == wanted
    found = later.verdict
    assert found is not None
    assert (found.seeds, found.failed, found.over_base.runs) == (4, 0, (4, 1))
    assert found.better_than


@pytest.mark.slow
def test_a_look_counts_the_runs_that_were_there_though_one_is_made_up_for_later(tmp_path: Path) -> None:
    study = run(tmp_path, seeds=2)
    number = study.best.number
    study.close()
    pool = Dying(f"fresh.{number}.3")
    study = Study(SPACE, Seeded(), "random", directory=tmp_path / "s", resume=True, workers=pool, seeds=4)
    with pytest.raises(UserError, match="fresh run 3"):
        study.run(6)
    study.close()
    again(tmp_path, Seeded(), 6, seeds=0).close()  # a look at three runs of the winner
    looked = Record.open(tmp_path / "s", read_only=True)
    assert looked.looks[-1] == Look(number, 3, 4)
    told = judge(looked, study.best)
    study = Study(SPACE, Seeded(), "random", directory=tmp_path / "s", resume=True, watcher=Stop())
    with pytest.raises(KeyboardInterrupt):
        study.run(6)
    assert len(fresh_runs(study.anchors, number)) == 4
    assert study.verdict == told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "what", "name"),
    [
        ("score_base", "the scores of the base", "base"),
        ("score_zero", "the run with learning rate 0", "zero"),
        ("score_defaults", "the run of the defaults", "defaults"),
        ("score_winner", "the winner's scores on the verdict items", "winner"),
        ("reload", "the check of the winner's adapter after loading it from disk", "reloaded"),
    ],
)
def test_a_baseline_or_a_winner_that_lost_its_worker_is_not_on_record(
    tmp_path: Path, method: str, what: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> Observation:
        raise Died

    study = Study(SPACE, Reloaded(), "random", directory=tmp_path / "s", workers=Mortal())
    with monkeypatch.context() as patched:
        patched.setattr(Reloaded, method, die)
        told = rf"results were lost: {what} \(its worker died 3 times\)\. To compute them: partune resume .*s$"
        with pytest.raises(UserError, match=told):
            study.run(6)
    assert name not in study.anchors
    study.close()
    later = again(tmp_path, Reloaded(), 6)
    assert later.anchors[name].status is Status.DONE
    assert later.verdict is not None


# ----- a winner without a score


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "ship"), [(0, "first"), (4, "first"), (4, "best")])
def test_a_winner_whose_scoring_failed_has_no_verdict_the_report_says_why_and_resume_tries_again(
    tmp_path: Path, seeds: int, ship: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Observation.failure("the adapter is gone, and [/training] it again diverged")
    with monkeypatch.context() as patched:
        patched.setattr(Seeded, "score_winner", lambda *_: failed)
        study = run(tmp_path, seeds=seeds, ship=ship)
    assert study.verdict is None
    summary = summarise(study.record)
    why = (
        f"No verdict: scoring the winner, trial {study.best.number}, on the held-out items failed (the adapter is "
        "gone, and [/training] it again diverged); `partune resume` tries again."
    )
    assert (summary["verdict"], summary["no_verdict"]) == (None, why)
    assert brief(summary).endswith(why)
    show(summary)
    assert why in capsys.readouterr().out.replace("\n", " ")
    assert why in remarks(Facts(study.record))
    study.close()
    later = again(tmp_path, Seeded(), 6, seeds=seeds, ship=ship)
    assert later.verdict is not None
    assert later.verdict.seeds == seeds
    assert summarise(later.record)["no_verdict"] is None
    assert len(later.record.looks) == 1
    later.close()
    out = export(tmp_path / "s", tmp_path / "out")
    assert (out / "seed").read_text() == str(later.anchors["winner"].seed)


@pytest.mark.slow
def test_a_command_fits_the_process_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from partune.optimizers import surrogate

    study = run(tmp_path)
    fits: list[int] = []

    class Counted(surrogate.Surrogate):
        def __init__(self, space: Space, *arguments: Any) -> None:
            fits.append(1)
            super().__init__(space, *arguments)

    monkeypatch.setattr(surrogate, "Surrogate", Counted)
    assert study.verdict is not None
    assert study.best is not None
    assert not fits  # as the run did
    study.close()
    for command in (
        lambda: summarise(study.record),
        lambda: export(tmp_path / "s", tmp_path / "out"),
        lambda: again(tmp_path, Seeded(), 6).verdict,
    ):
        winner._fitted.cache_clear()  # each command is a process of its own
        command()
        assert len(fits) == 1
        fits.clear()


# ----- another adapter ships


class StopAtThePhase(Watcher):
    def phase(self, name: str) -> None:
        if name == "winner":
            raise KeyboardInterrupt


class StopWhenNoted(Watcher):
    def anchored(self, name: RunName, trial: Trial) -> None:
        if name == "winner":
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("median", "best"), ("best", "first"), ("first", "median")])
@pytest.mark.parametrize("watcher", [StopAtThePhase, StopWhenNoted])
@pytest.mark.parametrize("back", [False, True])
def test_no_adapter_ships_beside_the_card_of_another_run(
    tmp_path: Path, before: Any, after: Any, watcher: type[Watcher], back: bool
) -> None:
    run(tmp_path, ship=before).close()
    study = Study(SPACE, Seeded(), "random", directory=tmp_path / "s", resume=True, watcher=watcher(), ship=after)
    with pytest.raises(KeyboardInterrupt):
        study.run(6)
    study.close()
    scored = Record.open(tmp_path / "s", read_only=True).anchors()["winner"]
    kept = study.record.adapter(study.best.number if scored.order is None else "winner")
    if kept.is_dir():
        assert (export(tmp_path / "s", tmp_path / "out") / "seed").read_text() == str(scored.seed)
    else:
        with pytest.raises(UserError, match="has no adapter of"):
            export(tmp_path / "s", tmp_path / "out")
    later = again(tmp_path, Seeded(), 6, ship=before if back else after)
    wanted = shipped(later.best, later.anchors, before if back else after)
    later.close()
    assert (export(tmp_path / "s", tmp_path / "own") / "seed").read_text() == str(wanted.seed)


# ----- looks


@pytest.mark.slow
def test_another_look_has_less_of_the_level_left(tmp_path: Path) -> None:
    study = run(tmp_path, budget=3)
    assert study.record.looks == [Look(study.best.number, 4, 4)]
    study.close()
    same = again(tmp_path, Seeded(), 3)
    assert len(same.record.looks) == 1  # the same runs, the same verdict
    first = same.best.number
    same.close()
    for budget in range(4, 40):
        study = again(tmp_path, Seeded(), budget)
        if study.best.number != first:
            break
        study.close()
    assert len(study.record.looks) == 2
    found = study.verdict
    assert found is not None
    assert found.look == 2
    assert found.over_base.level == level(2)
    assert any("This is look 2 at the study" in line for line in remarks(Facts(study.record)))


@pytest.mark.slow
def test_runs_that_come_between_two_looks_change_no_verdict(tmp_path: Path) -> None:
    """Whoever reads the report of a study that goes on does not look once more, without any of the level spent."""
    study = run(tmp_path, seeds=2)
    told = study.verdict
    study.close()
    study = Study(SPACE, Seeded(), "random", directory=tmp_path / "s", resume=True, watcher=Stop(), seeds=4)
    with pytest.raises(KeyboardInterrupt):
        study.run(6)
    assert len(fresh_runs(study.anchors, study.best.number)) == 3
    assert study.verdict == told
    assert len(summarise(study.record)["fresh"]["winner"]) == 2  # whose means the verdict compares
    study.close()
    finished = again(tmp_path, Seeded(), 6)
    assert finished.verdict is not None
    assert (finished.verdict.look, finished.verdict.seeds) == (2, 4)


@pytest.mark.slow
def test_a_look_counts_before_its_verdict_can_be_read(tmp_path: Path) -> None:
    class StopAtTheWinner(Watcher):
        def anchored(self, name: RunName, trial: Trial) -> None:
            if name == "winner":
                raise KeyboardInterrupt

    study = Study(SPACE, Seeded(), "random", directory=tmp_path / "s", watcher=StopAtTheWinner())
    with pytest.raises(KeyboardInterrupt):
        study.run(6)
    told, number = study.verdict, study.best.number
    assert told is not None
    study.close()
    finished = again(tmp_path, Seeded(), 6)
    assert finished.verdict == told
    assert finished.record.looks == [Look(number, 4, 4)]


def test_a_winner_that_returns_has_its_verdict_again() -> None:
    first, second, third = Look(1, 4, 4), Look(7, 4, 4), Look(1, 6, 6)
    assert which_look(first, [first, second, first]) == 1
    assert which_look(third, [first, second, first, third]) == 3


# ----- sentences hang on tests


@dataclass
class Ruined(SimulatedTuning):
    """All trials answer at chance; the base does not."""

    def score_base(self) -> Observation:
        return self._score(0.76, frozenset({"search", "verdict", "test"}))

    def accuracy(self, rate: float) -> float:
        return 0.76 if rate == 0 else 0.216


@pytest.mark.slow
def test_a_ruined_winner_is_shown_worse_and_not_exported(tmp_path: Path) -> None:
    study = run(tmp_path, Ruined())
    found = study.verdict
    assert found is not None
    assert found.sentence.startswith("SHOWN WORSE than the untouched base model (gain -0.5")
    facts = Facts(study.record)
    assert badge(facts) == ("shown worse than base", "bad")
    assert "is shown to be worse than the untouched base model" in headline(facts)
    assert any("Do not use the winner" in line for line in remarks(facts))
    study.close()
    with pytest.raises(UserError, match=r"shown worse than the untouched base model.*--anyway"):
        export(tmp_path / "s", tmp_path / "out")
    with pytest.raises(UserError, match="--anyway"):
        export(tmp_path / "s", tmp_path / "out", trial=study.best.number)  # the winner by its number
    assert export(tmp_path / "s", tmp_path / "out", anyway=True).is_dir()


class Broken(SimulatedTuning):
    """Its adapters do not load as they were scored."""

    def reload(self, trial: Trial, adapter: Path, scored: Observation) -> Observation:
        return Observation.failure("3 of 8 items differ")


@pytest.mark.slow
def test_an_adapter_that_is_not_what_was_scored_is_not_exported(tmp_path: Path) -> None:
    study = run(tmp_path, Broken())
    study.close()
    with pytest.raises(UserError, match=r"it does not get the scores on record \(3 of 8 items differ\)\. .*--anyway"):
        export(tmp_path / "s", tmp_path / "out")
    assert export(tmp_path / "s", tmp_path / "out", anyway=True).is_dir()


@pytest.mark.slow
def test_equal_scores_are_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = run(tmp_path, Ruined())
    summary = summarise(study.record)
    assert summary["equal"] == study.best.score
    assert brief(summary).startswith("All 6 scores are equal to the last digit (0.2")
    show(summary)
    assert capsys.readouterr().out.startswith(equal_words(summary)[:40])
    assert headline(Facts(study.record)).startswith("All 6 scores are equal")
    assert summarise(run(tmp_path / "other").record)["equal"] is None


class Cliff(SimulatedTuning):
    """The higher the rate the better, up to the end of the range."""

    def accuracy(self, rate: float) -> float:
        return 0.5 if rate == 0 else 0.5 + 0.06 * max(0.0, np.log10(rate) + 6)


@pytest.mark.slow
def test_a_bound_is_widened_where_the_good_trials_lie_at_it(tmp_path: Path) -> None:
    space = Space(learning_rate=Float(1e-6, 1e-3, log=True))
    climbing = Study(space, Cliff(), "grid", options={"points": 40}, directory=tmp_path / "a").run(40)
    assert [hint for hint in Facts(climbing.record).hints if "widen it" in hint] == [
        "learning_rate is at the top of its range, 0.001: widen it."
    ]


@pytest.mark.slow
def test_one_ruined_trial_at_the_top_is_no_reason_to_widen(tmp_path: Path) -> None:
    space = Space(learning_rate=Float(1e-6, 1e-3, log=True))
    for objective, name in ((Ruined(), "ruined"), (Cliff(), "alone")):
        study = Study(space, objective, "grid", options={"points": 2}, directory=tmp_path / name).run(2)
        assert Facts(study.record).hints == []


# ----- records of the version before


@pytest.mark.slow
def test_a_record_without_looks_or_fresh_runs_has_its_verdict(tmp_path: Path) -> None:
    """As it was written when a winner was judged by its one adapter."""
    study = run(tmp_path, seeds=0)
    journal = tmp_path / "s" / "journal.log"
    study.close()
    lines = [line for line in journal.read_text().splitlines(keepends=True) if '"looks"' not in line]
    journal.write_text("".join(lines))
    record = Record.open(tmp_path / "s", read_only=True)
    assert record.looks == []
    found = judge(record, study.best)
    assert found is not None
    assert (found.look, found.seeds) == (1, 0)
    later = again(tmp_path, Seeded(), 6)
    assert later.record.looks == [Look(study.best.number, 0, 0), Look(study.best.number, 4, 4)]  # the old one counts
    assert later.verdict is not None
    assert later.verdict.look == 2


# ----- whole studies, simulated


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_flips")
def test_a_landscape_of_equals_gives_no_false_better_and_a_gain_is_seen(thorough: bool) -> None:
    """Short; docs/report.md has 400 studies a row. Without fresh runs .7 of the first kind say BETTER."""
    most, simulate = SCRIPT["most"], SCRIPT["run"]
    equal, better = (40, 25) if thorough else (16, 10)
    flat = [simulate(0.03, 0.0, world, 12, "lhs") for world in range(equal)]
    assert sum(each.better[0] for each in flat) <= most(equal, 0.05)
    low, high = zip(*(each.verdicts[0].interval for each in flat), strict=True)
    missed = sum(not a <= 0 <= b for a, b in zip(low, high, strict=True))
    assert missed <= most(equal, 0.07)
    assert sum(each.adapters.better for each in flat) > 2 * most(equal, 0.05)  # what the adapters alone would say
    gained = [simulate(0.0, 0.03, world, 12, "lhs") for world in range(better)]
    assert sum(not each.better[0] for each in gained) <= most(better, 0.30)


def test_the_simulated_objective_is_what_it_says() -> None:
    objective = SCRIPT["Flat"](0.0, 0.03, 1)
    trial = Trial(0, SCRIPT["DEFAULTS"])
    first = objective.score_defaults(trial, None)
    assert first.items["verdict/t/acc"].shape == (SCRIPT["ITEMS"],)
    other = objective.score_defaults(replace(trial, seed=1), None)
    assert 0 < (first.items["verdict/t/acc"] != other.items["verdict/t/acc"]).mean() < 0.4
    assert first.status is Status.DONE
    means: Mapping[bool, float] = {
        better: float(
            np.mean(
                [
                    objective.score_defaults(
                        Trial(0, {**SCRIPT["DEFAULTS"], "lora_r": 3 if better else 16}, seed=seed), None
                    ).scores["verdict"]
                    for seed in range(60)
                ]
            )
        )
        for better in (False, True)
    }
    assert means[True] - means[False] == pytest.approx(0.03, abs=3 * 0.021 / np.sqrt(60))


def test_what_the_items_cannot_show_is_said_before_any_training(tmp_path: Path) -> None:
    said: list[tuple[str, int]] = []
    objective = Seeded(items=4)

    class Listens(Watcher):
        def noted(self, line: str) -> None:
            said.append((line, len(objective.runs)))

    Study(SPACE, objective, "random", directory=tmp_path / "s", watcher=Listens(), seeds=0).run(2)
    assert said == [
        (Limits.of(on_verdict_items([objective.score_base().items], "acc"), 0, Yardstick("acc", False)).sentence, 0)
    ]
    assert "4 held-out items cannot show a gain, however large" in said[0][0]
    objective.items = 400
    said.clear()
    Study(SPACE, objective, "random", directory=tmp_path / "t", watcher=Listens(), seeds=0).run(2)
    assert said == []
