"""Compare two models from files that lm-evaluation-harness wrote with `--log_samples`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from partune.errors import UserError, suggestion
from partune.verdict.models.answers import Answer, Question, answers
from partune.verdict.models.pairing import Measure, NoMeanError, Paired, check_settings, choose, pair, same
from partune.verdict.models.samples import UNNAMED, ModelSamples, TaskSamples, read

Places = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Model:
    """One of the two models.

    Attributes:
        paths: The files or folders of its runs.
        name: The name of the model in the results files; None if these are not there or do not agree.
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
        notes: What a reader has to know about the comparison, one sentence each.
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
) -> ModelVerdict:
    """Test whether model A is better than model B, on the items that both have answered.

    Args:
        a: What lm-evaluation-harness wrote for A with `--log_samples`: a folder, a samples file or a results file. A
            list of several means runs with different training seeds, whose spread becomes a part of the error.
        b: The same for B.
        tasks: The tasks or groups to compare; all by default. A group whose score is in the results files is
            one answer.
        metric: The metric; by default acc_norm, acc or exact_match, the first of them that a task has.
        filter: The filter of the answers; by default the only one, or else the one called "none".
        margin: Also test whether A is no worse than B by this margin or more, in units of the score.
        mean: Whether to answer also for the mean of the tasks, which count equally.
        higher_is_better: Whether a higher score is better, for a metric for which the files do not say so.

    Raises:
        UserError: The files cannot be read, or the models cannot be compared by them.
    """
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise UserError(f"the margin must be above 0, such as 0.01, got {margin:g}")
    places = [[side] if isinstance(side, (str, Path)) else list(side) for side in (a, b)]
    runs = [[read(place) for place in listed] for listed in places]
    if not all(runs):
        raise UserError("each of the two models needs at least one folder or file of samples")
    _check_distinct(*runs)
    left, right = _named_alike(*runs)
    pairing = _Pairing(left, right, metric, filter, higher_is_better)
    questions = pairing.questions([tasks] if isinstance(tasks, str) else tasks, mean)
    if margin is not None and any(margin >= 1 and part.bounded for each in questions for part in each.parts):
        raise UserError(f"a margin of {margin:g} is no margin for scores from 0 to 1: choose one such as 0.01")
    given = answers(questions, margin)
    return ModelVerdict(_model(left), _model(right), tuple(given), tuple(pairing.notes))


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


class _Pairing:
    """Pairs the items of two models' runs, task by task, and collects what a reader has to know about it.

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
        if not mean:
            return asked
        if len(asked) < 2:
            raise UserError(f"a mean needs at least two tasks, and there is only {asked[0].name}: leave out `--mean`")
        parts = [part for each in asked for part in each.parts]
        if len({part.measure.higher for part in parts}) > 1:
            raise UserError("there is no mean of metrics of which one is better if higher, another if lower")
        metrics = dict.fromkeys(part.measure.metric for part in parts)
        if len(metrics) > 1:
            self._note(f"The mean is one of different metrics: {', '.join(metrics)}.")
        shares = [share / len(asked) for each in asked for share in each.shares]
        return [*asked, Question("mean", "mean", parts, shares)]

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
        """Return the question about a group, with the weights of its tasks; None if its score is no mean of them."""
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
    """Return how a group's score may weight its tasks ("by size", "equally"), by the score in the results file."""
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
