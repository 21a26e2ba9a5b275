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
    """What the scores of the trials that are done are worth. noisy: None for where any has a standard error."""
    done = ranked(trials)
    found = {trial.number: trial.score for trial in done}
    leaders = done[:MOST]
    observations = [trial.observation for trial in leaders if trial.observation is not None]
    if noisy is None:
        noisy = any(each.stderr for each in observations)
    if not noisy or not leaders:
        return found
    from partune.runtime.threads import one_blas_thread

    fitted = process(space, leaders)
    with one_blas_thread():
        means, _ = fitted.posterior([space.encode(trial.config) for trial in leaders])
    return found | {trial.number: (trial.score + float(mean)) / 2 for trial, mean in zip(leaders, means, strict=True)}


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


@functools.lru_cache(maxsize=1)  # the study, its summary and its page ask for the same process one after the other
def _fitted(space: Space, points: tuple[Point, ...], scores: tuple[float, ...], errors: tuple[float, ...]) -> Surrogate:
    from partune.optimizers.surrogate import Surrogate
    from partune.runtime.threads import one_blas_thread

    with one_blas_thread():
        return Surrogate(space, points, scores, errors)


def ranked(trials: Iterable[Trial], worth: Worths | None = None) -> list[Trial]:
    """The trials that are done, by falling worth, or by score where none is given; the first of equals first."""
    done = (trial for trial in trials if trial.status is Status.DONE)
    return sorted(done, key=lambda trial: (-(trial.score if worth is None else worth[trial.number]), trial.number))


def confirmations(anchors: Mapping[RunName, Trial]) -> dict[int, list[Trial]]:
    """The further runs of each trial that has any, in their order; by its number."""
    found: dict[int, dict[int, Trial]] = {}
    for name, again in anchors.items():
        if isinstance(name, Confirmation):
            found.setdefault(name.trial, {})[name.run] = again
    return {number: [runs[run] for run in sorted(runs)] for number, runs in found.items()}


def pooled(first: float, again: Sequence[Trial]) -> float:
    """The mean of what a trial's score is worth and of its further runs' scores; -inf where one of them failed."""
    if any(each.status is not Status.DONE for each in again):
        return -math.inf
    return (first + sum(each.score for each in again)) / (1 + len(again))


def halvings(k: int) -> list[int]:
    """How many run in each round of a confirmation of the best k: k, the better half, ..., two."""
    sizes = [k] if k else []
    while sizes and (half := math.ceil(sizes[-1] / 2)) > 1 and half < sizes[-1]:
        sizes.append(half)
    return sizes


def due(trials: Iterable[Trial], anchors: Mapping[RunName, Trial], k: int, worth: Worths) -> tuple[list[Trial], int]:
    """The trials to run once more now, in a confirmation of the best k, and which further run it is, from 1.

    None where all rounds are over. What was run before, for another k or a shorter search, is not run again.
    """
    again = confirmations(anchors)
    alive = ranked(trials, worth)
    for run, size in enumerate(halvings(k), start=1):
        alive = alive[:size]
        missing = [trial for trial in alive if len(again.get(trial.number, ())) < run]
        if missing:
            return missing, run
        alive.sort(key=lambda each: -pooled(worth[each.number], again[each.number][:run]))
    return [], 0


def best(trials: Iterable[Trial], anchors: Mapping[RunName, Trial], worth: Worths) -> Trial | None:
    """The best finished trial, the first of equals.

    Where the first was confirmed, the one of the best pooled score among those with the most further runs. One that
    fails when it runs again never wins while another is there.
    """
    again = confirmations(anchors)
    broken = {number for number, runs in again.items() if pooled(0.0, runs) == -math.inf}
    leaders = sorted(ranked(trials, worth), key=lambda trial: trial.number in broken)
    confirmed = [trial for trial in leaders if trial.number in again and trial.number not in broken]
    if confirmed and confirmed[0] is leaders[0]:
        most = max(len(again[trial.number]) for trial in confirmed)
        last = [trial for trial in confirmed if len(again[trial.number]) == most]
        return max(last, key=lambda trial: pooled(worth[trial.number], again[trial.number]))
    return leaders[0] if leaders else None


def is_judged(winner: Trial, anchors: Mapping[RunName, Trial]) -> bool:
    """Return whether the anchors hold this winner's scores on the verdict items and test tasks."""
    scored = scoring(winner, anchors)
    return scored is not None and scored.status is Status.DONE


def scoring(winner: Trial, anchors: Mapping[RunName, Trial]) -> Trial | None:
    """Return what came of scoring this winner on the verdict items; None where that was not tried."""
    scored = anchors.get(WinnerScoring.JUDGED)
    return scored if scored is not None and dict(scored.config) == dict(winner.config) else None


def reloaded(winner: Trial | None, anchors: Mapping[RunName, Trial]) -> Trial | None:
    """Return what came of loading this winner's adapter from disk once more; None where that was not done."""
    again = anchors.get(WinnerScoring.RELOADED)
    if again is None or winner is None or WinnerScoring.JUDGED not in anchors:
        return None
    same = dict(again.config) == dict(winner.config) and again.seed == anchors[WinnerScoring.JUDGED].seed
    return again if same else None


# ----- fresh runs


def fresh_runs(anchors: Mapping[RunName, Trial], whose: Whose) -> list[Trial]:
    """Return the runs with fresh seeds of a trial, by its number, or of the defaults, in the order of recording."""
    return [anchors[name] for name in fresh_names(anchors, whose)]


