"""Confirmation: fresh seeds for the best few, a winner by both scores, and the luck of first scores told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune import Float, Observation, Space, Status, Study, UserError
from partune.export.export import export
from partune.objectives.base import Objective
from partune.report.summary import summarise
from partune.report.terminal import show
from partune.runtime.rounding import score
from partune.study import Watcher
from partune.trial import Trial
from partune.trial.names import Confirmation
from partune.verdict.winner import (
    MOST,
    best,
    confirmations,
    due,
    halvings,
    pooled,
    ranked,
    worths,
)
from partune.workers.base import Inline, WorkerLostError
from tests.support.simulated import SEARCH, SimulatedTuning

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


def scores(trials: list[Trial]) -> dict[int, float]:
    return {trial.number: trial.score for trial in trials}


def test_the_winner_is_the_best_in_the_mean() -> None:
    trials = [done(0, 0.9), done(1, 0.8), done(2, 0.8), done(3, 0.95, Status.STOPPED), done(4, 0.0, Status.FAILED)]
    assert [trial.number for trial in ranked(trials)] == [0, 1, 2]
    assert best(trials, {}, scores(trials)) is trials[0]
    again = {Confirmation(0, 1): done(0, 0.5), Confirmation(1, 1): done(1, 0.79), "base": done(0, 2.0)}
    assert best(trials, again, scores(trials)) is trials[1]
    again[Confirmation(0, 2)] = done(0, 1.3)
    assert best(trials, again, scores(trials)) is trials[0]
    again[Confirmation(0, 3)] = done(0, 0.0, Status.FAILED)
    assert best(trials, again, scores(trials)) is trials[1]  # fails once in four
    of_first = [again[Confirmation(0, run)] for run in (1, 2, 3)]
    assert confirmations(again) == {0: of_first, 1: [again[Confirmation(1, 1)]]}
    assert pooled(0.9, confirmations(again)[0][:2]) == pytest.approx(0.9)
    assert best([], {}, {}) is None
    assert best(trials[3:], {}, {}) is None


def test_a_confirmation_that_is_not_whole_or_failed_chooses_nobody_it_should_not() -> None:
    trials = [done(n, 1 - n / 100) for n in range(6)]
    worth = scores(trials)
    only = {Confirmation(0, 1): done(0, 0.2)}
    assert best(trials, only, worth) is trials[0]  # interrupted: the others were not run again yet
    assert best(trials, {Confirmation(1, 1): done(1, 3.0)}, worth) is trials[0]  # a later, better trial: not confirmed
    broken = {Confirmation(n, 1): done(n, 0.0, Status.FAILED) for n in (0, 1)}
    assert best(trials, broken, worth) is trials[2]
    assert best(trials[:2], broken, worth) is trials[0]
    again = {Confirmation(n, 1): done(n, score) for n, score in enumerate([0.7, 0.9, 0.8])}
    again |= {Confirmation(n, 2): done(n, 0.4) for n in (1, 2)}
    assert best(trials, again, worth) is trials[1]  # and not trial 0, which is out, for all its better mean


def test_a_new_leader_can_win_after_a_smaller_confirmation() -> None:
    """The first confirmation ran trials 1 and 2 twice; a later one of two trials runs the new leader 0 only once."""
    trials = [done(0, 0.95), done(1, 0.9), done(2, 0.8)]
    twice = {Confirmation(n, run): done(n, 0.85) for n in (1, 2) for run in (1, 2)}
    ahead, behind, lucky = ({**twice, Confirmation(0, 1): done(0, score)} for score in (0.9, 0.7, 0.8))
    assert best(trials, ahead, scores(trials)) is trials[0]
    assert best(trials, behind, scores(trials)) is trials[1]
    assert pooled(0.95, [done(0, 0.8)]) == pytest.approx(pooled(0.9, [done(1, 0.85)]))
    assert best(trials, lucky, scores(trials)) is trials[1]  # equal after one run each, and then trial 1 was run again


def test_each_round_runs_the_better_half_of_the_last() -> None:
    assert [halvings(k) for k in range(7)] == [[], [1], [2], [3, 2], [4, 2], [5, 3, 2], [6, 3, 2]]
    assert halvings(8) == [8, 4, 2]
    trials = [done(n, 1 - n / 100) for n in range(9)]
    worth = dict(zip(range(9), [0.0, 0.1, 0.9, 0.5, 0.8, 9.0, 9.0, 9.0, 9.0], strict=True))
    again: dict[str, Trial] = {}
    rounds = []
    while True:
        now, run = due(trials, again, 5, scores(trials))
        if not now:
            break
        rounds.append([each.number for each in now])
        again |= {Confirmation(each.number, run): done(each.number, worth[each.number]) for each in now}
    assert [sorted(each) for each in rounds] == [[0, 1, 2, 3, 4], [2, 3, 4], [2, 4]]
    assert due(trials, again, 4, scores(trials)) == ([], 0)  # all that a smaller confirmation wants was run
    assert best(trials, again, scores(trials)) is trials[2]
    del again[Confirmation(4, 3)]  # as if interrupted
    assert due(trials, again, 5, scores(trials)) == ([trials[4]], 3)


def test_the_best_run_again_with_fresh_seeds_and_count_for_nothing() -> None:
    objective = Noisy()
    study = Study(LINE, objective, "random", seed=1, confirm=3).run(12)
    assert len(study.trials) == 12
    assert len(set(objective.seeds)) == 12 + 3 + 2
    leaders = [trial.number for trial in ranked(study.trials)[:3]]
    again = confirmations(study.anchors)
    # Which name what an objective writes.
    assert objective.numbers[12:15] == leaders
    assert sorted(objective.numbers[15:]) == sorted(number for number in leaders if len(again[number]) == 2)
    assert sorted(again) == sorted(leaders)
    means = {number: pooled(study.trials[number].score, again[number]) for number in leaders}
    assert study.best.number == max(means, key=lambda number: means[number])
    assert len(study.optimizer.history[0]) == 12
    study.run(12)
    assert len(objective.seeds) == 17  # nothing is run twice


def test_a_failed_run_puts_a_trial_last() -> None:
    class Fragile(Noisy):
        def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
            if len(self.seeds) == 8:  # the leader's second run
                self.seeds.append(trial.seed)
                return Observation.failure("out of luck")
            return super().evaluate(trial, adapter)

    study = Study(LINE, Fragile(), "random", seed=3, confirm=2).run(8)
    leader, other = ranked(study.trials)[:2]
    assert study.best is other
    rows = summarise(study.record)["confirmed"]
    assert [(row["trial"], row["again"][0] is None, row["pooled"] is None) for row in rows] == [
        (leader.number, True, True),
        (other.number, False, False),
    ]


class Dying(Inline):
    """The worker of the first confirmation dies."""

    def __init__(self) -> None:
        self.died = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if isinstance(args[1], Trial) and args[1].order is not None and not self.died:
            self.died = True
            lost: Future[Any] = Future()
            lost.set_exception(WorkerLostError("its worker died"))
            return lost
        return super().submit(fn, *args, **kwargs)


def test_a_confirmation_that_lost_its_worker_is_not_on_record_and_runs_when_the_study_goes_on() -> None:
    objective, plain = Noisy(), Study(LINE, Noisy(), "random", seed=1, confirm=3).run(12)
    study = Study(LINE, objective, "random", seed=1, confirm=3, workers=Dying())
    leader = ranked(plain.trials)[0].number
    with pytest.raises(UserError) as caught:
        study.run(12)
    assert str(caught.value) == (
        f"results were lost: confirmation 1 of trial {leader} (its worker died). To compute them: run it again"
    )
    assert len(study.anchors) == 2
    study.run(12)
    assert len(objective.seeds) == 12 + 3 + 2
    assert study.best.number == plain.best.number
    assert {name: each.score for name, each in study.anchors.items()} == {
        name: each.score for name, each in plain.anchors.items()
    }


@pytest.mark.slow
def test_first_scores_are_too_good_and_the_report_says_by_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    """The maximum of 20 scores is 1.87 standard deviations of luck in the mean; a second run's is none."""
    lost = []
    for seed in range(12):
        rows = summarise(Study(LINE, Noisy(), "random", seed=seed, confirm=2).run(20).record)["confirmed"]
        lost.append(rows[0]["score"] - rows[0]["again"][0])
    assert np.mean(lost) == pytest.approx(1.87, abs=3 * np.sqrt(1 + 0.28) / np.sqrt(12))
    summary = summarise(Study(LINE, Noisy(), "random", seed=0, confirm=2).run(20).record)
    show(summary)
    told = capsys.readouterr().out
    first, other = summary["confirmed"]
    scores = f"{score(first['score'], None)}, then {score(first['again'][0], None)}"
    assert f"trial {first['trial']} {scores}; trial {other['trial']}" in told
    assert ("the winner's curse" in told) == (first["score"] + other["score"] > first["again"][0] + other["again"][0])


