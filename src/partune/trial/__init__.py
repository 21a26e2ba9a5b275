"""The basic types of a study: trials, configurations, observations, names on record, digests of inputs, and rungs."""

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
