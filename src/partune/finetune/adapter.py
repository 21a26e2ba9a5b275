"""Write, read, check and merge adapters in PEFT's format, which `PeftModel.from_pretrained(base, folder)` loads."""

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
# Tolerance when two logits are compared, relative to the largest logit: the same fp32 products may have been added in
# another order.
ALIKE = 1e-3


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to write in. It replaces `folder` at the end, so `folder` is never half-written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        yield draft
        make_way(folder)
        os.replace(draft, folder)
    except SafetensorError as error:  # safetensors reports errors of the operating system in its message only
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else error from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def save(model: PeftModel, folder: Path) -> None:
    """Write the weights and the configuration of an adapter; wait while the disk is full.

    Args:
        model: The base model with the adapter.
        folder: The folder to write to, which is replaced if it exists.

    Raises:
        OSError: The folder cannot be written.
    """

    def write() -> None:
        with written(folder) as draft, quiet():
            # Embeddings are frozen and need not be saved. The default, "auto", would compare them with the hub's files.
            model.save_pretrained(str(draft), safe_serialization=True, save_embedding_layers=False)
            (draft / "README.md").unlink(missing_ok=True)  # PEFT's model card, an unfilled template

    retry_while_full(write)


def write(
    folder: Path, lora: LoraConfig, matrices: Mapping[str, tuple[Tensor, Tensor]], base: str | None = None
) -> None:
    """Write an adapter in PEFT's format from its matrices; wait while the disk is full.

    Args:
        folder: The folder to write to, which is replaced if it exists.
        lora: PEFT's description of the adapter.
        matrices: A (r, d_in) and B (d_out, r) of each layer.
        base: The name or path of the base model.

    Raises:
        OSError: The folder cannot be written.
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
    """Return the matrices A (r, d_in) and B (d_out, r) of each layer from an adapter's folder."""
    from safetensors.torch import load_file

    named = load_file(folder / "adapter_model.safetensors")
    layers = dict.fromkeys(name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in named)
    return {
        layer: (named[f"base_model.model.{layer}.lora_A.weight"], named[f"base_model.model.{layer}.lora_B.weight"])
        for layer in layers
    }


def check(folder: Path) -> None:
    """Raise UserError if a folder holds no adapter or a damaged one."""
    settings = folder / "adapter_config.json"
    if not folder.is_dir():
        raise UserError(f"no adapter folder {folder}{suggestion_beside(folder)}")
    if not settings.is_file():
        raise UserError(f"{folder} is not an adapter folder: it has no adapter_config.json")
    check_json(settings)
    weights = folder / "adapter_model.safetensors"
    if weights.exists() or not (folder / "adapter_model.bin").exists():
        check_weights(weights)


@contextmanager
def loaded(base: Base, folder: Path) -> Iterator[PeftModel]:
    """Yield the base model with a saved adapter, and remove the adapter afterwards.

    Args:
        base: The base model.
        folder: The adapter's folder.

    Raises:
        UserError: The adapter does not fit the base model.
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
    """Return a sentence on how the weights that PEFT loaded differ from those in the file, or None if they are equal.

    Both have weights of the same names: `loaded` checked this.

    Args:
        adapted: The base model with the adapter.
        folder: The adapter's folder.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    with quiet():
        loaded_weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    saved = load_file(folder / "adapter_model.safetensors")
    changed = [
        name for name, weight in saved.items() if not torch.equal(weight.float(), loaded_weights[name].float().cpu())
    ]
    if not changed:
        return None
    return f"PEFT loads {len(changed)} weights with other values than were saved, such as {changed[0]}"


def _check_used(adapted: PeftModel, folder: Path) -> None:
    """Raise ValueError if the adapter's file has tensors that the model did not load: PEFT drops them silently."""
    from peft import get_peft_model_state_dict

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return
    with safe_open(str(path), framework="pt") as file:
        saved = set(file.keys())
    if unused := sorted(saved - set(get_peft_model_state_dict(adapted, save_embedding_layers=False))):
        raise ValueError(f"the model has no place for {some(unused)}")


