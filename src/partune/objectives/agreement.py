"""Whether two models give the same answers: log-likelihoods within the rounding of a precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from partune.trial import Observation
from partune.trial.names import ResultName

# Largest difference of a log-likelihood x between two computations of one model: (absolute, relative to |x|).
# Sums of the same products in another order differ by some units of the precision's last place; these bounds are
# several times what is seen, and far below what a wrong scale or a lost layer does.
TOLERANCE = {"fp32": (1e-4, 1e-5), "bf16": (0.1, 0.02), "fp16": (0.02, 0.005)}


def difference(base: Observation, zero: Observation, dtype: str) -> str | None:
    """Return where two models' answers differ by more than TOLERANCE allows.

    They have to agree on every item that both have, so that a choice can differ only where two choices nearly tie.

    Args:
        base: What the model scored, with per-item results.
        zero: What should be the same model scored.
        dtype: The precision of both: fp32, bf16 or fp16.

    Returns:
        The task whose items differ, how many do and the largest difference; None where all agree.
    """
    absolute, relative = TOLERANCE[dtype]
    names = (ResultName.of_array(name) for name in base.items.keys() & zero.items.keys())
    shared = sorted((name for name in names if name is not None and name.what == "loglikelihood"), key=str)
    if not shared:
        return zero.error or base.error or "no item was scored for both"
    for name in shared:
        expected, got = base.items[str(name)], zero.items[str(name)]
        if expected.shape != got.shape:
            return f"{name}: {expected.shape} log-likelihoods for the base, {got.shape} for learning rate 0"
        known = ~np.isnan(expected)  # items with fewer choices than others have nan in the columns that are left
        excess = np.where(known, np.abs(expected - got) - absolute - relative * np.abs(expected), 0.0)
        excess = np.where(np.isnan(excess), np.inf, excess)  # nan compares as false, and must not pass as agreement
        if (excess > 0).any():
            row, column = np.unravel_index(int(excess.argmax()), excess.shape)
            wrong = int((excess > 0).any(axis=1).sum())
            return (
                f"{wrong} of {len(expected)} items of {ResultName(name.items, name.task)} differ, most of all "
                f"log-likelihood {expected[row, column]:.6g} against {got[row, column]:.6g} ({dtype})"
            )
    return None


def difference_of_first(scored: Observation, answers: Mapping[str, npt.NDArray[Any]], dtype: str) -> str | None:
    """Return where a model's answers to the first items of each task differ from those on record.

    Args:
        scored: What was scored before, with per-item results of all items.
        answers: Log-likelihoods of the first items, (n, choices), by the names of `scored.items`.
        dtype: The precision of both.

    Returns:
        What `difference` says of these items alone.
    """
    shared = {name: scored.items[name] for name in answers if name in scored.items}
    expected = {name: rows[: len(answers[name]), : answers[name].shape[1]] for name, rows in shared.items()}
    before, after = (dataclasses.replace(scored, items=items) for items in (expected, answers))
    return difference(before, after, dtype)
