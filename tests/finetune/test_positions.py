"""What configurations say about positions, beside what the models do and what the harness reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from partune.finetune.model import Base
from partune.finetune.positions import deepest, frequencies
from partune.runtime.isolation import quiet
from tests.support.tiny import make_tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
ALIBI = {"vocab_size": 400, "hidden_size": 32, "num_attention_heads": 4}
MAMBA = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
MPT = {"vocab_size": 400, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 48}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
RWKV = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 80}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
LOCAL = {"vocab_size": 400, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8}


def config_of(kind: str, **settings: Any) -> Any:
    return CONFIG_MAPPING[kind](**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("llama", SHAPE, math.inf),
        ("mistral", SHAPE | {"sliding_window": 8}, 8),
        ("mistral", SHAPE | {"sliding_window": None}, math.inf),
        ("phi3", SHAPE | {"sliding_window": 9}, 9),
        ("gemma2", SHAPE | {"sliding_window": 8}, 8),
        ("gemma3_text", SHAPE | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}, 8),
        ("gemma3_text", SHAPE | {"sliding_window": 8, "layer_types": ["full_attention"] * 2}, math.inf),
        ("gemma3", {"text_config": SHAPE | {"sliding_window": 8}}, 8),
        ("gpt_oss", SHAPE | {"sliding_window": 8, "num_local_experts": 2}, 8),
        ("qwen2", SHAPE | {"sliding_window": 8, "use_sliding_window": False}, math.inf),
        ("qwen2", SHAPE | {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, 8),
        ("llama4_text", SHAPE | {"attention_chunk_size": 8, "no_rope_layers": [1, 0], "num_local_experts": 2}, 8),
        ("gpt_neo", LOCAL | {"attention_types": [[["global", "local"], 1]]}, 8),
        ("gpt_neo", LOCAL | {"attention_types": [[["global", "global"], 1]]}, math.inf),
        ("lfm2", SHAPE | {"layer_types": ["conv", "full_attention"]}, 0),
        ("bloom", ALIBI, 0),
        ("falcon", ALIBI | {"alibi": True}, 0),
        ("falcon", ALIBI | {"alibi": False}, math.inf),
        ("mpt", MPT, 0),
    ],
)
def test_how_deep_a_row_may_be_for_all_to_see_all(kind: str, settings: dict[str, Any], expected: float) -> None:
    assert deepest(config_of(kind, **settings)) == expected


@pytest.mark.parametrize("window", [6, 7, 8])
def test_a_window_as_wide_as_a_row_is_deep_hides_nothing(window: int) -> None:
    """By the model itself: a row of 7 tokens ends as it would without windows where `deepest` allows it."""
    ids = torch.arange(3, 10).unsqueeze(0)
    logits = []
    for width in (window, None):
        torch.manual_seed(0)
        config = config_of("mistral", **SHAPE, sliding_window=width, initializer_range=0.3)
        with torch.no_grad():
            logits.append(AutoModelForCausalLM.from_config(config).eval()(ids).logits[0, -1])
    assert bool(torch.allclose(*logits)) == (deepest(config_of("mistral", **SHAPE, sliding_window=window)) >= 7)


@pytest.mark.parametrize(
    ("kind", "rope", "alike", "apart"),
    [
        ("phi3", LONG, [(1, 20), (21, 100)], [(20, 21)]),
        ("llama", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, [(1, 64)], [(64, 65), (65, 66)]),
    ],
)
def test_lengths_of_the_same_frequencies(
    kind: str, rope: dict[str, Any], alike: list[tuple[int, int]], apart: list[tuple[int, int]]
) -> None:
    lengths = {"max_position_embeddings": 64, "original_max_position_embeddings": 20}
    tell_apart = frequencies(config_of(kind, **SHAPE, **lengths, rope_parameters=rope))
    assert tell_apart is not None
    assert all(tell_apart(one) == tell_apart(other) for one, other in alike)
    assert all(tell_apart(one) != tell_apart(other) for one, other in apart)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
        {
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ],
)  # fmt: skip
def test_other_scalings_do_not_look_at_the_length(rope: dict[str, Any]) -> None:
    """By the model itself, too: the first tokens of a long row are those of a short one."""
    config = config_of("llama", **SHAPE, max_position_embeddings=64, rope_parameters=rope)
    assert frequencies(config) is None
    model, ids = AutoModelForCausalLM.from_config(config).eval(), torch.arange(3, 53).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[:, :9], model(ids[:, :9]).logits)


def test_of_an_unknown_scaling_every_length_is_its_own() -> None:
    config = config_of("llama", **SHAPE)
    config.rope_parameters = {"rope_type": "of-tomorrow"}
    tell_apart = frequencies(config)
    assert tell_apart is not None
    assert tell_apart(5) != tell_apart(6)


# ----- how much is read


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings", "unlimited"),
    [
        ("llama", SHAPE | {"max_position_embeddings": 70}, False),
        ("gpt2", {"vocab_size": 400, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 70}, False),
        ("gemma3", {"text_config": SHAPE | {"max_position_embeddings": 70}, "vision_config": VISION}, False),
        ("rwkv", RWKV, False),
        ("bloom", ALIBI, True),
        ("mamba", MAMBA, True),
    ],
)
@pytest.mark.parametrize("said", [None, 90])
def test_as_much_of_a_request_is_read_as_the_harness_reads(
    kind: str, settings: dict[str, Any], unlimited: bool, said: int | None
) -> None:
    """said: by the tokenizer; one that says nothing has 10^30."""
    tokenizer = make_tokenizer()
    if said is not None:
        tokenizer.model_max_length = said
    base = unweighted(config_of(kind, **settings), tokenizer)
    with quiet():
        assert base.context == HFLM(pretrained=base.model, tokenizer=tokenizer).max_length
    assert (base.positions > 10**9) == unlimited


def test_no_more_is_read_than_the_model_has_positions_for() -> None:
    """The harness would read 2,048 tokens, for which MPT has no bias."""
    assert unweighted(config_of("mpt", **MPT), make_tokenizer()).context == 48


def unweighted(config: Any, tokenizer: PreTrainedTokenizerFast) -> Base:
    """A base whose weights take no memory."""
    with torch.device("meta"), quiet():
        return Base(AutoModelForCausalLM.from_config(config), tokenizer, torch.device("meta"), "fp32")
