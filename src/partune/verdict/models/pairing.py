"""Pair the items of two models' answers to a task, and refuse answers that cannot be compared.

Items are paired by the hash of their document. If a task contains a document several times, it is one item with more
weight, because its copies are not independent evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from partune.errors import UserError, shown, suggestion
from partune.trial.goals import LOSS, TEXT_LOSSES
from partune.verdict.models.samples import Sample, TaskSamples

Array = np.ndarray[Any, Any]
Copies = Mapping[str, Sequence[Sample]]  # the samples of each document

PREFERRED = ("acc_norm", "acc", "exact_match")  # the metric of a task, if the user names none
# The harness's metrics that are better if higher; needed for samples without a results file.
HIGHER = ("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "acc_all", "exact_match", "likelihood")
# Metrics of the harness whose samples are numbers, and whose score is not the mean of these numbers.
NOT_MEANS = ("perplexity", "bypass")
# Metrics whose scores may be outside 0 to 1, even if all scores in the samples are inside.
UNBOUNDED = (LOSS.name, "margin", *TEXT_LOSSES, *(goal.name for goal in TEXT_LOSSES.values()))
CLOSE = 1e-6  # the largest difference, relative to the score, between a mean and the score in the results file


@dataclass(frozen=True)
class Measure:
    """What is compared on a task.

    Attributes:
        metric: The name of the metric.
        filter: The name of the filter of the answers.
        higher: Whether a higher score is better.
    """

    metric: str
    filter: str
    higher: bool

    @property
    def key(self) -> str:
        """The name of the score in a results file."""
        return f"{self.metric},{self.filter}"


@dataclass(frozen=True)
class Paired:
    """The scores of two models on the items of a task that all runs of both models have answered.

    Attributes:
        task: The name of the task.
        measure: The metric, the filter and the direction.
        documents: (n,), the hashes of the documents.
        copies: (n,), how often each document occurs in the task.
        a: (S, n), the mean score of each run of A on the copies of each document. Higher is better; if lower is better
            for the metric, the scores are negated.
        b: (S, n), the scores of B.
    """

    task: str
    measure: Measure
    documents: tuple[str, ...]
    copies: Array
    a: Array
    b: Array

    @property
    def span(self) -> float:
        """The largest possible difference of an item: 1 for scores from 0 to 1, otherwise the largest one observed."""
        return 1.0 if self.bounded else float(np.abs(self.a.mean(axis=0) - self.b.mean(axis=0)).max())

    @property
    def bounded(self) -> bool:
        """Whether all scores are from 0 to 1, and none can be outside."""
        if self.measure.metric in UNBOUNDED:
            return False
        scores = np.concatenate([self.a, self.b]) * (1 if self.measure.higher else -1)
        return bool((scores >= 0).all() and (scores <= 1).all())


# ----- what is compared


def choose(
    runs: Sequence[TaskSamples], metric: str | None = None, filter: str | None = None, higher: bool | None = None
) -> Measure:
    """Choose the metric and the filter by which the runs of a task are compared.

    Args:
        runs: The runs of both models on the same task.
        metric: The metric that the user named; by default the first of PREFERRED that the task has, or else its only
            metric.
        filter: The filter that the user named; by default the task's only filter, or else the one called "none".
        higher: Whether a higher score is better, if the user said so.

    Raises:
        UserError: There is no such metric or filter, it is not clear which is meant, or the scores are not comparable.
    """
    for run in runs:
        _check_whole(run)
    chosen = _filter(runs, filter)
    task, names = runs[0].task, _metrics(runs, chosen)
    faults = {name: next((found for run in runs if (found := _fault(run, name, chosen))), None) for name in names}
    if faults and all(isinstance(wrong, _NoMean) for wrong in faults.values()):
        raise NoMeanError(
            f"task {task}: {'; '.join(map(str, faults.values()))}; no metric of this task can be compared"
        )
    good = [name for name in names if faults[name] is None]
    can = f"metrics that can be compared: {', '.join(good)}" if good else "no metric of this task can be compared"
    if metric is None:
        preferred = next((name for name in PREFERRED if name in names), None)
        if preferred is None and len(good) > 1:
            raise UserError(f"task {task} has several metrics: choose one with `--metric` ({', '.join(good)})")
        metric = preferred or next(iter(good or names), "")
    if metric not in names:
        raise UserError(f"task {task} has no metric {shown(metric)}; {can}")
    if (wrong := faults[metric]) is not None:
        raise UserError(f"task {task}: {wrong}; {can}")
    return Measure(metric, chosen, _direction(runs, metric, higher))


def _filter(runs: Sequence[TaskSamples], name: str | None) -> str:
    """Return the filter that the user named, or the default if the user named none."""
    known = [each for each in runs[0].filters if all(each in run.filters for run in runs)]
    if name is None and (len(known) == 1 or "none" in known):
        return known[0] if len(known) == 1 else "none"
    if name in known:
        return str(name)
    if len(known) == 1:  # the user named the filter of another task
        return known[0]
    task = runs[0].task
    if not known:
        raise UserError(f"task {task} has no filter in common: {', '.join(runs[0].filters)} in {runs[0].path}")
    if name is None:
        raise UserError(f"task {task} has several filters: choose one with `--filter` ({', '.join(known)})")
    raise UserError(f"task {task} has no filter {shown(name)}{suggestion(name, known)}")


def _metrics(runs: Sequence[TaskSamples], filter: str) -> list[str]:
    """Return the names of all metrics that some item of a run has."""
    return list(dict.fromkeys(name for run in runs for sample in run.filters[filter] for name in sample.scores))


def _check_whole(run: TaskSamples) -> None:
    """Raise UserError if a file has fewer samples than the results file says."""
    counted = run.setting("n-samples", run.task, "effective")
    for name, samples in run.filters.items():
        if isinstance(counted, int) and len(samples) < counted:
            raise UserError(
                f"{run.path} has only {len(samples):,} of the {counted:,} samples (filter {name}) that the results "
                "file counts: the file is incomplete"
            )


class NoMeanError(UserError):
    """None of a task's scores is the mean of its items' scores."""


class _NoMean(str):
    """Why a score is not the mean of its items' scores."""


