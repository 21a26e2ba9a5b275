"""Load what a user names as `package.module:name`, such as an algorithm or an objective."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from partune.errors import UserError, reason
from partune.runtime.failures import OF_USERS


def qualified_name(thing: Any) -> str:
    """Return `module:name` for a function or class, as `load_named` takes it, or only `name` if it is partune's own."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", type(thing).__qualname__)
    return name if module is None or module.partition(".")[0] == "partune" else f"{module}:{name}"


def load_named(name: str, what: str) -> Any:
    """Load the object `package.module:name`. The module may be in the current folder.

    Args:
        name: The name of the module and of the object in it.
        what: The kind of the object in messages.

    Raises:
        UserError: The object cannot be loaded.
    """
    module, _, attribute = name.partition(":")
    with modules_of_current_folder():
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"cannot load the {what} {name}: {error}") from error
        except OF_USERS as error:
            raise UserError(f"cannot load the {what} {name}: {reason(error)}") from error


@contextmanager
def modules_of_current_folder() -> Iterator[None]:
    """Allow imports from the current folder within the context.

    `python -m` puts the current folder first in sys.path, but an installed command puts its own folder there. All of a
    command runs in this context, because a user's function may import other modules only when it is called.
    """
    if "" in sys.path:
        yield
        return
    sys.path.insert(0, "")
    try:
        yield
    finally:
        # Remove the entry by value, because an import may have changed the list.
        if "" in sys.path:
            sys.path.remove("")
