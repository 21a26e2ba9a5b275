"""Score models by the loss of validation rows: rows of training data that are held out and never trained on.

The score is minus the loss: the mean log-likelihood per trained token (nats) over all trained tokens of the rows, so
that higher is better. Each row is an item whose value is its mean per token, and whose weight is its share of the
tokens. A row asks one request per trained stretch of tokens: its answer, or each answer of a conversation.

Rows with the same prompt stay together, because a model that was trained on a row knows much about its twin. They are
all trained on, or all search items, or all verdict items.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property

import numpy as np

from partune.errors import UserError
from partune.finetune.data import Examples
from partune.finetune.scoring.base import (
    MIN_ITEMS,
    Answer,
    Floats,
    Ints,
    NotFiniteError,
    Request,
    Task,
    weighted_mean,
)
from partune.trial.contents import Content
from partune.trial.names import ROWS

LOSS = "loss"


class HeldOutRows(Task):
    """The loss of validation rows.

    Args:
        examples: The rows, cut to the length that is scored.
        apart: Whether the rows are from a file of their own, instead of from the training data.
    """

    def __init__(self, examples: Examples, apart: bool = False) -> None:
        self.name = ROWS
        self.examples, self.apart = examples, apart
        requests: list[Request] = []
        self._spans: list[slice] = []
        for i in range(len(examples)):
            tokens, trained = examples.example(i)
            begin = len(requests)
            requests += [
                (("", ""), tokens[:start].tolist(), tokens[start:stop].tolist()) for start, stop in stretches(trained)
            ]
            self._spans.append(slice(begin, len(requests)))
        self.requests = tuple(requests)

    def __len__(self) -> int:
        return len(self.examples)

    def span(self, item: int) -> slice:
        """Return where a row's requests are in `requests`."""
        return self._spans[item]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Minus the loss."""
        return (LOSS,)

    @property
    def usual(self) -> tuple[str, ...]:
        """Minus the loss."""
        return (LOSS,)

    @property
    def strata(self) -> tuple[str, ...]:
        """One stratum: all rows are of the same kind."""
        return (ROWS,)

    def stratum(self, item: int) -> int:
        """Return 0."""
        return 0

    def label(self, item: int) -> str:
        """Return the name of a row for messages."""
        return f"validation row {self.examples.numbers[item]}"

    def identifiers(self, indices: Ints) -> Ints:
        """Return the number of each row in its file, counted from 1, (n,)."""
        return self.examples.numbers[indices]

    def scorable(self, metric: str) -> list[int]:
        """Return the indices of all rows, each of which has a trained token."""
        return list(range(len(self)))

    @cached_property
    def groups(self) -> Ints:
        """The number of the group of rows that stay together, for each row, (n,)."""
        return grouped(self.examples)

    def split(self, seed: int, verdict_share: float, metric: str = LOSS) -> tuple[Ints, Ints]:
        """Split the rows into search items and verdict items; rows with the same prompt stay together."""
        verdict = drawn(self.groups, verdict_share, np.random.default_rng([seed, len(self), 1]))
        search = np.setdiff1d(np.arange(len(self)), verdict)
        if min(len(search), len(verdict)) < MIN_ITEMS:
            raise UserError(
                f"the validation rows are too few ({len(self)}): {len(search)} would be searched on and "
                f"{len(verdict)} kept for the verdict, and each needs at least {MIN_ITEMS}; use more rows, raise "
                "`--validation-split`, or name a file of validation rows (`--validation-data`)"
            )
        return search, verdict

    def weights(self, indices: Ints, metric: str = LOSS) -> Floats:
        """Return the share of each row in the trained tokens, (n,)."""
        tokens = self.examples.trained_lengths[indices].astype(float)
        shares: Floats = tokens / tokens.sum()
        return shares

    def values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Floats]:
        """Return minus the loss of each row, and the log-likelihoods of its stretches."""
        spans = [self._spans[i] for i in indices]
        counts = np.array([span.stop - span.start for span in spans])
        likelihoods = np.full((len(spans), int(counts.max())), np.nan)
        likelihoods[np.arange(counts.max()) < counts[:, None]] = [answer[0] for answer in answers]
        sums = np.nansum(likelihoods, axis=1)
        if (missing := np.isnan(likelihoods).sum(axis=1) > likelihoods.shape[1] - counts).any():
            raise NotFiniteError(
                f"the model's log-likelihoods are not finite ({self.label(indices[int(missing.argmax())])})"
            )
        return {LOSS: sums / self.examples.trained_lengths[indices]}, likelihoods

    def aggregate(self, indices: Ints, values: Floats, metric: str = LOSS) -> tuple[float, float]:
        """Return minus the loss per trained token of some rows, and its standard error."""
        return weighted_mean(values, self.weights(indices))

    @property
    def content(self) -> Content | None:
        """The digest of the rows' tokens and masks; None if they are from the training data."""
        return Content(self.examples.digest, f"{len(self)} rows") if self.apart else None


