"""Compare finished studies of one objective and space, from their records only, as plain data.

Studies of one algorithm with different seeds are its repeats. A study's result is its winner's score on the held-out
items, which no optimiser saw. If the objective has no such items, the result is the winner's score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from partune.errors import UserError
from partune.report import sentences, words
from partune.report.comparison import bounds
from partune.report.facts import Facts
from partune.report.plain_data import Summary
from partune.runtime.paths import command_on
from partune.trial import Status, contents
from partune.verdict.repeats import Difference, differences, interval

Array = NDArray[np.float64]

QUARTILES = ("mean", "first quartile", "median", "third quartile", "max")
MEASURES = {"verdict": "winner on the held-out items", "score": "winner's score"}
MOMENTS = 200  # points of a curve over seconds
SHOWN = 1.0  # curves over seconds are drawn only if the trials of every study took at least this many seconds


def compare(studies: Sequence[Facts]) -> Summary:
    """Return all numbers of a comparison's tables and picture.

    "bounds" is empty if its only rows would be the winners, because "algorithms" already has them.

    Raises:
        UserError: The studies cannot be compared.
    """
    compared, groups = comparison(studies), grouped(studies)
    rows = bounds.bounds(groups)
    return {**compared, "bounds": rows if len(rows) > len(groups) else [], "tests": on_tests(studies)}


def comparison(studies: Sequence[Facts]) -> Summary:
    """Compare the algorithms with each other.

    "algorithms" has the best mean result first. Each algorithm has curves of the best score so far, which are means
    over repeats.

    Raises:
        UserError: The studies cannot be compared.
    """
    _check(studies)
    judged = all(study.summary["best"]["verdict"] is not None for study in studies)
    measure = "verdict" if judged else "score"
    groups = grouped(studies)
    common = min(len(study.trials) for study in studies)
    timed = all(_seconds(study) >= SHOWN for study in studies)
    results = {
        name: {study.header["seed"]: _result(study, measure) for study in group} for name, group in groups.items()
    }
    ordered = sorted(groups, key=lambda name: -np.mean([*results[name].values()]))
    return {
        "measure": measure,
        "trials": common,
        "algorithms": [_algorithm(name, groups[name], results[name], common, timed) for name in ordered],
        "differences": [_plainly(difference) for difference in differences({name: results[name] for name in ordered})],
        "studies": [_study(study, measure) for name in ordered for study in groups[name]],
        "notes": _notes(studies, common, results),
    }


def label(study: Facts) -> str:
    """Return the algorithm with the options that were set, such as: bo, soo (k=5), random (stop=rungs)."""
    given = {**study.header["options"], **({"stop": stop} if (stop := study.header.get("stop")) else {})}
    inside = ", ".join(f"{name}={value}" for name, value in sorted(given.items()))
    return f"{study.header['algorithm']} ({inside})" if inside else str(study.header["algorithm"])


def grouped(studies: Sequence[Facts], name: Callable[[Facts], str] = label) -> dict[str, list[Facts]]:
    """Return the repeats of each algorithm.

    Args:
        studies: The facts of each study.
        name: The function that names a study's algorithm.
    """
    groups: dict[str, list[Facts]] = {}
    for study in studies:
        groups.setdefault(name(study), []).append(study)
    return groups


# ----- checks


def _check(studies: Sequence[Facts]) -> None:
    if len(studies) < 2:
        raise UserError("a comparison needs at least two studies: `partune compare DIRECTORY DIRECTORY ...`")
    seen: dict[tuple[str, int], Facts] = {}
    first, objective = studies[0], _objective(studies[0])
    for study in studies:
        if not study.trials or not study.over:
            far = words.progress([trial.status for trial in study.trials], study.summary["budget"])
            raise UserError(
                f"{_name(study)} is not finished, {far}: continue it with `{command_on('resume', _name(study))}`"
            )
        if study.winner is None:
            raise UserError(f"no trial of {_name(study)} has a score: there is nothing to compare")
        if study.space != first.space:
            raise UserError(f"{_name(first)} and {_name(study)} search different spaces")
        if (difference := contents.first_difference(objective, _objective(study))) is not None:
            raise UserError(f"{_name(first)} and {_name(study)} have different objectives: {difference.key} differs")
        unlike, _ = contents.differences(first.contents, study.contents)
        if unlike:
            raise UserError(
                f"{_name(first)} and {_name(study)} cannot be compared, because these differ: {', '.join(unlike)}"
            )
        other = seen.setdefault((label(study), study.header["seed"]), study)
        if other is not study:
            raise UserError(
                f"{_name(other)} and {_name(study)} are the same study, {label(study)} with seed "
                f"{study.header['seed']}: a repeat needs another seed"
            )


def _objective(study: Facts) -> dict[str, Any]:
    """Return the settings that decide a trial's score.

    If the study has a settings file, they include the objective's name from this file.
    """
    config = None if study.config is None else yaml.safe_load(study.config)
    name = {"objective": config["objective"]} if isinstance(config, dict) and "objective" in config else {}
    return {**name, **study.header["objective"]}


def _name(study: Facts) -> str:
    return study.name if study.directory is None else str(study.directory)


# ----- as data


def _result(study: Facts, measure: str) -> float:
    best = study.summary["best"]
    return float(best["score"] if measure == "score" else best["verdict"]["score"])


def _seconds(study: Facts) -> float:
    return float(study.summary["seconds"]["trials"])


def _quartiles(scores: Sequence[float]) -> dict[str, float]:
    """Return mean, quartiles and maximum of scores, by the names of QUARTILES."""
    return dict(
        zip(QUARTILES, [float(np.mean(scores)), *np.quantile(scores, [0.25, 0.5, 0.75, 1]).tolist()], strict=True)
    )


def _scores(study: Facts) -> list[float]:
    return [trial.score for trial in study.done]


def _study(study: Facts, measure: str) -> Summary:
    best = study.summary["best"]
    return {
        "study": _name(study),
        "algorithm": label(study),
        "seed": study.header["seed"],
        "trials": len(study.trials),
        "done": len(study.done),
        "scores": _quartiles(_scores(study)),
        "goal": study.goal.name,
        "winner": {key: best[key] for key in ("trial", "score", "stderr", "verdict")},
        "verdict": None if study.summary["verdict"] is None else sentences.badge(study)[0],
        "sentence": None if study.summary["verdict"] is None else study.summary["verdict"]["sentence"],
        "result": _result(study, measure),
        "seconds": {part.name: part.seconds for part in study.parts},
        "device": study.device,
    }


def _algorithm(name: str, group: Sequence[Facts], results: Mapping[int, float], common: int, timed: bool) -> Summary:
    values = np.array([*results.values()])[:, None]
    parts = [{part.name: part.seconds for part in study.parts} for study in group]
    names = dict.fromkeys(part for seconds in parts for part in seconds)
    return {
        "algorithm": name,
        "seeds": sorted(results),
        "result": _mean(values)[0],
        "scores": _spread([_scores(study) for study in group]),
        "by_trial": _by_trial(group, common),
        "by_seconds": _by_seconds(group) if timed else [],
        "seconds": {part: float(np.mean([seconds.get(part, 0.0) for seconds in parts])) for part in names},
        "seconds_a_trial": float(np.mean([_seconds(study) / len(study.trials) for study in group])),
    }


def _mean(values: Array) -> list[Summary]:
    """Return the mean of each column of values, (repeats, n), and its 95 % interval (None for a single repeat)."""
    low, high = interval(values)
    columns = zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [
        {"mean": mean, "low": None if math.isnan(a) else a, "high": None if math.isnan(b) else b}
        for mean, a, b in columns
    ]


def _by_trial(group: Sequence[Facts], common: int) -> list[Summary]:
    """Return the best score so far after each number of trials, from the first at which all repeats have a score.

    Args:
        group: The repeats of an algorithm.
        common: The number of trials in the shortest study.
    """
    curves = [dict(study.best_so_far) for study in group]
    shared = [number for number in range(common) if all(number in curve for curve in curves)]
    means = _mean(np.array([[curve[number] for number in shared] for curve in curves]))
    return [{"trials": number + 1, **mean} for number, mean in zip(shared, means, strict=True)]


def _by_seconds(group: Sequence[Facts]) -> list[Summary]:
    """Return the best score so far over the seconds of trials, from the time at which all repeats have a score."""
    courses = [list(_course(study)) for study in group]
    first, last = max(course[0][0] for course in courses), min(course[-1][0] for course in courses)
    moments = sorted({at for course in courses for at, _ in course if first <= at <= last} | {first})
    moments = moments[:: math.ceil(len(moments) / MOMENTS)]
    best = [[next(score for at, score in reversed(course) if at <= moment) for moment in moments] for course in courses]
    return [{"seconds": at, **mean} for at, mean in zip(moments, _mean(np.array(best)), strict=True)]


def _course(study: Facts) -> Iterator[tuple[float, float]]:
    """Yield (total seconds of trials, best score) after each result, from the first score on."""
    spent, best = 0.0, -math.inf
    for trial in sorted(study.trials, key=lambda trial: trial.told or 0):
        spent += 0.0 if trial.observation is None else trial.observation.cost.get("seconds", 0.0)
        best = max(best, trial.score) if trial.status is Status.DONE else best
        if best > -math.inf:
            yield spent, best


def _plainly(difference: Difference) -> Summary:
    return {**asdict(difference), "repeats": list(difference.repeats), "significant": difference.significant}


def on_tests(studies: Sequence[Facts]) -> dict[str, Summary]:
    """Return for each test task the scores by algorithm, and the significance of the winners' differences."""
    return {task: _on_test(studies, task) for task in dict.fromkeys(task for study in studies for task in study.tests)}


