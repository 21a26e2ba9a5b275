"""Score models by the loss of validation rows.

The score is minus the loss, so that higher is better: the mean log-likelihood (nats) over all trained tokens of the
rows. Each row is an item. Its value is the mean over its trained tokens, and its weight is its share of all trained
tokens. A row has one request for each unbroken run of trained tokens: its answer, or each answer of a conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from partune.finetune.data import Examples
from partune.finetune.scoring.base import (
    Answer,
    Arrays,
    Continuation,
    Floats,
    Ints,
    NotFiniteError,
    weighted_mean,
)
from partune.finetune.scoring.validation_rows import ValidationRows
from partune.trial.names import LIKELIHOODS

LOSS = "loss"


class RowLosses(ValidationRows):
    """The loss of validation rows.

    Args:
        examples: The rows, cut to the length that is scored.
        own_file: Whether the rows are from a file of their own, instead of from the training data.
    """

    def __init__(self, examples: Examples, own_file: bool = False) -> None:
        super().__init__(examples, own_file)
        requests: list[Continuation] = []
        self._spans: list[slice] = []
        for i in range(len(examples)):
            tokens, trained = examples.example(i)
            begin = len(requests)
            requests += [
                (("", ""), tokens[:start].tolist(), tokens[start:stop].tolist()) for start, stop in stretches(trained)
            ]
            self._spans.append(slice(begin, len(requests)))
        self.requests = tuple(requests)

    def span(self, item: int) -> slice:
        """Return the slice of a row's requests in `requests`."""
        return self._spans[item]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Minus the loss."""
        return (LOSS,)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Minus the loss."""
        return (LOSS,)

    def described(self, metric: str) -> Mapping[str, Any]:
        """Return the entry that makes reports show the score as a loss."""
        return {"shown_as": LOSS}

    def weights(self, indices: Ints, metric: str = LOSS) -> Floats:
        """Return the share of each row in the trained tokens, (n,)."""
        tokens = self.examples.trained_lengths[indices].astype(float)
        shares: Floats = tokens / tokens.sum()
        return shares

    def values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Arrays]:
        """Return minus the loss of each row, and the log-likelihoods of its runs of trained tokens."""
        spans = [self._spans[i] for i in indices]
        counts = np.array([span.stop - span.start for span in spans])
        likelihoods = np.full((len(spans), int(counts.max())), np.nan)
        likelihoods[np.arange(counts.max()) < counts[:, None]] = [answer[0] for answer in answers]
        sums = np.nansum(likelihoods, axis=1)
        if (missing := np.isnan(likelihoods).sum(axis=1) > likelihoods.shape[1] - counts).any():
            raise NotFiniteError(
                f"the model's log-likelihoods are not finite ({self.label(indices[int(missing.argmax())])})"
            )
        return {LOSS: sums / self.examples.trained_lengths[indices]}, {LIKELIHOODS: likelihoods}

    def aggregate(self, indices: Ints, values: Floats, metric: str = LOSS) -> tuple[float, float]:
        """Return minus the loss per trained token of some rows, and its standard error."""
        return weighted_mean(values, self.weights(indices))


def stretches(trained: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """Return the beginning and the end of each unbroken run of trained tokens."""
    edges = np.flatnonzero(np.diff(trained.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