def _fault(run: TaskSamples, metric: str, filter: str) -> str | None:
    """Return why the mean of a metric over the items of a run is not the task's score; None if it is."""
    values = []
    for sample in run.filters[filter]:
        if metric not in sample.scores:
            continue
        value = sample.scores[metric]
        where = f"{metric} of doc_id {sample.number} in {run.path}"
        if isinstance(value, str):
            return f"{where} is the text {shown(value)}, not a number"
        if not isinstance(value, (int, float)):
            return _NoMean(f"{metric} is not a mean over items: values such as {shown(value, 40)} are not numbers")
        if not _is_finite(value):
            return f"{where} is {shown(value)}"
        values.append(float(value))
    if not values:
        return f"no item of {run.path} has the metric {metric}"
    recorded = run.setting("results", run.task, f"{metric},{filter}")
    if metric in NOT_MEANS and (recorded is None or metric == "bypass"):
        return _NoMean(f"{metric} is not a mean over items")
    mean = math.fsum(values) / len(values)
    if _is_score(recorded) and not same(mean, recorded):
        return _NoMean(
            f"{metric} is not a mean over items: the results file says {recorded:g}, and the mean in "
            f"{run.path} is {mean:g}"
        )
    return None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and _is_finite(value)


def same(mean: float, recorded: Any) -> bool:
    """Return whether a mean equals the score in a results file, up to rounding.

    Args:
        mean: The mean.
        recorded: The entry of the results file.
    """
    return _is_score(recorded) and abs(mean - recorded) <= CLOSE * max(1.0, abs(mean))


def _direction(runs: Sequence[TaskSamples], metric: str, higher: bool | None) -> bool:
    """Return whether a higher score is better."""
    task = runs[0].task
    said = {known for run in runs if isinstance(known := run.setting("higher_is_better", task, metric), bool)}
    if len(said) > 1:
        raise UserError(f"task {task}: the runs do not agree whether a higher {metric} is better")
    if said:
        known = said.pop()
        if higher is not None and higher != known:
            raise UserError(
                f"task {task}: the results file says that a {'higher' if known else 'lower'} {metric} is better: leave "
                "out `--better`"
            )
        return known
    if higher is not None:
        return higher
    if metric in HIGHER:
        return True
    raise UserError(f"task {task}: it is not known whether a higher {metric} is better: say so with `--better`")


# ----- how the tasks were run


