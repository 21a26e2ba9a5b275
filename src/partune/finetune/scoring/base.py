"""Define tasks: the items by which models are scored, with the requests that a model answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from partune.errors import UserError
from partune.finetune.failures import TrialError
from partune.finetune.scoring.decoding import GenerationSettings
from partune.trial.contents import Content

# A request for a likelihood in lm-evaluation-harness's form: (context, continuation) as text, then the tokens of both.
Continuation = tuple[tuple[str, str], list[int], list[int]]
# The log-likelihood of a continuation, and whether greedy decoding would produce it.
Likelihood = tuple[float, bool]


@dataclass(frozen=True)
class Prompt:
    """A request for a text.

    Attributes:
        text: The text to answer.
        tokens: The tokens of the text.
        settings: How the answer is generated.
    """

    text: str
    tokens: tuple[int, ...]
    settings: GenerationSettings


Request = Continuation | Prompt
Answer = Likelihood | str  # the answer to a continuation is its likelihood; the answer to a prompt is a text
# Takes requests; returns one model's answers.
Answers = Callable[[Sequence[Request]], list[Answer]]
# Takes the name of a `scores.Part` and its requests; returns one list of answers per model.
PackAnswers = Callable[[str, Sequence[Request]], list[list[Answer]]]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Arrays = dict[str, npt.NDArray[Any]]

MIN_ITEMS = 2  # the fewest items for which a paired test and a standard error are defined


class NotFiniteError(TrialError):
    """A log-likelihood is nan, or an item has no score."""


class UndefinedScoreError(NotFiniteError):
    """An item has no finite score, or the code of its task fails on it."""


class Task(ABC):
    """Items by which models are scored, and the requests that a model must answer for them.

    Attributes:
        name: The name under which results are recorded.
        requests: The requests of all items, item by item.
    """

    name: str
    requests: tuple[Request, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def span(self, item: int) -> slice:
        """Return the slice of an item's requests in `requests`."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The metrics whose score is a mean of values of the items. Higher is better."""

    @property
    @abstractmethod
    def default_metrics(self) -> tuple[str, ...]:
        """The metrics to try if the user names none, in order of preference."""

    @property
    @abstractmethod
    def strata(self) -> tuple[str, ...]:
        """The names of the strata (subtasks) from which the items come."""

    @abstractmethod
    def stratum(self, item: int) -> int:
        """Return the index of an item's stratum in `strata`."""

    @abstractmethod
    def label(self, item: int) -> str:
        """Return the name of an item for messages."""

    @abstractmethod
    def scorable(self, metric: str) -> list[int]:
        """Return the indices of the items for which a metric is defined; raise UserError if there are none."""

    @abstractmethod
    def split(self, seed: int, verdict_share: float, metric: str) -> tuple[Ints, Ints]:
        """Split the items for which a metric is defined into search items and verdict items.

        The split depends only on the seed and on the items.

        Args:
            seed: The seed of the study.
            verdict_share: The share of items to keep for the verdict.
            metric: The metric by which the task is scored.

        Returns:
            The indices of the search items and those of the verdict items, each in ascending order.

        Raises:
            UserError: There are fewer than MIN_ITEMS search items or verdict items.
        """

    @abstractmethod
    def weights(self, indices: Ints, metric: str) -> Floats:
        """Return the weights of items in the score of a metric, (n,), which sum to 1.

        Args:
            indices: (n,), the indices of the items.
            metric: The metric.
        """

    @abstractmethod
    def values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Arrays]:
        """Return the per-item values of all metrics, and the arrays for the record.

        Args:
            indices: (n,), the indices of the items.
            answers: The answers to the items' requests, in the order of the requests.

        Returns:
            The values by metric, each (n,), and up to two arrays: LIKELIHOODS, (n, largest number of continuations per
            item), and TEXTS, (n, largest number of answers per item). A value or log-likelihood is nan if the item does
            not have that metric or continuation.

        Raises:
            NotFiniteError: A log-likelihood is nan, or an item cannot be scored.
        """

    @abstractmethod
    def aggregate(self, indices: Ints, values: Floats, metric: str) -> tuple[float, float]:
        """Return the score of a metric and its standard error.

        Args:
            indices: (n,), the indices of the items.
            values: (n,), the metric's values of the items; nan for an item without a value.
            metric: The metric.
        """

    @property
    @abstractmethod
    def content(self) -> Content | None:
        """The digest of all that scores depend on in the items; None if the training rows' digest includes it."""

    def check(self, context: int) -> None:
        """Raise UserError for an empty prompt, or a continuation that is empty or longer than the context.

        A long text before the continuation is not an error: it is truncated.

        Args:
            context: The model's context length in tokens.
        """
        for item in range(len(self)):
            for request in self.requests[self.span(item)]:
                if isinstance(request, Prompt):
                    if not request.tokens:
                        raise UserError(f"{self.label(item)}: its prompt is empty: there is nothing to continue")
                    continue
                (_, text), _, continuation = request
                if not 0 < len(continuation) <= context:
                    raise UserError(
                        f"{self.label(item)}: the choice {text[:50]!r} has {len(continuation)} tokens, "
                        f"not between 1 and {context}, the model's context length"
                    )

    def requests_of(self, indices: Ints) -> list[Request]:
        """Return the requests of some items, in the order of `indices`."""
        return [request for item in indices for request in self.requests[self.span(item)]]

    def identifiers(self, indices: Ints) -> Ints:
        """Return the number under which each item is recorded, (n,)."""
        return indices

    def recorded(self, indices: Ints) -> Mapping[str, npt.NDArray[Any]]:
        """Return further per-item arrays for the record, by name, each (n,)."""
        return {}

    def described(self, metric: str) -> Mapping[str, Any]:
        """Return further entries for the record's description of what is scored.

        Args:
            metric: The metric by which the task is scored.
        """
        return {}

    def is_share(self, metric: str) -> bool:
        """Return whether the values of a metric are shares, from 0 to 1, so that they can be averaged over tasks."""
        return True

    def sample(self, item: int) -> tuple[str, str] | None:
        """Return the prompt and the right answer of an item that is answered by generation; None for others."""
        return None

    def strata_of(self, indices: Ints) -> Ints:
        """Return the index of each item's stratum, (n,)."""
        return np.array([self.stratum(item) for item in indices], np.int64)


def weighted_mean(values: Floats, weights: Floats) -> tuple[float, float]:
    """Return the weighted mean of items and its standard error, sqrt(sum w^2 (x - mean)^2 n / (n - 1)).

    Args:
        values: (n,), the values of the items.
        weights: (n,), their weights, which sum to 1.
    """
    n = len(values)
    mean = float(weights @ values)
    return mean, math.sqrt(float((weights**2 * (values - mean) ** 2).sum()) * n / (n - 1)) if n > 1 else math.nan


def tokens_of(request: Request) -> Iterator[int]:
    """Yield all tokens of a request."""
    if isinstance(request, Prompt):
        yield from request.tokens
    else:
        yield from (*request[1], *request[2])


def distinct(requests: Sequence[Continuation]) -> tuple[list[Continuation], list[int]]:
    """Return each different request (by its tokens) once, and for every given request its index among these.

    Requests with the same tokens then get exactly the same likelihood. Two computations could differ by rounding.
    """
    index_of: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    unique: list[Continuation] = []
    indices = []
    for request in requests:
        index = index_of.setdefault((tuple(request[1]), tuple(request[2])), len(unique))
        if index == len(unique):
            unique.append(request)
        indices.append(index)
    return unique, indices
