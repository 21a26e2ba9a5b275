"""Who won a study, and whether it is better than what it is compared with.

The best of many noisy scores is too good: part of it is luck (the winner's curse). Two remedies:

- A score is worth the mean of itself and of what a Gaussian process through all scores expects there, as the luck of a
  trial is not its neighbours'. It costs nothing. Scores without noise are worth what they are.
- Confirmation runs the best k again with fresh seeds, then the better half of these once more, and so on: sequential
  halving, Karnin, Koren and Somekh 2013, begun with what the scores of the search are worth.

The winner is the trial of the highest worth, or, where the leaders were confirmed, the last round's best mean of worth
and further scores.
What both gain is measured in docs/search-log.md.

Whether it is better than the base and the defaults is asked of fresh runs of both, with other seeds of initialisation,
dropout and order, on the verdict items. The winner's first run chose it and does not count; that of the defaults chose
nothing and does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from partune.config import Ship
from partune.record.record import Look, Record
from partune.space import Space
from partune.trial import Point, Status, Trial
from partune.trial.names import Baseline, Confirmation, FreshRun, ItemSet, ResultName, RunName, Whose, WinnerScoring
from partune.verdict.paired import Limits, Runs, Verdict, verdict

if TYPE_CHECKING:
    from partune.optimizers.surrogate import Surrogate

Worths = Mapping[int, float]  # by the number of the trial

MOST = 500  # scores that a process is fitted to, the best ones, so that a long study's winner is found in seconds


def worths(trials: Iterable[Trial], space: Space, noisy: bool | None = None) -> Worths:
    """Return what the scores of the trials that are done are worth, by number.

    Args:
        trials: The study's trials.
        space: The space of their configurations.
        noisy: Whether scores have noise; None to see it by whether any has a standard error.
    """
    done = ranked(trials)
    scores = {trial.number: trial.score for trial in done}
    leaders = done[:MOST]
    observations = [trial.observation for trial in leaders if trial.observation is not None]
    if noisy is None:
        noisy = any(observation.stderr for observation in observations)
    if not noisy or not leaders:
        return scores
    from partune.runtime.threads import one_blas_thread

    fitted = process(space, leaders)
    with one_blas_thread():
        means, _ = fitted.posterior([space.encode(trial.config) for trial in leaders])
    # The process alone would trust a smooth surface too much, the score alone its luck: halves of both did best in
    # docs/search-log.md.
    return scores | {trial.number: (trial.score + float(mean)) / 2 for trial, mean in zip(leaders, means, strict=True)}


def process(space: Space, leaders: Sequence[Trial]) -> Surrogate:
    """Return the Gaussian process through the scores of trials that are done.

    Args:
        space: The space of their configurations.
        leaders: The trials, at least one; no more than MOST of them, or the fit takes long.
    """
    points = tuple(space.encode(trial.config) for trial in leaders)
    errors = tuple(
        math.nan if trial.observation is None or trial.observation.stderr is None else trial.observation.stderr
        for trial in leaders
    )
    return _fitted(space, points, tuple(trial.score for trial in leaders), errors)


# The study, its summary and its page ask for the same process one after the other, and share nothing that could own it:
# each reads the record by itself, and the record must not know of processes. The key is all that a fit depends on, so
# that nothing stale can be returned.
@functools.lru_cache(maxsize=1)
def _fitted(space: Space, points: tuple[Point, ...], scores: tuple[float, ...], errors: tuple[float, ...]) -> Surrogate:
    from partune.optimizers.surrogate import Surrogate
    from partune.runtime.threads import one_blas_thread

    with one_blas_thread():
        return Surrogate(space, points, scores, errors)


def ranked(trials: Iterable[Trial], worth: Worths | None = None) -> list[Trial]:
    """Return the trials that are done, the best first and of equals the first proposed.

    Args:
        trials: The study's trials.
        worth: What their scores are worth; None to rank by the scores themselves.
    """
    done = (trial for trial in trials if trial.status is Status.DONE)
    return sorted(done, key=lambda trial: (-(trial.score if worth is None else worth[trial.number]), trial.number))


def confirmations(baselines: Mapping[RunName, Trial]) -> dict[int, list[Trial]]:
    """Return the further runs of each trial that was confirmed, in their order, by the trial's number."""
    by_trial: dict[int, dict[int, Trial]] = {}
    for name, again in baselines.items():
        if isinstance(name, Confirmation):
            by_trial.setdefault(name.trial, {})[name.run] = again
    return {number: [runs[run] for run in sorted(runs)] for number, runs in by_trial.items()}


