"""Score models on parts of the tasks' items: search, rung, verdict and test items.

Scores are computed from a model's answers to requests: log-likelihoods and generated texts. The answers are computed by
lm-evaluation-harness ("the harness"), or by a pack of trials that share one base model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from partune import config
from partune.errors import UserError, suggestion
from partune.finetune.model import Base
from partune.finetune.scoring.base import (
    Answer,
    Answers,
    Arrays,
    Floats,
    Ints,
    NotFiniteError,
    PackAnswers,
    Prompt,
    Request,
    Task,
    UndefinedScoreError,
)
from partune.finetune.scoring.encoding import request_encoder
from partune.finetune.scoring.harness_task import HarnessTask
from partune.finetune.scoring.tasks import Loader
from partune.finetune.scoring.validation_rows import ValidationRows
from partune.runtime.isolation import own_generators
from partune.trial.names import ItemSet, ResultName, stderr_name

RUNG_SHARE = 0.25  # the share of a task's search items that is scored at a rung (an early-stopping point)
RUNG_ITEMS = 64  # the fewest items to score at a rung, if the task has that many search items
SAMPLES, LONGEST = 8, 2000  # the report shows the answers to this many verdict items per task, cut to these characters
FIRST_ITEMS = (
    8  # the number of items per task whose log-likelihoods are compared to tell whether two models are the same
)


@dataclass(frozen=True)
class Part:
    """Some of a task's items.

    Attributes:
        name: The kind of items: search, verdict, test or rung.
        task: The task.
        indices: (n,), the indices of the items among the task's items.
        metric: The metric by which the part is scored.
    """

    name: ItemSet
    task: Task
    indices: Ints
    metric: str

    @property
    def full_name(self) -> str:
        """The name of the part, which includes the task's name."""
        return str(self.result())

    def result(self, what: str = "") -> ResultName:
        """Return the name under which a result of this part is recorded.

        Args:
            what: The metric or per-item quantity; empty for the part's score.
        """
        return ResultName(self.name, self.task.name, what)

    @cached_property
    def stratum(self) -> Ints:
        """(n,), the index of the stratum (subtask) that each item belongs to."""
        return self.task.strata_of(self.indices)

    @cached_property
    def weights(self) -> Floats:
        """(n,), the weight of each item in the task's score if all items have a value."""
        return self.task.weights(self.indices, self.metric)

    @cached_property
    def requests(self) -> list[Request]:
        """The requests of all items, in the order of `indices`."""
        return self.task.requests_of(self.indices)


@dataclass(frozen=True)
class Scores:
    """The scores of one model, under the names that they have in the record.

    Attributes:
        named: Scores by name, and their standard errors by the same names with "_stderr" appended.
        items: The results of single items by the name of the result, each (n,) or (n, m).
        score: The study's metric on the search items (or the rung items), averaged over tasks; None if neither was
            scored.
        stderr: The standard error of `score`.
    """

    named: Mapping[str, float]
    items: Mapping[str, npt.NDArray[Any]]
    score: float | None = None
    stderr: float | None = None


