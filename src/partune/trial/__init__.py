"""The words of a study: a trial, its configuration and its observation; what scores stand on; rungs."""

from __future__ import annotations

from partune.trial.trial import Config, Observation, Point, Proposal, Status, Trial, Value, number

__all__ = [
    "Config",
    "Observation",
    "Point",
    "Proposal",
    "Status",
    "Trial",
    "Value",
    "number",
]