def _on_test(studies: Sequence[Facts], task: str) -> Summary:
    groups = grouped([study for study in studies if task in study.summary["best"]["test"]])
    results = {
        name: {study.header["seed"]: float(study.summary["best"]["test"][task]["score"]) for study in repeats}
        for name, repeats in groups.items()
    }
    ordered = sorted(groups, key=lambda name: -np.mean([*results[name].values()]))
    return {
        "goal": studies[0].goal_on(task).name,
        "algorithms": [
            {
                "algorithm": name,
                "seeds": sorted(results[name]),
                "result": float(np.mean([*results[name].values()])),
                "scores": _spread([bounds.tested(study, task) for study in groups[name]]),
            }
            for name in ordered
        ],
        "differences": [_plainly(difference) for difference in differences({name: results[name] for name in ordered})],
    }


def _spread(repeats: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """Return the means over repeats of mean, quartiles and maximum; None if no repeat has scores."""
    spreads = [_quartiles(scores) for scores in repeats if scores]
    return {name: float(np.mean([spread[name] for spread in spreads])) for name in QUARTILES} if spreads else None


def _notes(studies: Sequence[Facts], common: int, results: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return what a reader should know about the comparison, one sentence each.

    Args:
        studies: The facts of each study.
        common: The number of trials in the shortest study.
        results: The results of each algorithm by seed.
    """
    notes = []
    if any(len(study.trials) != common for study in studies):
        counts = sorted({len(study.trials) for study in studies})
        notes.append(
            f"The studies have {counts[0]:,} to {counts[-1]:,} trials. Each study's result is from all its trials, "
            f"which favours the longer ones; curves end after {common:,} trials."
        )
    for name, by_seed in results.items():
        if len(by_seed) > 1 and len(set(by_seed.values())) == 1:
            notes.append(
                f"All repeats of {name} have the same result: neither this algorithm nor the objective is random."
            )
    functions = {str(study.header.get("function", "one whose name is not on record")) for study in studies}
    if len(functions) > 1:
        notes.append(f"The studies' objectives have different names: {words.listed(sorted(functions))}.")
    devices = {study.device for study in studies if study.device is not None}
    if len(devices) > 1:
        notes.append(f"The seconds were measured on different devices: {words.listed(sorted(devices))}.")
    return notes
