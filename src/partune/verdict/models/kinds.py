"""Find out what a path or name means in a verdict: samples, or a model of some kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from partune.record.place import JOURNAL, STORAGE
from partune.runtime.paths import as_path

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # either part of an id of the Hub
BASE = "base"  # the name of the base model by itself
Kind = Literal["base", "adapter", "study", "model", "samples"]
FILES: dict[str, Kind] = {
    "adapter_config.json": "adapter",
    JOURNAL: "study",
    STORAGE: "study",
    "config.json": "model",
}


def may_be_id(place: str | Path) -> bool:
    """Return whether a name has the form of a Hub's id, ORGANISATION/MODEL, and ORGANISATION is not a folder here.

    Args:
        place: The path or name.
    """
    owner, slash, name = str(place).partition("/")
    return bool(ID.fullmatch(owner) and slash and ID.fullmatch(name)) and not as_path(owner).exists()


def kind_of(place: str | Path) -> Kind | None:
    """Return what a path holds, judging by its files; None if the path does not exist and may be an id of the Hub.

    Args:
        place: The path or name.
    """
    path = as_path(place)
    if not path.exists():
        return "base" if str(place) == BASE else None
    return next((kind for name, kind in FILES.items() if (path / name).is_file()), "samples")
