"""Score models on parts of the tasks' items: search, rung, verdict and test items.

The scores are computed from answers to requests: log-likelihoods from lm-evaluation-harness ("the harness"), or from a
pack of trials that share one base model. The metrics are those that a task defines (accuracies) and two continuous ones
that respond to any change of the model. Higher is better for all of them:

    loss     the log-likelihood of the right choice per token (nats), which is minus the usual loss; mean over items
    margin   tanh(m / 2), where m is the log-likelihood of the right choice minus that of the best wrong one (nats).
             If p and q are the two likelihoods, this is (p - q) / (p + q), in (-1, 1). It is positive only if `acc`
             counts the item as right, and 0 if a wrong choice is as likely. It is bounded, so that no single item
             outweighs the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from partune import config
from partune.errors import UserError, suggestion
from partune.finetune.failures import TrialError
from partune.finetune.model import Base
from partune.finetune.scoring.definitions import rendering
from partune.finetune.scoring.harness import encoder
from partune.finetune.scoring.tasks import (
    ACCURACIES,
    Answer,
    Item,
    Loader,
    LogLikelihoods,
    PackAnswers,
    Request,
    Task,
)
from partune.runtime.failures import one_line
from partune.runtime.isolation import own_generators, silenced_logger
from partune.trial.names import ItemSet, ResultName, stderr_name

Floats = npt.NDArray[np.float64]

RUNG_SHARE = 0.25  # the share of a task's search items that is scored at a rung (an early-stopping point)
RUNG_ITEMS = 64  # the fewest items to score at a rung, if the task has that many search items
HANDFUL = 8  # the number of items per task whose log-likelihoods are compared to tell whether two models are the same
CONTINUOUS = ("loss", "margin")


class NotFiniteError(TrialError):
    """A log-likelihood of the model is not a finite number."""


class UndefinedScoreError(NotFiniteError):
    """An item has no finite score, or the code of its task fails on it."""


@dataclass(frozen=True)
class Part:
    """Some of a task's items.

    Attributes:
        name: The kind of items: search, verdict, test or rung.
        task: The task.
        indices: (n,), the indices of the items in `task.items`.
        metric: The metric by which the part is scored.
    """

    name: ItemSet
    task: Task
    indices: npt.NDArray[np.int64]
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
    def leaf(self) -> npt.NDArray[np.int64]:
        """(n,), the index of the leaf (subtask) that each item belongs to."""
        return np.array([self.task.items[i].leaf for i in self.indices])

    @cached_property
    def weights(self) -> Floats:
        """(n,), the weight of each item in the task's score if all items have a value; `aggregate` uses these too."""
        if self.task.weighs_by_size(self.metric):
            return np.full(len(self.indices), 1 / len(self.indices))
        _, places, sizes = np.unique(self.leaf, return_inverse=True, return_counts=True)
        shares: Floats = 1 / (len(sizes) * sizes[places])
        return shares

    @cached_property
    def requests(self) -> list[Request]:
        """The requests of all items, in the order of `indices`."""
        return [request for i in self.indices for request in self.task.requests[self.task.items[i].requests]]


@dataclass(frozen=True)
class Scores:
    """The scores of one model, under the names that they have in the record.

    Attributes:
        named: Scores by name, and their standard errors by the same names with "_stderr" appended.
        items: The results of single items by the name of the result, each (n,) or (n, choices).
        score: The study's metric on the search items (or the rung items), averaged over tasks; None if neither were
            scored.
        stderr: The standard error of `score`.
    """

    named: Mapping[str, float]
    items: Mapping[str, npt.NDArray[Any]]
    score: float | None = None
    stderr: float | None = None