def check_fits(model: config.Model, folder: Path) -> None:
    """Raise UserError if PEFT would not load an adapter into its base model.

    The configuration of the base model is enough for this check, because it determines the names and shapes of the
    layers. If the configuration cannot be loaded on this machine, nothing is checked.

    Args:
        model: The base model.
        folder: The adapter's folder.
    """
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    with quiet(), own_generators(torch.device("cpu")), torch.device("meta"):
        try:
            settings = AutoConfig.from_pretrained(model.path, **options)
            base = AutoModelForCausalLM.from_config(settings, trust_remote_code=model.trust_remote_code)
        except (OSError, ValueError, ImportError):
            return
        try:
            adapted = get_peft_model(base, PeftConfig.from_pretrained(str(folder)), low_cpu_mem_usage=True)
        except Exception as error:  # libraries refuse with exceptions of any type
            raise UserError(f"PEFT does not load adapter {folder} into {model.path}: {one_line(error)}") from None
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if odd := sorted(shapes.items() ^ {name: tuple(weight.shape) for name, weight in expected.items()}.items()):
        name, shape = odd[0]
        raise UserError(
            f"adapter {folder} does not fit {model.path}: {name} of shape {shape} is in only one of the two"
        )


def merge(model: config.Model, folder: Path, out: Path) -> None:
    """Merge an adapter into the weights of its base model, and write a model folder that loads without PEFT.

    The sum of weights and adapter is computed in fp32 and rounded once, to the precision in which the base model is
    stored. The tokenizer is written too.

    Args:
        model: The base model.
        folder: The adapter's folder.
        out: The new model's folder.

    Raises:
        UserError: The merged model gives other logits than the base model with the adapter, or it gives other logits
            once it is loaded again. Both happen if an adapted layer shares its weights with another layer, as a head
            may do with the input embeddings: merging would change both layers.
    """
    with written(out) as draft:
        expected = _write_merged(model, folder, draft)
        spec = model.model_copy(update={"path": str(draft), "revision": None, "quantize": "none"})
        reloaded = load(spec, "fp32", "cpu")
        check_alike(expected, reloaded.model, f"{folder}: the merged model does not load as it was written")


def _write_merged(model: config.Model, folder: Path, draft: Path) -> Tensor:
    """Write the merged model into a folder; return its logits for a few tokens, with weights rounded as written."""
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig

    base = load(model.model_copy(update={"quantize": "none"}), dtype="fp32", device="cpu")
    if getattr(base.model, "hf_quantizer", None) is not None:
        raise UserError(f"model {model.path} is quantized: merging would round each weight again and change the model")
    with loaded(base, folder) as adapted, quiet():
        stored = AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        ).dtype
        head, embeddings = base.model.get_output_embeddings(), base.model.get_input_embeddings()
        if isinstance(head, LoraLayer) and head.weight is embeddings.weight:
            raise UserError(
                f"{folder} cannot be merged: it adapts the output head, whose weights are also the input embeddings"
            )
        # `safe_merge` looks for NaN only, so the logits before and after merging are compared.
        expected = read_text(base.model).detach()
        merged = adapted.merge_and_unload(safe_merge=True)
        check_alike(expected, merged, f"{folder} cannot be merged: the merged model gives different answers")
        merged.to(stored or base.model.dtype)
        merged.save_pretrained(str(draft), safe_serialization=True)
        base.tokenizer.save_pretrained(str(draft))
        _copy_processors(model, draft)
        return read_text(merged.float()).detach()


def _copy_processors(model: config.Model, draft: Path) -> None:
    """Copy the files that say how the base model reads images and sound: a server of the merged model needs them."""
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


def check_alike(expected: Tensor, model: PreTrainedModel, message: str) -> None:
    """Raise UserError if a model's logits for a few tokens are not as expected.

    Args:
        expected: The logits, (1, T, V), in fp32.
        model: The model.
        message: The beginning of the error's message.
    """
    logits = read_text(model).detach().float()
    most = float((logits - expected).abs().max()) if logits.shape == expected.shape else math.inf
    # `not <=` instead of `>`, so that a NaN is refused too: any comparison with NaN is false.
    if not most <= ALIKE * (1 + float(expected.abs().max())):
        raise UserError(f"{message} (logits of a few tokens differ by up to {most:.3g})")