def fresh_names(anchors: Mapping[RunName, Trial], whose: Whose) -> list[FreshRun]:
    """Return the names of the runs that `fresh_runs` returns.

    One that was lost and made up for comes after those that a verdict was given on before: a look counts the first.
    """
    names = (name for name in anchors if isinstance(name, FreshRun) and name.whose == whose)
    return sorted(names, key=lambda name: anchors[name].number)


def fresh_due(winner: Trial, anchors: Mapping[RunName, Trial], seeds: int) -> list[FreshRun]:
    """Return the fresh runs that a verdict on a winner lacks: whose, and which run, from 1.

    The defaults run again where their first run has a score.
    """
    scored = Baseline.DEFAULTS in anchors and anchors[Baseline.DEFAULTS].status is Status.DONE
    everybody: list[Whose] = [winner.number, Baseline.DEFAULTS] if scored else [winner.number]
    names = (FreshRun(whose, run) for whose in everybody for run in range(1, seeds + 1))
    return [name for name in names if name not in anchors]


def shipped(winner: Trial, anchors: Mapping[RunName, Trial], ship: Ship) -> Trial:
    """Return the run whose adapter is handed over: the winner's first, or one of the fresh ones by its search score."""
    runs = sorted(
        (run for run in fresh_runs(anchors, winner.number) if run.status is Status.DONE), key=lambda run: -run.score
    )
    if ship == "first" or not runs:
        return winner
    return runs[0 if ship == "best" else len(runs) // 2]


def ships_fresh(anchors: Mapping[RunName, Trial]) -> bool:
    """Return whether the adapter that ships is that of a fresh run."""
    return WinnerScoring.JUDGED in anchors and anchors[WinnerScoring.JUDGED].order is not None


def judge(record: Record, winner: Trial | None) -> Verdict | None:
    """Return the verdict on a record's winner; None while it is not scored on the verdict items.

    It is that of the last look: fresh runs that came since count at the next, so that whoever reads a report in
    between does not look once more.
    """
    anchors = record.anchors()
    if winner is None or not is_judged(winner, anchors):
        return None
    metric = record.loaded["scoring"]["metric"]
    last, looks = last_look(record, winner), record.looks
    if last is None:
        return None
    again = fresh_runs(anchors, winner.number)[: last.seeds]
    fresh = [run for run in again if run.status is Status.DONE]
    first_defaults = [anchors[Baseline.DEFAULTS]] if Baseline.DEFAULTS in anchors else []

    def runs(trials: Iterable[Trial]) -> Runs | None:
        packed = [record.items("anchors", trial.number) for trial in trials if trial.status is Status.DONE]
        return on_verdict_items(packed, metric) if packed else None

    winning, base = (
        runs(fresh or [anchors[WinnerScoring.JUDGED]]),
        runs([anchors[Baseline.BASE]] if Baseline.BASE in anchors else []),
    )
    if winning is None or base is None:
        return None
    defaults = runs([*first_defaults, *(fresh_runs(anchors, Baseline.DEFAULTS)[: last.defaults] if fresh else [])])
    return verdict(
        winning,
        base,
        defaults,
        seeds=len(fresh),
        failed=len(again) - len(fresh),
        look=which_look(last, looks or [last]),
    )


def last_look(record: Record, winner: Trial) -> Look | None:
    """Return the last look at a winner: the fresh runs that its verdict counts; None where nobody looked at it."""
    looks = record.looks or [Look(winner.number, 0, 0)]  # of the version that noted none
    return next((look for look in reversed(looks) if look.trial == winner.number), None)


def which_look(look: Look, looks: Iterable[Look]) -> int:
    """Return which of a study's looks one is, from 1; another look at the same runs finds the same, and is none."""
    return list(dict.fromkeys(looks)).index(look) + 1


def looking(winner: Trial, anchors: Mapping[RunName, Trial]) -> Look:
    """Return the look at a winner and the defaults with all fresh runs of theirs."""
    return Look(winner.number, len(fresh_runs(anchors, winner.number)), len(fresh_runs(anchors, Baseline.DEFAULTS)))


def looked_before(trials: Iterable[Trial], anchors: Mapping[RunName, Trial]) -> Look | None:
    """Return the look at the winner of a record of the version that noted none; None where nobody was judged."""
    judged = anchors.get(WinnerScoring.JUDGED)
    same = (trial.number for trial in trials if judged is not None and dict(trial.config) == dict(judged.config))
    return next((Look(number, 0, 0) for number in same), None)


def what_items_show(record: Record) -> Limits | None:
    """Return what the verdict items of a record can show, from the base's scores; None while it has none."""
    base = record.anchors().get(Baseline.BASE)
    if base is None or base.status is not Status.DONE or "scoring" not in record.loaded:
        return None
    packed = record.items("anchors", base.number)
    runs = on_verdict_items([packed], record.loaded["scoring"]["metric"]) if packed else None
    return None if runs is None else Limits.of(runs)


def on_verdict_items(packed: Sequence[Mapping[str, np.ndarray[Any, Any]]], metric: str) -> Runs:
    """Return the scores of some runs on the verdict items. packed: per run, its per-item results by name."""

    def named(items: Mapping[str, np.ndarray[Any, Any]], what: str) -> dict[str, np.ndarray[Any, Any]]:
        names = {name: ResultName.of_array(name) for name in items}
        return {
            result.task: items[name]
            for name, result in names.items()
            if result is not None and result.items is ItemSet.VERDICT and result.what == what
        }

    first = packed[0]
    return Runs.of([named(items, metric) for items in packed], named(first, "weight"), named(first, "leaf"))