# ----- what a score is worth


def hill(number: int, x: float, noise: float, stderr: float | None) -> Trial:
    found = Observation({"score": -((3 * (x - 0.6)) ** 2) + noise}, stderr=stderr)
    return Trial(number, {"x": x}).finished(found, told=number)


def hills(seed: int, n: int, stderr: float | None) -> list[Trial]:
    rng = np.random.default_rng(seed)
    return [hill(number, rng.random(), 0.5 * rng.standard_normal(), stderr) for number in range(n)]


def test_without_noise_a_score_is_worth_itself() -> None:
    trials = hills(0, 9, None)
    assert worths(trials, LINE) == scores(trials) == worths(trials, LINE, noisy=False)
    assert worths(hills(0, 9, 0.5), LINE, noisy=False) == scores(trials)
    assert worths([], LINE, noisy=True) == {}
    failed = [done(3, 0.0, Status.FAILED), done(4, 1.0, Status.STOPPED)]
    assert worths([*trials, *failed], LINE, noisy=True).keys() == scores(trials).keys()


@pytest.mark.slow
@pytest.mark.parametrize("stderr", [None, 0.5])
def test_under_noise_the_winner_is_nearer_to_the_optimum_than_the_best_score(stderr: float | None) -> None:
    noisy = True if stderr is None else None

    def off(worth: bool) -> float:
        found = []
        for seed in range(80):
            trials = hills(seed, 25, stderr)
            winner = best(trials, {}, worths(trials, LINE, noisy) if worth else scores(trials))
            assert winner is not None
            found.append(abs(float(winner.config["x"]) - 0.6))
        return float(np.mean(found))

    assert off(True) < 0.95 * off(False)


