"""What a user names as `package.module:name`: an algorithm or an objective of their own."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from partune.errors import UserError


def named(path: str, what: str) -> Any:
    """The object at `package.module:name`, in the current folder too; raises UserError that says `what` it is."""
    module, _, attribute = path.partition(":")
    if "" not in sys.path:  # the entry point's path has its own folder there
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot load the {what} {path}: {error}") from error
