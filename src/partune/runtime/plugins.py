"""What a user names as `package.module:name`: an algorithm or an objective of their own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from partune.errors import UserError, reason


def qualified_name(thing: Any) -> str:
    """Return the name of a function or class as `load_named` takes it; of partune's own, without the module."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", type(thing).__qualname__)
    return name if module is None or module.partition(".")[0] == "partune" else f"{module}:{name}"


def load_named(name: str, what: str) -> Any:
    """Load the object at `package.module:name`, from the current folder too.

    Args:
        name: The module and the object's name in it.
        what: What it is, as a message calls it.

    Raises:
        UserError: It cannot be loaded.
    """
    module, _, attribute = name.partition(":")
    with modules_of_current_folder():
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"cannot load the {what} {name}: {error}") from error
        except Exception as error:  # whatever the user's own code raises
            raise UserError(f"cannot load the {what} {name}: {reason(error)}") from error


@contextmanager
def modules_of_current_folder() -> Iterator[None]:
    """Let modules of the current folder be imported within the context.

    `python -m` puts that folder first in sys.path, but the entry point of a package has its own folder there. A whole
    command runs within this context, as a user's function may import its neighbours only when it is called.
    """
    if "" in sys.path:
        yield
        return
    sys.path.insert(0, "")
    try:
        yield
    finally:
        # By value, as an import may have put something before it, or taken it away.
        if "" in sys.path:
            sys.path.remove("")
