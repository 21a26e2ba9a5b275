"""The resident base: loading it, lending it, and finding the layers that get an adapter."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    LlamaConfig,
    OPTConfig,
    PhimoeConfig,
    PretrainedConfig,
)

from partune import config
from partune.errors import UserError
from partune.finetune import model as models
from partune.finetune.model import Base
from partune.finetune.targets import find_targets
from partune.objectives.finetune import FineTune
from partune.runtime.extras import install_command
from partune.runtime.isolation import quiet
from tests.support.tiny import CONTEXT, KINDS, make_items, write_jsonl, write_task

# ----- loading


def test_the_context_is_known_without_the_weights(base: Base, folders: dict[str, Path]) -> None:
    settings = models.load_settings(config.Model(path=str(folders["llama"])))
    assert models.positions_of(settings) == base.positions == CONTEXT
    assert models.context_of(settings, base.tokenizer) == base.context
    with pytest.raises(UserError, match="no/such/model"):
        models.load_settings(config.Model(path="no/such/model"))


def test_a_loaded_base_is_frozen_and_knows_its_context(base: Base) -> None:
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training
    assert base.context == CONTEXT
    assert (base.device.type, base.dtype) == ("cpu", "fp32")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("auto", torch.float32)]
)
def test_precision_is_what_was_asked_for(folders: dict[str, Path], name: str, dtype: torch.dtype) -> None:
    base = models.load(config.Model(path=str(folders["gpt2"])), name, "cpu")
    assert {parameter.dtype for parameter in base.model.parameters()} == {dtype}


def test_loading_does_not_touch_the_global_generator(folders: dict[str, Path]) -> None:
    before = torch.get_rng_state()
    models.load(config.Model(path=str(folders["llama"])), "fp32", "cpu")
    assert torch.equal(before, torch.get_rng_state())


def test_an_unknown_folder_is_named_with_its_neighbour(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r'no model folder .*; did you mean "llama"'):
        models.load(config.Model(path=f"{folders['llama']}s"))


def test_an_unknown_id_is_one_line_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no folder "nobody/nothing", and no such model from Hugging Face') as caught:
        models.load(config.Model(path="nobody/nothing"))
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json"):
        models.load(config.Model(path=str(tmp_path)))
    (tmp_path / "file.bin").write_bytes(b"")
    with pytest.raises(UserError, match="is a file: a model is a folder"):
        models.load(config.Model(path=str(tmp_path / "file.bin")))


def changed(**settings: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **settings}).encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage", "named"),
    [
        ("config.json", lambda content: b"", "config.json is not valid JSON"),
        ("config.json", lambda content: content[:40], "config.json is not valid JSON"),
        ("config.json", lambda content: b"\xff" + content, "config.json is not valid JSON"),
        ("config.json", lambda content: b"[1, 2]", "config.json must hold a JSON object, got [1, 2]"),
        ("config.json", lambda content: b"{}", "cannot be loaded"),
        ("config.json", changed(model_type=3), "config.json: model_type must be a text, got 3"),
        ("config.json", changed(model_type="nothing-of-the-kind"), "cannot be loaded"),
        ("config.json", changed(hidden_size="wide"), "cannot be loaded"),
        ("config.json", changed(num_attention_heads=0), "cannot be loaded"),
        ("config.json", changed(num_hidden_layers=[2]), "cannot be loaded"),
        ("config.json", changed(vocab_size=None), "cannot be loaded"),
        ("config.json", changed(hidden_act="no-such"), "cannot be loaded"),
        ("model.safetensors", lambda content: b"", "model.safetensors is cut or damaged"),
        ("model.safetensors", lambda content: content[:-100], "model.safetensors is cut or damaged"),
        ("model.safetensors", lambda content: content[:200], "model.safetensors is cut or damaged"),
        ("model.safetensors", lambda content: b"\xff" * 8 + content[8:], "model.safetensors is cut or damaged"),
        ("model.safetensors", lambda content: b"\x02" + b"\0" * 7 + b"{}", "model.safetensors holds no tensor"),
        ("tokenizer.json", lambda content: content[:100], "cannot be loaded"),
        ("tokenizer.json", lambda content: b"[]", "cannot be loaded"),
        ("tokenizer_config.json", lambda content: b"[]", "cannot be loaded"),
    ],
    ids=range(20),
)
def test_a_damaged_model_folder_is_one_line_that_names_it(
    name: str, damage: Callable[[bytes], bytes], named: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["llama"], folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(UserError) as caught:
        models.load(config.Model(path=str(folder)), "fp32", "cpu")
    assert named in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_pickled_weights_are_refused_unless_admitted(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(folders["llama"], folder)
    source = models.load(config.Model(path=str(folder)), "fp32", "cpu")
    (folder / "model.safetensors").unlink()
    torch.save(source.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        models.load(config.Model(path=str(folder)), "fp32", "cpu")
    admitted = models.load(config.Model(path=str(folder), safetensors=False), "fp32", "cpu")
    for name, weight in source.model.state_dict().items():
        assert torch.equal(weight, admitted.model.state_dict()[name])


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps"])
def test_a_device_that_is_not_there_is_a_user_error(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(UserError, match=f'device "{name}"'):
        models.find_device(name)


# ----- lending


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", [False, True])
def test_a_lent_base_comes_back_exactly_as_it_was(bases: dict[str, Base], kind: str, fails: bool) -> None:
    base = bases[kind]
    modules = dict(base.model.named_modules())
    weights = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        logits = base.model(ids).logits
    try:
        with base.lent() as model:
            targets = find_targets(model, "attention")
            with quiet():
                adapted = get_peft_model(model, LoraConfig(target_modules=targets, init_lora_weights=False))
            with torch.no_grad():
                assert not torch.equal(adapted(ids).logits, logits)
            if fails:
                raise RuntimeError("in the middle")
    except RuntimeError:
        assert fails
    after = dict(base.model.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert all(torch.equal(weight, base.model.state_dict()[name]) for name, weight in weights.items())
    assert not hasattr(base.model, "peft_config")
    assert not base.model.training
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, logits)


# ----- a checkpoint that is not the model


def changed(source: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """A copy of a model's folder with other weights in it."""
    shutil.copytree(source, to)
    save_file(change(load_file(source / "model.safetensors")), to / "model.safetensors", metadata={"format": "pt"})
    return to


