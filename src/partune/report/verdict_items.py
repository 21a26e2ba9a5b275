"""Find the answers of base, baselines and winner to the held-out items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from partune.config import names_of
from partune.record.record import Record
from partune.trial import Status, Trial
from partune.trial.names import Baseline, RunName
from partune.verdict.winner import further_baselines


def verdict_items(record: Record, judged: Trial | None) -> dict[str, Mapping[str, npt.NDArray[Any]]]:
    """Return the per-item results of base, baselines and winner; a model without any is left out.

    Args:
        record: The record of the study.
        judged: The run that scored the winner on the held-out items; None if there is none yet.

    Returns:
        Maps "base", the names of the baselines and "winner" to the arrays of the run, by the names of the results.
    """
    baselines: Mapping[RunName, Trial] = record.anchors()
    first = next(iter(names_of(record.header.get("objective", {}))), "defaults")
    runs = {"base": baselines.get(Baseline.BASE), first: baselines.get(Baseline.DEFAULTS)}
    runs |= {name.name: baselines[name] for name in further_baselines(baselines)}
    runs["winner"] = judged
    items = {
        model: record.items("anchors", run.number)
        for model, run in runs.items()
        if run is not None and run.status is Status.DONE
    }
    return {model: arrays for model, arrays in items.items() if arrays}
