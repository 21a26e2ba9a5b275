"""Find what base, defaults and winner answered to the held-out items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from partune.record.record import Record
from partune.trial import Status, Trial
from partune.trial.names import Baseline, RunName


def verdict_items(record: Record, judged: Trial | None) -> dict[str, Mapping[str, npt.NDArray[Any]]]:
    """Return the per-item results of base, defaults and winner, without those that have none.

    Args:
        record: The record of the study.
        judged: The run that scored the winner on the held-out items; None if there is none yet.

    Returns:
        Maps "base", "defaults" and "winner" to the arrays of the run, by the names of the results.
    """
    baselines: Mapping[RunName, Trial] = record.anchors()
    runs = {"base": baselines.get(Baseline.BASE), "defaults": baselines.get(Baseline.DEFAULTS), "winner": judged}
    items = {
        model: record.items("anchors", run.number)
        for model, run in runs.items()
        if run is not None and run.status is Status.DONE
    }
    return {model: arrays for model, arrays in items.items() if arrays}
