"""Convert trials and a study's header to the values that Optuna stores, and back.

A record may have been written by another program or be damaged. Each value is therefore checked when it is read.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from partune.errors import shown
from partune.space import Space
from partune.trial import Observation, Status, Trial
from partune.trial.contents import installed_version
from partune.trial.names import RunName, run_name

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

LIBRARIES = ("partune", "torch", "transformers", "peft", "lm-eval", "optuna", "numpy", "scipy")


def of_type(value: Any, kind: Any, name: str) -> Any:
    """Return a value of a record if it has the expected type.

    Args:
        value: The value as it was read.
        kind: The expected type or union of types. Booleans do not count as numbers.
        name: The name of the value in messages.

    Raises:
        ValueError: The value has another type.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}")
    return value


def checked_header(header: Any) -> Mapping[str, Any]:
    """Return a study's header; raise ValueError or KeyError if a part is missing or has the wrong type."""
    of_type(header, dict, "the header")
    kinds = {"format": int, "algorithm": str, "options": dict, "seed": int, "objective": dict, "versions": dict}
    for name, kind in kinds.items():
        of_type(header.get(name, {}) if kind is dict else header[name], kind, name)
    checked: Mapping[str, Any] = header
    return checked


def proposal_form(trial: Trial) -> dict[str, Any]:
    """Return what the record holds about a trial before it runs, apart from its configuration."""
    return {
        "point": list(trial.point),
        "seed": trial.seed,
        "fidelity": trial.fidelity,
        "told_before": trial.told_before,
        "notes": [dict(note) for note in trial.notes],
    }


def observation_form(observation: Observation, told: int | None) -> dict[str, Any]:
    """Return what the record holds about the result of a trial.

    Args:
        observation: The result. Only the number of its per-item arrays is recorded: the arrays go to a separate file.
        told: The position of this result among all results that the optimiser was told.
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
    """Return the number of per-item arrays of a finished trial, or 0 if the record does not give a number."""
    form = frozen.user_attrs.get("observation")
    count = form.get("items") if isinstance(form, dict) else None
    return count if isinstance(count, int) else 0


def thawed_trial(frozen: FrozenTrial, space: Space) -> Trial:
    """Return a trial of the search from the record.

    Args:
        frozen: The trial as Optuna stores it.
        space: The study's search space.

    Raises:
        LookupError, TypeError, ValueError: A part of the stored trial is missing or invalid.
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
    """Return the name of a baseline and its finished trial from the record.

    Args:
        frozen: The trial as Optuna stores it.

    Raises:
        LookupError, TypeError, ValueError: A part of the stored trial is missing or invalid.
    """
    attributes = frozen.user_attrs
    trial = Trial(
        frozen.number,
        of_type(attributes["config"], dict, "config"),
        seed=of_type(attributes["seed"], int, "seed"),
        order=of_type(attributes.get("order"), int | None, "order"),
    )
    return run_name(of_type(attributes["name"], str, "name")), _observed(trial, frozen)


def _observed(trial: Trial, frozen: FrozenTrial) -> Trial:
    """Return a trial with its recorded result."""
    form = dict(frozen.user_attrs["observation"])
    told, status = of_type(form.pop("told"), int, "told"), Status(form["status"])
    form.pop("items", None)
    # The score is stored twice, in the form and as the value that Optuna's own tools read. Both must agree.
    if status is not Status.FAILED and frozen.value != form["scores"]["score"]:
        raise ValueError(f"its score is {form['scores']['score']}, but its value for Optuna is {frozen.value}")
    return trial.finished(Observation(**{**form, "status": status}), told)


def state(status: Status) -> TrialState:
    """Return Optuna's state for the status of a trial."""
    from optuna.trial import TrialState

    return {
        Status.RUNNING: TrialState.RUNNING,
        Status.DONE: TrialState.COMPLETE,
        Status.FAILED: TrialState.FAIL,
        Status.STOPPED: TrialState.PRUNED,
    }[status]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that affect a study's scores."""
    libraries = {name: installed_version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **{name: each for name, each in libraries.items() if each is not None}}