def configured(folder: Path, **settings: Any) -> Path:
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | settings))
    return folder


DOWN = "model.layers.1.mlp.down_proj.weight"
INCOMPLETE: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "one": ("llama", lambda w: {n: t for n, t in w.items() if n != DOWN}, DOWN),
    "compiled": ("llama", lambda w: {f"_orig_mod.{n}": t for n, t in w.items()}, 'begin with "_orig_mod.", as in'),
    "wrapped": ("neox", lambda w: {f"module.{n}": t for n, t in w.items()}, 'its names begin with "module."'),
    "tied": ("qwen2", lambda w: {n: t for n, t in w.items() if "embed" not in n}, "model.embed_tokens.weight"),
    "bias": ("gpt2", lambda w: {n: t for n, t in w.items() if "h.1.ln_2.bias" not in n}, "transformer.h.1.ln_2.bias"),
    "shape": ("llama", lambda w: {n: t[:-1].clone() if n == DOWN else t for n, t in w.items()}, DOWN),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(INCOMPLETE))
@pytest.mark.parametrize("how", ["load", "outline"])
def test_weights_that_a_checkpoint_lacks_are_named(
    folders: dict[str, Path], tmp_path: Path, case: str, how: str
) -> None:
    kind, change, named = INCOMPLETE[case]
    spec = config.Model(path=str(changed(folders[kind], tmp_path / "model", change)))
    with pytest.raises(UserError, match=re.escape(named)) as caught:
        models.load(spec, "fp32", "cpu") if how == "load" else models.outline(spec)
    if case != "shape":  # the loader's own report is the judge of how many
        _, report = AutoModelForCausalLM.from_pretrained(spec.path, output_loading_info=True)
        assert f"lacks {len(report['missing_keys'])} of its" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_head_of_its_own_that_is_not_there_is_missed(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["gpt2"], tmp_path / "model")  # tied, and so saved without a head
    configured(tmp_path / "model", tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"lacks 1 of its \d+ weights, which would be random numbers: lm_head.weight"):
        models.load(config.Model(path=str(tmp_path / "model")), "fp32", "cpu")


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_what_a_checkpoint_need_not_hold_is_not_missed(
    folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path, kind: str
) -> None:
    """A tied head, and the name of the whole before each weight's."""
    prefix = {"qwen2": "model.", "gpt2": "transformer."}[kind]
    bare = changed(folders[kind], tmp_path / kind, lambda w: {n.removeprefix(prefix): t for n, t in w.items()})
    loaded = models.load(config.Model(path=str(bare)), "fp32", "cpu")
    for name, expected in bases[kind].model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], expected), name


