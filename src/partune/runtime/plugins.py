"""What a user names as `package.module:name`: an algorithm or an objective of their own."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from partune.errors import UserError, reason


def qualified(thing: Any) -> str:
    """Return the name of a function or class as `named` takes it; of partune's own, without the module."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", type(thing).__qualname__)
    return name if module is None or module.partition(".")[0] == "partune" else f"{module}:{name}"


def named(path: str, what: str) -> Any:
    """The object at `package.module:name`, in the current folder too; raises UserError that says `what` it is."""
    module, _, attribute = path.partition(":")
    if "" not in sys.path:  # the entry point's path has its own folder there
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot load the {what} {path}: {error}") from error
    except Exception as error:  # whatever code of the user's raises
        raise UserError(f"cannot load the {what} {path}: {reason(error)}") from error
