"""Choose the winner of a study, and judge whether it is better than the baselines.

The best of many noisy scores is biased upwards, because luck has helped to select it (the winner's curse). There are
two remedies:

- The worth of a trial is the mean of its score and of the score that a Gaussian process through the best scores
  predicts, because neighbouring trials do not share its luck. This costs nothing. If scores have no noise, the worth is
  the score itself.
- Confirmation runs the best k trials again with fresh seeds, then the better half of these once more, and so on. This
  is sequential halving (Karnin, Koren and Somekh 2013), started from the worths of the search.

The winner is the trial with the highest worth. If the leading trials were confirmed, it is the trial of the last round
with the best mean of its worth and its further scores. docs/search-log.md measures the gain from both remedies.

The verdict compares fresh runs of the winner and of the defaults, with new seeds of initialisation, dropout and order
of the data, on the verdict items. The first run of the winner does not count, because it helped to select the winner.
The first run of the defaults selected nothing, so it counts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from partune.config import Ship, names_of
from partune.record.looks import Look
from partune.record.record import Record
from partune.space import Space
from partune.trial import Point, Status, Trial
from partune.trial.names import (
    ROWS,
    Baseline,
    Confirmation,
    FreshRun,
    FurtherBaseline,
    ItemSet,
    ResultName,
    RunName,
    Whose,
    WinnerScoring,
)
from partune.verdict.assumed import Yardstick
from partune.verdict.limits import Limits
from partune.verdict.paired import Verdict, verdict
from partune.verdict.runs import Runs

if TYPE_CHECKING:
    from partune.optimizers.surrogate import Surrogate

Worths = Mapping[int, float]  # the worth of each trial (its score corrected for luck), by number

MOST = 500  # the Gaussian process is fitted to this many of the best scores, so that it takes seconds in a long study


def worths(trials: Iterable[Trial], space: Space, noisy: bool | None = None) -> Worths:
    """Return the worths of the trials that are done, by number.

    Args:
        trials: The study's trials.
        space: The space of their configurations.
        noisy: Whether scores have noise; None infers it from whether any score has a standard error.
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
    # The Gaussian process alone relies too much on a smooth surface, and the score alone on luck. The mean of the two
    # did best in docs/search-log.md.
    return scores | {trial.number: (trial.score + float(mean)) / 2 for trial, mean in zip(leaders, means, strict=True)}


def process(space: Space, leaders: Sequence[Trial]) -> Surrogate:
    """Fit a Gaussian process to the scores of trials that are done.

    Args:
        space: The space of their configurations.
        leaders: The trials: at least one, and at most MOST, because a fit to more takes long.
    """
    points = tuple(space.encode(trial.config) for trial in leaders)
    errors = tuple(
        math.nan if trial.observation is None or trial.observation.stderr is None else trial.observation.stderr
        for trial in leaders
    )
    return _fitted(space, points, tuple(trial.score for trial in leaders), errors)


# The study, its summary and its report page need the same fitted Gaussian process, one after the other. They share no
# object that could hold it, because each of them reads the record by itself. The arguments contain everything that the
# fit depends on, so a cached result is never stale.
@functools.lru_cache(maxsize=1)
def _fitted(space: Space, points: tuple[Point, ...], scores: tuple[float, ...], errors: tuple[float, ...]) -> Surrogate:
    from partune.optimizers.surrogate import Surrogate
    from partune.runtime.threads import one_blas_thread

    with one_blas_thread():
        return Surrogate(space, points, scores, errors)


def ranked(trials: Iterable[Trial], worth: Worths | None = None) -> list[Trial]:
    """Return the trials that are done, sorted from best to worst; equal trials in the order of their proposals.

    Args:
        trials: The study's trials.
        worth: The worths to rank by; None ranks by the scores.
    """
    done = (trial for trial in trials if trial.status is Status.DONE)
    return sorted(done, key=lambda trial: (-(trial.score if worth is None else worth[trial.number]), trial.number))


def confirmations(baselines: Mapping[RunName, Trial]) -> dict[int, list[Trial]]:
    """Return the confirmation runs of each confirmed trial, in their order, by the number of the trial.

    Args:
        baselines: All runs outside the search (baselines, confirmations, fresh runs, scorings of the winner), by name.
    """
    by_trial: dict[int, dict[int, Trial]] = {}
    for name, again in baselines.items():
        if isinstance(name, Confirmation):
            by_trial.setdefault(name.trial, {})[name.run] = again
    return {number: [runs[run] for run in sorted(runs)] for number, runs in by_trial.items()}


