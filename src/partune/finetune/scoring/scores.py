"""Scores of models on parts of the tasks' items: search, verdict and test; from answers, the harness's or a pack's.

Metrics are the task's own (accuracies), and two that move with every bit of the model; all are higher for the better:

    loss     minus the negative log-likelihood of the right choice, per token of it (nats), the mean over items
    margin   tanh(m / 2), m the log-likelihood of the right choice less that of the best wrong one (nats): for their
             likelihoods p and q it is (p - q) / (p + q), in (-1, 1), positive only where `acc` counts the item, and 0
             where a wrong choice is as likely. Bounded, so that no single item outweighs the others.
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

RUNG_SHARE, RUNG_ITEMS = 0.25, 64  # of the search items that a rung scores; at least so many, where they are there
HANDFUL = 8  # items of a task that tell whether two models are the same
CONTINUOUS = ("loss", "margin")


class NotFiniteError(TrialError):
    """The model's log-likelihoods are no numbers."""


class UndefinedScoreError(NotFiniteError):
    """A task's own code gives no number for an item, or fails on it."""


@dataclass(frozen=True)
class Part:
    """Some of a task's items.

    Attributes:
        name: search, verdict, test or rung.
        task: The task.
        indices: (n,), the items.
        metric: What the part is judged by.
    """

    name: ItemSet
    task: Task
    indices: npt.NDArray[np.int64]
    metric: str

    @property
    def full_name(self) -> str:
        """Its name among all parts."""
        return str(self.result())

    def result(self, what: str = "") -> ResultName:
        """Return the name of its score, or of what there is of each of its items."""
        return ResultName(self.name, self.task.name, what)

    @cached_property
    def leaf(self) -> npt.NDArray[np.int64]:
        """(n,), number of the leaf of a group that each item belongs to."""
        return np.array([self.task.items[i].leaf for i in self.indices])

    @cached_property
    def weights(self) -> Floats:
        """(n,), share of each item in the task's score, as `aggregate` weighs items that all have a value."""
        if self.task.weighs_by_size(self.metric):
            return np.full(len(self.indices), 1 / len(self.indices))
        _, places, sizes = np.unique(self.leaf, return_inverse=True, return_counts=True)
        shares: Floats = 1 / (len(sizes) * sizes[places])
        return shares

    @cached_property
    def requests(self) -> list[Request]:
        """The items' requests, in their order."""
        return [request for i in self.indices for request in self.task.requests[self.task.items[i].requests]]


@dataclass(frozen=True)
class Scores:
    """Named scores with their standard errors ("..._stderr"), and per-item results; named as in an Observation.

    Attributes:
        named: Scores by name.
        items: Per-item results by name, (n,) or (n, choices).
        score: The chosen metric on the search items, the mean over tasks; None where these were not asked for.
        stderr: Its standard error.
    """

    named: Mapping[str, float]
    items: Mapping[str, npt.NDArray[Any]]
    score: float | None = None
    stderr: float | None = None


class Scorer:
    """Tasks and tokenised requests, resident; scores the same items in the same order every time.

    Args:
        base: The base model, for its tokenizer and context.
        validation: Section `validation` of a study.
        test: Section `test` of a study.
        seed: Seed of the study, which splits the items.
        loader: Finds and builds tasks.

    Raises:
        UserError: A task cannot be had, is not one of choices, lacks the metric, or is given twice.
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
        # All that could fail later is asked now: a study must not find out at its verdict that a test has no score.
        check_apart(tasks, tests)
        for task in (*tasks, *tests):
            check_requests(task, base.context)
        self.tasks = (*tasks, *tests)
        self.metric = choose_metric(tasks, validation.metric)
        self.context = base.context
        self.parts: list[Part] = []
        self.rungs: list[Part] = []  # some of the search items, the same for all trials
        for task in tasks:
            search, verdict = task.split(seed, validation.verdict_share, self.metric)
            # Few items, as a rung is paid for by every trial, and the same for all: they are compared at it.
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
            loglikelihoods: Answers requests.
            parts: Parts of the items to score.

        Raises:
            NotFiniteError: A log-likelihood is no number.
        """
        return self.score_one(lambda name, requests: [loglikelihoods(requests)], parts)

    def score_one(self, answer: PackAnswers, parts: Collection[str]) -> Scores:
        """Score the only model that answers.

        Args:
            answer: Answers a part's requests.
            parts: Parts of the items to score.

        Raises:
            NotFiniteError: A log-likelihood is no number.
        """
        (scores,) = self.score_all(answer, parts)
        if isinstance(scores, Exception):
            raise scores
        return scores

    def score_all(self, answer: PackAnswers, parts: Collection[str]) -> Sequence[Scores | NotFiniteError]:
        """Score several models that answer together, each part by itself: its numbers do not depend on the others.

        Args:
            answer: Answers a part's requests, for each model.
            parts: Parts of the items to score.

        Returns:
            Each model's scores; the exception for one whose log-likelihoods are no numbers.
        """
        chosen = [part for part in (*self.parts, *self.rungs) if part.name in parts]
        answers = [answer(part.full_name, part.requests) for part in chosen]  # by part, then by model
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
            for metric, by_item in values.items():
                mean, error = aggregate(part, by_item, metric)
                name = part.result(metric)
                items[str(name)] = by_item
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
        """Return the choices' log-likelihoods of each task's first search items, named as `Scores.items` names them.

        Raises NotFiniteError.
        """
        parts = [replace(part, indices=part.indices[:HANDFUL]) for part in self.parts if part.name is ItemSet.SEARCH]
        return {str(part.result("loglikelihood")): results(part, loglikelihoods(part.requests))[1] for part in parts}

    @property
    def left_out(self) -> dict[str, int]:
        """How many items of each task, if any, have no score in its metric."""
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts[part.task.name] -= len(part.indices)
            if part.name is not ItemSet.VERDICT:  # search and verdict share a task's items
                counts[part.task.name] += len(part.task.items)
        return {name: count for name, count in counts.items() if count}

    @property
    def summary(self) -> dict[str, Any]:
        """What is scored, for the record."""
        return {
            "metric": self.metric,
            "items": {part.full_name: len(part.indices) for part in self.parts},
            "left_out": self.left_out,
            "truncated": sum(len(c) + len(k) > self.context + 1 for part in self.parts for _, c, k in part.requests),
        }


