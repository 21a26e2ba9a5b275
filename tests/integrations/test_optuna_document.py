"""The code in docs/optuna.md runs, and does what stands beside it."""

import re
from pathlib import Path
from typing import Any

import optuna

from partune.integrations.optuna import PartuneSampler
from partune.optimizers.optuna import OptunaSampler

DOCUMENT = Path(__file__).parents[2] / "docs" / "optuna.md"


def test_the_code_of_the_document() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study_code, optimizer_code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(study_code, names)
    assert isinstance(names["study"].sampler, PartuneSampler)
    assert len(names["study"].trials) == 30
    assert abs(names["study"].best_params["x"] - 0.3) < 0.01
    exec(optimizer_code, names)
    assert isinstance(names["optimizer"], OptunaSampler)
    assert len(names["optimizer"].ask(3)) == 3
