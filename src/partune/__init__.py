"""partune finds hyperparameters for the LoRA fine-tuning of an LLM, and tests whether they are really better."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partune.errors import UserError
    from partune.objectives.finetune import FineTune
    from partune.optimizers import optimizer
    from partune.optimizers.base import Optimizer
    from partune.space import SPACES, Choice, Float, Int, Space
    from partune.study import Budget, Study
    from partune.study.recorded import RecordedStudy, compare, load_study
    from partune.trial import Observation, Proposal, Status, Trial
    from partune.verdict.models.compare import ModelVerdict, compare_models

__version__ = "0.1.0"

# Names are imported when they are first used, so that `import partune` is fast and a search without fine-tuning never
# loads transformers.
_HOMES = {
    "Budget": "study",
    "SPACES": "space",
    "Choice": "space",
    "FineTune": "objectives.finetune",
    "Float": "space",
    "Int": "space",
    "ModelVerdict": "verdict.models.compare",
    "Observation": "trial",
    "Optimizer": "optimizers.base",
    "Proposal": "trial",
    "RecordedStudy": "study.recorded",
    "Space": "space",
    "Status": "trial",
    "Study": "study",
    "Trial": "trial",
    "UserError": "errors",
    "compare": "study.recorded",
    "compare_models": "verdict.models.compare",
    "load_study": "study.recorded",
    "optimizer": "optimizers",
}

__all__ = [
    "SPACES",
    "Budget",
    "Choice",
    "FineTune",
    "Float",
    "Int",
    "ModelVerdict",
    "Observation",
    "Optimizer",
    "Proposal",
    "RecordedStudy",
    "Space",
    "Status",
    "Study",
    "Trial",
    "UserError",
    "compare",
    "compare_models",
    "load_study",
    "optimizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'partune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"partune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
