"""Our settings as LitGPT's arguments, and what LitGPT does not support."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from partune import config
from partune.errors import UserError
from partune.finetune.litgpt.arguments import find_switches, finetune_arguments, refuse
from partune.finetune.model import Base
from tests.support import fake_litgpt

PATHS = (Path("/base"), Path("/data"), Path("/out"))
SWITCHES = dict.fromkeys(("lora_query", "lora_key", "lora_value", "lora_projection"), True) | {
    "lora_mlp": False,
    "lora_head": False,
}


def given(examples: int = 100, loss_on: Any = "answer", dtype: str = "fp32", **settings: Any) -> dict[str, Any]:
    training = config.Training(**settings)
    arguments = finetune_arguments(
        *PATHS, examples, training, SWITCHES, max_length=64, loss_on=loss_on, dtype=dtype, seed=7, order_seed=5
    )
    return vars(fake_litgpt.parser("finetune_lora", fake_litgpt.FINETUNE).parse_args(arguments))


def test_every_setting_becomes_its_argument() -> None:
    settings = {"lora_r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1, "learning_rate": 1e-6, "weight_decay": 1e-5}
    sizes = {"batch_size": 8, "micro_batch_size": 2, "steps": 30, "warmup_steps": 4}
    found = given(**settings, **sizes, dtype="bf16")
    assert {name: value for name, value in found.items() if value is not None} == {
        "checkpoint_dir": PATHS[0],
        "out_dir": PATHS[2],
        "precision": "bf16-true",
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        **SWITCHES,
        "data": "JSON",
        "data.json_path": PATHS[1],
        "data.mask_prompt": True,
        "data.prompt_style": "alpaca",
        "data.seed": 5,
        "data.num_workers": 0,
        "train.global_batch_size": 8,
        "train.micro_batch_size": 2,
        "train.epochs": 3,
        "train.max_steps": 30,
        "train.lr_warmup_steps": 4,
        "train.max_seq_length": 64,
        "eval.interval": 10**9,
        "eval.final_validation": False,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-6, "weight_decay": 1e-5}},
        "seed": 7,
    }
    assert given(loss_on="all")["data.mask_prompt"] is False


@pytest.mark.slow
@pytest.mark.parametrize("examples", [40, 41, 100])
@pytest.mark.parametrize("batch", [1, 6, 16])
@pytest.mark.parametrize("micro", [None, 1, 4])
@pytest.mark.parametrize("epochs", [1, 2.5])
def test_litgpts_own_loop_takes_the_steps_that_we_count(
    examples: int, batch: int, micro: int | None, epochs: float
) -> None:
    found = given(examples, batch_size=batch, micro_batch_size=micro, epochs=epochs)
    micro_batches = -(-examples // found["train.micro_batch_size"])
    accumulated = batch // found["train.micro_batch_size"]
    assert batch % found["train.micro_batch_size"] == 0
    assert found["train.micro_batch_size"] <= (micro or batch)
    # litgpt/finetune/lora.py: `fit` and, for the schedule's length, `main`
    step = iteration = 0
    while step < found["train.max_steps"]:
        iteration += 1
        if (iteration - 1) // micro_batches >= found["train.epochs"]:
            break
        step += iteration % accumulated == 0
    lr_max_steps = min(found["train.epochs"] * (micro_batches // accumulated), found["train.max_steps"])
    assert step == lr_max_steps == math.ceil(epochs * math.ceil(examples / batch))
    assert 1 <= found["train.lr_warmup_steps"] < step


@pytest.mark.parametrize(
    ("examples", "settings", "message"),
    [
        (
            100,
            {"batch_size": 101, "micro_batch_size": 1},
            "batch_size 101: there are only 100 examples, and LitGPT drops",
        ),
        (100, {"steps": 5, "warmup_steps": 5}, "warmup_steps 5 of 5 steps in total"),
        (16, {}, "warmup_steps 1 of 1 steps in total"),
    ],
)
def test_a_schedule_that_litgpt_cannot_run_is_refused(examples: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        given(examples, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "LitGPT does not support optimizer sgd"),
        ({"schedule": "linear"}, "LitGPT does not support schedule linear: it knows cosine only"),
        ({"max_grad_norm": 0.5}, "LitGPT does not support max_grad_norm 0.5: it does not clip gradients"),
        ({"lora_alpha": 2.5}, "LitGPT does not support lora_alpha 2.5: it accepts integers only"),
        ({"warmup_steps": 0}, "LitGPT does not support warmup_steps 0"),
        ({"steps": 1}, "LitGPT does not support steps 1"),
    ],
)
def test_what_litgpt_has_not_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        refuse(config.Training(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "targets", "on"),
    [
        ("llama", "attention", "query key value projection"),
        ("llama", "all-linear", "query key value projection mlp"),
        ("llama", "q_proj, v_proj", "query value"),
        ("llama", "gate_proj,up_proj,down_proj,lm_head", "mlp head"),
        ("neox", "attention", "query key value projection"),
        ("neox", "all-linear", "query key value projection mlp"),
    ],
)
def test_targets_are_litgpts_switches(bases: dict[str, Base], kind: str, targets: str, on: str) -> None:
    found = find_switches(bases[kind].model, targets)
    assert list(found) == list(SWITCHES) == [name for name in fake_litgpt.FINETUNE if name in found]
    assert {name for name, is_on in found.items() if is_on} == {f"lora_{name}" for name in on.split()}


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("llama", "up_proj", r"but not model\.layers\.0\.mlp\.up_proj by itself"),
        ("llama", "layers.0.self_attn.q_proj", r"but not model\.layers\.0\.self_attn\.q_proj by itself"),
        ("llama", "q_prj", 'no linear layer "q_prj"'),
        ("qwen2", "lm_head", "the head shares its weights with the embeddings"),
        ("gpt2", "attention", "but not transformer"),
    ],
)
def test_targets_that_litgpt_cannot_adapt_are_refused(
    bases: dict[str, Base], kind: str, targets: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_switches(bases[kind].model, targets)