def pooled(first: float, again: Sequence[Trial]) -> float:
    """Return the mean of a trial's first score and of its further runs' scores; -inf if one of them failed.

    Args:
        first: What the trial's first score is worth.
        again: Its further runs.
    """
    if any(run.status is not Status.DONE for run in again):
        return -math.inf
    return (first + sum(run.score for run in again)) / (1 + len(again))


def halvings(k: int) -> list[int]:
    """Return how many trials run in each round of a confirmation of the best k: k, the better half, ..., two."""
    sizes = [k] if k else []
    while sizes and (half := math.ceil(sizes[-1] / 2)) > 1 and half < sizes[-1]:
        sizes.append(half)
    return sizes


def due(trials: Iterable[Trial], baselines: Mapping[RunName, Trial], k: int, worth: Worths) -> tuple[list[Trial], int]:
    """Return the trials that a confirmation runs next, and which of their further runs that is, from 1.

    What was run before, for another k or a shorter search, is not run again.

    Args:
        trials: The study's trials.
        baselines: The runs beside the search, by name.
        k: How many of the best trials are confirmed.
        worth: What the trials' scores are worth, by number.

    Returns:
        No trials and 0 if all rounds are over.
    """
    again = confirmations(baselines)
    alive = ranked(trials, worth)
    for run, size in enumerate(halvings(k), start=1):
        alive = alive[:size]
        missing = [trial for trial in alive if len(again.get(trial.number, ())) < run]
        if missing:
            return missing, run
        alive.sort(key=lambda trial: -pooled(worth[trial.number], again[trial.number][:run]))
    return [], 0


def best(trials: Iterable[Trial], baselines: Mapping[RunName, Trial], worth: Worths) -> Trial | None:
    """Return the winner: the trial that is worth most, the first of equals; None while none is done.

    If the leader was confirmed, the best pooled score wins among the trials with the most further runs. A trial that
    failed in a further run only wins if all others did.

    Args:
        trials: The study's trials.
        baselines: The runs beside the search, by name.
        worth: What the trials' scores are worth, by number.
    """
    # A pooled mean over more runs has less luck in it: only trials of the same, last round are compared. A leader
    # that was never confirmed came after the confirmation, by a longer search; until the next one it leads.
    again = confirmations(baselines)
    broken = {number for number, runs in again.items() if pooled(0.0, runs) == -math.inf}
    leaders = sorted(ranked(trials, worth), key=lambda trial: trial.number in broken)
    confirmed = [trial for trial in leaders if trial.number in again and trial.number not in broken]
    if confirmed and confirmed[0] is leaders[0]:
        most = max(len(again[trial.number]) for trial in confirmed)
        last = [trial for trial in confirmed if len(again[trial.number]) == most]
        return max(last, key=lambda trial: pooled(worth[trial.number], again[trial.number]))
    return leaders[0] if leaders else None


def is_judged(winner: Trial, baselines: Mapping[RunName, Trial]) -> bool:
    """Return whether this winner has been scored on the verdict items and test tasks.

    Args:
        winner: The winner.
        baselines: The runs beside the search, by name.
    """
    scored = scoring(winner, baselines)
    return scored is not None and scored.status is Status.DONE