@pytest.mark.slow
def test_a_long_study_has_its_winner_in_seconds() -> None:
    trials = hills(0, MOST + 400, 0.5)
    worth = worths(trials, LINE)
    assert len(worth) == len(trials)
    for trial in ranked(trials)[MOST:]:
        assert worth[trial.number] == trial.score


@pytest.mark.slow
def test_the_report_says_why_the_best_score_is_not_the_winner(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(20):
        study = Study(LINE, Noisy(), "random", seed=seed, noisy=True).run(20)
        first = ranked(study.trials)[0]
        summary = summarise(study.record)
        show(summary)
        told = capsys.readouterr().out
        assert (f"Trial {first.number} scored {score(first.score, None)}, but" in told) == (study.best is not first)
        assert summary["best"]["trial"] == study.best.number
        if study.best is not first:
            break
    else:
        pytest.fail("the best score is always the winner")
    plain = Study(LINE, Noisy(), "random", seed=seed).run(20)
    assert plain.best.number == first.number


class Stop(Watcher):
    def phase(self, name: str) -> None:
        if name == "winner":
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_fine_tuning_keeps_the_winners_adapter_and_resumes_after_its_confirmation(tmp_path: Path) -> None:
    space = Space(learning_rate=Float(1e-6, 1e-2, log=True))
    tuning = SimulatedTuning()
    study = Study(space, tuning, "random", seed=2, directory=tmp_path / "s", confirm=3, watcher=Stop())
    with pytest.raises(KeyboardInterrupt):
        study.run(10)
    study.close()
    again = Study(space, SimulatedTuning(), "random", seed=2, directory=tmp_path / "s", confirm=3, resume=True)
    assert sum(isinstance(name, Confirmation) for name in again.anchors) == 3 + 2
    again.run(10)
    kept = [folder.name for folder in (tmp_path / "s" / "adapters").iterdir()]
    assert sorted(kept) == sorted(["defaults", f"{again.best.number:04d}"])
    assert again.verdict is not None
    assert f"adapter:{again.best.number:04d}" in again.objective.calls  # type: ignore[attr-defined]
    again.run(14)  # a longer search has its own leaders confirmed
    assert {trial.number for trial in ranked(again.trials)[:3]} <= set(confirmations(again.anchors))


class Lucky(SimulatedTuning):
    """Trials after the first eight score better than these at first, and worse when they run again."""

    def evaluate(self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH) -> Observation:
        if adapter is not None:
            adapter.mkdir(parents=True)
            (adapter / "rate").write_text(repr(float(trial.config["learning_rate"])))
        first = "verdict" in parts or (adapter is not None and adapter.name.isdigit())  # a confirmation: "confirm.2.1"
        accuracies = (0.6, 0.8) if first else (0.75, 0.4)
        return self._score(0.5 if not trial.config["learning_rate"] else accuracies[trial.number >= 8], parts)


@pytest.mark.slow
def test_the_judged_winners_adapter_survives_a_longer_search(tmp_path: Path) -> None:
    space = Space(learning_rate=Float(1e-5, 1e-3, log=True))
    study = Study(space, Lucky(), "random", seed=1, directory=tmp_path / "s", confirm=3).run(8)
    winner = study.best.number
    study.close()
    again = Study(space, Lucky(), "random", seed=1, directory=tmp_path / "s", confirm=3, resume=True).run(30)
    assert again.best.number == winner
    again.close()
    assert (export(tmp_path / "s", tmp_path / "out") / "rate").is_file()


@pytest.mark.parametrize("confirm", [-1, True, 1.5])
def test_bad_numbers_are_refused(confirm: Any) -> None:
    with pytest.raises(UserError, match=f"confirm: input should be .*, got {confirm}"):
        Study(LINE, Noisy(), "random", confirm=confirm)
