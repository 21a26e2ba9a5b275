"""What a pass of text trains, what mixes tokens, and what PEFT takes, over architectures that differ in it.

PEFT is the oracle: adapters that it puts on every layer, and which of them a loss gives a gradient.
"""

from __future__ import annotations

import copy
import io
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from rich.console import Console
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from partune import config
from partune.cli.progress import Terminal
from partune.errors import UserError
from partune.finetune import layers
from partune.finetune.model import Base
from partune.finetune.packed.adapters import carrier
from partune.finetune.targets import check_accepted, coverage, find_targets
from partune.objectives.finetune import FineTune
from partune.report.words import coverage_words
from partune.runtime.isolation import quiet
from partune.space import Choice, Float, Space
from tests.support.tiny import make_tokenizer

COMMON: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "image_size": 28, "patch_size": 14}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 8}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", COMMON),
    "qwen3_5": (
        "qwen3_5_text",
        COMMON
        | DELTA
        | {"head_dim": 16, "num_hidden_layers": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"]},
    ),
    "granite4": (
        "granitemoehybrid",
        COMMON
        | MAMBA
        | {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 48}
        | {"layer_types": ["mamba", "attention"], "position_embedding_type": None},
    ),
    "lfm2": ("lfm2", COMMON | {"layer_types": ["conv", "full_attention"]}),
    "falcon_h1": ("falcon_h1", COMMON | MAMBA | {"mamba_d_ssm": 64, "head_dim": 8}),
    "nemotron_h": (
        "nemotron_h",
        COMMON
        | {"num_hidden_layers": 4, "hybrid_override_pattern": "M-*-", "head_dim": 8, "attention_head_dim": 8}
        | {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 1, "chunk_size": 8},
    ),
    "jamba": (  # every block a mixture's or not, by turns: the attention block has a plain feed-forward part
        "jamba",
        COMMON
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 0}
        | {"num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 4, "use_mamba_kernels": False},
    ),
    "gpt2": ("gpt2", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "mixtral": ("mixtral", COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mamba": ("mamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "deepseek_v32": (
        "deepseek_v32",
        COMMON
        | EXPERTS
        | LATENT
        | {"num_key_value_heads": 4, "first_k_dense_replace": 1, "n_shared_experts": 1}
        | {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 4},
    ),
    "gemma3": (
        "gemma3",
        {
            "text_config": COMMON | {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]},
            "vision_config": VISION | {"num_attention_heads": 2},
            "mm_tokens_per_image": 4,
            "image_token_index": 3,
        },
    ),
    "mllama": (
        "mllama",
        {
            "text_config": COMMON | {"num_hidden_layers": 3, "cross_attention_layers": [1], "bos_token_id": 0},
            "vision_config": VISION
            | {"num_global_layers": 1, "attention_heads": 2, "max_num_tiles": 1}
            | {"vision_output_dim": 32, "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]},
        },
    ),
}


@cache
def made(name: str, **changes: Any) -> PreTrainedModel:
    """A small random model, frozen; changes: to its settings."""
    kind, settings = SETTINGS[name]
    settings = settings | changes
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**settings))
    return model.eval().requires_grad_(False)


