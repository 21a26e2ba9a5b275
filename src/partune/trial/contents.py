"""Digests of what a study's scores depend on besides its settings, such as the contents of files.

A path says where rows, items and weights are, but not what they contain. Every process that continues a study (after
`resume` or `join`, or as a worker) compares what it loaded with the digests recorded when the study began.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from partune.errors import UserError

VERSIONS = ("partune", "torch", "transformers", "peft", "lm-eval")  # libraries whose version may change scores


@dataclass(frozen=True)
class Content:
    """Something that scores depend on.

    Attributes:
        digest: A digest of the content.
        told: A description that is shown beside the content's name, such as "60 rows"; may be empty.
        decisive: Whether a change makes scores incomparable. If not, a change is only reported.
    """

    digest: str
    told: str = ""
    decisive: bool = True


Contents = Mapping[str, Content]  # by the name shown to the user


@cache
def installed_version(name: str) -> str | None:
    """Return a library's version, or None if it is not installed; its metadata are read once per process."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(names: Iterable[str] = VERSIONS) -> Contents:
    """Return the versions of the named libraries, without those that are not installed."""
    found = {name: installed_version(name) for name in names}
    return {name: Content(version, version, decisive=False) for name, version in found.items() if version is not None}


def differences(recorded: Contents, present: Contents) -> tuple[list[str], list[str]]:
    """Describe the differences between the contents on record and those now.

    Args:
        recorded: The contents on record.
        present: The contents now.

    Returns:
        The differences that make scores incomparable, and the other differences.
    """
    # A name in only one of the two is not compared, because older versions recorded fewer names.
    sides: tuple[list[str], list[str]] = [], []
    for name in recorded.keys() & present.keys():
        there, here = recorded[name], present[name]
        if there.digest != here.digest:
            counts = f" ({there.told} then, {here.told} now)" if there.told != here.told else ""
            sides[0 if there.decisive else 1].append(f"{name}{counts}")
    return sorted(sides[0]), sorted(sides[1])


def check(recorded: Contents, present: Contents, where: str = "") -> str | None:
    """Check that the contents are those with which a study began.

    Args:
        recorded: The contents on record.
        present: The contents now.
        where: A prefix of the message that names the machine, if that is not obvious.

    Returns:
        A message about minor differences; None if there are none.

    Raises:
        UserError: New scores could not be compared with those on record.
    """
    decisive, minor = differences(recorded, present)
    if decisive:
        besides = f" (and {', '.join(minor)})" if minor else ""
        raise UserError(
            f"{where}changed since this study began: {', '.join(decisive)}{besides}. New scores could not be "
            "compared with those on record; restore what has changed, or start a new study"
        )
    if minor:
        return f"{where}changed since this study began: {', '.join(minor)}. Scores may differ a little"
    return None


@dataclass(frozen=True)
class Difference:
    """The first difference between two nested mappings.

    Attributes:
        key: The path of keys to the difference, joined by dots.
        first: The value in the first mapping.
        second: The value in the second mapping.
    """

    key: str
    first: Any
    second: Any


def first_difference(
    first: Mapping[str, Any], second: Mapping[str, Any], absent: Any = None, above: str = ""
) -> Difference | None:
    """Return the first difference between two nested mappings; None if they are equal.

    Args:
        first: The mapping whose keys are compared first.
        second: The other mapping.
        absent: The value assumed for a key that is missing.
        above: A prefix for the keys, which ends with a dot.
    """
    for key in {**first, **second}:
        one, other = first.get(key, absent), second.get(key, absent)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if (below := first_difference(one, other, absent, f"{above}{key}.")) is not None:
                return below
        elif one != other:
            return Difference(f"{above}{key}", one, other)
    return None


def as_data(contents: Contents) -> dict[str, dict[str, Any]]:
    """Convert contents into the plain data that the record holds."""
    return {name: dataclasses.asdict(content) for name, content in contents.items()}


def of_data(data: Mapping[str, Mapping[str, Any]]) -> Contents:
    """Convert the plain data that the record holds into contents."""
    return {name: Content(**content) for name, content in data.items()}


def digest(*parts: Any) -> str:
    """Return a digest of a sequence of parts, each of them bytes or data that JSON can represent."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part if isinstance(part, (bytes, memoryview)) else json.dumps(part, sort_keys=True).encode()
        hashed.update(len(raw).to_bytes(8, "little"))  # so that ("ab", "c") and ("a", "bc") differ
        hashed.update(raw)
    return hashed.hexdigest()
