"""How a study begins: what its record says that it is, and whether a record is of this very study."""

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
    "{directory} was begun by an older partune, which noted neither its objective nor digests of what its scores "
    "stand on: whether these are the same cannot be checked before now"
)


def header_of(
    algorithm: str | type[Optimizer] | Optimizer, seed: int, objective: Objective, settings: Settings
) -> dict[str, Any]:
    """Return what a study is, as its record says it.

    Args:
        algorithm: The optimiser as it was given.
        seed: The study's seed.
        objective: What is searched.
        settings: The study's. Only those that decide what a trial is are on record: others may change on a resume.
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
        space: What is to be searched.
        header: What the study is.
        settings: The study's.

    Raises:
        UserError: The record is of another study, or this one exists and is not to be resumed.
    """
    recorded = Record.open(directory, read_only=True, storage=settings.storage)
    if recorded.space != space:
        raise UserError(f"{directory} holds a study of a different space: choose another name")
    given = {"stop": "none", **json.loads(json.dumps(header))}  # through JSON, as the record's is: a tuple is a list
    known = {"stop": "none", "function": given["function"], **recorded.header}
    if _same_function(known["function"], given["function"]):
        known["function"] = given["function"]
    if (difference := _difference(known, given)) is not None:
        raise UserError(f"{directory} holds another study: {difference}")
    if not (settings.resume or settings.join):
        raise UserError(f"{directory} holds a study already: resume it, or choose another name")
    return recorded


def notes_on(recorded: Record, contents: Contents) -> list[str]:
    """Compare what a study stands on with what its record says, and return what a person is to be told.

    Args:
        recorded: The record.
        contents: What its objective reads now.

    Raises:
        UserError: New scores could not be compared with those on record.
    """
    note = check(recorded.contents, {**contents, **versions()})
    dated = DATED.format(directory=recorded.directory) if recorded.dated else None
    return [text for text in (note, dated) if text is not None]


def _difference(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Return in words the first setting in which a header differs from the record's; None where none does."""
    for key in given:
        # An option that was left out is the default. Other settings that only the record has are those of an older
        # version: they say nothing.
        whole = key == "options"
        there = recorded if whole else _shared(recorded, given)
        difference = first_difference({key: there.get(key)}, {key: given[key]}, "the default" if whole else None)
        if difference is not None:
            return f"{difference.key} is {difference.first} there, and {difference.second} here"
    return None


def _shared(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's mapping without the keys that are not given."""
    shared = {}
    for key, here in given.items():
        if key in recorded:
            there = recorded[key]
            shared[key] = _shared(there, here) if isinstance(there, Mapping) and isinstance(here, Mapping) else there
    return shared


def _same_function(there: str, here: str) -> bool:
    """Return whether two names are of one function: a script that is run has no name of its own."""
    (module, name), (other, same) = (named.rpartition(":")[::2] for named in (there, here))
    return name == same and (module == other or "__main__" in (module, other))


def _name(algorithm: str | type[Optimizer] | Optimizer) -> str:
    """Return an algorithm's name on record."""
    if isinstance(algorithm, str):
        return resolved(algorithm)
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    return f"{kind.__module__}:{kind.__qualname__}"
