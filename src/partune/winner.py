"""Who won a study, and whether it is better than what it is compared with.

The best of many noisy scores is too good: part of it is luck (the winner's curse). Two remedies:

- A score is worth the mean of itself and of what a Gaussian process through all scores expects there, as the luck of a
  trial is not its neighbours'. It costs nothing. Scores without noise are worth what they are.
- Confirmation runs the best k again with fresh seeds, then the better half of these once more, and so on: sequential
  halving, Karnin, Koren and Somekh 2013, begun with what the scores of the search are worth.

The winner is the trial of the highest worth, or, where the leaders were confirmed, the last round's best mean of worth
and further scores.
What both gain is measured in docs/search-log.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from partune.space import Space
from partune.statistics import Verdict, verdict
from partune.storage import Record
from partune.trial import Status, Trial

Worths = Mapping[int, float]  # by the number of the trial

CONFIRM = "confirm/"  # the name of a further run: confirm/<number of the trial>/<which, from 1>
RELOADED = "reloaded"  # the name of the winner's adapter, loaded from disk as others will load it
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
    from partune.optimizers.surrogate import Surrogate
    from partune.threads import one_blas_thread

    points = [space.encode(trial.config) for trial in leaders]
    errors = [math.nan if each.stderr is None else each.stderr for each in observations]
    with one_blas_thread():
        means, _ = Surrogate(space, points, [trial.score for trial in leaders], errors).posterior(points)
    return found | {trial.number: (trial.score + float(mean)) / 2 for trial, mean in zip(leaders, means, strict=True)}


def ranked(trials: Iterable[Trial], worth: Worths | None = None) -> list[Trial]:
    """The trials that are done, by falling worth, or by score where none is given; the first of equals first."""
    done = (trial for trial in trials if trial.status is Status.DONE)
    return sorted(done, key=lambda trial: (-(trial.score if worth is None else worth[trial.number]), trial.number))


def confirm_name(trial: Trial, run: int) -> str:
    return f"{CONFIRM}{trial.number}/{run}"


def confirmations(anchors: Mapping[str, Trial]) -> dict[int, list[Trial]]:
    """The further runs of each trial that has any, in their order; by its number."""
    found: dict[int, dict[int, Trial]] = {}
    for name, again in anchors.items():
        if name.startswith(CONFIRM):
            number, run = map(int, name.removeprefix(CONFIRM).split("/"))
            found.setdefault(number, {})[run] = again
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


def due(trials: Iterable[Trial], anchors: Mapping[str, Trial], k: int, worth: Worths) -> tuple[list[Trial], int]:
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


def best(trials: Iterable[Trial], anchors: Mapping[str, Trial], worth: Worths) -> Trial | None:
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


def winner_of(record: Record) -> Trial | None:
    """The best finished trial on record."""
    trials = record.trials()
    return best(trials, record.anchors(), worths(trials, record.space, record.noisy))


def is_judged(winner: Trial, anchors: Mapping[str, Trial]) -> bool:
    """Whether the anchors hold this winner's scores on the verdict items and test tasks."""
    return "winner" in anchors and dict(anchors["winner"].config) == dict(winner.config)


def reloaded(winner: Trial | None, anchors: Mapping[str, Trial]) -> Trial | None:
    """Return what came of loading this winner's adapter from disk once more; None where that was not done."""
    again = anchors.get(RELOADED)
    return again if again is not None and winner is not None and dict(again.config) == dict(winner.config) else None


def judge(record: Record) -> Verdict | None:
    """The verdict on a record's winner; None while it is not scored on the verdict items."""
    anchors = record.anchors()
    winner = winner_of(record)
    if winner is None or not is_judged(winner, anchors):
        return None
    metric = record.loaded["scoring"]["metric"]

    def items(name: str) -> dict[str, np.ndarray[Any, Any]] | None:
        if name not in anchors or anchors[name].status is not Status.DONE:
            return None
        packed = record.items("anchors", anchors[name].number)
        return {key: packed[key] for key in packed if key.startswith("verdict/") and key.endswith(f"/{metric}")}

    winning, base = items("winner"), items("base")
    return None if winning is None or base is None else verdict(winning, base, items("defaults"))
