"""Quantized models on disk: every weight is as near as its form allows, and the rest is untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from partune.errors import UserError
from partune.finetune import quantizing
from partune.finetune.quantizing import quantize
from partune.runtime.isolation import quiet

bitsandbytes = pytest.importorskip("bitsandbytes")

pytestmark = pytest.mark.slow

HALF_GAP = 0.153  # half of the largest gap between two values of NormalFloat4, which are from -1 to 1


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def source(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def loaded(folder: Path) -> Any:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder)


def test_eight_bits_are_the_nearest_of_255_steps_per_row(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out", "int8")
    original, layers = loaded(source), 0
    for name, module in loaded(tmp_path / "out").named_modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            weight = original.get_submodule(name).weight
            weight = weight.T if "Conv1D" in type(original.get_submodule(name)).__name__ else weight
            largest = module.weight.SCB[:, None]  # of each row; bitsandbytes rounds weights to fp16 before
            torch.testing.assert_close(largest[:, 0], weight.abs().amax(dim=1), rtol=1e-3, atol=0)
            error = (module.weight.float() * largest / 127 - weight).abs()
            assert bool((error <= 0.6 * largest / 127).all())
            layers += 1
    assert layers >= 8


def test_four_bits_are_the_nearest_of_sixteen_values_per_block(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out", "nf4")
    original, layers = loaded(source), 0
    for name, module in loaded(tmp_path / "out").named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = original.get_submodule(name).weight
            weight = weight.T if "Conv1D" in type(original.get_submodule(name)).__name__ else weight
            assert module.weight.quant_state.quant_type == "nf4"
            found = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            assert float((found - weight.detach()).abs().max()) <= 1.1 * HALF_GAP * float(weight.abs().max())
            layers += 1
    assert layers >= 8


def test_the_tokenizer_and_the_embeddings_stay(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in source.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages }}")
    quantize(tmp_path / "model", tmp_path / "out", "nf4")
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {file.name for file in source.iterdir()}
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ messages }}"
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    embeddings = next(name for name in before if "embed" in name or "wte" in name)
    assert torch.equal(before[embeddings], after[embeddings])


def test_a_folder_that_does_not_load_as_written_is_no_result(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text = quantizing.read_text
    monkeypatch.setattr(quantizing, "read_text", lambda model: read_text(model) + 1)
    with pytest.raises(UserError, match=r"^the model in nf4 does not load as it was written \(logits of a few tokens"):
        quantize(source, tmp_path / "out", "nf4")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_quantized_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^the merged model cannot be quantized to int8: ") as found:
        quantize(tmp_path / "model", tmp_path / "out", "int8")
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out").exists()
