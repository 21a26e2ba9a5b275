"""One typed definition of a study, for its YAML file, the command line and Python."""

from __future__ import annotations

from partune.config.base import FolderText, Names, PathText, Section, flag
from partune.config.baselines import DATA_SETTINGS, DEFAULTS, baseline, given, names_of
from partune.config.batch import Batch
from partune.config.file import dump, load, located, merged, parse, parts, section_in, validated
from partune.config.recipes import RECIPES, USUAL, Recipe
from partune.config.sections import (
    PACK,
    TRACKERS,
    AnySection,
    Data,
    Model,
    NamedBaseline,
    Run,
    Search,
    Ship,
    StudyConfig,
    Training,
    Where,
)
from partune.config.validation import ANSWER_METRICS, Test, Validation, check_metric

__all__ = [
    "ANSWER_METRICS",
    "DATA_SETTINGS",
    "DEFAULTS",
    "PACK",
    "RECIPES",
    "TRACKERS",
    "USUAL",
    "AnySection",
    "Batch",
    "Data",
    "FolderText",
    "Model",
    "NamedBaseline",
    "Names",
    "PathText",
    "Recipe",
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
    "names_of",
    "parse",
    "parts",
    "section_in",
    "validated",
]