def check_settings(runs: Sequence[TaskSamples]) -> list[str]:
    """Return sentences on differences in how a task was run that do not rule out the comparison.

    Args:
        runs: The runs of both models on the same task.

    Raises:
        UserError: The runs did not answer the same questions: version, number of examples or system prompt differ.
    """
    task, notes = runs[0].task, []
    known = [run for run in runs if run.results]
    for what, path in {"version": "versions", "number of few-shot examples": "n-shot"}.items():
        values = {shown(run.setting(path, task)): run for run in known}
        if len(values) > 1:
            (one, first), (other, second) = list(values.items())[:2]
            raise UserError(
                f"task {task} is not the same in all runs: {what} {one} in {first.path.parent} and {other} in "
                f"{second.path.parent}"
            )
    if len({shown(run.setting("system_instruction_sha")) for run in known}) > 1:
        raise UserError(f"task {task} was not run with the same system prompt (`--system_instruction`) in all runs")
    for what, keys in {
        "chat template": ("chat_template_sha",),
        "generation settings": ("config", "gen_kwargs"),
        "version of lm-evaluation-harness": ("lm_eval_version",),
    }.items():
        if len({shown(run.setting(*keys)) for run in known}) > 1:
            notes.append(f"The runs differ in the {what}.")
    if len(known) < len(runs):
        notes.append(
            "Some samples have no results file with the same date beside them, so only their prompts and targets "
            "are checked, not how they were run."
        )
    return notes


# ----- pairs


def pair(a: Sequence[TaskSamples], b: Sequence[TaskSamples], measure: Measure) -> tuple[Paired, list[str]]:
    """Pair the items of two models.

    Args:
        a: The runs of A on a task.
        b: The runs of B on the same task.
        measure: What is compared.

    Returns:
        The paired items, and sentences about items that were left out or occur several times.

    Raises:
        UserError: Fewer than two items are in all runs, or the same document has another prompt or target.
    """
    runs, task = (*a, *b), a[0].task
    copies = [_by_document(run, measure) for run in runs]
    common = [key for key in copies[0] if all(len(each.get(key, ())) == len(copies[0][key]) for each in copies)]
    if len(common) < 2:
        raise UserError(
            f"task {task}: {'only one item is' if common else 'no item is'} in all runs, by the hash of the document "
            f"(doc_hash): a comparison needs at least two"
        )
    _check_same(runs, copies, common)
    notes = _left_out(runs, copies, common, measure)
    counts = np.array([len(copies[0][key]) for key in common], float)
    if repeats := int((counts > 1).sum()):
        notes.append(
            f"{task}: documents that occur several times: {repeats:,}. Each is one item, weighted by its number of "
            "copies."
        )
    sign = 1.0 if measure.higher else -1.0
    values = sign * np.array(
        [[math.fsum(each.scores[measure.metric] for each in by[key]) / len(by[key]) for key in common] for by in copies]
    )
    return Paired(task, measure, tuple(common), counts, values[: len(a)], values[len(a) :]), notes


def _by_document(run: TaskSamples, measure: Measure) -> Copies:
    """Return the samples of each document that have a score, in an order that does not depend on the file's order."""
    found: dict[str, list[Sample]] = {}
    for sample in run.filters[measure.filter]:
        if measure.metric in sample.scores:
            found.setdefault(sample.document, []).append(sample)
    return {key: sorted(found[key], key=lambda each: (each.prompt, each.target, each.number)) for key in sorted(found)}


def _check_same(runs: Sequence[TaskSamples], copies: Sequence[Copies], common: Sequence[str]) -> None:
    """Raise UserError if a document's target or prompt is not the same in all runs.

    Prompts may differ if the chat templates do, because a model may need its own.
    """
    templates = {shown(run.setting("chat_template_sha")) for run in runs if run.results}
    for what, compared in (("target", True), ("prompt", len(templates) < 2)):
        if not compared:
            continue
        for run, each in zip(runs[1:], copies[1:], strict=True):
            differ = [
                key
                for key in common
                if [getattr(sample, what) for sample in each[key]]
                != [getattr(sample, what) for sample in copies[0][key]]
            ]
            if differ:
                raise UserError(
                    f"task {run.task}: {len(differ):,} of {len(common):,} common items have another {what} in "
                    f"{run.path} than in {runs[0].path} (such as doc_id {each[differ[0]][0].number}): the models did "
                    "not answer the same questions; run the task with the same settings for both"
                )


def _left_out(
    runs: Sequence[TaskSamples], copies: Sequence[Copies], common: Sequence[str], measure: Measure
) -> list[str]:
    """Return how many items of each run are not compared, as sentences."""
    notes = []
    compared = sum(len(copies[0][key]) for key in common)
    for run in runs:
        of = len(run.filters[measure.filter])
        if compared < of:
            notes.append(
                f"{run.task}: {of - compared:,} of the {of:,} items in {run.path} are left out, because they have no "
                f"{measure.metric} in some run."
            )
    return notes