class Scorer:
    """Hold all tasks and tokenised requests, and score models on the same items in the same order every time.

    Args:
        base: The base model, whose tokenizer and context length are used.
        validation: Section `validation` of a study.
        test: Section `test` of a study.
        seed: The seed of the study, by which items are split.
        rows: The validation rows, which score trials if the study names no validation task.

    Raises:
        UserError: A task cannot be loaded or scored, lacks the metric, or is named twice.
    """

    def __init__(
        self,
        base: Base,
        validation: config.Validation,
        test: config.Test,
        seed: int,
        rows: ValidationRows | None = None,
    ) -> None:
        loader = Loader()
        with own_generators(base.device):
            check_first_token(base)
            encode = request_encoder(base)
            encode_changed = partial(encode, changes=validation.generation)
            trusted, unsafe = validation.trust_task_code, validation.confirm_run_unsafe_code
            tasks: list[Task] = [
                loader.load(name, encode_changed, validation.limit, validation.fewshot, trusted, unsafe)
                for name in validation.tasks
            ]
            tests = [loader.load(name, encode, test.limit, trusted=trusted, unsafe=unsafe) for name in test.tasks]
        if rows is not None:
            tasks.append(rows)
        check_flags(validation, tasks, tests)
        # Check everything now, so that a study does not fail at its verdict because a test task has no score.
        check_distinct_tasks(tasks, tests)
        for task in (*tasks, *tests):
            task.check(base.context)
        self.tasks = (*tasks, *tests)
        chosen = choose_metrics(tasks, validation.metric)
        self.metric = ", ".join(dict.fromkeys(chosen))
        self.metrics = {task.name: metric for task, metric in zip(tasks, chosen, strict=True)}
        self.context = base.context
        self.parts: list[Part] = []
        self.rungs: list[Part] = []
        for task, metric in zip(tasks, chosen, strict=True):
            search, verdict = task.split(seed, validation.verdict_share, metric)
            # All trials share a rung's items, so that they can be compared. Few items keep every trial's cost low.
            count = max(round(RUNG_SHARE * len(search)), min(RUNG_ITEMS, len(search)))
            rung = np.sort(np.random.default_rng([seed, len(search), count]).permutation(search)[:count])
            self.parts.append(Part(ItemSet.SEARCH, task, search, metric))
            self.parts.append(Part(ItemSet.VERDICT, task, verdict, metric))
            self.rungs.append(Part(ItemSet.RUNG, task, rung, metric))
        for task in tests:
            (metric,) = choose_metrics([task], None, preferred=() if rows is not None else chosen)
            self.parts.append(Part(ItemSet.TEST, task, np.array(task.scorable(metric)), metric))

    def score(self, answers: Answers, parts: Collection[str]) -> Scores:
        """Score one model.

        Args:
            answers: The function that answers requests.
            parts: The names of the parts to score.

        Raises:
            NotFiniteError: A log-likelihood is not finite, or an item has no score.
        """
        return self.score_one(lambda name, requests: [answers(requests)], parts)

    def score_one(self, answer: PackAnswers, parts: Collection[str]) -> Scores:
        """Score a model that is alone in its pack.

        Args:
            answer: The function that answers a part's requests, with one list of answers.
            parts: The names of the parts to score.

        Raises:
            NotFiniteError: A log-likelihood is not finite, or an item has no score.
        """
        (scores,) = self.score_all(answer, parts)
        if isinstance(scores, Exception):
            raise scores
        return scores

    def score_all(self, answer: PackAnswers, parts: Collection[str]) -> Sequence[Scores | NotFiniteError]:
        """Score several models that answer requests together.

        Each part is answered separately, so that its numbers do not depend on which other parts are scored.

        Args:
            answer: The function that answers a part's requests for each model.
            parts: The names of the parts to score.

        Returns:
            For each model its scores, or the exception if a log-likelihood is not finite or an item has no score.
        """
        chosen = [part for part in (*self.parts, *self.rungs) if part.name in parts]
        answers = [answer(part.full_name, part.requests) for part in chosen]  # indexed by part, then by model
        return [self._scores(list(zip(chosen, of_model, strict=True))) for of_model in zip(*answers, strict=True)]

    def _scores(self, answered: Sequence[tuple[Part, Sequence[Answer]]]) -> Scores | NotFiniteError:
        """Return one model's scores from its answers."""
        named: dict[str, float] = {}
        items: dict[str, npt.NDArray[Any]] = {}
        chosen: dict[ItemSet, list[tuple[float, float]]] = {}
        for part, answers in answered:
            try:
                values, arrays = results(part, answers)
            except NotFiniteError as broken:
                return broken
            items[str(part.result("doc_id"))] = part.task.identifiers(part.indices)
            items |= {str(part.result(what)): array for what, array in arrays.items()}
            items |= {str(part.result(what)): array for what, array in part.task.recorded(part.indices).items()}
            if len(part.task.strata) > 1 or np.ptp(part.weights) > 0:
                items[str(part.result("leaf"))], items[str(part.result("weight"))] = part.stratum, part.weights
            for metric, of_items in values.items():
                mean, error = part.task.aggregate(part.indices, of_items, metric)
                name = part.result(metric)
                items[str(name)] = of_items
                named[str(name)], named[name.stderr] = mean, error
                if metric == part.metric:
                    chosen.setdefault(part.name, []).append((mean, error))
                    if part.name is ItemSet.TEST:
                        named[str(part.result())], named[part.result().stderr] = mean, error
        means = {name: mean_of(pairs) for name, pairs in chosen.items()}
        if ItemSet.VERDICT in means:
            named[ItemSet.VERDICT], named[stderr_name(ItemSet.VERDICT)] = means[ItemSet.VERDICT]
        score, stderr = means.get(ItemSet.SEARCH, means.get(ItemSet.RUNG, (None, None)))
        return Scores(named, items, score, stderr)

    def score_first_items(self, answers: Answers) -> Arrays:
        """Return the arrays of a model's answers to the first FIRST_ITEMS search items of each task.

        The arrays have the same names as in `Scores.items`.

        Raises:
            NotFiniteError: A log-likelihood is not finite, or an item has no score.
        """
        parts = [
            replace(part, indices=part.indices[:FIRST_ITEMS]) for part in self.parts if part.name is ItemSet.SEARCH
        ]
        return {
            str(part.result(what)): array
            for part in parts
            for what, array in results(part, answers(part.requests))[1].items()
        }

    @property
    def left_out(self) -> dict[str, int]:
        """The number of items for which the metric is not defined, for each task that has such items."""
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts[part.task.name] -= len(part.indices)
            if part.name is not ItemSet.VERDICT:  # search and verdict share a task's items
                counts[part.task.name] += len(part.task)
        return {name: count for name, count in counts.items() if count}

    @property
    def summary(self) -> dict[str, Any]:
        """What is scored, as it is written to the record."""
        return {
            "metric": self.metric,
            **({"metrics": self.metrics} if len(set(self.metrics.values())) > 1 else {}),
            "items": {part.full_name: len(part.indices) for part in self.parts},
            "left_out": self.left_out,
            **{
                name: entry
                for part in self.parts
                if part.name is ItemSet.SEARCH
                for name, entry in part.task.described(part.metric).items()
            },
            **({"tests_shown_as": shown} if (shown := self._tests_shown_as()) else {}),
            **({"samples": samples} if (samples := self._samples()) else {}),
            "truncated": sum(self._is_truncated(request) for part in self.parts for request in part.requests),
        }

    def _tests_shown_as(self) -> dict[str, str]:
        """Return under which name reports show the score of a test task, for each task that is scored by a loss."""
        tests = [part for part in self.parts if part.name is ItemSet.TEST]
        described = {part.task.name: part.task.described(part.metric) for part in tests}
        return {name: str(entries["shown_as"]) for name, entries in described.items() if "shown_as" in entries}

    def _samples(self) -> list[dict[str, Any]]:
        """Return the first few verdict items of each task that is answered by generation, for the report."""
        found = []
        for part in self.parts:
            if part.name is ItemSet.VERDICT:
                chosen = part.indices[:SAMPLES]
                for item, number in zip(chosen, part.task.identifiers(chosen).tolist(), strict=True):
                    if (sample := part.task.sample(int(item))) is not None:
                        prompt, right = sample
                        shown = {"task": part.task.name, "item": number, "prompt": prompt[-LONGEST:]}
                        found.append({**shown, "right": right[:LONGEST]})
        return found

    def _is_truncated(self, request: Request) -> bool:
        """Return whether a request is too long for the model, so its beginning is cut off."""
        if isinstance(request, Prompt):
            return len(request.tokens) > request.settings.room(self.context)
        _, context, continuation = request
        return len(context) + len(continuation) > self.context + 1


