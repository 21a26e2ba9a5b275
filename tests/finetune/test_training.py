"""Training against plain loops of PEFT and torch; the base untouched; schedules and order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, get_scheduler

from partune import config
from partune.errors import UserError
from partune.finetune import model as models
from partune.finetune import training
from partune.finetune.data import IGNORED, Examples, tokenise
from partune.finetune.model import Base
from partune.finetune.training import DivergedError, batches, count_steps, schedule, trained
from tests.support.peft_oracle import Weights, adapters, plain_loop
from tests.support.tiny import make_rows, write_jsonl


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Examples:
    path = write_jsonl(tmp_path_factory.mktemp("training") / "rows.jsonl", make_rows(14))
    return tokenise(config.Data(path=str(path)), tokenizer).cut(160, "answer")


def settings(**changes: Any) -> config.Training:
    return config.Training(
        **{"learning_rate": 1e-2, "lora_r": 4, "batch_size": 4, "steps": 5, "warmup_steps": 2} | changes
    )


def train(base: Base, examples: Examples, chosen: config.Training, seed: int = 7, order: int = 3) -> Weights:
    with trained(base, examples, chosen, seed, order) as tuned:
        return adapters(base.model) if tuned.steps else {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["llama", "gpt2", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("qwen2", "neox"))]
)
def test_training_is_that_of_a_plain_loop(doubles: dict[str, Base], examples: Examples, kind: str) -> None:
    base = doubles[kind]
    chosen = settings(lora_dropout=0.1, weight_decay=0.1)
    expected = plain_loop(base, examples, chosen, seed=7, order=3, counted=True).weights
    found = train(base, examples, chosen)
    assert found.keys() == expected.keys()
    assert any(weight.abs().max() > 1e-3 for name, weight in found.items() if "lora_B" in name)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(base: Base, examples: Examples, micro: int) -> None:
    gradients = []
    for size in (None, micro):
        with base.lent(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            training.attach(base, settings(lora_dropout=0.0, targets="attention"))
            base.model.double()
            for name, parameter in base.model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
            loss = training.accumulate(base, examples, np.array([0, 5, 2, 9]), size)
            gradients.append([p.grad.clone() for p in base.model.parameters() if p.grad is not None] + [loss])
        base.model.float()
    assert len(gradients[0]) == 2 * 8 + 1
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed.double(), whole.double(), atol=1e-6, rtol=1e-6)
        if whole.dim():
            torch.testing.assert_close(summed, whole, atol=1e-12, rtol=1e-10)


def test_the_loss_is_the_mean_over_the_batchs_trained_tokens(base: Base, examples: Examples) -> None:
    chosen = np.array([1, 4, 6])
    with base.lent():
        training.attach(base, settings(lora_dropout=0.0))
        found = training.accumulate(base, examples, chosen, micro_batch_size=2)
    ids, attention, labels = (torch.from_numpy(array) for array in examples.batch(chosen))
    with torch.no_grad():
        logits = base.model(input_ids=ids, attention_mask=attention).logits
    losses = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    )
    assert float(found) == pytest.approx(float(losses.sum() / (labels[:, 1:] != IGNORED).sum()), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_learning_rate_zero_leaves_everything_as_it_is(base: Base, examples: Examples, optimizer: str) -> None:
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        before = base.model(ids).logits
    chosen = settings(learning_rate=0.0, weight_decay=0.1, optimizer=optimizer)
    with trained(base, examples, chosen, 0, 0), torch.no_grad():
        assert torch.equal(base.model(ids).logits, before)
        assert all((weight == 0).all() for name, weight in adapters(base.model).items() if "lora_B" in name)


def test_decay_is_decoupled_for_sgd_too(base: Base, examples: Examples) -> None:
    chosen = settings(optimizer="sgd", momentum=0.9, learning_rate=0.1, weight_decay=0.5, schedule="constant", steps=1)
    started = train(base, examples, chosen.model_copy(update={"learning_rate": 0.0}))
    plain = train(base, examples, chosen.model_copy(update={"weight_decay": 0.0, "warmup_steps": 0}))
    decayed = train(base, examples, chosen.model_copy(update={"warmup_steps": 0}))
    for name, weight in decayed.items():
        torch.testing.assert_close(weight, plain[name] - 0.1 * 0.5 * started[name], atol=1e-7, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_the_base_and_the_global_generators_are_untouched(
    base: Base, examples: Examples, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    weights = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
    if fails:
        monkeypatch.setattr(training, "accumulate", lambda *_: 1 / 0)
    try:
        train(base, examples, settings())
    except ZeroDivisionError:
        assert fails
    after = base.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in weights.items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.slow
def test_seeds_decide_and_nothing_else(base: Base, examples: Examples) -> None:
    chosen = settings(lora_dropout=0.2)
    first = train(base, examples, chosen)
    torch.manual_seed(99)
    again = train(base, examples, chosen)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    for other in (train(base, examples, chosen, seed=8), train(base, examples, chosen, order=4)):
        assert any(not torch.equal(weight, other[name]) for name, weight in first.items())


def test_a_loss_that_is_not_finite_stops_at_once(base: Base, examples: Examples) -> None:
    chosen = settings(learning_rate=1e30, weight_decay=0.0, warmup_steps=0, steps=50)
    with pytest.raises(DivergedError, match=r"loss diverged at step [23]$"), trained(base, examples, chosen, 0, 0):
        pass


@pytest.mark.slow
def test_adapters_are_fp32_on_a_bf16_base(folders: dict[str, Path], examples: Examples) -> None:
    base = models.load(config.Model(path=str(folders["llama"])), "bf16", "cpu")
    with trained(base, examples, settings(), 0, 0) as tuned:
        assert {weight.dtype for weight in adapters(base.model).values()} == {torch.float32}
        assert base.model.dtype == torch.bfloat16
        assert np.isfinite(tuned.losses).all()


@pytest.mark.slow
def test_training_learns_and_counts(base: Base, examples: Examples) -> None:
    with trained(base, examples, settings(steps=None, epochs=6), 0, 0) as tuned:
        assert tuned.steps == len(tuned.losses) == 6 * 4
        assert tuned.tokens == 6 * len(examples.tokens)
        assert tuned.losses[-4:].mean() < 0.8 * tuned.losses[:4].mean()


def test_targets_that_are_not_there_are_the_users_to_mend(base: Base, examples: Examples) -> None:
    with pytest.raises(UserError, match="no linear layer"), trained(base, examples, settings(targets="w_q"), 0, 0):
        pass


# ----- steps, order, schedule


def test_every_epoch_is_a_permutation_and_a_function_of_the_seed() -> None:
    found = list(batches(10, 4, 7, seed=5))
    assert [len(indices) for indices in found] == [4, 4, 2, 4, 4, 2, 4]
    assert sorted(np.concatenate(found[:3])) == sorted(np.concatenate(found[3:6])) == list(range(10))
    assert np.concatenate(found[:3]).tolist() != np.concatenate(found[3:6]).tolist()
    # Another batch size meets the examples in the same order: common random numbers.
    assert np.concatenate(list(batches(10, 3, 8, seed=5))).tolist() == np.concatenate(found[:6]).tolist()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steps": 7}, 7),
        ({"steps": None, "epochs": 1}, 3),
        ({"steps": None, "epochs": 2.5}, 8),
        ({"steps": None, "epochs": 0.01}, 1),
        ({"steps": None, "epochs": 0.1 * 3, "batch_size": 1}, 3),
    ],
)
def test_steps_follow_from_epochs(changes: dict[str, Any], expected: int) -> None:
    assert count_steps(10, settings(**changes)) == expected


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("steps", "warmup"), [(20, 0), (20, 5), (3, 3), (4, 9), (1, 0)])
def test_the_schedule_is_that_of_transformers_with_a_warm_up_one_step_ahead(kind: Any, steps: int, warmup: int) -> None:
    name = "constant_with_warmup" if kind == "constant" else kind
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(name, optimiser, warmup, steps)
    theirs = []
    for _ in range(steps + 1):
        theirs.append(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()
    for step in range(steps):
        expected = theirs[step + 1] if step + 1 < warmup else 1.0 if step < warmup else theirs[step]
        assert schedule(step, steps, warmup, kind) == pytest.approx(expected, abs=1e-12)
