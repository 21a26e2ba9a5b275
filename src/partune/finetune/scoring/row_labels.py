"""Score models by the labels that they give to validation rows: data with few different answers (classification).

A model's label for a row is the label with the largest likelihood after the row's training prompt. Labels include the
token that ends an answer, so that a short label has no advantage over a longer one that begins with it. The metrics are

    acc      1 if the likeliest label is the row's, otherwise 0
    margin   tanh(m / 2), where m is the log-likelihood of the row's label minus that of the likeliest other label
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from partune.errors import UserError
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
from partune.finetune.scoring.row_losses import stretches
from partune.finetune.scoring.validation_rows import ValidationRows
from partune.trial.names import LIKELIHOODS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRICS = ("acc", "margin")
MOST = 100  # the largest number of labels
LEAST = 2  # the smallest number of rows per label, on average
# Stricter limits if the user has not said that answers are labels: rows per label, words per label.
SURE, SHORT = 10, 6


@dataclass(frozen=True)
class Labels:
    """The labels of a data set: the few different answers of its rows.

    Attributes:
        answers: The tokens of each label, the most frequent first.
        of_rows: (n,), the index of each example's label.
    """

    answers: tuple[tuple[int, ...], ...]
    of_rows: Ints

    @classmethod
    def of(cls, examples: Examples, least: int = LEAST) -> Labels | None:
        """Return the labels of examples; None if the different answers are too many or too few to be labels.

        Args:
            examples: The examples at full length.
            least: The smallest number of examples per label, on average.
        """
        if (answers := _answers(examples)) is None:
            return None
        counts = Counter(answers)
        if not 2 <= len(counts) <= min(MOST, len(examples) / least):
            return None
        known = tuple(answer for answer, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
        return cls(known, _label_indices(answers, known))

    def among(self, examples: Examples) -> Labels | None:
        """Return these labels for other examples; None if one of their answers is not among these labels."""
        answers = _answers(examples)
        if answers is None or not set(answers) <= set(self.answers):
            return None
        return Labels(self.answers, _label_indices(answers, self.answers))

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return the texts of the labels, without special tokens."""
        return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in self.answers]

    def named(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return the labels' names: their texts, with a number if two texts are the same."""
        texts = self.texts(tokenizer)
        counts = Counter(texts)
        return [text if counts[text] == 1 else f"{text} ({number})" for number, text in enumerate(texts)]

    def select(self, indices: Ints) -> Labels:
        """Return the labels for some of the examples."""
        return Labels(self.answers, self.of_rows[indices])


class RowLabels(ValidationRows):
    """The labels of validation rows.

    Args:
        examples: The rows at full length.
        labels: The labels, with that of each row.
        names: The texts of the labels.
        own_file: Whether the rows come from their own file, not from the training data.
    """

    def __init__(self, examples: Examples, labels: Labels, names: Sequence[str], own_file: bool = False) -> None:
        super().__init__(examples, own_file, labels.of_rows)
        self.labels, self.names = labels, tuple(names)
        requests: list[Continuation] = []
        for i in range(len(examples)):
            tokens, trained = examples.example(i)
            prompt = tokens[: int(trained.argmax())].tolist()
            requests += [(("", name), prompt, list(answer)) for name, answer in zip(names, labels.answers, strict=True)]
        self.requests = tuple(requests)

    def span(self, item: int) -> slice:
        """Return the slice of a row's requests in `requests`: one for each label."""
        count = len(self.labels.answers)
        return slice(item * count, (item + 1) * count)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy and margin."""
        return METRICS

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Accuracy."""
        return METRICS

    def described(self, metric: str) -> Mapping[str, Any]:
        """Return the entry with the names of the labels."""
        return {"labels": list(self.names)}

    def weights(self, indices: Ints, metric: str) -> Floats:
        """Return equal weights, (n,)."""
        return np.full(len(indices), 1 / len(indices))

    def values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Arrays]:
        """Return accuracy and margin of each row, and the log-likelihoods of all labels, (n, labels)."""
        likelihoods = np.array([answer[0] for answer in answers]).reshape(len(indices), -1)
        if (wrong := np.isnan(likelihoods).any(axis=1)).any():
            raise NotFiniteError(
                f"the model's log-likelihoods are not finite ({self.label(indices[int(wrong.argmax())])})"
            )
        rows, gold = np.arange(len(indices)), self.labels.of_rows[indices]
        others = likelihoods.copy()
        others[rows, gold] = -math.inf
        margin = np.tanh((likelihoods[rows, gold] - others.max(axis=1)) / 2)
        return {"acc": (likelihoods.argmax(axis=1) == gold).astype(float), "margin": margin}, {LIKELIHOODS: likelihoods}

    def aggregate(self, indices: Ints, values: Floats, metric: str) -> tuple[float, float]:
        """Return the mean of some rows and its standard error."""
        return weighted_mean(values, self.weights(indices, metric))

    def recorded(self, indices: Ints) -> Mapping[str, Ints]:
        """Return the index of each row's own label, under the name "gold"."""
        return {"gold": self.labels.of_rows[indices]}


def _answers(examples: Examples) -> list[tuple[int, ...]] | None:
    """Return the tokens of each example's answer; None if an example has no prompt, or more than one answer."""
    answers: list[tuple[int, ...]] = []
    for i in range(len(examples)):
        tokens, trained = examples.example(i)
        spans = stretches(trained)
        if len(spans) != 1 or spans[0][0] == 0:
            return None
        answers.append(tuple(tokens[slice(*spans[0])].tolist()))
    return answers


def _label_indices(answers: Sequence[tuple[int, ...]], known: Sequence[tuple[int, ...]]) -> Ints:
    """Return the index of each answer among the known ones, (n,)."""
    index = {answer: number for number, answer in enumerate(known)}
    return np.array([index[answer] for answer in answers], np.int64)


def evident_labels(examples: Examples, tokenizer: PreTrainedTokenizerBase) -> Labels | None:
    """Return the labels of examples whose answers are few and short; None if the answers may be something else.

    Answers of rows of the format `label` are always labels, so they may be rare and long.

    Args:
        examples: The examples at full length.
        tokenizer: The base model's tokenizer.
    """
    if examples.reading.get("layout") == "label":
        return Labels.of(examples)
    labels = Labels.of(examples, SURE)
    if labels is None or any(len(text.split()) > SHORT for text in labels.texts(tokenizer)):
        return None
    return labels


def require_labels(path: str, metric: str, examples: Examples) -> Labels:
    """Return the labels of examples; raise UserError if there are none, although the metric needs them.

    Args:
        path: The path of the data.
        metric: The metric that was asked for.
        examples: The examples at full length.
    """
    if (labels := Labels.of(examples)) is None:
        fault = _fault(examples)
        raise UserError(
            f"{path}: metric {metric} needs labels, but {fault}; rows with labels have a prompt and one of 2 to "
            f"{MOST} different answers, with at least {LEAST} rows for each on average; use `--metric loss`, or name a "
            "task (`--task`)"
        )
    return labels


def _fault(examples: Examples) -> str:
    """Return why the answers of examples are not labels."""
    if (answers := _answers(examples)) is None:
        return "a row has no prompt, or more than one answer"
    different = len(set(answers))
    if different == 1:
        return "all answers are the same"
    return f"{len(answers)} rows have {different} different answers"
