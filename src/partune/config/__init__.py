"""One typed definition of a study, for its YAML file, the command line and Python."""

from __future__ import annotations

from partune.config.base import FolderText, Names, PathText, Section, flag
from partune.config.file import dump, load, located, merged, parse, parts, section_in, validated
from partune.config.sections import (
    DATA_SETTINGS,
    DEFAULTS,
    PACK,
    AnySection,
    Batch,
    Data,
    Model,
    Run,
    Search,
    Ship,
    StudyConfig,
    Training,
    Where,
    baseline,
    given,
)
from partune.config.validation import ANSWER_METRICS, Test, Validation, check_metric

__all__ = [
    "ANSWER_METRICS",
    "DATA_SETTINGS",
    "DEFAULTS",
    "PACK",
    "AnySection",
    "Batch",
    "Data",
    "FolderText",
    "Model",
    "Names",
    "PathText",
    "Run",
    "Search",
    "Section",
    "Ship",
    "StudyConfig",
    "Test",
    "Training",
    "Validation",
    "Where",
    "baseline",
    "check_metric",
    "dump",
    "flag",
    "given",
    "load",
    "located",
    "merged",
    "parse",
    "parts",
    "section_in",
    "validated",
]
