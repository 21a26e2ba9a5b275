"""Any Python function of a configuration as an objective, by itself or by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from partune.errors import UserError, shown, suggestion
from partune.named import named as imported
from partune.objectives.base import Objective
from partune.trial import Config, Observation, Trial


@dataclass(frozen=True)
class Function(Objective):
    """Calls `function(config)`, which answers a number (higher is better) or an Observation."""

    function: Callable[[Config], Observation | float]

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        return Observation.of(self.function(dict(trial.config)))


def named(name: str) -> Objective | Callable[[Config], Observation | float]:
    """A synthetic function by name, or `package.module:function` or `:Class` (the current folder is searched too)."""
    from partune.objectives.synthetic import SYNTHETIC

    if ":" not in name:
        if name not in SYNTHETIC:
            known = ["finetune", *SYNTHETIC, "package.module:function"]
            raise UserError(f'no objective "{name}"{suggestion(name, known)}')
        return SYNTHETIC[name]
    found = imported(name, "objective")
    made: Objective | Callable[[Config], Observation | float] = found() if isinstance(found, type) else found
    if not (isinstance(made, Objective) or callable(made)):
        raise UserError(f"objective {name} is neither a function of a configuration nor an Objective")
    return made


def as_objective(given: str | Objective | Callable[[Config], Observation | float]) -> Objective:
    """A name, an objective or a function, as an objective."""
    found = named(given) if isinstance(given, str) else given
    if not (isinstance(found, Objective) or callable(found)):
        raise UserError(f"an objective is a function of a configuration, an Objective or a name, got {shown(found)}")
    return found if isinstance(found, Objective) else Function(found)
