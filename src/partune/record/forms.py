"""How trials and a study's header are written into Optuna's trials, and read from them again.

What is read was written by others, perhaps by a program with a fault: each value is checked before it is believed.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from partune.errors import shown
from partune.space import Space
from partune.trial import Observation, Status, Trial
from partune.trial.names import RunName, run_name

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

LIBRARIES = ("partune", "torch", "transformers", "peft", "lm-eval", "optuna", "numpy", "scipy")


def of_type(value: Any, kind: Any, name: str) -> Any:
    """Return a value of a record.

    Args:
        value: As it was read.
        kind: The type, or union of types, that was written. Booleans count as no numbers.
        name: What the value is, as a message names it.

    Raises:
        ValueError: The value is of another kind.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}")
    return value


def checked_header(header: Any) -> Mapping[str, Any]:
    """Return a study's header; raise ValueError or KeyError where it is not what was written."""
    of_type(header, dict, "it")
    kinds = {"format": int, "algorithm": str, "options": dict, "seed": int, "objective": dict, "versions": dict}
    for name, kind in kinds.items():
        of_type(header.get(name, {}) if kind is dict else header[name], kind, name)
    checked: Mapping[str, Any] = header
    return checked


def proposal_form(trial: Trial) -> dict[str, Any]:
    """Return what is written of a trial before it runs, beside its configuration."""
    return {
        "point": list(trial.point),
        "seed": trial.seed,
        "fidelity": trial.fidelity,
        "told_before": trial.told_before,
        "notes": [dict(note) for note in trial.notes],
    }


def observation_form(observation: Observation, told: int | None) -> dict[str, Any]:
    """Return what is written of a result.

    Args:
        observation: The result; its per-item results are only counted, as they have a file of their own.
        told: The number under which the optimiser was told.
    """
    return {
        "scores": dict(observation.scores),
        "stderr": observation.stderr,
        "status": str(observation.status),
        "cost": dict(observation.cost),
        "fidelity": observation.fidelity,
        "error": observation.error,
        "told": told,
        "items": len(observation.items),
    }


def item_count(frozen: FrozenTrial) -> int:
    """Return how many arrays of per-item results a final trial was recorded with; 0 where that is not on record."""
    form = frozen.user_attrs.get("observation")
    count = form.get("items") if isinstance(form, dict) else None
    return count if isinstance(count, int) else 0


def thawed_trial(frozen: FrozenTrial, space: Space) -> Trial:
    """Return a trial of the search.

    Args:
        frozen: Optuna's trial.
        space: The study's.

    Raises:
        LookupError, TypeError, ValueError: It is not what was written.
    """
    proposal = frozen.user_attrs["proposal"]
    config = {name: frozen.params[name] for name in space.names if name in frozen.params}
    space.check(config)
    trial = Trial(
        number=frozen.number,
        config=config,
        point=tuple(of_type(value, float | int, "point") for value in proposal["point"]),
        seed=of_type(proposal["seed"], int, "seed"),
        fidelity=of_type(proposal["fidelity"], float | int, "fidelity"),
        status=Status.RUNNING,
        notes=tuple(of_type(note, dict, "notes") for note in proposal["notes"]),
        told_before=of_type(proposal["told_before"], int, "told_before"),
        attempts=of_type(frozen.user_attrs["attempts"], int, "attempts"),
    )
    return _observed(trial, frozen) if frozen.state.is_finished() else trial


def thawed_baseline(frozen: FrozenTrial) -> tuple[RunName, Trial]:
    """Return the name of a baseline and its final trial; raise like `thawed_trial`."""
    attributes = frozen.user_attrs
    trial = Trial(
        frozen.number,
        of_type(attributes["config"], dict, "config"),
        seed=of_type(attributes["seed"], int, "seed"),
        order=of_type(attributes.get("order"), int | None, "order"),
    )
    return run_name(of_type(attributes["name"], str, "name")), _observed(trial, frozen)


def _observed(trial: Trial, frozen: FrozenTrial) -> Trial:
    """Return a trial with the result that was written of it."""
    form = dict(frozen.user_attrs["observation"])
    told, status = of_type(form.pop("told"), int, "told"), Status(form["status"])
    form.pop("items", None)
    # The score is written twice, in the form and as the value that Optuna's own tools read: they have to agree.
    if status is not Status.FAILED and frozen.value != form["scores"]["score"]:
        raise ValueError(f"its score is {form['scores']['score']} and its value {frozen.value}")
    return trial.finished(Observation(**{**form, "status": status}), told)


def state(status: Status) -> TrialState:
    """Return Optuna's word for where a trial of a record stands."""
    from optuna.trial import TrialState

    return {
        Status.RUNNING: TrialState.RUNNING,
        Status.DONE: TrialState.COMPLETE,
        Status.FAILED: TrialState.FAIL,
        Status.STOPPED: TrialState.PRUNED,
    }[status]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a study's numbers depend on."""
    installed = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
