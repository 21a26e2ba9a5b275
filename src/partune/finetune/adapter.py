"""Adapter files, in PEFT's format: `PeftModel.from_pretrained(base, folder)` loads what is written here."""

from __future__ import annotations

import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from partune import config
from partune.errors import UserError
from partune.finetune.layers import read_text
from partune.finetune.model import Base, check_json, check_weights, load, some
from partune.runtime.disk import make_way, retry_while_full
from partune.runtime.failures import one_line
from partune.runtime.isolation import own_generators, quiet
from partune.runtime.paths import suggestion_beside

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
ALIKE = 1e-3  # of the largest logit: how far two sums of the same products in fp32 may lie apart


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """Give a new folder to write in, which replaces `folder` once complete: all of it is there, or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        yield draft
        make_way(folder)
        os.replace(draft, folder)
    except SafetensorError as error:  # the system's errors are in its words only
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else error from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def save(model: PeftModel, folder: Path) -> None:
    """Write the adapter's weights and configuration; wait where the disk is full.

    Args:
        model: The base with the adapter.
        folder: Where to; what is there is replaced.

    Raises:
        OSError: It cannot be written.
    """

    def write() -> None:
        with written(folder) as draft, quiet():
            # The base is frozen, its embeddings included: "auto" would compare them with the hub's.
            model.save_pretrained(str(draft), safe_serialization=True, save_embedding_layers=False)
            (draft / "README.md").unlink(missing_ok=True)  # PEFT's model card, with nothing filled in

    retry_while_full(write)


def write(
    folder: Path, lora: LoraConfig, matrices: Mapping[str, tuple[Tensor, Tensor]], base: str | None = None
) -> None:
    """Write an adapter as PEFT would; wait where the disk is full.

    Args:
        folder: Where to; what is there is replaced.
        lora: The adapter's description.
        matrices: A (r, d_in) and B (d_out, r) of each layer.
        base: The base model's name or path.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors.torch import save_file

    lora.inference_mode = True
    lora.base_model_name_or_path = base or None
    named = {
        f"base_model.model.{name}.lora_{letter}.weight": matrix.detach().cpu().contiguous()
        for name, pair in matrices.items()
        for letter, matrix in zip("AB", pair, strict=True)
    }

    def save() -> None:
        with written(folder) as draft, quiet():
            lora.save_pretrained(str(draft))
            save_file(named, str(draft / "adapter_model.safetensors"), metadata={"format": "pt"})

    retry_while_full(save)


