"""Checkpoints brought to LitGPT's form, and its adapters to PEFT's; with a stand-in for the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig

from partune import config
from partune.errors import UserError
from partune.finetune.adapter import loaded
from partune.finetune.litgpt.checkpoints import convert, describe, keep_lora
from partune.finetune.litgpt.program import Program, StepError
from partune.finetune.model import Base
from partune.runtime.isolation import quiet
from tests.support.litgpt import behave, calls, lora


def test_a_model_of_any_size_is_converted_under_a_stand_ins_name_once(
    tmp_path: Path, program: Program, folders: dict[str, Path]
) -> None:
    for kind, name in (("llama", "Llama-3.2-1B"), ("qwen2", "Qwen2.5-0.5B")):
        for _ in range(2):
            found = convert(program, folders[kind], tmp_path / "base" / kind, kind, tmp_path / "c.log")
        assert [call["model_name"] for call in calls(Path(program.path))][-2:] == [kind, name]
        assert yaml.safe_load((found / "model_config.yaml").read_text()) == describe(folders[kind])[1]
        assert sorted(path.name for path in found.iterdir()) == [
            "config.json",
            "generation_config.json",
            "lit_model.pth",
            "model_config.yaml",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    assert len(calls(Path(program.path))) == 4
    assert sorted(path.name for path in folders["llama"].iterdir())[-3:] == [
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert convert(program, found, tmp_path / "none", "x", tmp_path / "c.log") == found


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, program: Program, folders: dict[str, Path]) -> None:
    behave(Path(program.path), convert_to_litgpt="fail")
    with pytest.raises(StepError, match="litgpt convert_to_litgpt ended with exit code 3"):
        convert(program, folders["llama"], tmp_path / "base" / "llama", "llama", tmp_path / "c.log")
    assert not list((tmp_path / "base").iterdir())


def test_other_architectures_are_refused(tmp_path: Path, program: Program, folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"LitGPT does not know the model gpt2, .* because of its type gpt2"):
        convert(program, folders["gpt2"], tmp_path / "base" / "gpt2", "gpt2", tmp_path / "c.log")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_bias": True}, "because of its attention_bias"),
        ({"hidden_act": "gelu"}, "because of its hidden_act gelu"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "because of its rope_type dynamic",
        ),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with quiet():
        LlamaConfig(hidden_size=32, num_attention_heads=4, **settings).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        describe(tmp_path)


def test_peft_loads_what_litgpt_trained(base: Base, tmp_path: Path) -> None:
    final, weights = tmp_path / "final", lora(4)
    final.mkdir()
    torch.save({"model": weights}, final / "lit_model.pth.lora")
    (final / "lit_model.pth").touch()
    keep_lora(final, tmp_path / "kept", base.model, config.Training(lora_r=4, lora_alpha=8, targets="attention"))
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert names == {"lit_model.pth.lora", "adapter_config.json", "adapter_model.safetensors"}
    with loaded(base, tmp_path / "kept") as adapted:
        delta = {
            name.removeprefix("base_model.model.model."): module.get_delta_weight("default")
            for name, module in adapted.named_modules()
            if hasattr(module, "get_delta_weight")
        }
    assert len(delta) == 8
    for block in range(2):
        a, b = (weights[f"transformer.h.{block}.attn.qkv.lora_{matrix}"] for matrix in "AB")
        # litgpt/lora.py, `get_lora_AB` of the stacked layer: a convolution in three groups
        stacked = torch.cat([x @ y for x, y in zip(b.split([32, 16, 16]), a.chunk(3), strict=True)]) * 2
        found = torch.cat([delta[f"layers.{block}.self_attn.{part}_proj"] for part in "qkv"])
        assert torch.allclose(found, stacked, atol=1e-6)
        a, b = (weights[f"transformer.h.{block}.attn.proj.lora_{matrix}"] for matrix in "AB")
        assert torch.allclose(delta[f"layers.{block}.self_attn.o_proj"], 2 * b @ a, atol=1e-6)


def test_a_model_of_other_layers_keeps_litgpts_format_alone(bases: dict[str, Base], tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "lit_model.pth.lora").touch()
    keep_lora(tmp_path / "final", tmp_path / "kept", bases["neox"].model, config.Training())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["lit_model.pth.lora"]