def test_what_has_no_place_in_the_model_is_told(folders: dict[str, Path], tmp_path: Path, base: Base) -> None:
    shutil.copytree(folders["llama"], tmp_path / "model")
    configured(tmp_path / "model", num_hidden_layers=1)
    (note,) = models.load(config.Model(path=str(tmp_path / "model")), "fp32", "cpu").notes
    assert note.startswith("9 tensors of the checkpoint have no place in the model, and are left out: model.layers.1.")
    assert base.notes == ()


def test_an_adapter_in_the_base_folder_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """The loader would put it into the base, and say nothing."""
    folder = tmp_path / "both"
    shutil.copytree(folders["llama"], folder)
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(folder)
        get_peft_model(plain, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(folder)
        assert AutoModelForCausalLM.from_pretrained(folder).peft_config
    for ask in (models.check_exists, models.load_tokenizer, models.load, models.outline):
        with pytest.raises(UserError, match="both also holds an adapter"):
            ask(config.Model(path=str(folder)))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="both is an adapter's folder: use the folder of its base model"):
        models.check_exists(config.Model(path=str(folder)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_with_dropout_of_its_own_is_told_and_trained_without(bases: dict[str, Base], kind: str) -> None:
    """Oracle: whether the model in training mode, as Trainer has it, answers otherwise than in evaluation mode."""
    model, ids = bases[kind].model, torch.arange(12).reshape(1, 12)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        still = model(ids).logits
        try:
            moves = not torch.equal(model.train()(ids).logits, still)
        finally:
            model.eval()
    assert moves == bool(models.dropouts(model.config)) == bool(bases[kind].notes)
    if moves:
        assert models.dropouts(model.config) == {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
        assert "the base model's own dropout (" in bases[kind].notes[0]


# ----- 4 bits, compiled blocks


def test_four_bits_need_a_cuda_device(folders: dict[str, Path]) -> None:
    spec = config.Model(path=str(folders["llama"]), quantize="nf4")
    with pytest.raises(UserError, match="quantize: nf4 needs a CUDA device, got cpu"):
        models.load(spec, "fp32", "cpu")


def test_four_bits_need_their_library_and_tell_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, device = config.Model(path="m", quantize="nf4"), torch.device("cuda:1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(f"needs bitsandbytes: {install_command('quantize')}")):
        models.quantization(spec, device, "bf16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    told = models.quantization(spec, device, "bf16")
    assert told["device_map"] == {"": device}
    settings = told["quantization_config"]
    assert (settings.load_in_4bit, settings.bnb_4bit_quant_type) == (True, "nf4")
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    assert models.quantization(config.Model(path="m"), device, "bf16") == {}


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_the_repeated_ones(bases: dict[str, Base], kind: str) -> None:
    found = models.blocks(bases[kind].model)
    assert len(found) == 2
    assert len({type(block) for block in found}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", ["eager", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("aot_eager", "inductor"))]
)
def test_compiled_blocks_give_the_same_numbers(
    folders: dict[str, Path], base: Base, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Inductor, which users have, calls a C++ compiler for half a minute; graphs and guards are the same without."""
    whole, asked = torch.nn.Module.compile, list[dict[str, Any]]()
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, **options: (asked.append(options), whole(self, **options, backend=backend))[1],
    )
    compiled = models.load(config.Model(path=str(folders["llama"])), "fp32", "cpu", compiled=True)
    for rows in (2, 3):
        ids = torch.arange(rows * 7).reshape(rows, 7)
        with torch.no_grad():
            torch.testing.assert_close(compiled.model(ids).logits, base.model(ids).logits, atol=1e-5, rtol=1e-4)
    assert asked == [{"dynamic": True}] * len(models.blocks(base.model))


# ----- several devices


@pytest.mark.parametrize(("devices", "placed"), [(1, None), (2, "auto")])
def test_a_base_for_several_devices_is_spread_over_them(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, devices: int, placed: str | None
) -> None:
    asked: dict[str, Any] = {}

    class Loader:
        @staticmethod
        def from_pretrained(path: str, **options: Any) -> None:
            asked.update(options)
            raise OSError("nothing is loaded here")

    monkeypatch.setattr("transformers.AutoModelForCausalLM", Loader)
    monkeypatch.setattr(models, "find_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(models, "own_generators", lambda device: contextlib.nullcontext())
    with pytest.raises(UserError):
        models.load(config.Model(path=str(folders["llama"])), "fp32", devices=devices)
    assert asked.get("device_map") == placed


@pytest.mark.slow
def test_a_token_beyond_the_embeddings_is_named_before_training(folders: dict[str, Path], tmp_path: Path) -> None:
    """Tokens that were added to the tokenizer alone, in the data or in a task's items."""
    shutil.copytree(folders["llama"], tmp_path / "added")
    tokenizer = models.load_tokenizer(config.Model(path=str(tmp_path / "added")))
    last = len(tokenizer) - 1
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<|im_end|>"]})
    tokenizer.save_pretrained(tmp_path / "added")
    row = {"instruction": "why", "output": "oil"}
    ended = [{**item, "question": "why <|im_end|>"} for item in make_items(8)]
    task = write_task(tmp_path, "plain", make_items(8))
    message = rf'has token {last + 2} \("<\|im_end\|>"\), but the model\'s embeddings end at {last}: '
    for name, rows, items in (
        ("the data", [{**row, "output": "oil<|im_end|>"}], task),
        ("the task ended", [row], write_task(tmp_path, "ended", ended)),
    ):
        data = write_jsonl(tmp_path / "rows.jsonl", rows)
        with pytest.raises(UserError, match=f"^{name} {message}"):
            FineTune(str(tmp_path / "added"), str(data), items).prepare()
    FineTune(str(tmp_path / "added"), str(write_jsonl(tmp_path / "rows.jsonl", [row])), task).prepare()


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (OPTConfig(dropout=0.1, layerdrop=0.0), {"dropout": 0.1}),
        (PhimoeConfig(router_jitter_noise=0.01, input_jitter_noise=0.0), {"router_jitter_noise": 0.01}),
        (Gemma3Config(text_config={"attention_dropout": 0.3}), {"text_config.attention_dropout": 0.3}),
        (LlamaConfig(), {}),
    ],
)
def test_a_bases_own_dropout_is_found_by_its_settings(settings: PretrainedConfig, found: dict[str, float]) -> None:
    assert models.dropouts(settings) == found


@pytest.mark.parametrize(
    "wrong", [{"hidden_size": "32"}, {"num_attention_heads": 0}, {"vocab_size": None}, {"model_type": "no-such"}]
)
def test_a_wrong_configuration_is_one_line(folders: dict[str, Path], tmp_path: Path, wrong: dict[str, Any]) -> None:
    folder = configured(shutil.copytree(folders["llama"], tmp_path / "model"), **wrong)
    for load in (lambda spec: models.load(spec, "fp32", "cpu"), models.outline):
        with pytest.raises(UserError, match=f"^model {folder} (cannot be loaded: |has weights of another)") as caught:
            load(config.Model(path=str(folder)))
        assert "\n" not in str(caught.value)