def check_distinct_tasks(tasks: Sequence[Task], tests: Sequence[Task]) -> None:
    """Raise UserError if two tasks share a subtask or a name.

    A validation task and a test task may have the same name, but no subtask in common.

    Args:
        tasks: The validation tasks.
        tests: The test tasks.
    """
    seen: dict[str, str] = {}
    for kind, group in (("validation", tasks), ("test", tests)):
        for task in group:
            for stratum in task.strata:
                if stratum in seen:
                    both = "both" if seen[stratum] != kind else "twice among"
                    joint = "validation and test" if both == "both" else f"the {kind} tasks"
                    raise UserError(f"task {stratum} is {both} {joint}: the same items would be scored twice")
            seen.update((stratum, kind) for stratum in task.strata)
        for name, count in Counter(task.name for task in group).items():
            if count > 1:
                raise UserError(f"{count} {kind} tasks have the name {name}: their scores could not be told apart")


def check_flags(validation: config.Validation, tasks: Sequence[Task], tests: Sequence[Task]) -> None:
    """Raise UserError for settings of generated answers, or for a permission, that have no effect with these tasks.

    Args:
        validation: Section `validation` of a study.
        tasks: The validation tasks.
        tests: The test tasks.
    """
    if validation.generation and not any(isinstance(request, Prompt) for task in tasks for request in task.requests):
        names = {"max_gen_toks": "--max-new-tokens", "until": "--stop-string", "temperature": "--temperature"}
        given = " and ".join(names[name] for name in validation.generation)
        raise UserError(f"{given} would have no effect: no validation task generates answers; leave it out")
    leaves = [leaf for task in (*tasks, *tests) if isinstance(task, HarnessTask) for leaf in task.leaves]
    if validation.confirm_run_unsafe_code and not any(getattr(leaf, "UNSAFE_CODE", False) for leaf in leaves):
        raise UserError(
            "--confirm-run-unsafe-code would have no effect: no task runs the code that a model writes; leave it out"
        )