def scoring(winner: Trial, baselines: Mapping[RunName, Trial]) -> Trial | None:
    """Return the run that scored this winner on the verdict items, failed or not; None if there was no attempt.

    Args:
        winner: The winner.
        baselines: The runs beside the search, by name.
    """
    scored = baselines.get(WinnerScoring.JUDGED)
    return scored if scored is not None and dict(scored.config) == dict(winner.config) else None


def reloaded(winner: Trial | None, baselines: Mapping[RunName, Trial]) -> Trial | None:
    """Return the run that loaded this winner's adapter from disk and scored it; None if there was none.

    Args:
        winner: The winner, if there is one.
        baselines: The runs beside the search, by name.
    """
    again = baselines.get(WinnerScoring.RELOADED)
    if again is None or winner is None or WinnerScoring.JUDGED not in baselines:
        return None
    same = dict(again.config) == dict(winner.config) and again.seed == baselines[WinnerScoring.JUDGED].seed
    return again if same else None


# ----- fresh runs


def fresh_runs(baselines: Mapping[RunName, Trial], whose: Whose) -> list[Trial]:
    """Return runs with fresh seeds, in the order in which they were recorded.

    Args:
        baselines: The runs beside the search, by name.
        whose: A trial's number, or the defaults.
    """
    return [baselines[name] for name in fresh_names(baselines, whose)]


def fresh_names(baselines: Mapping[RunName, Trial], whose: Whose) -> list[FreshRun]:
    """Return the names of runs with fresh seeds, in the order in which they were recorded.

    Args:
        baselines: The runs beside the search, by name.
        whose: A trial's number, or the defaults.
    """
    # Not in the order of their names: a run that was lost and made up for comes after those that a verdict was given
    # on, and a look counts the first ones.
    names = (name for name in baselines if isinstance(name, FreshRun) and name.whose == whose)
    return sorted(names, key=lambda name: baselines[name].number)


def fresh_due(winner: Trial, baselines: Mapping[RunName, Trial], seeds: int) -> list[FreshRun]:
    """Return the names of the fresh runs that a verdict on a winner lacks.

    The defaults run again if their first run has a score.

    Args:
        winner: The winner.
        baselines: The runs beside the search, by name.
        seeds: How many fresh runs each side has.
    """
    scored = Baseline.DEFAULTS in baselines and baselines[Baseline.DEFAULTS].status is Status.DONE
    everybody: list[Whose] = [winner.number, Baseline.DEFAULTS] if scored else [winner.number]
    names = (FreshRun(whose, run) for whose in everybody for run in range(1, seeds + 1))
    return [name for name in names if name not in baselines]