class Scorer:
    """Holds all tasks and tokenised requests, and scores models on the same items in the same order every time.

    Args:
        base: The base model, whose tokenizer and context length are used.
        validation: Section `validation` of a study.
        test: Section `test` of a study.
        seed: The seed of the study, by which items are split.
        loader: Finds and builds tasks; None makes a new one.

    Raises:
        UserError: A task cannot be loaded, is not multiple-choice, lacks the metric, or is named twice.
    """

    def __init__(
        self, base: Base, validation: config.Validation, test: config.Test, seed: int, loader: Loader | None = None
    ) -> None:
        loader = loader or Loader()
        with own_generators(base.device):
            check_first_token(base)
            encode = encoder(base)
            trusted = validation.trust_task_code
            tasks = [
                loader.load(name, encode, validation.limit, validation.fewshot, trusted) for name in validation.tasks
            ]
            tests = [loader.load(name, encode, test.limit, trusted=trusted) for name in test.tasks]
        # Check everything now that could fail later: a study must not learn at its verdict that a test has no score.
        check_apart(tasks, tests)
        for task in (*tasks, *tests):
            check_requests(task, base.context)
        self.tasks = (*tasks, *tests)
        self.metric = choose_metric(tasks, validation.metric)
        self.context = base.context
        self.parts: list[Part] = []
        self.rungs: list[Part] = []
        for task in tasks:
            search, verdict = task.split(seed, validation.verdict_share, self.metric)
            # A rung compares trials, so all of them have the same items; and few items, as every trial pays for them.
            count = max(round(RUNG_SHARE * len(search)), min(RUNG_ITEMS, len(search)))
            rung = np.sort(np.random.default_rng([seed, len(search), count]).permutation(search)[:count])
            self.parts.append(Part(ItemSet.SEARCH, task, search, self.metric))
            self.parts.append(Part(ItemSet.VERDICT, task, verdict, self.metric))
            self.rungs.append(Part(ItemSet.RUNG, task, rung, self.metric))
        for task in tests:
            metric = choose_metric([task], None, preferred=self.metric)
            self.parts.append(Part(ItemSet.TEST, task, np.array(task.scorable(metric)), metric))

    def score(self, loglikelihoods: LogLikelihoods, parts: Collection[str]) -> Scores:
        """Score one model.

        Args:
            loglikelihoods: The function that answers requests.
            parts: The names of the parts to score.

        Raises:
            NotFiniteError: A log-likelihood is not finite, or an item has no score.
        """
        return self.score_one(lambda name, requests: [loglikelihoods(requests)], parts)

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
                with rendering(part.task.trusted), silenced_logger("lm_eval.api.task"):
                    values, likelihoods = results(part, answers)
            except NotFiniteError as broken:
                return broken
            items[str(part.result("doc_id"))] = part.indices
            items[str(part.result("loglikelihood"))] = likelihoods
            if len(part.task.leaves) > 1:
                items[str(part.result("leaf"))], items[str(part.result("weight"))] = part.leaf, part.weights
            for metric, of_items in values.items():
                mean, error = aggregate(part, of_items, metric)
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

    def handful(self, loglikelihoods: LogLikelihoods) -> dict[str, Floats]:
        """Return the log-likelihoods of the choices for the first few search items of each task.

        The names are those of `Scores.items`.

        Raises:
            NotFiniteError: A log-likelihood is not finite, or an item has no score.
        """
        parts = [replace(part, indices=part.indices[:HANDFUL]) for part in self.parts if part.name is ItemSet.SEARCH]
        return {str(part.result("loglikelihood")): results(part, loglikelihoods(part.requests))[1] for part in parts}

    @property
    def left_out(self) -> dict[str, int]:
        """The number of items for which the metric is not defined, for each task that has such items."""
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts[part.task.name] -= len(part.indices)
            if part.name is not ItemSet.VERDICT:  # search and verdict share a task's items
                counts[part.task.name] += len(part.task.items)
        return {name: count for name, count in counts.items() if count}

    @property
    def summary(self) -> dict[str, Any]:
        """What is scored, as it is written to the record."""
        return {
            "metric": self.metric,
            "items": {part.full_name: len(part.indices) for part in self.parts},
            "left_out": self.left_out,
            "truncated": sum(len(c) + len(k) > self.context + 1 for part in self.parts for _, c, k in part.requests),
        }


