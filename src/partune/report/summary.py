"""Summarise a study from its record only, as plain data for scripts and for the other forms of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from partune.config import DEFAULTS, RECIPES, USUAL, Search, baseline
from partune.record.looks import Look
from partune.record.record import Record
from partune.report.answers import answers_of
from partune.report.labels import labels_of
from partune.report.plain_data import Summary
from partune.report.words import reloaded_words
from partune.trial import Status, Trial
from partune.trial.names import Baseline, RunName, WinnerScoring, score_on_verdict_items, scores_on_tests
from partune.verdict.paired import Comparison, Verdict
from partune.verdict.winner import (
    Worths,
    best,
    confirmations,
    fresh_runs,
    further_baselines,
    is_judged,
    judge,
    last_look,
    pooled,
    reloaded,
    scoring,
    ships_fresh,
    what_items_show,
    worths,
)

USUALLY_SEARCHED = ("lora_r", "lora_alpha", "lora_dropout", "learning_rate", "weight_decay")


def summarise(record: Record) -> Summary:
    """Return the summary of a study: all numbers that a report prints, as plain data.

    Args:
        record: The record of the study, which need not be finished.

    Returns:
        "base", "defaults" (the first baseline) and "best" (the winner) are None, or hold config, score and stderr (on
        the search items), verdict (score and stderr on the held-out items) and test (the same per test task).
        "baselines" lists the further baselines in this form. "fixed" holds hyperparameters that are not searched.
        "no_verdict" says why a study that has a base model has no verdict; it is None if there is a verdict or no base
        model. "stopped" says why the last run ended early; it is None if it did not, or was interrupted.
    """
    trials, baselines = record.trials(), record.anchors()
    worth = worths(trials, record.space, record.noisy)
    winner = best(trials, baselines, worth)
    judged = baselines[WinnerScoring.JUDGED] if winner is not None and is_judged(winner, baselines) else None
    verdict = judge(record, winner)
    return {
        "directory": None if record.directory is None else str(record.directory),
        "algorithm": record.header["algorithm"],
        "seed": record.header["seed"],
        "budget": record.budget,
        "time_limits": dict(record.time_limits),
        "space": record.space.describe(),
        "versions": dict(record.header["versions"]),
        "loaded": dict(record.loaded),
        "base": _scored(baselines.get(Baseline.BASE)),
        "defaults": _first(baselines.get(Baseline.DEFAULTS), record),
        "baselines": _further(baselines, record),
        "fixed": _fixed(record),
        "best": None if winner is None else _best(winner, worth, judged, record),
        "confirmed": _confirmed(trials, baselines, worth),
        "fresh": None if winner is None else _fresh(winner, baselines, last_look(record, winner)),
        "equal": equal_score(trials),
        "smallest_gain": _smallest_gain(record),
        "verdict": None if verdict is None else _verdict(verdict),
        "no_verdict": _no_verdict(record, winner) if verdict is None and Baseline.BASE in baselines else None,
        "stopped": record.stopped,
        "labels": labels_of(record, judged),
        "answers": answers_of(record, judged),
        "reloaded": _reloaded(reloaded(winner, baselines)),
        "seconds": _seconds(trials, baselines),
        "utilisation": utilisation(trials),
        "trials": [_row(trial) for trial in trials],
    }


# ----- as data


def _smallest_gain(record: Record) -> float | None:
    """Return the smallest gain over the base model that the verdict shows with a probability of 80 %, if it is known.

    It is for the fresh runs of the last look, or for the default number of fresh runs before the first one.
    """
    limits = what_items_show(record, record.looks[-1].seeds if record.looks else Search().seeds)
    return None if limits is None else limits.gain


def _scored(trial: Trial | None) -> Summary | None:
    if trial is None or trial.observation is None:
        return None
    scores = trial.observation.scores
    return {
        "config": dict(trial.config),
        "status": str(trial.status),
        "score": scores.get("score"),
        "stderr": trial.observation.stderr,
        "verdict": _on_verdict_items(scores),
        "test": _test(scores),
        "error": trial.observation.error,
    }


def _first(trial: Trial | None, record: Record) -> Summary | None:
    """Return the scores of the first baseline: the field's defaults, or a recipe that the user named.

    "called" is its name for use in sentences, with the values that the user set; "name" is the name that the user gave,
    or None; "source" says where its values come from.
    """
    summary = _scored(trial)
    if summary is None:
        return None
    if not (recipes := _recipes(record)):
        called, source = baseline(summary["config"]), RECIPES[USUAL].source
        # A record of an older version does not name the sources of values.
        known = set(DEFAULTS) <= set(summary["config"])
        return summary | {"called": called, "name": None, "source": source if known else None}
    name = recipes[0]["name"]
    return summary | {"called": f"the baseline {name}", "name": name, "source": recipes[0]["source"]}


def _further(baselines: Mapping[RunName, Trial], record: Record) -> list[Summary]:
    """Return the scores of the second and further baselines, in the order of the verdict."""
    sources = {recipe["name"]: recipe["source"] for recipe in _recipes(record)}
    rows = []
    for name in further_baselines(baselines):
        summary = _scored(baselines[name])
        if summary is not None:
            called = f"the baseline {name.name}"
            rows.append(summary | {"called": called, "name": name.name, "source": sources.get(name.name)})
    return rows


def _recipes(record: Record) -> list[Summary]:
    """Return the recipes that the user named, with names and sources; an empty list means the field's defaults."""
    return list(record.header.get("objective", {}).get("baseline") or ())