def kinds(names: list[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


# ----- what a pass of text trains


def with_gradients(model: PreTrainedModel, names: list[str]) -> set[str]:
    """The layers whose adapters, put there by PEFT, get a gradient from a text's loss."""
    with layers.put_back(model), quiet():
        get_peft_model(model, LoraConfig(r=2, target_modules=names))
        ids = torch.arange(8, 24)[None]
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
        assert set(adapted) == set(names)
        return {name for name, module in adapted.items() if module.lora_B["default"].weight.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma3", "mllama", "deepseek_v32"])
def test_what_a_text_trains_is_what_has_a_gradient_in_peft(name: str) -> None:
    model = made(name)
    left_alone = ("out_proj", "gate_proj", "up_proj", "down_proj")  # which PEFT takes for something else in one of them
    every = [layer for layer in layers.linear_layers(model) if not layer.endswith(left_alone)]
    assert set(every) & layers.trained_layers(model) == with_gradients(model, every)


@pytest.mark.parametrize(
    ("name", "never"),
    [("gemma3", "vision_tower"), ("mllama", "cross_attn"), ("deepseek_v32", "indexer"), ("mamba", "dt_proj")],
)
def test_no_targets_reach_layers_that_a_text_does_not_train(name: str, never: str) -> None:
    model = made(name)
    assert any(never in layer for layer in layers.linear_layers(model))
    for targets in ("attention", "all-linear"):
        found = find_targets(model, targets)
        assert found
        assert not any(never in layer for layer in found)
    odd = next(layer for layer in layers.linear_layers(model) if never in layer)
    with pytest.raises(UserError, match=f'training on text does not reach the layers named "{odd}"'):
        find_targets(model, odd)


def test_a_name_shared_with_a_tower_means_the_layers_of_the_text() -> None:
    found = find_targets(made("gemma3"), "q_proj")
    assert found == [f"model.language_model.layers.{block}.self_attn.q_proj" for block in range(2)]
    covered = coverage(made("gemma3"), "q_proj")
    assert covered["left_out"] == {"a pass of text does not train": ["q_proj"]}


def test_looking_leaves_a_model_as_it_was() -> None:
    model = AutoModelForCausalLM.from_config(made("llama").config).eval().requires_grad_(False)
    before = {name: (id(module), len(module._forward_hooks)) for name, module in model.named_modules()}
    generator = torch.get_rng_state()
    check_accepted(model, "all-linear")
    assert {name: (id(module), len(module._forward_hooks)) for name, module in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert not hasattr(model, "peft_config")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_cannot_be_run_is_taken_to_train_all() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made("llama").config)
    model.get_input_embeddings().forward = lambda ids: 1 / 0
    assert layers.trained_layers(model) == set(layers.linear_layers(model))


# ----- what mixes tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks", "expected"),
    [
        ("llama", (2, 2), {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (
            "qwen3_5",
            (4, 4),
            {"q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"},
        ),
        ("granite4", (2, 2), {"q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "out_proj"}),
        ("lfm2", (2, 2), {"q_proj", "k_proj", "v_proj", "out_proj", "in_proj"}),
        ("falcon_h1", (2, 2), {"q_proj", "k_proj", "v_proj", "o_proj"}),  # attention beside a mixer, in every block
        ("nemotron_h", (2, 4), {"q_proj", "k_proj", "v_proj", "o_proj", "in_proj"}),  # two blocks are feed-forward
        ("jamba", (2, 2), {"q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "x_proj", "out_proj"}),
        ("mamba", (2, 2), {"in_proj", "x_proj"}),
        ("gemma3", (2, 2), {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mllama", (2, 2), {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("deepseek_v32", (2, 2), {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}),
    ],
)
def test_attention_is_what_mixes_tokens_and_says_what_it_covers(
    name: str, blocks: tuple[int, int], expected: set[str]
) -> None:
    model = made(name)
    found = find_targets(model, "attention")
    assert kinds(found) == expected
    assert not any(part in layer for layer in found for part in ("mlp", "feed_forward", "expert", "vision"))
    covered = coverage(model, "attention")
    assert (covered["blocks"], covered["of"]) == blocks
    assert covered["layers"] == len(found)
    assert f"in {blocks[0]} of {blocks[1]} blocks" in coverage_words(covered)


def test_what_peft_does_not_take_is_left_out_of_attention_and_said() -> None:
    covered = coverage(made("nemotron_h"), "attention")
    assert covered["left_out"] == {"PEFT does not take": ["out_proj"]}
    assert coverage_words(covered).endswith("; not on out_proj, which PEFT does not take")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nemotron_h", "mamba", "jamba", "deepseek_v32", "mixtral", "lfm2", "granite4"])
def test_the_default_targets_suit_every_model(name: str) -> None:
    model = made(name)
    check_accepted(model, "all-linear")
    assert set(find_targets(model, "attention")) <= set(find_targets(model, "all-linear"))


def test_experts_that_are_no_layers_are_said_to_have_no_adapters() -> None:
    said = coverage_words(coverage(made("mixtral"), "all-linear"))
    assert said.endswith("; not on a mixture's experts, which have no layers of their own")


# ----- what PEFT takes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "targets", "reason", "left"),
    [
        (
            "nemotron_h",
            "in_proj,out_proj,q_proj",
            "'out_proj' is incompatible",
            "in_proj,q_proj",
        ),
        ("mamba", "in_proj,out_proj", "'out_proj' is incompatible", "in_proj"),
        ("deepseek_v32", "o_proj,down_proj", "is in one of the two lists only", "o_proj"),  # it would take the experts
        ("deepseek_v32", "shared_experts.down_proj", "is in one of the two lists only", "attention"),
    ],
)
def test_targets_that_peft_would_not_load_are_refused_with_those_that_remain(
    name: str, targets: str, reason: str, left: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_accepted(made(name), targets)
    text = str(caught.value)
    assert text.startswith(f"targets {targets}: PEFT could not load the adapters (")
    assert reason in text
    assert text.endswith(f"--targets {left}")
    assert "\n" not in text
    check_accepted(made(name), left)


def test_a_layer_that_answers_with_more_than_a_tensor_has_no_adapter() -> None:
    class Router(nn.Linear):  # as Llama 4's
        def forward(self, input: torch.Tensor) -> Any:
            return super().forward(input), None

    model = AutoModelForCausalLM.from_config(made("llama").config).eval()
    mlp = model.model.layers[0].mlp
    router, plain = Router(32, 32), mlp.forward
    mlp.router = router
    mlp.forward = lambda x: plain(x) + router(x)[0]
    assert not any(name.endswith("router") for name in find_targets(model, "all-linear"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["packed", "peft"])
def test_a_study_asks_before_it_trains_and_records_what_is_covered(
    engine: str, data_file: Path, task_file: Path, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    folder = str(tmp_path / "model")
    with quiet():
        made("nemotron_h", vocab_size=len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def tuner(**training: Any) -> FineTune:
        run = {"device": "cpu", "engine": engine, "pack": 2}
        return FineTune(folder, data_file, task_file, training={"steps": 1, "batch_size": 2} | training, run=run)

    named = "in_proj,out_proj"
    searched = Space(learning_rate=Float(1e-4, 1e-2), targets=Choice(["q_proj", named]))
    for study, space in ((tuner(targets=named), ["learning_rate"]), (tuner(), searched)):
        with pytest.raises(UserError, match=rf"^targets {named}: PEFT could not load .*; use --targets in_proj"):
            study.check(space)
    study = tuner()
    study.check(Space(learning_rate=Float(1e-4, 1e-2), targets=Choice(["q_proj", "attention", "all-linear"])))
    told = pickle.loads(pickle.dumps(study))  # as a worker has it
    adapted = told.summary["adapted"]
    counts = {targets: each["layers"] for targets, each in adapted.items()}
    assert (counts["q_proj"], counts["attention"]) == (1, 5)
    assert counts["all-linear"] > 5
    assert adapted["all-linear"]["left_out"] == {"PEFT does not take": ["out_proj"]}
    console = Console(file=io.StringIO(), width=200)
    Terminal(console).loaded(told.summary)
    assert isinstance(console.file, io.StringIO)
    assert "attention: adapters on 5 layers in 2 of 4 blocks (in_proj, q_proj, k_proj" in console.file.getvalue()


def tied() -> PreTrainedModel:
    """A model whose two blocks have one layer between them, by two names."""
    model = copy.deepcopy(made("llama"))
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "targets"),
    [
        *((name, "attention") for name in ("qwen3_5", "granite4", "lfm2", "nemotron_h", "jamba", "mamba")),
        *((name, "attention") for name in ("gemma3", "mllama", "mixtral")),
        ("gpt2", "attn.c_attn,lm_head"),  # transposed weights, and others: PEFT has one switch for both
        ("gpt2", "mlp.c_proj"),  # attention has a layer of that name too
        ("llama", "q_proj,layers.1.mlp.up_proj,lm_head"),
        ("tied", "up_proj"),
    ],
)
def test_a_packs_adapter_answers_through_peft_as_it_did(name: str, targets: str, tmp_path: Path) -> None:
    """Written by a pack, read by PEFT into another copy of the model."""
    model = tied() if name == "tied" else made(name)
    check_accepted(model, targets)
    base = Base(model, make_tokenizer(), torch.device("cpu"), "fp32")
    settings = config.Training(lora_r=3, lora_alpha=8, targets=targets)
    ids = torch.arange(8, 24)[None]
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / 5

    with carrier(base, targets) as carrying, torch.no_grad():
        weights = {site.name: (drawn(site.d_in, 3), drawn(3, site.d_out)) for site in carrying.sites}
        carrying.save(settings, weights, tmp_path / "adapter")
        with carrying.carrying(carrying.loaded([(settings, weights)])) as carried:
            expected = carried(input_ids=ids, use_cache=False).logits
    with quiet():
        adapted = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path / "adapter"))
    with torch.no_grad():
        found = adapted(input_ids=ids, use_cache=False).logits
        plain = model(input_ids=ids, use_cache=False).logits
    assert not torch.allclose(plain, expected, atol=1e-2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
