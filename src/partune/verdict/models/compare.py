"""Compare two models: from files that lm-evaluation-harness wrote with `--log_samples`, or by scoring them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from partune.errors import UserError, suggestion
from partune.verdict.models.answers import Answer, Question, answers
from partune.verdict.models.pairing import UNBOUNDED, Measure, NoMeanError, Paired, check_settings, choose, pair, same
from partune.verdict.models.samples import UNNAMED, ModelSamples, TaskSamples, read
from partune.verdict.models.score import Scoring, Section, ask

Places = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Model:
    """One of the two models.

    Attributes:
        paths: The files or folders of its runs; ids of models, and "base", are paths too.
        name: The name of the model in the results files, or a description of the scored model; None if it is not known.
    """

    paths: tuple[Path, ...]
    name: str | None


@dataclass(frozen=True)
class ModelVerdict:
    """The answer to "is model A better than model B?".

    Attributes:
        a: Model A.
        b: Model B.
        answers: An answer for each task or group, then one for the mean of all tasks, if it was asked for.
        notes: Sentences that a reader of the comparison should know.
    """

    a: Model
    b: Model
    answers: tuple[Answer, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Answer:
        """Return the answer for a task or group, or for the mean of tasks ("mean")."""
        return {answer.name: answer for answer in self.answers}[name]


def compare_models(
    a: Places,
    b: Places,
    *,
    tasks: str | Sequence[str] = (),
    metric: str | None = None,
    filter: str | None = None,
    margin: float | None = None,
    mean: bool = False,
    higher_is_better: bool | None = None,
    model: Section | None = None,
    data: Section | None = None,
    limit: int | None = None,
    fewshot: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    generation: Mapping[str, Any] | None = None,
    trust_task_code: bool = False,
    confirm_run_unsafe_code: bool = False,
) -> ModelVerdict:
    """Test whether model A is better than model B, on the items that both have answered.

    Args:
        a: What lm-evaluation-harness wrote for A with `--log_samples`: a folder, a samples file or a results file. Or a
            model to score: the folder of an adapter, a study's directory (its winner's adapter), the folder or id of a
            model, or "base". A list names runs with different training seeds; their spread is part of the error.
        b: The same for B.
        tasks: The tasks or groups to compare; by default all that the samples have. A group gets one answer.
        metric: The metric; by default acc_norm, acc or exact_match, the first of them that a task has.
        filter: The filter of the answers; by default the only one, or else the one called "none".
        margin: Also test whether A is no worse than B by this margin or more, in units of the score.
        mean: Whether to answer also for the mean over tasks, with equal weights.
        higher_is_better: Whether a higher score is better, if the files do not say so for the metric.
        model: The base model of adapters that are scored: its folder, its id, or the keys of section `model`.
        data: Rows to score models on instead of tasks: their path or id, or the keys of section `data`.
        limit: The number of items of each task on which models are scored, from the beginning; by default all.
        fewshot: The number of solved examples before each question; by default that of the task.
        dtype: The precision in which models are scored: fp32, bf16, fp16 or "auto".
        device: The device on which models are scored.
        generation: How models that are scored generate answers: any of the keys max_new_tokens, stop and temperature of
            section `validation`; by default as the tasks say.
        trust_task_code: Whether local task files may run code.
        confirm_run_unsafe_code: Whether tasks may run the code that a model writes.

    Raises:
        UserError: The files cannot be read, a model cannot be scored, or the models cannot be compared.
    """
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise UserError(f"the margin must be above 0, such as 0.01, got {margin:g}")
    places = [[side] if isinstance(side, (str, Path)) else list(side) for side in (a, b)]
    if not all(places):
        raise UserError("each of the two models needs at least one folder or file of samples")
    named = [str(tasks)] if isinstance(tasks, (str, Path)) else list(map(str, tasks))
    asked_answers = dict(generation or {})
    scoring = Scoring(
        model, data, limit, fewshot, dtype, device, asked_answers, trust_task_code, confirm_run_unsafe_code
    )
    if scoring.wanted([*places[0], *places[1]]):
        for flag, value in (("--filter", filter), ("--better", higher_is_better)):
            if value is not None:
                raise UserError(f"`{flag}` is for samples of lm-evaluation-harness; leave it out to score models")
        if mean and len(set(named)) < 2:
            raise UserError("a mean needs at least two tasks: leave out `--mean`, or name more with `--task`")
        if margin is not None and margin >= 1 and named and metric not in UNBOUNDED:
            raise _too_large(margin)  # before the models are scored
        asked = ask(places[0], places[1], scoring, named, metric)
        questions, note = with_mean(asked.questions, mean)
        _check_margin(margin, questions)
        sides = [Model(tuple(map(Path, side)), name) for side, name in zip(places, asked.names, strict=True)]
        return ModelVerdict(sides[0], sides[1], tuple(answers(questions, margin)), (*asked.notes, *note))
    runs = [[read(place) for place in listed] for listed in places]
    _check_distinct(*runs)
    left, right = _named_alike(*runs)
    pairing = _Pairing(left, right, metric, filter, higher_is_better)
    questions = pairing.questions(named, mean)
    _check_margin(margin, questions)
    given = answers(questions, margin)
    return ModelVerdict(_model(left), _model(right), tuple(given), tuple(pairing.notes))


def _check_margin(margin: float | None, questions: Sequence[Question]) -> None:
    """Raise UserError for a margin that is as large as the range of scores."""
    if margin is not None and any(margin >= 1 and part.bounded for each in questions for part in each.parts):
        raise _too_large(margin)


def _too_large(margin: float) -> UserError:
    return UserError(f"a margin of {margin:g} is too large for scores from 0 to 1: choose one such as 0.01")


def _model(runs: Sequence[ModelSamples]) -> Model:
    names = {run.model for run in runs}
    return Model(tuple(run.path for run in runs), names.pop() if len(names) == 1 else None)


def _check_distinct(a: Sequence[ModelSamples], b: Sequence[ModelSamples]) -> None:
    """Raise UserError if the same file is part of two runs."""
    seen: dict[Path, ModelSamples] = {}
    for run in (*a, *b):
        for task in run.tasks.values():
            first = seen.setdefault(task.path.resolve(), run)
            if first is not run:
                raise UserError(
                    f"{first.path} and {run.path} are the same samples ({task.path.name}): name the samples of two "
                    "different models or runs"
                )


def _named_alike(a: Sequence[ModelSamples], b: Sequence[ModelSamples]) -> tuple[list[ModelSamples], list[ModelSamples]]:
    """Give a single file without a task in its name the name of the other runs' only task."""
    names = {name for run in (*a, *b) for name in run.tasks} - {UNNAMED}
    name = names.pop() if len(names) == 1 else UNNAMED

    def named(run: ModelSamples) -> ModelSamples:
        """Return the run with the name of the task."""
        only = run.tasks.get(UNNAMED)
        return run if only is None else replace(run, tasks={name: replace(only, task=name)})

    return [named(run) for run in a], [named(run) for run in b]


