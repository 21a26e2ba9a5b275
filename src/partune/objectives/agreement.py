"""Check whether two models give the same answers: equal log-likelihoods, up to rounding, and equal texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from partune.trial import Observation
from partune.trial.names import LIKELIHOODS, TEXTS, ResultName

# The largest allowed difference between two computations of the same log-likelihood x: (absolute, relative to |x|).
# Adding the same products in another order changes some units in the last place of the precision. These bounds are
# several times the differences observed, and far below the differences that a wrong scale or a missing layer causes.
TOLERANCE = {"fp32": (1e-4, 1e-5), "bf16": (0.1, 0.02), "fp16": (0.02, 0.005)}
# The largest allowed share of texts that differ, by how many of their first characters are compared (None: all).
# If two tokens are nearly tied, rounding decides which one greedy decoding takes, and the rest of the text differs. In
# fp32, near ties are rare, so few texts may differ. In half precision, they are common, and long texts seldom agree to
# their ends. But early differences are rare even there, while a wrong scale or a missing adapter changes the first
# characters. If near ties changed 2 % of the tokens in bf16, and a token had 4 characters, 0.3 % of equal models would
# exceed each of the two limits on 8 items (binomial), and none on 60. (With the demo's model in bf16, batches of
# another size changed 2 % of 768 texts of 24 tokens, and 0.7 % within 8 characters.)
DIFFERING: dict[str, dict[int | None, float]] = {
    "fp32": {None: 0.02},
    "bf16": {8: 0.25, 32: 0.5},
    "fp16": {8: 0.125, 32: 0.25},
}


def difference(base: Observation, zero: Observation, dtype: str) -> str | None:
    """Describe how the answers of two models differ beyond rounding; None if they agree.

    Log-likelihoods must agree on every item scored for both, within TOLERANCE. The models can then prefer different
    choices only in a near tie. Texts must agree on most of these items (see DIFFERING).

    Args:
        base: The observation of the base model, with per-item results.
        zero: The observation of a model that should be the same, with per-item results.
        dtype: The precision of both: fp32, bf16 or fp16.

    Returns:
        The name of the task, the number of items that differ and the largest difference, or another reason why the
        answers cannot be compared; None if they agree.
    """
    return difference_of_items(base.items, zero.items, dtype, zero.error or base.error)


def difference_of_items(
    base: Mapping[str, npt.NDArray[Any]], zero: Mapping[str, npt.NDArray[Any]], dtype: str, failed: str | None = None
) -> str | None:
    """Describe how the answers of two models differ, as `difference` does.

    Args:
        base: The per-item results of the base model, by name.
        zero: The per-item results of a model that should be the same.
        dtype: The precision of both: fp32, bf16 or fp16.
        failed: What to return if no item was scored for both.
    """
    absolute, relative = TOLERANCE[dtype]
    # Answers have a row per item and a column per choice or text. The values of a metric, whatever its name, do not.
    names = (ResultName.of_array(name) for name in base.keys() & zero.keys() if base[name].ndim > 1)
    shared = sorted((name for name in names if name is not None and name.what in (LIKELIHOODS, TEXTS)), key=str)
    if not shared:
        return failed or "no item was scored for both"
    for name in shared:
        expected, got = base[str(name)], zero[str(name)]
        if expected.shape != got.shape:
            return f"{name}: {expected.shape} answers for the base, {got.shape} for learning rate 0"
        if name.what == TEXTS:
            if description := _different_texts(name, expected, got, dtype):
                return description
            continue
        known = ~np.isnan(expected)  # nan pads the rows of items that have fewer choices than others
        excess = np.where(known, np.abs(expected - got) - absolute - relative * np.abs(expected), 0.0)
        excess = np.where(np.isnan(excess), np.inf, excess)  # nan > 0 is False, and would count as agreement
        if (excess > 0).any():
            row, column = np.unravel_index(int(excess.argmax()), excess.shape)
            wrong = int((excess > 0).any(axis=1).sum())
            return (
                f"{wrong} of {len(expected)} items of {ResultName(name.items, name.task)} differ, most in "
                f"log-likelihood {expected[row, column]:.6g} against {got[row, column]:.6g} ({dtype})"
            )
    return None


def _different_texts(
    name: ResultName, expected: npt.NDArray[np.str_], got: npt.NDArray[np.str_], dtype: str
) -> str | None:
    """Describe how generated texts differ, if more do than near ties explain.

    Args:
        name: The name of the texts.
        expected: (n, texts), the texts of the base model.
        got: (n, texts), those of the model that should be the same.
        dtype: The precision of both.
    """
    for length, share in DIFFERING[dtype].items():
        before, after = (texts if length is None else texts.astype(f"<U{length}") for texts in (expected, got))
        differ = before != after
        wrong = differ.any(axis=1)
        if wrong.sum() <= max(1.0, share * len(expected)):
            continue
        first = np.unravel_index(int(differ.argmax()), differ.shape)
        within = "" if length is None else f" within their first {length} characters"
        return (
            f"{int(wrong.sum())} of {len(expected)} answers to {ResultName(name.items, name.task)} differ{within}; the "
            f"first is {str(got[first])!r:.50}, not {str(expected[first])!r:.50} ({dtype})"
        )
    return None


def difference_of_first(scored: Observation, answers: Mapping[str, npt.NDArray[Any]], dtype: str) -> str | None:
    """Describe how a model's answers to the first items of each task differ from those on record.

    Args:
        scored: The observation on record, with per-item results of all items.
        answers: The log-likelihoods and texts of the first n items of each task. The key is a name as in
            `scored.items`; the value is an array (n, choices) or (n, texts).
        dtype: The precision of both.

    Returns:
        The description that `difference` returns for these items; None if they agree.
    """
    shared = {name: scored.items[name] for name in answers if name in scored.items and scored.items[name].ndim > 1}
    expected = {name: rows[: len(answers[name]), : answers[name].shape[1]] for name, rows in shared.items()}
    before, after = (dataclasses.replace(scored, items=items) for items in (expected, answers))
    return difference(before, after, dtype)
