"""The adapters' optimisers in a pack: each trial's own rule, rate, decay and norm."""

from __future__ import annotations

import pytest

from partune.finetune.data import Examples
from partune.finetune.model import Base
from tests.support.packs import ORDER, settings, train
from tests.support.peft_oracle import largest, plain_loop


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "both"])
def test_optimisers_mix(doubles: dict[str, Base], examples: Examples, optimizer: str) -> None:
    base = doubles["llama"]
    sgd = settings(optimizer="sgd", momentum=0.9, learning_rate=0.05, weight_decay=0.0)
    trials = [sgd, settings() if optimizer == "both" else sgd.model_copy(update={"momentum": 0.0, "lora_r": 2})]
    for trial, seed, (_, weights) in zip(trials, (1, 2), train(base, examples, trials, (1, 2)), strict=True):
        assert largest(weights, plain_loop(base, examples, trial, seed, ORDER).weights) < 1e-10


@pytest.mark.slow
def test_no_trials_decay_norm_or_rate_reaches_another(doubles: dict[str, Base], examples: Examples) -> None:
    base, mine = doubles["llama"], settings(lora_r=4, max_grad_norm=0.01, weight_decay=0.2)
    alone = train(base, examples, [mine], (5,))[0][1]
    for change in ({"weight_decay": 50.0}, {"max_grad_norm": 1e-4}, {"learning_rate": 1.0}, {"lora_alpha": 500}):
        beside = train(base, examples, [settings(lora_r=4, **change), mine], (6, 5))[1][1]
        assert largest(beside, alone) < 1e-12
