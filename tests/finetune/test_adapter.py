"""Adapter files: PEFT's format, whole or not at all, and merged models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune import adapter as adapters
from partune.finetune import model as models
from partune.finetune.data import tokenise
from partune.finetune.model import Base
from partune.finetune.scoring.harness import harness_model
from partune.finetune.scoring.scores import Scorer
from partune.finetune.training import trained
from partune.runtime import disk
from partune.runtime.isolation import quiet
from tests.support.tiny import KINDS, make_rows, write_jsonl

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Base], tokenizer: PreTrainedTokenizerFast
) -> dict[str, tuple[Path, torch.Tensor]]:
    """Of each kind of model a trained adapter's folder, and the logits on IDS with it."""
    root = tmp_path_factory.mktemp("adapters")
    examples = tokenise(config.Data(path=str(write_jsonl(root / "rows.jsonl", make_rows(8)))), tokenizer)
    chosen = config.Training(learning_rate=0.05, lora_r=3, lora_alpha=5.5, steps=4, batch_size=4)
    found = {}
    for kind in KINDS:
        with trained(bases[kind], examples.cut(100, "answer"), chosen, 1, 1) as tuned, torch.no_grad():
            adapters.save(tuned.model, root / kind)
            found[kind] = root / kind, bases[kind].model(IDS).logits
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_what_is_saved(
    folders: dict[str, Path], bases: dict[str, Base], saved: dict[str, tuple[Path, torch.Tensor]], kind: str
) -> None:
    folder, logits = saved[kind]
    with quiet():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders[kind]), folder)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, logits)
        assert not torch.equal(bases[kind].model(IDS).logits, logits)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (3, 5.5, "LORA")


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_adapter_leaves_the_base_as_it_was(
    bases: dict[str, Base], saved: dict[str, tuple[Path, torch.Tensor]], kind: str
) -> None:
    folder, logits = saved[kind]
    modules = dict(bases[kind].model.named_modules())
    with adapters.loaded(bases[kind], folder), torch.no_grad():
        assert torch.equal(bases[kind].model(IDS).logits, logits)
    assert dict(bases[kind].model.named_modules()) == modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: dict(list(own.items())[1:]), r"missing adapter keys .*layers\.0\."),
        (
            lambda own: own | {name.replace("layers.0", "layers.9"): t.clone() for name, t in own.items()},
            r"the model has no place for base_model\.model\.model\.layers\.9\..* and \d+ more",
        ),
    ],
)
def test_an_adapter_that_is_not_taken_whole_is_refused(
    base: Base, saved: dict[str, tuple[Path, torch.Tensor]], tmp_path: Path, change: Any, message: str
) -> None:
    """PEFT warns of what is missing and drops what has no place; either is another adapter than the one in the file."""
    folder = shutil.copytree(saved["llama"][0], tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    safetensors.torch.save_file(change(load_file(file)), file)
    with pytest.raises(UserError, match=f"does not fit the base model: .*{message}"), adapters.loaded(base, folder):
        pass


def test_nothing_is_merged_into_a_base_that_lacks_weights(
    folders: dict[str, Path], saved: dict[str, tuple[Path, torch.Tensor]], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["llama"], tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    safetensors.torch.save_file(dict(list(weights.items())[1:]), folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"base lacks 1 of its \d+ weights"):
        adapters.merge(config.Model(path=str(folder)), saved["llama"][0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_merged_into_quantized_weights(
    folders: dict[str, Path],
    saved: dict[str, tuple[Path, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PEFT would round each sum to the base's few values, and warn."""

    def quantized(*arguments: Any, **options: Any) -> Base:
        base = models.load(*arguments, **options)
        base.model.hf_quantizer = object()
        return base

    monkeypatch.setattr(adapters, "load", quantized)
    with pytest.raises(UserError, match="is quantized: merging would round each weight again and change the model"):
        adapters.merge(config.Model(path=str(folders["llama"])), saved["llama"][0], tmp_path / "out")


@pytest.mark.slow
def test_the_harness_scores_the_exported_adapter_alike(
    folders: dict[str, Path], base: Base, saved: dict[str, tuple[Path, torch.Tensor]], task_file: Path
) -> None:
    validation = config.Validation(tasks=(str(task_file),))
    scorer = Scorer(base, validation, config.Test(), seed=0)
    with adapters.loaded(base, saved["llama"][0]):
        ours = scorer.score(harness_model(base, 16), {"search"})
    with quiet():
        theirs = HFLM(
            pretrained=str(folders["llama"]), peft=str(saved["llama"][0]), dtype="float32", device="cpu", batch_size=4
        )
        found = scorer.score(
            lambda requests: theirs._loglikelihood_tokens(list(requests), disable_tqdm=True), {"search"}
        )
    for name, array in ours.items.items():
        np.testing.assert_allclose(array, found.items[name], atol=1e-4)
    assert ours.score == found.score


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_needs_no_peft(
    folders: dict[str, Path], saved: dict[str, tuple[Path, torch.Tensor]], tmp_path: Path, kind: str
) -> None:
    folder, logits = saved[kind]
    adapters.merge(config.Model(path=str(folders[kind])), folder, tmp_path / "merged")
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits, atol=2e-4, rtol=1e-4)
    assert tokenizer("oil")["input_ids"] == AutoTokenizer.from_pretrained(folders[kind])("oil")["input_ids"]
    assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("qwen2", True)])
def test_the_head_can_be_named_and_merged_where_it_is_its_own(
    folders: dict[str, Path],
    bases: dict[str, Base],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    kind: str,
    tied: bool,
) -> None:
    examples = tokenise(config.Data(path=str(write_jsonl(tmp_path / "rows.jsonl", make_rows(8)))), tokenizer)
    chosen = config.Training(learning_rate=0.05, targets="q_proj, lm_head", steps=4, batch_size=4)
    before = bases[kind].model(IDS).logits
    with trained(bases[kind], examples.cut(100, "answer"), chosen, 1, 1) as tuned, torch.no_grad():
        adapters.save(tuned.model, tmp_path / "head")
        logits = bases[kind].model(IDS).logits
    assert torch.equal(bases[kind].model(IDS).logits, before)
    with quiet():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders[kind]), tmp_path / "head")
    assert torch.equal(model(IDS).logits, logits)
    weights = load_file(tmp_path / "head" / "adapter_model.safetensors")
    assert any("lm_head" in name for name in weights)
    source = config.Model(path=str(folders[kind]))
    if tied:
        with pytest.raises(UserError, match="cannot be merged: it adapts the output head"):
            adapters.merge(source, tmp_path / "head", tmp_path / "merged")
        return
    adapters.merge(source, tmp_path / "head", tmp_path / "merged")
    with quiet():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(IDS).logits, logits, atol=2e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_merged_model_keeps_the_bases_precision(
    folders: dict[str, Path], saved: dict[str, tuple[Path, torch.Tensor]], tmp_path: Path
) -> None:
    half = models.load(config.Model(path=str(folders["llama"])), "bf16", "cpu")
    with quiet():
        half.model.save_pretrained(tmp_path / "half")
        half.tokenizer.save_pretrained(tmp_path / "half")
    adapters.merge(config.Model(path=str(tmp_path / "half")), saved["llama"][0], tmp_path / "merged")
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert model.dtype == torch.bfloat16


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"

    def break_off() -> None:
        with adapters.written(folder) as draft:
            (draft / "half").write_text("x")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        break_off()
    assert list((tmp_path / "runs").iterdir()) == []
    for text in ("first", "second"):
        with adapters.written(folder) as draft:
            (draft / text).write_text(text)
    assert [each.name for each in folder.iterdir()] == ["second"]
    assert list((tmp_path / "runs").iterdir()) == [folder]


def test_what_is_no_adapter_of_this_base_is_a_user_error(
    bases: dict[str, Base], saved: dict[str, tuple[Path, torch.Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r'no adapter folder .*; did you mean "llama"'):
        adapters.check(saved["llama"][0].with_name("lama"))
    with pytest.raises(UserError, match=r"is not an adapter folder: it has no adapter_config.json"):
        adapters.check(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        adapters.check(tmp_path)
    with (
        pytest.raises(UserError, match="does not fit the base model"),
        adapters.loaded(bases["neox"], saved["llama"][0]),
    ):
        pass
    assert not hasattr(bases["neox"].model, "peft_config")


def test_a_full_disk_is_waited_for_and_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = 2

    def save_file(tensors: dict[str, torch.Tensor], path: str, metadata: dict[str, str]) -> None:
        nonlocal full
        full -= 1
        if full >= 0:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        really(tensors, path, metadata)

    really = safetensors.torch.save_file
    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    monkeypatch.setattr(disk, "AGAIN", 0.01)
    lora, matrices = LoraConfig(r=2), {"layer": (torch.zeros(2, 3), torch.zeros(3, 2))}
    adapters.write(tmp_path / "a", lora, matrices)
    assert adapters.read(tmp_path / "a").keys() == {"layer"}
    full = 1
    monkeypatch.setattr(disk, "PATIENCE", 0.0)
    with pytest.raises(OSError, match="No space left on device") as caught:
        adapters.write(tmp_path / "b", lora, matrices)
    assert disk.blames_disk(f"OSError: {caught.value}")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