def with_mean(asked: Sequence[Question], mean: bool) -> tuple[list[Question], list[str]]:
    """Return questions and, if wanted, one more about the mean of their tasks, with notes about the mean.

    Args:
        asked: The questions.
        mean: Whether the mean is wanted.

    Raises:
        UserError: There is no mean of these tasks.
    """
    if not mean:
        return list(asked), []
    if len(asked) < 2:
        raise UserError(f"a mean needs at least two tasks, and there is only {asked[0].name}: leave out `--mean`")
    parts = [part for each in asked for part in each.parts]
    if len({part.measure.higher for part in parts}) > 1:
        raise UserError("no mean is possible: for some metrics higher is better, for others lower")
    metrics = dict.fromkeys(part.measure.metric for part in parts)
    note = [f"The mean is over different metrics: {', '.join(metrics)}."] if len(metrics) > 1 else []
    shares = [share / len(asked) for each in asked for share in each.shares]
    return [*asked, Question("mean", "mean", parts, shares)], note


class _Pairing:
    """Pair the items of two models' runs, task by task, and collect notes for the reader.

    Args:
        a: The runs of A.
        b: The runs of B.
        metric: The metric that the user named.
        filter: The filter that the user named.
        higher: Whether a higher score is better, if the user said so.
    """

    def __init__(
        self,
        a: Sequence[ModelSamples],
        b: Sequence[ModelSamples],
        metric: str | None,
        filter: str | None,
        higher: bool | None,
    ) -> None:
        self._a, self._b, self._runs = a, b, (*a, *b)
        self._metric, self._filter, self._higher = metric, filter, higher
        self._pairs: dict[str, Paired] = {}
        self._measures: dict[str, Measure] = {}
        self.notes: dict[str, None] = {}  # each note once, in order
        self._tasks = [name for name in a[0].tasks if all(name in run.tasks for run in self._runs)]
        if not self._tasks:
            listed = "; ".join(f"{run.path} has {', '.join(run.tasks)}" for run in self._runs)
            raise UserError(f"no task is in all runs, so there is nothing to compare: {listed}")
        groups = [run.groups for run in self._runs]
        self._groups = {
            name: leaves for name, leaves in groups[0].items() if all(each.get(name) == leaves for each in groups)
        }

    def questions(self, tasks: Sequence[str], mean: bool) -> list[Question]:
        """Return what to answer.

        Args:
            tasks: The tasks and groups that the user named; if empty, all that the runs have in common.
            mean: Whether to ask for the mean too.

        Raises:
            UserError: A name is unknown, or a task cannot be compared.
        """
        asked = [self._named(name) for name in dict.fromkeys(tasks)] or self._all()
        if self._filter is not None and all(each.filter != self._filter for each in self._measures.values()):
            known = {each.filter for each in self._measures.values()}
            raise UserError(f"no task has a filter {self._filter}{suggestion(self._filter, sorted(known))}")
        self._note_equal_runs(asked)
        questions, note = with_mean(asked, mean)
        self._note(*note)
        return questions

    def _note(self, *notes: str) -> None:
        self.notes.update(dict.fromkeys(notes))

    def _named(self, name: str) -> Question:
        """Return the question about a task or group that the user named."""
        if name in self._groups:
            question = self._group(name)
            if question is None:
                raise UserError(
                    f"the score of group {name} is not the mean of its tasks, with equal weights or by their sizes, "
                    "in all runs: name its tasks with `--task` instead"
                )
            return question
        if name not in self._tasks:
            raise UserError(f"no task or group {name} is in all runs{suggestion(name, [*self._groups, *self._tasks])}")
        return Question(name, "task", [self._paired(name)], [1.0])

    def _all(self) -> list[Question]:
        """Return the questions about the largest groups, and about all tasks outside of them."""
        for run in self._runs:
            if lacking := [name for name in run.tasks if name not in self._tasks]:
                listed = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
                self._note(f"Not in all runs and left out: {listed} in {run.path}.")
        groups: list[Question] = []
        inside: set[str] = set()
        for name in sorted(self._groups, key=lambda each: -len(self._groups[each])):
            if not inside & set(self._groups[name]) and (question := self._group(name)) is not None:
                groups.append(question)
                inside.update(self._groups[name])
        single, no_means = [], []
        for name in self._tasks:
            try:
                single += [] if name in inside else [self._named(name)]
            except NoMeanError as error:
                no_means.append(str(error))
        if not groups and not single:
            raise UserError(no_means[0])
        self._note(*(f"Left out: {error}." for error in no_means))
        return [*groups, *single]

    def _group(self, name: str) -> Question | None:
        """Return the question about a group with its tasks' weights; None if its score is not the mean of its tasks."""
        leaves = self._groups[name]
        try:
            measures = {self._measure(leaf) for leaf in leaves}
        except NoMeanError:
            return None
        if len(measures) > 1:
            return None
        measure = measures.pop()
        possible = set.intersection(*(_weights(run, name, leaves, measure) for run in self._runs))
        if not possible:
            return None
        parts = [self._paired(leaf) for leaf in leaves]
        sizes = [float(part.copies.sum()) if "by size" in possible else 1.0 for part in parts]
        return Question(name, "group", parts, [size / sum(sizes) for size in sizes])

    def _of(self, task: str, runs: Sequence[ModelSamples]) -> list[TaskSamples]:
        return [run.tasks[task] for run in runs]

    def _measure(self, task: str) -> Measure:
        if task not in self._measures:
            runs = self._of(task, self._runs)
            self._note(*check_settings(runs))
            self._measures[task] = choose(runs, self._metric, self._filter, self._higher)
        return self._measures[task]

    def _paired(self, task: str) -> Paired:
        if task not in self._pairs:
            measure = self._measure(task)
            self._pairs[task], notes = pair(self._of(task, self._a), self._of(task, self._b), measure)
            self._note(*notes)
        return self._pairs[task]

    def _note_equal_runs(self, questions: Sequence[Question]) -> None:
        """Note runs of one model that have the same score on every item, as copies would."""
        parts = [part for each in questions for part in each.parts]
        for side, scores in (("A", [part.a for part in parts]), ("B", [part.b for part in parts])):
            values = np.concatenate(scores, axis=1)  # (S, n)
            for i, j in itertools.combinations(range(len(values)), 2):
                if np.array_equal(values[i], values[j]):
                    self._note(
                        f"Runs {i + 1} and {j + 1} of {side} have the same score on every item, as copies would."
                    )


def _weights(run: ModelSamples, group: str, leaves: Sequence[str], measure: Measure) -> set[str]:
    """Return the weightings of tasks ("by size", "equally") that give the group's score in the results file."""
    values = [
        [
            float(sample.scores[measure.metric])
            for sample in run.tasks[leaf].filters[measure.filter]
            if measure.metric in sample.scores
        ]
        for leaf in leaves
    ]
    recorded = run.tasks[leaves[0]].setting("groups", group, measure.key)
    means = {
        "by size": math.fsum(map(math.fsum, values)) / sum(map(len, values)),
        "equally": math.fsum(math.fsum(each) / len(each) for each in values) / len(values),
    }
    return {name for name, mean in means.items() if same(mean, recorded)}
