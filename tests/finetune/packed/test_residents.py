"""Trials that train together: their batches, slots and neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from partune.finetune.data import Examples
from partune.finetune.model import Base
from partune.finetune.packed.adapters import carrier
from partune.finetune.packed.head import Head
from partune.finetune.packed.residents import Job, Residents, Slot
from partune.finetune.training import trained
from tests.support.packs import ORDER, settings, train
from tests.support.peft_oracle import adapters, largest, losses_differ, plain_loop
from tests.support.thorough import share
from tests.support.tiny import longrope, make_base


@pytest.mark.slow
def test_no_other_trials_rows_choose_frequencies(tokenizer: PreTrainedTokenizerFast, examples: Examples) -> None:
    """LongRoPE takes those of the longest row in a forward pass; in PEFT, of the trial's own (micro-)batch."""
    base = make_base("phi3", tokenizer, **longrope(int(np.median(examples.lengths))))
    base.model.double()
    trials = [
        settings(targets="all-linear", batch_size=size, micro_batch_size=micro)
        for size, micro in ((1, None), (2, None), (4, None), (6, 3))
    ]
    for trial, seed, (slot, weights) in zip(trials, range(4), train(base, examples, trials, range(4)), strict=True):
        with trained(base, examples, trial, seed, ORDER) as tuned:
            expected = adapters(tuned.model)
            assert losses_differ(slot.losses, tuned.losses) < 1e-5  # summed in fp32 there
        assert largest(weights, expected) < 1e-10
        if trial.micro_batch_size is None:
            plain = plain_loop(base, examples, trial, seed, ORDER)
            assert losses_differ(slot.losses, plain.losses) < 1e-10
            assert largest(weights, plain.weights) < 1e-10


@pytest.mark.slow
def test_a_neighbour_that_breaks_changes_not_one_bit(base: Base, examples: Examples) -> None:
    """NaN at step 3 in one trial; the others go on as beside a sound one of the same rank."""
    trials = [settings(lora_r=4, lora_dropout=0.1), settings(lora_r=8), settings(lora_r=2, batch_size=2)]

    def run(broken: bool) -> tuple[list[torch.Tensor], list[Slot]]:
        with carrier(base, "attention") as carrying:
            residents = Residents(carrying, Head(base))
            residents.arrange([], [Slot(Job(each, examples, seed, ORDER)) for seed, each in enumerate(trials)])
            pack = residents.pack
            assert pack is not None
            seen = []
            for passes in range(8):
                if broken and passes == 4:
                    with torch.no_grad():
                        pack.values[1] = torch.nan
                residents.step()
                seen.append(pack.values.clone())
                if residents.slots[1].error is not None:
                    assert broken
                    assert (pack.values[1] == 0).all()
                    break
            return seen, residents.slots

    broken, slots = run(True)
    sound, _ = run(False)
    assert str(slots[1].error) == "loss diverged at step 3"
    assert len(broken) == 6
    for found, expected in zip(broken, sound, strict=False):
        for row in (0, 2):
            assert torch.equal(found[row], expected[row])


POOL = (
    settings(lora_r=2, lora_dropout=0.2, steps=4),
    settings(lora_r=8, steps=6, batch_size=2, learning_rate=3e-2),
    settings(lora_r=5, lora_dropout=0.5, steps=3, batch_size=5, weight_decay=0.3),
    settings(lora_r=1, steps=5, schedule="constant", micro_batch_size=1),
    settings(lora_r=16, lora_dropout=0.05, steps=4, batch_size=3, max_grad_norm=0.1),
)
ALONE: dict[int, Any] = {}


@pytest.mark.slow
@hypothesis_settings(max_examples=share(0.2), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.permutations(range(len(POOL))).flatmap(lambda p: st.integers(1, len(p)).map(lambda n: p[:n])))
def test_any_subset_in_any_order_and_slot_is_the_same(
    doubles: dict[str, Base], examples: Examples, chosen: list[int]
) -> None:
    base = doubles["qwen2"]
    for number in chosen:
        if number not in ALONE:
            ALONE[number] = train(base, examples, [POOL[number]], (number,))[0]
    found = train(base, examples, [POOL[number] for number in chosen], chosen)
    for number, (slot, weights) in zip(chosen, found, strict=True):
        assert losses_differ(slot.losses, ALONE[number][0].losses) < 1e-11
        assert largest(weights, ALONE[number][1]) < 1e-11
        assert slot.tokens == ALONE[number][0].tokens
