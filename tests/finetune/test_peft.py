"""The engine of one trial at a time."""

from __future__ import annotations

from typing import Any

import pytest

from partune.finetune import training as trainings
from partune.trial import Trial


def test_an_interrupt_ends_a_trial_of_peft(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    tuner = make(run={"engine": "peft"})
    monkeypatch.setattr(trainings, "accumulate", fail)
    with pytest.raises(KeyboardInterrupt):
        tuner.evaluate(Trial(0, {}))
    assert not hasattr(tuner.engine.materials.base("fp32").model, "peft_config")