def check_apart(tasks: Sequence[Task], tests: Sequence[Task]) -> None:
    """Raise UserError if two tasks have a subtask or their name in common.

    A validation task and a test task may have the same name, but no subtask in common.

    Args:
        tasks: The validation tasks.
        tests: The test tasks.
    """
    seen: dict[str, str] = {}
    for kind, group in (("validation", tasks), ("test", tests)):
        for task in group:
            for leaf in task.leaves:
                if leaf.task_name in seen:
                    both = "both" if seen[leaf.task_name] != kind else "twice among"
                    joint = "validation and test" if both == "both" else f"the {kind} tasks"
                    raise UserError(f"task {leaf.task_name} is {both} {joint}: the same items would be scored twice")
            seen.update((leaf.task_name, kind) for leaf in task.leaves)
        for name, count in Counter(task.name for task in group).items():
            if count > 1:
                raise UserError(f"{count} {kind} tasks have the name {name}: their scores could not be told apart")


def check_first_token(base: Base) -> None:
    """Raise UserError if the tokenizer has neither BOS nor EOS: the harness puts one before a text without context."""
    if base.tokenizer.bos_token_id is None and base.tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has neither a BOS nor an EOS token, and scoring needs one to begin a text with; "
            'set one in the model\'s tokenizer_config.json (such as "bos_token": "<s>", a token of its vocabulary)'
        )


def check_requests(task: Task, context: int) -> None:
    """Raise UserError if a choice has no tokens or more than fit into the model's context.

    A long text before the choice is no error: it is truncated.

    Args:
        task: The task.
        context: The model's context length in tokens.
    """
    for item in task.items:
        for (_, text), _, continuation in task.requests[item.requests]:
            if not 0 < len(continuation) <= context:
                leaf = task.leaves[item.leaf].task_name
                raise UserError(
                    f"task {leaf}, item {item.number}: the choice {text[:50]!r} has {len(continuation)} tokens, "
                    f"not between 1 and {context}, the model's context length"
                )


def choose_metric(tasks: Sequence[Task], wanted: str | None, preferred: str | None = None) -> str:
    """Return the metric by which tasks are scored.

    Args:
        tasks: The tasks.
        wanted: The metric that the user asked for. If it is None, the result is the first of `preferred`, acc_norm and
            acc that all tasks have.
        preferred: A metric to try before acc_norm and acc.

    Raises:
        UserError: A task lacks the wanted metric, or the tasks have none of the others in common.
    """
    known = {task.name: (*task.metrics, *CONTINUOUS) for task in tasks}
    if wanted is not None:
        for name, metrics in known.items():
            if wanted not in metrics:
                raise UserError(f"task {name} has no metric {wanted}{suggestion(wanted, metrics)}")
        return wanted
    common = [metric for metric in known[tasks[0].name] if all(metric in metrics for metrics in known.values())]
    for metric in (preferred, *ACCURACIES):
        if metric in common:
            return metric
    names = ", ".join(task.name for task in tasks)
    raise UserError(f"the tasks {names} share no accuracy; choose their metric with `--metric`: {', '.join(common)}")


def results(part: Part, answers: Sequence[tuple[float, bool]]) -> tuple[dict[str, Floats], Floats]:
    """Return the per-item values of all metrics, and the log-likelihoods of all choices.

    Args:
        part: The part.
        answers: The answers to the part's requests, in the order of the requests.

    Returns:
        The values by metric, each (n,), and the log-likelihoods, (n, most choices). Both are nan if an item has no such
        metric or choice.

    Raises:
        NotFiniteError: A log-likelihood is nan, or the part's metric is not a finite number for an item.
    """
    task = part.task
    chosen = [task.items[i] for i in part.indices]
    names = task.metrics
    values = {name: np.full(len(chosen), np.nan) for name in (*names, *CONTINUOUS)}
    likelihoods = np.full((len(chosen), max(item.choices for item in chosen)), np.nan)
    start = 0
    for row, item in enumerate(chosen):
        of_item = list(answers[start : (start := start + item.requests.stop - item.requests.start)])
        of_choices = np.array([answer[0] for answer in of_item[: item.choices]])
        if np.isnan(of_choices).any():  # accuracy would hide this: argmax returns the index of nan
            raise NotFiniteError(
                f"the model's log-likelihoods are not finite (task {task.name}, item {part.indices[row]})"
            )
        metrics = own_metrics(task, item, of_item)
        for name in names:
            values[name][row] = metrics[name]
        tokens = [len(request[2]) for request in task.requests[item.requests][: item.choices]]
        values["loss"][row], values["margin"][row] = continuous(item, of_choices, tokens)
        likelihoods[row, : item.choices] = of_choices
        if not math.isfinite(score := values[part.metric][row]):
            leaf = task.leaves[item.leaf].task_name
            raise UndefinedScoreError(f"task {leaf}, item {item.number}: its {part.metric} is {score}, not a number")
    return values, likelihoods


