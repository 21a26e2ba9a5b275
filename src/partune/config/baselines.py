"""Name a study's baselines, and the settings that the user has set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partune.config.recipes import RECIPES, USUAL
from partune.config.sections import Data, Training

DEFAULTS = tuple(RECIPES[USUAL].training)  # settings of the default baseline
DATA_SETTINGS = ("max_length", "loss_on")  # settings of `Data` that a space may search


def given(training: Training, data: Data | None) -> dict[str, Any]:
    """Return the settings that the user set, among those that a space may search.

    Args:
        training: The training settings. A setting that the user set to its default value is returned too.
        data: The data settings, if the study has data.
    """
    values = {name: getattr(training, name) for name in Training.model_fields if name in training.model_fields_set}
    if data is not None:
        values |= {name: getattr(data, name) for name in DATA_SETTINGS if name in data.model_fields_set}
    return values


def baseline(defaults: Mapping[str, Any]) -> str:
    """Return the name of the default baseline, with each value that the user changed.

    Args:
        defaults: The configuration of the baseline. Records of older versions lack some of DEFAULTS.
    """
    changed = {name: value for name, value in defaults.items() if name in DEFAULTS and value != _usual_default(name)}
    values = ", ".join(f"{name}={value}" for name, value in changed.items())
    return f"the field's defaults with {values} as given" if changed else "the field's defaults"


def names_of(objective: Mapping[str, Any]) -> list[str]:
    """Return the names of the baselines that the user chose, in their order; no names mean the field's defaults.

    Args:
        objective: The identity of an objective, from a record.
    """
    return [recipe["name"] for recipe in objective.get("baseline") or ()]


def _usual_default(name: str) -> Any:
    return RECIPES[USUAL].training[name]