def pooled(first: float, again: Sequence[Trial]) -> float:
    """Return the mean of a trial's worth and of the scores of its confirmation runs; -inf if one of them failed.

    Args:
        first: The worth of the trial.
        again: The confirmation runs of the trial.
    """
    if any(run.status is not Status.DONE for run in again):
        return -math.inf
    return (first + sum(run.score for run in again)) / (1 + len(again))


def halvings(k: int) -> list[int]:
    """Return the number of trials in each round of a confirmation of the best k trials: k, the better half, ..., 2."""
    sizes = [k] if k else []
    while sizes and (half := math.ceil(sizes[-1] / 2)) > 1 and half < sizes[-1]:
        sizes.append(half)
    return sizes


def due(trials: Iterable[Trial], baselines: Mapping[RunName, Trial], k: int, worth: Worths) -> tuple[list[Trial], int]:
    """Return the trials that a confirmation must run next.

    Confirmation runs made earlier, for another k or a shorter search, are not repeated.

    Args:
        trials: The study's trials.
        baselines: All runs outside the search, by name.
        k: The number of best trials to confirm.
        worth: The worths of the trials, by number.

    Returns:
        The trials to run, and which of their confirmation runs this is (1 for the first). If all rounds are over,
        there are no trials and the number is 0.
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
    """Return the winner: the trial with the highest worth, the earliest of equal ones; None while no trial is done.

    If the leading trial was confirmed, the winner is the confirmed trial with the best pooled score, except that a
    trial loses to any trial that has more confirmation runs and was ahead after as many runs. A trial with a failed
    confirmation run wins only if every trial that is done has a failed confirmation run.

    Args:
        trials: The study's trials.
        baselines: All runs outside the search, by name.
        worth: The worths of the trials, by number.
    """
    again = confirmations(baselines)
    broken = {number for number, runs in again.items() if pooled(0.0, runs) == -math.inf}
    leaders = sorted(ranked(trials, worth), key=lambda trial: trial.number in broken)
    confirmed = [trial for trial in leaders if trial.number in again and trial.number not in broken]

    def score(trial: Trial, runs: int | None = None) -> float:
        """Return the pooled score of a trial after its first confirmation runs, by default after all."""
        return pooled(worth[trial.number], again[trial.number][:runs])

    def beaten(trial: Trial) -> bool:
        """Return whether a round has dropped the trial: others were ahead and went on to further runs."""
        runs = len(again[trial.number])
        return any(len(again[other.number]) > runs and score(other, runs) >= score(trial) for other in confirmed)

    # A mean over fewer runs contains more luck, so a trial that a round has dropped cannot win by its few runs. A later
    # confirmation may have fewer rounds, and then a new leader has few runs although nothing was ahead of it.
    # A leader without confirmation runs was found by a longer search. It leads until the next confirmation.
    if confirmed and confirmed[0] is leaders[0]:
        return max((trial for trial in confirmed if not beaten(trial)), key=score)
    return leaders[0] if leaders else None


def is_judged(winner: Trial, baselines: Mapping[RunName, Trial]) -> bool:
    """Return whether the winner has been scored on the verdict items and test tasks.

    Args:
        winner: The winner.
        baselines: All runs outside the search, by name.
    """
    scored = scoring(winner, baselines)
    return scored is not None and scored.status is Status.DONE


def scoring(winner: Trial, baselines: Mapping[RunName, Trial]) -> Trial | None:
    """Return the run, even a failed one, that scored the winner on the verdict items; None if there was none.

    Args:
        winner: The winner.
        baselines: All runs outside the search, by name.
    """
    scored = baselines.get(WinnerScoring.JUDGED)
    return scored if scored is not None and dict(scored.config) == dict(winner.config) else None


def reloaded(winner: Trial | None, baselines: Mapping[RunName, Trial]) -> Trial | None:
    """Return the run that loaded the winner's adapter from disk and scored it; None if there was none.

    Args:
        winner: The winner, if there is one.
        baselines: All runs outside the search, by name.
    """
    again = baselines.get(WinnerScoring.RELOADED)
    if again is None or winner is None or WinnerScoring.JUDGED not in baselines:
        return None
    same = dict(again.config) == dict(winner.config) and again.seed == baselines[WinnerScoring.JUDGED].seed
    return again if same else None


# ----- fresh runs


def fresh_runs(baselines: Mapping[RunName, Trial], whose: Whose) -> list[Trial]:
    """Return the fresh runs of a trial or of a baseline, in the order in which they were recorded.

    Args:
        baselines: All runs outside the search, by name.
        whose: The number of the trial, or the baseline.
    """
    return [baselines[name] for name in fresh_names(baselines, whose)]


def fresh_names(baselines: Mapping[RunName, Trial], whose: Whose) -> list[FreshRun]:
    """Return the names of the fresh runs of a trial or of a baseline, in the order in which they were recorded.

    Args:
        baselines: All runs outside the search, by name.
        whose: The number of the trial, or the baseline.
    """
    # A look notes how many fresh runs it counts, and counts those that were recorded first. If a lost run was repeated
    # after a verdict, the order of names would put the repetition among the counted runs.
    names = (name for name in baselines if isinstance(name, FreshRun) and name.whose == whose)
    return sorted(names, key=lambda name: baselines[name].number)


def fresh_due(winner: Trial, baselines: Mapping[RunName, Trial], seeds: int) -> list[FreshRun]:
    """Return the names of the fresh runs that are still missing for a verdict on a winner.

    A baseline has fresh runs only if its first run has a score.

    Args:
        winner: The winner.
        baselines: All runs outside the search, by name.
        seeds: The number of fresh runs that each side needs.
    """
    compared: list[Literal[Baseline.DEFAULTS] | FurtherBaseline] = [Baseline.DEFAULTS, *further_baselines(baselines)]
    scored = [name for name in compared if name in baselines and baselines[name].status is Status.DONE]
    everybody: list[Whose] = [winner.number, *scored]
    names = (FreshRun(whose, run) for whose in everybody for run in range(1, seeds + 1))
    return [name for name in names if name not in baselines]


def further_baselines(baselines: Mapping[RunName, Trial]) -> list[FurtherBaseline]:
    """Return the second and further baselines on record, in the order in which the verdict tests them.

    Args:
        baselines: All runs outside the search, by name.
    """
    names = (name for name in baselines if isinstance(name, FurtherBaseline))
    return sorted(names, key=lambda name: baselines[name].number)  # they were scored in the order that the user gave


def shipped(winner: Trial, baselines: Mapping[RunName, Trial], ship: Ship) -> Trial:
    """Return the run of the winner whose adapter ships, which means that it is handed over for use.

    Args:
        winner: The winner.
        baselines: All runs outside the search, by name.
        ship: "first" for the winner's first run; "best" or "median" for the fresh run with the best or the median
            score on the search items.
    """
    runs = sorted(
        (run for run in fresh_runs(baselines, winner.number) if run.status is Status.DONE), key=lambda run: -run.score
    )
    if ship == "first" or not runs:
        return winner
    return runs[0 if ship == "best" else len(runs) // 2]


def ships_fresh(baselines: Mapping[RunName, Trial]) -> bool:
    """Return whether the adapter that ships is from a fresh run."""
    return WinnerScoring.JUDGED in baselines and baselines[WinnerScoring.JUDGED].order is not None


def judge(record: Record, winner: Trial | None) -> Verdict | None:
    """Return the verdict on a study's winner; None until the winner is scored on the verdict items.

    The verdict is the result of the last look. Fresh runs made since then count only at the next look, because a look
    spends a part of the significance level, and reading a report must not.

    Args:
        record: The study's record.
        winner: The winner, if there is one.
    """
    baselines = record.anchors()
    if winner is None or not is_judged(winner, baselines):
        return None
    metric = _metric(record)
    last, looks = last_look(record, winner), record.looks
    if last is None:
        return None
    again = fresh_runs(baselines, winner.number)[: last.seeds]
    fresh = [run for run in again if run.status is Status.DONE]
    first_defaults = [baselines[Baseline.DEFAULTS]] if Baseline.DEFAULTS in baselines else []

    def runs(trials: Iterable[Trial]) -> Runs | None:
        """Return the scores of the runs that did not fail; None if all failed."""
        packed = [record.items("anchors", trial.number) for trial in trials if trial.status is Status.DONE]
        return on_verdict_items(packed, metric) if packed else None

    winning, base = (
        runs(fresh or [baselines[WinnerScoring.JUDGED]]),
        runs([baselines[Baseline.BASE]] if Baseline.BASE in baselines else []),
    )
    if winning is None or base is None:
        return None
    defaults = runs([*first_defaults, *(fresh_runs(baselines, Baseline.DEFAULTS)[: last.defaults] if fresh else [])])
    others = {
        name.name: runs([baselines[name], *(fresh_runs(baselines, name)[: last.others] if fresh else [])])
        for name in further_baselines(baselines)
    }
    return verdict(
        winning,
        base,
        defaults,
        {name: compared for name, compared in others.items() if compared is not None},
        called=first_called(record),
        seeds=len(fresh),
        failed=len(again) - len(fresh),
        look=which_look(last, looks or [last]),
    )


def first_called(record: Record) -> str:
    """Return what a verdict calls the first baseline: the defaults, or the name that the user gave."""
    names = names_of(record.header.get("objective", {}))
    return f"the baseline {names[0]}" if names else "the defaults"


def last_look(record: Record, winner: Trial) -> Look | None:
    """Return the last look at a winner, which says how many fresh runs the verdict counts; None if there was none.

    Args:
        record: The study's record.
        winner: The winner.
    """
    looks = record.looks or [Look(winner.number, 0, 0)]  # older versions gave one verdict and recorded no look
    return next((look for look in reversed(looks) if look.trial == winner.number), None)


def which_look(look: Look, looks: Iterable[Look]) -> int:
    """Return the number of a look among a study's looks, from 1.

    A repeated look at the same runs gives the same verdict, so it does not count.

    Args:
        look: The look.
        looks: All of the study's looks, in their order.
    """
    return list(dict.fromkeys(looks)).index(look) + 1


def looking(winner: Trial, baselines: Mapping[RunName, Trial]) -> Look:
    """Return a new look that counts all fresh runs of the winner and the baselines.

    Args:
        winner: The winner.
        baselines: All runs outside the search, by name.
    """
    others = [len(fresh_runs(baselines, name)) for name in further_baselines(baselines)]
    return Look(
        winner.number,
        len(fresh_runs(baselines, winner.number)),
        len(fresh_runs(baselines, Baseline.DEFAULTS)),
        max(others, default=0),
    )


def looked_before(trials: Iterable[Trial], baselines: Mapping[RunName, Trial]) -> Look | None:
    """Return the look that an older version took without recording it; None if no winner was judged.

    Args:
        trials: The study's trials.
        baselines: All runs outside the search, by name.
    """
    judged = baselines.get(WinnerScoring.JUDGED)
    same = (trial.number for trial in trials if judged is not None and dict(trial.config) == dict(judged.config))
    return next((Look(number, 0, 0) for number in same), None)


def what_items_show(record: Record, seeds: int) -> Limits | None:
    """Return the smallest gains that a study's verdict items can show; None until the base model has scores.

    Args:
        record: The study's record.
        seeds: The number of fresh runs that the verdict will have.
    """
    base = record.anchors().get(Baseline.BASE)
    if base is None or base.status is not Status.DONE or "scoring" not in record.loaded:
        return None
    packed = record.items("anchors", base.number)
    if not packed:
        return None
    metric = _metric(record)
    name = metric if isinstance(metric, str) else next(iter(metric.values()))
    rows = str(ResultName(ItemSet.VERDICT, ROWS)) in record.loaded["scoring"].get("items", {})
    return Limits.of(on_verdict_items([packed], metric), seeds, Yardstick(name, rows), first_called(record))


def _metric(record: Record) -> str | Mapping[str, str]:
    """Return the metric of a study's score: that of all tasks, or that of each task if they differ."""
    scoring = record.loaded["scoring"]
    metric: str | Mapping[str, str] = scoring.get("metrics", scoring["metric"])
    return metric


def on_verdict_items(packed: Sequence[Mapping[str, np.ndarray[Any, Any]]], metric: str | Mapping[str, str]) -> Runs:
    """Return the scores of runs on the verdict items.

    Args:
        packed: For each run, its per-item results by name.
        metric: The metric to compare, or that of each task.
    """

    def named(
        items: Mapping[str, np.ndarray[Any, Any]], what: str | Mapping[str, str]
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return the arrays of a metric or another quantity on the verdict items, by task."""
        names = {name: ResultName.of_array(name) for name in items}
        return {
            result.task: items[name]
            for name, result in names.items()
            if result is not None
            and result.items is ItemSet.VERDICT
            and result.what == (what if isinstance(what, str) else what.get(result.task))
        }

    first = packed[0]
    return Runs.of([named(items, metric) for items in packed], named(first, "weight"), named(first, "leaf"))