def stretches(trained: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """Return the beginning and the end of each unbroken stretch of trained tokens."""
    edges = np.flatnonzero(np.diff(trained.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def held_out(examples: Examples, share: float, seed: int) -> tuple[Ints, Ints]:
    """Draw validation rows; return the indices of the examples to train on and of those to hold out, both ascending.

    Args:
        examples: All examples of the training data.
        share: The share of examples to hold out.
        seed: The seed of the study.
    """
    validation = drawn(grouped(examples), share, np.random.default_rng([seed, len(examples), 0]))
    return np.setdiff1d(np.arange(len(examples)), validation), validation


def grouped(examples: Examples) -> Ints:
    """Return the number of each example's group, (n,): examples of one row or with one prompt are in one group.

    A text without a prompt is in a group with its copies. So are all examples if more than half of them would otherwise
    be in one group: such a prompt tells nothing about the answers.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    def groups(keys: Sequence[Hashable]) -> Ints:
        """Return the groups of examples that are of one row or have the same key."""
        numbers: dict[Hashable, int] = {}
        by_key = np.array([numbers.setdefault(key, len(numbers)) for key in keys]) + len(keys)
        nodes = np.concatenate([np.arange(len(keys)), np.arange(len(keys))])
        rows = np.unique(examples.numbers, return_inverse=True)[1] + len(keys) + len(numbers)
        size = len(keys) + len(numbers) + int(rows.max(initial=0)) + 1
        links = (np.ones(2 * len(keys)), (nodes, np.concatenate([by_key, rows])))
        labels = connected_components(coo_array(links, shape=(size, size)), directed=False)[1][: len(keys)]
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)

    texts = [examples.example(i) for i in range(len(examples))]
    prompts = [tokens[: int(trained.argmax())].tobytes() for tokens, trained in texts]
    wholes = [tokens.tobytes() for tokens, _ in texts]
    found = groups([prompt or whole for prompt, whole in zip(prompts, wholes, strict=True)])
    return groups(wholes) if 2 * np.bincount(found).max() > len(texts) else found


def drawn(groups: Ints, share: float, rng: np.random.Generator) -> Ints:
    """Draw whole groups at random until they have a share of the members; return the members' indices, ascending.

    A group that would take the number further from the share than it is without the group is passed over.

    Args:
        groups: (n,), the number of each member's group.
        share: The share of members to draw.
        rng: The source of the order in which groups are drawn.
    """
    sizes = np.bincount(groups)
    wanted, taken = share * len(groups), 0
    chosen = []
    for group in rng.permutation(len(sizes)):
        if abs(taken + sizes[group] - wanted) <= abs(taken - wanted):
            chosen.append(group)
            taken += sizes[group]
    return np.flatnonzero(np.isin(groups, chosen))