def _fixed(record: Record) -> Summary:
    """Return the values of the usual hyperparameters that the study does not search."""
    training = record.header.get("objective", {}).get("training") or {}
    names = [
        name for name in ("lora_r", "lora_alpha", "lora_dropout", "learning_rate", "weight_decay") if name in training
    ]
    return {name: training[name] for name in names if name not in record.space.names}


def _best(winner: Trial, worth: Worths, judged: Trial | None, record: Record) -> Summary:
    summary = _scored(winner)
    assert summary is not None
    fresh = judged is not None and ships_fresh(record.anchors())
    folder = None if record.directory is None else record.adapter(WinnerScoring.JUDGED if fresh else winner.number)
    summary["trial"] = winner.number
    summary["ships"] = "fresh" if fresh else "first"
    summary["worth"] = worth[winner.number]
    summary["adapter"] = str(folder) if folder is not None and folder.is_dir() else None
    summary["shipped"] = None
    if judged is not None and judged.observation is not None:
        summary["shipped"] = {"score": judged.observation.scores.get("score"), "stderr": judged.observation.stderr}
        summary["verdict"] = _on_verdict_items(judged.observation.scores)
        summary["test"] = _test(judged.observation.scores)
    return summary


def _reloaded(again: Trial | None) -> Summary | None:
    """Return the result of loading the winner's adapter from disk again, as its users will."""
    if again is None or again.observation is None:
        return None
    return {"same": again.status is Status.DONE, "words": reloaded_words(again.observation)}


def _confirmed(trials: list[Trial], baselines: Mapping[RunName, Trial], worth: Worths) -> list[Summary]:
    """Return the confirmed trials with their further scores (None for a failed run), sorted by their first scores."""
    confirmed = [(trials[number], again) for number, again in confirmations(baselines).items()]
    return [
        {
            "trial": trial.number,
            "score": trial.score,
            "again": [run.score if run.status is Status.DONE else None for run in again],
            "pooled": mean if math.isfinite(mean := pooled(worth[trial.number], again)) else None,
        }
        for trial, again in sorted(confirmed, key=lambda pair: (-pair[0].score, pair[0].number))
    ]


def _fresh(winner: Trial, baselines: Mapping[RunName, Trial], look: Look | None) -> Summary:
    """Return the held-out scores of the fresh runs that the verdict counts; None for a failed run."""
    look = look or Look(winner.number, 0, 0)

    def scores(runs: list[Trial]) -> list[float | None]:
        return [_verdict_score(run) for run in runs]

    return {
        "winner": scores(fresh_runs(baselines, winner.number)[: look.seeds]),
        "defaults": scores(fresh_runs(baselines, Baseline.DEFAULTS)[: look.defaults]),
        "baselines": {
            name.name: scores(fresh_runs(baselines, name)[: look.others]) for name in further_baselines(baselines)
        },
    }


def _verdict_score(run: Trial) -> float | None:
    if run.status is not Status.DONE or run.observation is None:
        return None
    score_and_stderr = score_on_verdict_items(run.observation.scores)
    return None if score_and_stderr is None else score_and_stderr[0]


def equal_score(trials: list[Trial]) -> float | None:
    """Return the score that all trials have, to the last digit; None if scores differ or there are fewer than two."""
    scores = [trial.score for trial in trials if trial.status is Status.DONE]
    return scores[0] if len(scores) > 1 and len(set(scores)) == 1 else None


def _on_verdict_items(scores: Mapping[str, float]) -> Summary | None:
    score_and_stderr = score_on_verdict_items(scores)
    return None if score_and_stderr is None else {"score": score_and_stderr[0], "stderr": score_and_stderr[1]}


def _test(scores: Mapping[str, float]) -> Summary:
    """Return score and stderr by test task, without tasks whose score is not finite."""
    return {task: {"score": score, "stderr": stderr} for task, (score, stderr) in scores_on_tests(scores).items()}