def read(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A (r, d_in) and B (d_out, r) of each layer, from an adapter's file."""
    from safetensors.torch import load_file

    named = load_file(folder / "adapter_model.safetensors")
    layers = dict.fromkeys(name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in named)
    return {
        layer: (named[f"base_model.model.{layer}.lora_A.weight"], named[f"base_model.model.{layer}.lora_B.weight"])
        for layer in layers
    }


def check(folder: Path) -> None:
    """Raise UserError where a folder holds no adapter, or a damaged one."""
    settings = folder / "adapter_config.json"
    if not folder.is_dir():
        raise UserError(f"no adapter folder {folder}{suggestion_beside(folder)}")
    if not settings.is_file():
        raise UserError(f"{folder} is no adapter: it has no adapter_config.json")
    check_json(settings)
    weights = folder / "adapter_model.safetensors"
    if weights.exists() or not (folder / "adapter_model.bin").exists():
        check_weights(weights)


@contextmanager
def loaded(base: Base, folder: Path) -> Iterator[PeftModel]:
    """Lend the base with a saved adapter; the base is untouched afterwards.

    Args:
        base: The base model.
        folder: The adapter's folder.

    Raises:
        UserError: The adapter is not one of this base.
    """
    from peft import PeftModel

    check(folder)
    with base.lent() as model, own_generators(base.device):
        try:
            with quiet():
                adapted = PeftModel.from_pretrained(model, str(folder))
                _check_used(adapted, folder)
        except (OSError, ValueError, RuntimeError, KeyError, UserError) as error:
            raise UserError(f"adapter {folder} does not fit the base model: {one_line(error)}") from None
        adapted.eval()
        yield adapted


def unlike(adapted: PeftModel, folder: Path) -> str | None:
    """Return how the weights that PEFT loaded differ from those in an adapter's file; None where they do not.

    `loaded` has made sure that they are the same weights by name.

    Args:
        adapted: The base with the adapter.
        folder: The adapter's folder.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    with quiet():
        held = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    kept = load_file(folder / "adapter_model.safetensors")
    changed = [name for name, weight in kept.items() if not torch.equal(weight.float(), held[name].float().cpu())]
    return f"PEFT loads {len(changed)} weights otherwise than they were saved, as {changed[0]}" if changed else None


def _check_used(adapted: PeftModel, folder: Path) -> None:
    """Raise ValueError where the adapter's file has tensors that the model did not take: PEFT drops them in silence."""
    from peft import get_peft_model_state_dict

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return
    with safe_open(str(path), framework="pt") as file:
        kept = set(file.keys())
    if unused := sorted(kept - set(get_peft_model_state_dict(adapted, save_embedding_layers=False))):
        raise ValueError(f"it has no place for {some(unused)}")


def check_fits(model: config.Model, folder: Path) -> None:
    """Raise UserError where PEFT would not load an adapter into its base.

    The base's settings are enough: layers have names and shapes without weights. A base that cannot be had here cannot
    be asked.

    Args:
        model: The base model.
        folder: The adapter's folder.
    """
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    with quiet(), own_generators(torch.device("cpu")), torch.device("meta"):
        try:
            settings = AutoConfig.from_pretrained(model.path, **given)
            base = AutoModelForCausalLM.from_config(settings, trust_remote_code=model.trust_remote_code)
        except (OSError, ValueError, ImportError):
            return
        try:
            adapted = get_peft_model(base, PeftConfig.from_pretrained(str(folder)), low_cpu_mem_usage=True)
        except Exception as error:  # a library's way to say no
            raise UserError(f"PEFT does not load adapter {folder} into {model.path}: {one_line(error)}") from None
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if odd := sorted(shapes.items() ^ {name: tuple(weight.shape) for name, weight in expected.items()}.items()):
        name, shape = odd[0]
        raise UserError(f"adapter {folder} is not one of {model.path}: {name} {shape} is in one of them alone")


def merge(model: config.Model, folder: Path, out: Path) -> None:
    """Write the base with the adapter merged into its weights, and the tokenizer: a model folder that needs no PEFT.

    The sum is taken in fp32 and rounded once, to the precision in which the base is stored.

    Args:
        model: The base model.
        folder: The adapter's folder.
        out: The new model's folder.

    Raises:
        UserError: The merged model does not answer as the base with the adapter does, or does not load as it was
            written. So it is where a layer with an adapter shares its weights with another one, as a head does with the
            input embeddings: merging would change both.
    """
    with written(out) as draft:
        expected = _write_merged(model, folder, draft)
        again = load(model.model_copy(update={"path": str(draft), "revision": None, "quantize": "none"}), "fp32", "cpu")
        _check_alike(expected, again.model, f"{folder}: the merged model does not load as it was written")


def _write_merged(model: config.Model, folder: Path, draft: Path) -> Tensor:
    """Write the merged model into a folder, and return its logits of a few tokens, weights rounded as written."""
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig

    base = load(model.model_copy(update={"quantize": "none"}), dtype="fp32", device="cpu")
    if getattr(base.model, "hf_quantizer", None) is not None:
        raise UserError(f"model {model.path} is quantized: merging would round each weight again, to another model")
    with loaded(base, folder) as adapted, quiet():
        stored = AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        ).dtype
        head, embeddings = base.model.get_output_embeddings(), base.model.get_input_embeddings()
        if isinstance(head, LoraLayer) and head.weight is embeddings.weight:
            raise UserError(f"{folder} adapts the head of a model with tied embeddings, which cannot be merged")
        # `safe_merge` looks for NaN only: whether the merged model is the same model, its answers tell.
        expected = read_text(base.model).detach()
        merged = adapted.merge_and_unload(safe_merge=True)
        _check_alike(expected, merged, f"{folder} cannot be merged: the merged model answers otherwise")
        merged.to(stored or base.model.dtype)
        merged.save_pretrained(str(draft), safe_serialization=True)
        base.tokenizer.save_pretrained(str(draft))
        _copy_processors(model, draft)
        return read_text(merged.float()).detach()


def _copy_processors(model: config.Model, draft: Path) -> None:
    """Copy what says how the base reads images and sound, which a server of the merged model asks for."""
    from transformers.utils import cached_file

    for name in PROCESSORS:
        cached = cached_file(
            model.path,
            name,
            revision=model.revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if cached is not None:
            shutil.copy(cached, draft / name)


def _check_alike(expected: Tensor, model: PreTrainedModel, otherwise: str) -> None:
    """Raise UserError, which begins with `otherwise`, where the model's logits of a few tokens are not these."""
    logits = read_text(model).detach()
    most = float((logits - expected).abs().max()) if logits.shape == expected.shape else math.inf
    # Written so that NaN does not pass: it is not below anything.
    if not most <= ALIKE * (1 + float(expected.abs().max())):
        raise UserError(f"{otherwise} (logits of a few tokens differ by up to {most:.3g})")
