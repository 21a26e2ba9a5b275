"""What a study's scores depend on beyond its settings: the contents of files, as digests in the record.

A path says where rows, items and weights are, not what they are. A process that continues a study (`resume`, `join`, a
worker that loads for itself) compares what it loaded with what the record noted when the study began.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from partune.errors import UserError

VERSIONS = ("partune", "torch", "transformers", "peft", "lm-eval")  # those that may change scores


@dataclass(frozen=True)
class Content:
    """Something that scores depend on.

    Attributes:
        digest: Equal for equal contents.
        told: What to say of it beside its name, such as "60 rows"; empty for nothing.
        decisive: Whether scores cannot be compared once it changed; else they may differ, and a person is told.
    """

    digest: str
    told: str = ""
    decisive: bool = True


Contents = Mapping[str, Content]  # by the name that a user reads


def versions(names: Iterable[str] = VERSIONS) -> Contents:
    """Return the versions of the libraries that are installed, of those named."""
    installed = {}
    for name in names:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        installed[name] = Content(version, version, decisive=False)
    return installed


def differences(recorded: Contents, present: Contents) -> tuple[list[str], list[str]]:
    """Return in words what differs: first what makes scores incomparable, then what may matter.

    Args:
        recorded: What the record noted.
        present: What is there now.
    """
    # What only one of the two knows is not compared: an older version noted less.
    sides: tuple[list[str], list[str]] = [], []
    for name in recorded.keys() & present.keys():
        there, here = recorded[name], present[name]
        if there.digest != here.digest:
            counts = f" ({there.told} then, {here.told} now)" if there.told != here.told else ""
            sides[0 if there.decisive else 1].append(f"{name}{counts}")
    return sorted(sides[0]), sorted(sides[1])


def check(recorded: Contents, present: Contents, where: str = "") -> str | None:
    """Compare what is there with what a study was begun with.

    Args:
        recorded: What the record noted.
        present: What is there now.
        where: Put before the message: the machine, if it is not obvious.

    Returns:
        What to tell a person; None for nothing.

    Raises:
        UserError: New scores could not be compared with those on record.
    """
    decisive, minor = differences(recorded, present)
    if decisive:
        besides = f" (and {', '.join(minor)})" if minor else ""
        raise UserError(
            f"{where}not what this study was begun with: {', '.join(decisive)}{besides}. New scores could not be "
            "compared with those on record: put back what was there, or begin another study"
        )
    if minor:
        return f"{where}other than when this study was begun: {', '.join(minor)}. Scores may differ a little"
    return None


@dataclass(frozen=True)
class Difference:
    """Where two mappings differ first.

    Attributes:
        key: The key, with those above it and dots between.
        first: The first mapping's value.
        second: The second's.
    """

    key: str
    first: Any
    second: Any


def first_difference(
    first: Mapping[str, Any], second: Mapping[str, Any], absent: Any = None, above: str = ""
) -> Difference | None:
    """Return where two nested mappings differ first, None where they are equal.

    Args:
        first: One mapping, whose keys are looked at first.
        second: The other.
        absent: What a key that is missing counts as.
        above: What stands before the keys, a dot at its end.
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
    """Return contents as the record keeps them."""
    return {name: dataclasses.asdict(content) for name, content in contents.items()}


def of_data(data: Mapping[str, Mapping[str, Any]]) -> Contents:
    """Return contents from what the record keeps."""
    return {name: Content(**content) for name, content in data.items()}


def digest(*parts: Any) -> str:
    """Return a digest of parts, each bytes or plain data that JSON can hold."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part if isinstance(part, (bytes, memoryview)) else json.dumps(part, sort_keys=True).encode()
        hashed.update(len(raw).to_bytes(8, "little"))  # or "ab", "c" and "a", "bc" would be the same
        hashed.update(raw)
    return hashed.hexdigest()
