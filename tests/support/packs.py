"""Trials of a pack, trained to their ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from partune import config
from partune.finetune.data import Examples
from partune.finetune.model import Base
from partune.finetune.packed.adapters import carrier
from partune.finetune.packed.head import Head
from partune.finetune.packed.residents import Job, Residents, Slot
from tests.support.peft_oracle import as_peft

ORDER = 3


def settings(**changes: Any) -> config.Training:
    default = {"targets": "attention", "learning_rate": 1e-2, "lora_r": 4, "lora_dropout": 0.0, "batch_size": 4}
    default |= {"steps": 5, "warmup_steps": 2}
    return config.Training(**default | changes)


def train(base: Base, examples: Examples, trials: Sequence[config.Training], seeds: Sequence[int]) -> Any:
    """The trials in one pack, slots as they stand at the end, and their weights by PEFT's names."""
    with carrier(base, trials[0].targets) as carrying:
        residents = Residents(carrying, Head(base))
        residents.arrange(
            [], [Slot(Job(each, examples, seed, ORDER)) for each, seed in zip(trials, seeds, strict=True)]
        )
        ended: dict[int, tuple[Slot, Any]] = {}
        names = list(range(len(trials)))
        while residents.slots:
            residents.step()
            for row, slot in enumerate(residents.slots):
                if slot.ended:
                    ended[names[row]] = slot, as_peft(residents.weights(row))
            names = [name for name in names if name not in ended]
            residents.arrange([row for row, slot in enumerate(residents.slots) if not slot.ended])
    return [ended[name] for name in range(len(trials))]
