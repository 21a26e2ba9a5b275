"""Use any Python function of a configuration as an objective, and find objectives by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partune.errors import UserError, reason, shown, suggestion
from partune.objectives.base import Objective
from partune.runtime.failures import OF_USERS
from partune.runtime.plugins import load_named, qualified_name
from partune.trial import Config, Observation, Trial
from partune.trial.contents import Content, Contents, digest


@dataclass(frozen=True)
class Function(Objective):
    """An objective that calls `function(config)`, which returns a number (higher is better) or an Observation.

    Attributes:
        function: The function of a configuration.
    """

    function: Callable[[Config], Observation | float]

    @property
    def name(self) -> str:
        """The name by which `named` finds the function."""
        from partune.objectives.synthetic import SYNTHETIC

        known = (name for name, function in SYNTHETIC.items() if function is self.function)
        return next(known, None) or _name(self.function)

    @property
    def contents(self) -> Contents:
        """A digest of the function's source, if it can be read."""
        # Not decisive: a changed source may still compute the same scores, so the study reports it and continues.
        function = self.function.func if isinstance(self.function, functools.partial) else self.function
        try:
            code = inspect.getsource(function if hasattr(function, "__code__") else type(function))
        except (OSError, TypeError):
            return {}
        return {f"the code of {self.name}": Content(digest(code), decisive=False)}

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        """Call the function with a copy of the trial's configuration.

        Args:
            trial: The configuration.
            adapter: Not used, because a function trains no adapter.
        """
        return Observation.of(self.function(dict(trial.config)))


def _name(function: Any) -> str:
    """Return the name of a callable; for a `functools.partial`, add the arguments that it fixes."""
    if isinstance(function, functools.partial):
        fixed = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        plain = [text for text in fixed if " at 0x" not in text]  # leave out memory addresses, which change every time
        return f"{_name(function.func)}({', '.join(plain)})"
    return qualified_name(function if hasattr(function, "__qualname__") else type(function))


def named(name: str) -> Objective | Callable[[Config], Observation | float]:
    """Find an objective by its name.

    Args:
        name: The name of a synthetic function, or `package.module:function` or `package.module:Class`. Modules in the
            working directory are found too.

    Raises:
        UserError: Nothing has that name, or the object with that name is not an objective.
    """
    from partune.objectives.synthetic import SYNTHETIC

    if ":" not in name:
        if name not in SYNTHETIC:
            known = ["finetune", *SYNTHETIC, "package.module:function"]
            raise UserError(f'no objective "{name}"{suggestion(name, known)}')
        return SYNTHETIC[name]
    loaded = load_named(name, "objective")
    try:
        objective: Objective | Callable[[Config], Observation | float] = (
            loaded() if isinstance(loaded, type) else loaded
        )
    except UserError:
        raise
    except OF_USERS as error:
        raise UserError(f"cannot make the objective {name}: {reason(error)}") from error
    if not (isinstance(objective, Objective) or callable(objective)):
        raise UserError(f"objective {name} is neither a function of a configuration nor an Objective")
    return objective


def as_objective(given: str | Objective | Callable[[Config], Observation | float]) -> Objective:
    """Convert a function of a configuration, or a name, into an Objective; raise UserError for anything else."""
    objective = named(given) if isinstance(given, str) else given
    if not (isinstance(objective, Objective) or callable(objective)):
        raise UserError(
            f"an objective must be a function of a configuration, an Objective or a name, got {shown(objective)}"
        )
    return objective if isinstance(objective, Objective) else Function(objective)
