"""Confirmation: fresh seeds for the best few, a winner by both scores, and the luck of first scores told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune import Float, Observation, Space, Status, Study, UserError
from partune.objectives.base import Objective
from partune.report.summary import show, summarise
from partune.study import Watcher
from partune.trial import Trial
from partune.winner import CONFIRM, best, pooled, ranked
from tests.simulated import SimulatedTuning

LINE = Space(x=Float(0, 1))


class Noisy(Objective):
    """x / 10 and noise of the trial's own seed, standard deviation 1: nearly all of a score is luck."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.numbers: list[int] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"noisy": True}

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        self.seeds.append(trial.seed)
        self.numbers.append(trial.number)
        return Observation({"score": float(trial.config["x"]) / 10 + np.random.default_rng(trial.seed).normal()})


def done(number: int, score: float, status: Status = Status.DONE) -> Trial:
    found = Observation({"score": score}, status=status) if status is not Status.FAILED else Observation.failure("no")
    return Trial(number, {"x": number / 10}).finished(found, told=number)


def test_the_winner_is_the_best_in_both_scores() -> None:
    trials = [done(0, 0.9), done(1, 0.8), done(2, 0.8), done(3, 0.95, Status.STOPPED), done(4, 0.0, Status.FAILED)]
    assert [trial.number for trial in ranked(trials)] == [0, 1, 2]
    assert best(trials) is trials[0]
    second = {f"{CONFIRM}0": done(0, 0.5), f"{CONFIRM}1": done(0, 0.79), "base": done(0, 2.0)}
    assert best(trials, second) is trials[1]
    second[f"{CONFIRM}1"] = done(0, 0.0, Status.FAILED)
    assert best(trials, second) is trials[0]  # fails once in two
    assert pooled(trials[0], second[f"{CONFIRM}0"]) == pytest.approx(0.7)
    assert best([]) is None
    assert best(trials[3:]) is None


def test_the_best_run_once_more_with_fresh_seeds_and_count_for_nothing() -> None:
    objective = Noisy()
    study = Study(LINE, objective, "random", seed=1, confirm=3).run(12)
    assert len(study.trials) == 12
    assert len(set(objective.seeds)) == 15
    leaders = ranked(study.trials)[:3]
    assert objective.numbers[12:] == [trial.number for trial in leaders]  # which name what an objective writes
    assert set(study.anchors) == {f"{CONFIRM}{trial.number}" for trial in leaders}
    both = {trial.number: pooled(trial, study.anchors[f"{CONFIRM}{trial.number}"]) for trial in leaders}
    assert study.best.number == max(both, key=lambda number: both[number])
    assert len(study.optimizer.history[0]) == 12
    study.run(12)
    assert len(objective.seeds) == 15  # nothing is run twice


def test_first_scores_are_too_good_and_the_report_says_by_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    """The maximum of 20 scores is 1.87 standard deviations of luck in the mean; a second run's is none."""
    lost = []
    for seed in range(12):
        rows = summarise(Study(LINE, Noisy(), "random", seed=seed, confirm=2).run(20).record)["confirmed"]
        lost.append(rows[0]["score"] - rows[0]["again"])
    assert np.mean(lost) == pytest.approx(1.87, abs=3 * np.sqrt(1 + 0.28) / np.sqrt(12))
    summary = summarise(Study(LINE, Noisy(), "random", seed=0, confirm=2).run(20).record)
    show(summary)
    told = capsys.readouterr().out
    first, other = summary["confirmed"]
    assert f"trial {first['trial']} {first['score']:.4f}, then {first['again']:.4f}; trial {other['trial']}" in told
    assert ("the winner's curse" in told) == (first["score"] + other["score"] > first["again"] + other["again"])


class Stop(Watcher):
    def phase(self, name: str) -> None:
        if name == "winner":
            raise KeyboardInterrupt


def test_a_fine_tuning_keeps_the_winners_adapter_and_resumes_after_its_confirmation(tmp_path: Path) -> None:
    space = Space(learning_rate=Float(1e-6, 1e-2, log=True))
    tuning = SimulatedTuning()
    study = Study(space, tuning, "random", seed=2, directory=tmp_path / "s", confirm=3, watcher=Stop())
    with pytest.raises(KeyboardInterrupt):
        study.run(10)
    study.close()
    again = Study(space, SimulatedTuning(), "random", seed=2, directory=tmp_path / "s", confirm=3, resume=True)
    assert sum(name.startswith(CONFIRM) for name in again.anchors) == 3
    again.run(10)
    kept = [folder.name for folder in (tmp_path / "s" / "adapters").iterdir()]
    assert sorted(kept) == sorted(["defaults", f"{again.best.number:04d}"])
    assert again.verdict is not None
    assert f"adapter:{again.best.number:04d}" in again.objective.calls  # type: ignore[attr-defined]
    again.run(14)  # a longer search has its own leaders confirmed
    leaders = {f"{CONFIRM}{trial.number}" for trial in ranked(again.trials)[:3]}
    assert leaders <= set(again.anchors)


@pytest.mark.parametrize("confirm", [-1, True, 1.5])
def test_bad_numbers_are_refused(confirm: Any) -> None:
    with pytest.raises(UserError, match="confirm >= 0 must hold, got"):
        Study(LINE, Noisy(), "random", confirm=confirm)