def check_first_token(base: Base) -> None:
    """Raise UserError if the tokenizer has neither BOS nor EOS; the harness puts one before a text without context."""
    if base.tokenizer.bos_token_id is None and base.tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has neither a BOS nor an EOS token, and scoring needs one to begin a text with; "
            'set one in the model\'s tokenizer_config.json (such as "bos_token": "<s>", a token of its vocabulary)'
        )


def choose_metrics(tasks: Sequence[Task], wanted: str | None, preferred: Sequence[str] = ()) -> list[str]:
    """Return the metric by which each task is scored.

    If none is wanted, take the first preferred or default metric that all tasks have. If they have none in common, each
    task is scored by its own first default metric, such as accuracy for choices and exact match for answers.

    Args:
        tasks: The tasks.
        wanted: The metric that the user asked for. If a task filters answers in several ways, a metric without a
            filter's name means that of the task's first filter.
        preferred: Metrics to try before the defaults.

    Raises:
        UserError: A task lacks the wanted metric, or the tasks' own metrics have different scales.
    """
    if wanted is not None:
        return [_named(task, wanted) for task in tasks]
    common = [metric for metric in tasks[0].metrics if all(metric in task.metrics for task in tasks)]
    for metric in (*preferred, *tasks[0].default_metrics):
        if metric in common:
            return [metric] * len(tasks)
    own = []
    for task in tasks:
        if (default := next((metric for metric in task.default_metrics if metric in task.metrics), None)) is None:
            known = ", ".join(task.metrics)
            raise UserError(f"task {task.name} has no accuracy; choose its metric with `--metric`: {known}")
        own.append(default)
    if not all(task.is_share(metric) for task, metric in zip(tasks, own, strict=True)):
        pairs = ", ".join(f"{task.name} by {metric}" for task, metric in zip(tasks, own, strict=True))
        raise UserError(f"a mean of scores with different scales is meaningless ({pairs}): use tasks of one kind")
    return own


def _named(task: Task, wanted: str) -> str:
    """Return the name that a task has for a metric; raise UserError if it has none."""
    known = [metric for metric in task.metrics if wanted in (metric, metric.partition(",")[0])]
    if not known:
        raise UserError(f"task {task.name} has no metric {wanted}{suggestion(wanted, task.metrics)}")
    return known[0]


def results(part: Part, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Arrays]:
    """Return the per-item values of all metrics and the arrays for the record, as `Task.values` does.

    Args:
        part: The part.
        answers: The answers to the part's requests, in the order of the requests.

    Raises:
        NotFiniteError: A log-likelihood is nan, or the part's metric is not a finite number for an item.
    """
    values, arrays = part.task.values(part.indices, answers)
    scores = values[part.metric]
    if not np.isfinite(scores).all():
        row = int(np.isfinite(scores).argmin())
        label = part.task.label(part.indices[row])
        raise UndefinedScoreError(f"{label}: its {part.metric} is {scores[row]}, not a number")
    return values, arrays


def mean_of(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the mean of k independent scores, and its standard error: sqrt(sum of squared errors) / k."""
    scores, errors = zip(*pairs, strict=True)
    return sum(scores) / len(scores), math.sqrt(sum(error**2 for error in errors)) / len(errors)