def _no_verdict(record: Record, winner: Trial | None) -> str:
    """Return a sentence on why there is no verdict, and how to get one."""
    if winner is None:
        return "No verdict: no trial has a score."
    scored = scoring(winner, record.anchors())
    if scored is not None and scored.observation is not None and scored.observation.error is not None:
        failed = f"scoring the winner, trial {winner.number}, on the held-out items failed"
        return f"No verdict: {failed} ({scored.observation.error}); `partune resume` tries again."
    trials = record.trials()
    endless = record.budget is None and record.time_limits
    running = endless or len(trials) < (record.budget or 0) or not all(trial.status.final for trial in trials)
    if running and not record.time_limits.get("over"):
        return "No verdict yet: the winner is tested when all trials of the budget have ended."
    return (
        "No verdict yet: more runs and scores are needed. If the study is not running, continue it with "
        "`partune resume`."
    )


def _verdict(verdict: Verdict) -> Summary:
    defaults = verdict.over_defaults
    return {
        "better_than": list(verdict.better_than),
        "worse_than": list(verdict.worse_than),
        "use_defaults": verdict.use_defaults,
        "sentence": verdict.sentence,
        "seeds": verdict.seeds,
        "failed": verdict.failed,
        "look": verdict.look,
        "level": verdict.over_base.level,
        "over_base": _comparison(verdict, "base", verdict.over_base),
        "over_defaults": None if defaults is None else _comparison(verdict, "defaults", defaults),
        "others": [
            {
                "name": rival.name,
                "tested": rival.name not in verdict.untested,
                **_comparison(verdict, rival.name, rival.over),
            }
            for rival in verdict.others
        ],
        "use": _use(verdict),
    }


def _use(verdict: Verdict) -> str | None:
    """Return the further baseline that is shown better than both the winner and the base model; None if none is."""
    shown = [rival for rival in verdict.others if rival.name in verdict.worse_than and rival.over_base.better]
    return min(shown, key=lambda rival: rival.over.gain).name if shown else None


def _comparison(verdict: Verdict, name: str, comparison: Comparison) -> Summary:
    """Return a comparison of the winner as data.

    Args:
        verdict: The verdict, whose several tests decide whether a loss is shown.
        name: The name of the baseline in the verdict.
        comparison: The comparison with that baseline.
    """
    return {
        "gain": comparison.gain,
        "stderr": comparison.stderr if math.isfinite(comparison.stderr) else None,
        "interval": [end if math.isfinite(end) else None for end in comparison.interval],
        "relation": verdict.relation(name),
        "equal": comparison.equal,
        "p": comparison.p,
        "p_worse": comparison.p_worse,
        "runs": list(comparison.runs),
        "by_items": comparison.by_items if math.isfinite(comparison.by_items) else None,
        "by_seeds": comparison.by_seeds,
        "items": comparison.items,
        "test": comparison.test,
    }


def _row(trial: Trial) -> Summary:
    observation = trial.observation
    return {
        "id": trial.number,
        "config": dict(trial.config),
        "status": str(trial.status),
        "fidelity": None if observation is None else observation.fidelity,
        "score": None if observation is None else observation.scores.get("score"),
        "stderr": None if observation is None else observation.stderr,
        "seconds": None if observation is None else observation.cost.get("seconds"),
        "error": None if observation is None else observation.error,
        "test": {} if observation is None else _test(observation.scores),
        "attempts": trial.attempts,
    }


def _seconds(trials: list[Trial], baselines: Mapping[RunName, Trial]) -> Summary:
    return {
        "trials": _total(trials, "seconds"),
        "training": _total(trials, "train_seconds"),
        "scoring": _total(trials, "score_seconds"),
        "anchors": _total(baselines.values(), "seconds"),
        "workers": _total(trials, "worker_seconds"),
        "search": _total(trials, "search_seconds"),
    }


def utilisation(trials: Iterable[Trial]) -> float | None:
    """Return the share of the workers' time in which they ran trials; None if that is not on record.

    It is busy / (workers x makespan), as in `partune bench scaling`. "Busy" is the sum of the seconds of all trials
    that ended. Trials that were trained together (a pack) share the seconds of the pack. "Workers x makespan" is the
    sum of the seconds for which each worker existed, from a run's first proposal to its last result. Each result
    records the worker-seconds since the previous result ("worker_seconds"). So workers may come and go, and
    the times of resumed runs and of several processes that drive one study add up. Time between runs does not count.
    Work that was lost with a worker is idle time.
    """
    known = [trial for trial in trials if trial.observation is not None and "worker_seconds" in trial.observation.cost]
    there = _total(known, "worker_seconds")
    return _total(known, "seconds") / there if there > 0 else None


def _total(trials: Iterable[Trial], name: str) -> float:
    return math.fsum(trial.observation.cost.get(name, 0.0) for trial in trials if trial.observation is not None)