def check_apart(tasks: Sequence[Task], tests: Sequence[Task]) -> None:
    """Raise UserError where two tasks, or a validation and a test task, share items.

    Args:
        tasks: Validation tasks.
        tests: Test tasks.
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
    """Raise UserError for a tokenizer without a token that a text can begin with: the harness needs one."""
    if base.tokenizer.bos_token_id is None and base.tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has neither a BOS nor an EOS token, so that a scored text has no token to begin with: "
            'name one in the model\'s tokenizer_config.json ("bos_token": "<s>", a token of its vocabulary)'
        )


def check_requests(task: Task, context: int) -> None:
    """Raise UserError for a choice without tokens, or with more than the model reads; contexts are cut instead.

    Args:
        task: The task.
        context: Tokens that the model reads.
    """
    for item in task.items:
        for (_, text), _, continuation in task.requests[item.requests]:
            if not 0 < len(continuation) <= context:
                leaf = task.leaves[item.leaf].task_name
                raise UserError(
                    f"task {leaf}, item {item.number}: a choice has {len(continuation)} tokens: {text[:50]!r}"
                )


def choose_metric(tasks: Sequence[Task], wanted: str | None, preferred: str | None = None) -> str:
    """Return the metric that tasks are judged by: the wanted one, or the first of some that all tasks have.

    Args:
        tasks: The tasks.
        wanted: What the user asked for.
        preferred: Tried before acc_norm and acc, where nothing is wanted.

    Raises:
        UserError: A task lacks the wanted metric, or they have none in common.
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
    raise UserError(f"{names}: no accuracy that all tasks have; choose a metric among {', '.join(common)}")


def results(part: Part, answers: Sequence[tuple[float, bool]]) -> tuple[dict[str, Floats], Floats]:
    """Return per-item values by metric, each (n,), and the choices' log-likelihoods, (n, most choices).

    nan stands where an item has no such metric or choice.

    Args:
        part: The part.
        answers: To the part's requests, in their order.

    Raises:
        NotFiniteError: A log-likelihood is nan (accuracies would not show it), or the part's metric is no number.
    """
    task = part.task
    chosen = [task.items[i] for i in part.indices]
    names = task.metrics
    values = {name: np.full(len(chosen), np.nan) for name in (*names, *CONTINUOUS)}
    likelihoods = np.full((len(chosen), max(item.choices for item in chosen)), np.nan)
    position = 0
    for row, item in enumerate(chosen):
        given = list(answers[position : (position := position + item.requests.stop - item.requests.start)])
        of_choices = np.array([answer[0] for answer in given[: item.choices]])
        if np.isnan(of_choices).any():  # argmax would take nan for the best choice, and accuracy would be a number
            raise NotFiniteError(
                f"the model's log-likelihoods are not finite (task {task.name}, item {part.indices[row]})"
            )
        metrics = own_metrics(task, item, given)
        for name in names:
            values[name][row] = metrics[name]
        tokens = [len(request[2]) for request in task.requests[item.requests][: item.choices]]
        values["loss"][row], values["margin"][row] = continuous(item, of_choices, tokens)
        likelihoods[row, : item.choices] = of_choices
        if not math.isfinite(score := values[part.metric][row]):
            leaf = task.leaves[item.leaf].task_name
            raise UndefinedScoreError(f"task {leaf}, item {item.number}: its {part.metric} is {score}, no number")
    return values, likelihoods


def own_metrics(task: Task, item: Item, answers: list[Answer]) -> dict[str, float]:
    """Return the task's own metrics of an item; nan for what is no number.

    Args:
        task: The task.
        item: The item.
        answers: To its requests.

    Raises:
        UndefinedScoreError: The task's code fails.
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

    Both are nan where no choice is right, the margin too where every one is.

    Args:
        item: The item.
        likelihoods: (choices,), log-likelihoods.
        tokens: (choices,), their numbers of tokens.
    """
    right = list(item.gold)
    wrong = [i for i in range(len(likelihoods)) if i not in right]
    if not right:
        return math.nan, math.nan
    best = max(right, key=lambda i: float(likelihoods[i]))
    # tanh bounds it: one item on which a model is very sure must not outweigh all others.
    margin = math.tanh(float(likelihoods[best] - likelihoods[wrong].max()) / 2) if wrong else math.nan
    return float(likelihoods[best]) / tokens[best], margin


def aggregate(part: Part, values: Floats, metric: str | None = None) -> tuple[float, float]:
    """Return mean and standard error of per-item values as the harness has them; a group's of its leaves.

    Args:
        part: The part.
        values: (n,), nan where an item has none.
        metric: By which a group's leaves are weighed; None takes the part's.
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
    """Return the mean of independent scores, and its standard error: sqrt(sum of squares) / k."""
    scores, errors = zip(*pairs, strict=True)
    return sum(scores) / len(scores), math.sqrt(sum(error**2 for error in errors)) / len(errors)