def own_metrics(task: Task, item: Item, answers: list[Answer]) -> dict[str, float]:
    """Return an item's values of the metrics that its task defines; nan if a value is not a number.

    Args:
        task: The task.
        item: The item.
        answers: The answers to the item's requests.

    Raises:
        UndefinedScoreError: The task's code raises an exception.
    """
    leaf = task.leaves[item.leaf]
    try:
        metrics = leaf.process_results(item.document, answers)
        return {name: _number(metrics.get(name)) for name in task.metrics}
    except Exception as error:
        fault = f"it cannot be scored ({type(error).__name__}: {one_line(error)})"
        raise UndefinedScoreError(f"task {leaf.task_name}, item {item.number}: {fault}") from error


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def continuous(item: Item, likelihoods: Floats, tokens: Sequence[int]) -> tuple[float, float]:
    """Return the metrics `loss` and `margin` of an item.

    Both are nan if no choice is right. The margin is also nan if all choices are right.

    Args:
        item: The item.
        likelihoods: (choices,), the log-likelihoods of the choices.
        tokens: (choices,), the numbers of tokens of the choices.
    """
    right = list(item.gold)
    wrong = [i for i in range(len(likelihoods)) if i not in right]
    if not right:
        return math.nan, math.nan
    best = max(right, key=lambda i: float(likelihoods[i]))
    # tanh bounds the margin, so that an item on which the model is very sure cannot outweigh all others.
    margin = math.tanh(float(likelihoods[best] - likelihoods[wrong].max()) / 2) if wrong else math.nan
    return float(likelihoods[best]) / tokens[best], margin


def aggregate(part: Part, values: Floats, metric: str | None = None) -> tuple[float, float]:
    """Return the mean and the standard error of per-item values, computed as the harness does.

    For a group, both combine the means and the standard errors of the leaves.

    Args:
        part: The part.
        values: (n,), nan for an item without a value.
        metric: The metric, which decides how leaves are weighted; None means the part's metric.
    """
    from lm_eval.api.metrics import pooled_sample_stderr, unweighted_mean_stderr

    leaf = part.leaf
    known = ~np.isnan(values)
    pools = (values[(leaf == number) & known] for number in range(len(part.task.leaves)))
    groups = [pool for pool in pools if len(pool)]
    if not groups:
        return math.nan, math.nan
    sizes = [len(group) for group in groups]
    errors = [float(group.std(ddof=1)) / math.sqrt(len(group)) if len(group) > 1 else math.nan for group in groups]
    if len(groups) == 1:
        return float(groups[0].mean()), errors[0]
    if part.task.weighs_by_size(metric or part.metric):
        return float(np.concatenate(groups).mean()), float(pooled_sample_stderr(errors, sizes))
    return float(np.mean([group.mean() for group in groups])), float(unweighted_mean_stderr(errors))


def mean_of(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the mean of k independent scores, and its standard error: sqrt(sum of squared errors) / k."""
    scores, errors = zip(*pairs, strict=True)
    return sum(scores) / len(scores), math.sqrt(sum(error**2 for error in errors)) / len(errors)
