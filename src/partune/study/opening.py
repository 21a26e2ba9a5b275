"""The header that identifies a study in its record, and the checks when a study opens a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partune.errors import UserError
from partune.objectives.base import Objective
from partune.optimizers import resolved
from partune.optimizers.base import Optimizer
from partune.record.record import Record
from partune.space import Space
from partune.study.settings import Settings
from partune.trial.contents import Contents, check, first_difference, versions

DATED = (
    "{directory} was begun by an older partune, which recorded neither the objective nor digests of its data, so that "
    "changes until now cannot be detected"
)


def header_of(
    algorithm: str | type[Optimizer] | Optimizer, seed: int, objective: Objective, settings: Settings
) -> dict[str, Any]:
    """Return the header that identifies a study in its record.

    Args:
        algorithm: The optimiser, as it was passed to the study.
        seed: The study's seed.
        objective: The objective that is maximised.
        settings: The settings of the study. The header contains only those that affect trials; the others may change
            when the study is resumed.
    """
    return {
        "algorithm": _name(algorithm),
        "options": dict(settings.search.options),
        "seed": seed,
        "function": objective.name,
        "objective": dict(objective.identity),
        **({"stop": settings.run.stop} if settings.run.stop != "none" else {}),
        **({"noisy": settings.noisy} if settings.noisy is not None else {}),
    }


def matching(directory: Path, space: Space, header: Mapping[str, Any], settings: Settings) -> Record:
    """Open the record in a directory for reading.

    Args:
        directory: The study's folder, which exists.
        space: The space to search.
        header: The study's header.
        settings: The settings of the study.

    Raises:
        UserError: The record is of another study, or it is of this study, but the settings contain neither `resume` nor
            `join`.
    """
    recorded = Record.open(directory, read_only=True, storage=settings.storage)
    if recorded.space != space:
        raise UserError(f"{directory} holds a study of a different space: choose another name")
    here = {"stop": "none", **json.loads(json.dumps(header))}  # JSON turns tuples into lists, as in the record
    there = {"stop": "none", "function": here["function"], **recorded.header}
    if _same_function(there["function"], here["function"]):
        there["function"] = here["function"]
    if (difference := _difference(there, here)) is not None:
        raise UserError(f"{directory} holds another study: {difference}")
    if not (settings.resume or settings.join):
        raise UserError(f"{directory} holds a study already: resume it, or choose another name")
    return recorded


def notes_on(recorded: Record, contents: Contents) -> list[str]:
    """Compare the digests of a study's data with the recorded ones, and return notes for the user.

    Args:
        recorded: The record.
        contents: The digests of what the objective reads now.

    Raises:
        UserError: New scores would not be comparable with the recorded ones.
    """
    note = check(recorded.contents, {**contents, **versions()})
    dated = DATED.format(directory=recorded.directory) if recorded.dated else None
    return [text for text in (note, dated) if text is not None]


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Return a description of the first setting in which two headers differ, or None if they agree.

    there: The header in the record.
    here: The header of the study that opens the record.
    """
    for key in here:
        # If only one header has an option of the algorithm, the other study uses the default of the option. Apart from
        # options, what is only in the record was written by an older version and is ignored.
        is_options = key == "options"
        compared = there if is_options else _shared(there, here)
        difference = first_difference({key: compared.get(key)}, {key: here[key]}, "the default" if is_options else None)
        if difference is not None:
            return f"{difference.key} is {difference.first} there, and {difference.second} here"
    return None


def _shared(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `there` whose keys are also in `here`; in nested mappings, do the same."""
    shared = {}
    for key, value in here.items():
        if key in there:
            nested = isinstance(there[key], Mapping) and isinstance(value, Mapping)
            shared[key] = _shared(there[key], value) if nested else there[key]
    return shared


def _same_function(there: str, here: str) -> bool:
    """Return whether two names can be of the same function. A module that runs as a script is called __main__."""
    (module, name), (other_module, other_name) = (full_name.rpartition(":")[::2] for full_name in (there, here))
    return name == other_name and (module == other_module or "__main__" in (module, other_module))


def _name(algorithm: str | type[Optimizer] | Optimizer) -> str:
    """Return the name of an algorithm for the record."""
    if isinstance(algorithm, str):
        return resolved(algorithm)
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    return f"{kind.__module__}:{kind.__qualname__}"