def shipped(winner: Trial, baselines: Mapping[RunName, Trial], ship: Ship) -> Trial:
    """Return the run whose adapter is handed over.

    Args:
        winner: The winner.
        baselines: The runs beside the search, by name.
        ship: "first" for the winner's first run, "best" or "median" for a fresh run by its score on the search items.
    """
    runs = sorted(
        (run for run in fresh_runs(baselines, winner.number) if run.status is Status.DONE), key=lambda run: -run.score
    )
    if ship == "first" or not runs:
        return winner
    return runs[0 if ship == "best" else len(runs) // 2]


def ships_fresh(baselines: Mapping[RunName, Trial]) -> bool:
    """Return whether the adapter that ships is that of a fresh run."""
    return WinnerScoring.JUDGED in baselines and baselines[WinnerScoring.JUDGED].order is not None


def judge(record: Record, winner: Trial | None) -> Verdict | None:
    """Return the verdict on a record's winner; None while it is not scored on the verdict items.

    It is that of the last look: fresh runs that came since count at the next, so that reading a report in between is
    not one more look, which would have to spend some of the level.

    Args:
        record: The study's record.
        winner: Its winner, if there is one.
    """
    baselines = record.anchors()
    if winner is None or not is_judged(winner, baselines):
        return None
    metric = record.loaded["scoring"]["metric"]
    last, looks = last_look(record, winner), record.looks
    if last is None:
        return None
    again = fresh_runs(baselines, winner.number)[: last.seeds]
    fresh = [run for run in again if run.status is Status.DONE]
    first_defaults = [baselines[Baseline.DEFAULTS]] if Baseline.DEFAULTS in baselines else []

    def runs(trials: Iterable[Trial]) -> Runs | None:
        """Return the scores of those that did not fail."""
        packed = [record.items("anchors", trial.number) for trial in trials if trial.status is Status.DONE]
        return on_verdict_items(packed, metric) if packed else None

    winning, base = (
        runs(fresh or [baselines[WinnerScoring.JUDGED]]),
        runs([baselines[Baseline.BASE]] if Baseline.BASE in baselines else []),
    )
    if winning is None or base is None:
        return None
    defaults = runs([*first_defaults, *(fresh_runs(baselines, Baseline.DEFAULTS)[: last.defaults] if fresh else [])])
    return verdict(
        winning,
        base,
        defaults,
        seeds=len(fresh),
        failed=len(again) - len(fresh),
        look=which_look(last, looks or [last]),
    )


def last_look(record: Record, winner: Trial) -> Look | None:
    """Return the last look at a winner, which says what fresh runs its verdict counts; None if there was none.

    Args:
        record: The study's record.
        winner: Its winner.
    """
    looks = record.looks or [Look(winner.number, 0, 0)]  # an older version noted none, and gave one verdict
    return next((look for look in reversed(looks) if look.trial == winner.number), None)


def which_look(look: Look, looks: Iterable[Look]) -> int:
    """Return which of a study's looks one is, from 1.

    Another look at the same runs finds the same, and does not count.

    Args:
        look: The look.
        looks: All of the study's looks, in their order.
    """
    return list(dict.fromkeys(looks)).index(look) + 1


def looking(winner: Trial, baselines: Mapping[RunName, Trial]) -> Look:
    """Return the look at a winner and the defaults that counts all their fresh runs.

    Args:
        winner: The winner.
        baselines: The runs beside the search, by name.
    """
    return Look(winner.number, len(fresh_runs(baselines, winner.number)), len(fresh_runs(baselines, Baseline.DEFAULTS)))


def looked_before(trials: Iterable[Trial], baselines: Mapping[RunName, Trial]) -> Look | None:
    """Return the look that an older version took without noting it; None if it judged no winner.

    Args:
        trials: The study's trials.
        baselines: The runs beside the search, by name.
    """
    judged = baselines.get(WinnerScoring.JUDGED)
    same = (trial.number for trial in trials if judged is not None and dict(trial.config) == dict(judged.config))
    return next((Look(number, 0, 0) for number in same), None)


def what_items_show(record: Record) -> Limits | None:
    """Return the smallest gain that a record's verdict items can show; None while the base has no scores."""
    base = record.anchors().get(Baseline.BASE)
    if base is None or base.status is not Status.DONE or "scoring" not in record.loaded:
        return None
    packed = record.items("anchors", base.number)
    runs = on_verdict_items([packed], record.loaded["scoring"]["metric"]) if packed else None
    return None if runs is None else Limits.of(runs)


def on_verdict_items(packed: Sequence[Mapping[str, np.ndarray[Any, Any]]], metric: str) -> Runs:
    """Return the scores of runs on the verdict items.

    Args:
        packed: Per run, its per-item results by name.
        metric: The metric to compare.
    """

    def named(items: Mapping[str, np.ndarray[Any, Any]], what: str) -> dict[str, np.ndarray[Any, Any]]:
        """Return the arrays of one kind on the verdict items, by task."""
        names = {name: ResultName.of_array(name) for name in items}
        return {
            result.task: items[name]
            for name, result in names.items()
            if result is not None and result.items is ItemSet.VERDICT and result.what == what
        }

    first = packed[0]
    return Runs.of([named(items, metric) for items in packed], named(first, "weight"), named(first, "leaf"))
