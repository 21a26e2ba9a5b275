"""Load the base model and its tokenizer, and check their files. The model stays in memory, frozen, for all trials."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from partune import config
from partune.errors import UserError, shown
from partune.finetune.layers import (
    block_names,
    put_back,
)
from partune.runtime import extras
from partune.runtime.failures import is_out_of_memory, one_line
from partune.runtime.isolation import own_generators, quiet
from partune.runtime.paths import suggestion_beside

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# Names in a configuration for the number of tokens that a model can read: those that lm-evaluation-harness knows, in
# its order, and others.
LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
OTHER_LENGTHS = ("max_seq_len", "max_sequence_length", "max_seq_length", "seq_length")
# The number that lm-evaluation-harness takes if neither the configuration nor the tokenizer has one. In transformers, a
# tokenizer without a limit has the number 10^30, so a number of `UNSET` or more counts as no limit.
HARNESS_LENGTH, UNSET = 2048, 1e29
UNLIMITED = 2**31  # the number of positions of a model that reads texts of any length


@dataclass(frozen=True)
class Base:
    """A frozen causal language model with its tokenizer, on its device.

    Attributes:
        model: The model.
        tokenizer: The model's tokenizer.
        device: The device of the model's first parameter.
        dtype: The precision: fp32, bf16 or fp16.
        notes: Remarks for the user on how the model was loaded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: str
    notes: tuple[str, ...] = ()

    @property
    def context(self) -> int:
        """Return how many tokens of a request the model reads (see `context_of`)."""
        return context_of(self.model.config, self.tokenizer)

    @property
    def positions(self) -> int:
        """Return how many tokens the model can read at once (see `positions_of`)."""
        return positions_of(self.model.config)

    @contextmanager
    def lent(self) -> Iterator[PreTrainedModel]:
        """Yield the model to attach adapters to; afterwards, put the original modules back."""
        with put_back(self.model):
            yield self.model


def positions_of(settings: PretrainedConfig) -> int:
    """Return how many tokens a model can read at once: UNLIMITED if its configuration has no limit (as with ALiBi)."""
    settings = settings.get_text_config()
    lengths = (getattr(settings, name, None) for name in (*LENGTHS, *OTHER_LENGTHS))
    return next((length for length in lengths if isinstance(length, int)), UNLIMITED)


def context_of(settings: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens of a request a model reads; longer requests lose their beginning.

    The rule is that of lm-evaluation-harness: the number in the text model's configuration, or else the tokenizer's, or
    else 2,048. The last two are limited to the number of the model's positions.

    Args:
        settings: The model's configuration.
        tokenizer: The model's tokenizer.
    """
    text = getattr(settings, "text_config", None) or settings
    stated = next((length for name in LENGTHS if (length := getattr(text, name, None)) is not None), None)
    if stated is not None:
        return int(stated)
    length = getattr(tokenizer, "model_max_length", None)
    return min(int(length) if length is not None and length < UNSET else HARNESS_LENGTH, positions_of(settings))


def find_device(name: str) -> torch.device:
    """Return the device with a name; "auto" means the first available of cuda, mps and cpu."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f'no device "{name}"; known: auto, cpu, cuda, cuda:1, mps') from None
    missing = {
        "cuda": (device.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
    }
    if missing.get(device.type, False):
        raise UserError(f'device "{name}" is not available: --device cpu works everywhere')
    return device


def find_dtype(name: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16; "auto" means bf16 on a CUDA device that supports it, and fp32 otherwise.

    Args:
        name: A value of the setting `dtype`.
        device: The device of the base model.
    """
    import torch

    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def load(
    spec: config.Model, dtype: str = "auto", device: str = "auto", compiled: bool = False, devices: int = 1
) -> Base:
    """Load the base model of a study.

    Args:
        spec: The study's section `model`.
        dtype: The precision: fp32, bf16, fp16 or "auto".
        device: The device, such as "auto" or "cuda:1".
        compiled: Whether to compile the blocks by torch.compile, each when it first runs. Layers with adapters are not
            compiled.
        devices: The number of GPUs of this process. If there are several, accelerate spreads the blocks over them, and
            a forward pass uses one after another. Adapters, their optimisers and everything else stay on the first.

    Raises:
        UserError: The model does not exist, its checkpoint is incomplete, or it does not fit in memory.
    """
    import torch

    where = find_device(device)
    kind = find_dtype(dtype, where)
    placed = quantization(spec, where, kind)
    if devices > 1 and where.type == "cuda":  # on other kinds of device a process has only one
        placed |= {"device_map": "auto"}
    tokenizer = load_tokenizer(spec)
    with quiet(), own_generators(where):  # random weights are drawn first, and then replaced by the checkpoint
        try:
            model, unused = _pretrained(spec, dtype=getattr(torch, DTYPES[kind]), **placed)
            # bitsandbytes has put the layers of a checkpoint that it quantized on the device, and refuses to move them.
            if not placed and getattr(model, "quantization_method", None) != "bitsandbytes":
                model.to(where)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise UserError(f"model {spec.path} does not fit on {where} in {kind}: {one_line(error)}") from None
        model.requires_grad_(False)
        model.eval()  # the model's own dropout stays off in training too: adapters have LoRA's dropout
        if compiled:
            for block in blocks(model):
                block.compile(dynamic=True)
    notes = (*unused, *_without_dropout(model))
    return Base(model, tokenizer, next(model.parameters()).device, kind, notes)


def outline(spec: config.Model) -> PreTrainedModel:
    """Return the base model on the meta device: names and shapes of its weights, without their values.

    Raises:
        UserError: The model does not exist, or its checkpoint is incomplete.
    """
    with quiet():
        model, _ = _pretrained(spec, device_map={"": "meta"})
    return model.eval()


def _pretrained(spec: config.Model, **placement: Any) -> tuple[PreTrainedModel, list[str]]:
    """Return the model of a complete checkpoint, and notes on tensors of the checkpoint that are not used.

    An incomplete checkpoint is refused, because the loader of transformers would fill in random numbers, different
    ones in each process. A folder that also holds an adapter is refused, because the loader would attach the adapter.

    Args:
        spec: The study's section `model`.
        placement: Further arguments of `from_pretrained`: dtype, device map, quantization.

    Raises:
        UserError: The model does not exist, or the checkpoint does not fit its configuration.
        torch.OutOfMemoryError: The model does not fit in memory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            spec.path,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True if spec.safetensors else None,
            ignore_mismatched_sizes=True,  # mismatches are refused below, with all of their names
            output_loading_info=True,
            **placement,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # for a wrong config.json or a cut file, libraries raise exceptions of any type
        if is_out_of_memory(error):
            raise torch.OutOfMemoryError(str(error)) from None
        raise _cannot_load(spec, error) from None
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(f"model {spec.path} {ADAPTER_BESIDE}")
    missing, unused = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    wrong = [
        f"{name}, {tuple(there)} in the checkpoint and {tuple(here)} by config.json"
        for name, there, here in sorted(report["mismatched_keys"])
    ]
    if missing or wrong:
        raise UserError(f"model {spec.path} {_incompleteness(missing, wrong, unused, len(model.state_dict()))}")
    if not unused:
        return model, []
    return model, [
        f"{len(unused)} tensors of the checkpoint have no place in the model, and are left out: {some(unused)}"
    ]


ADAPTER_BESIDE = (
    "also holds an adapter (adapter_config.json), which would be loaded into the base model: merge the adapter first, "
    "or move it to another folder"
)


def _incompleteness(missing: list[str], wrong: list[str], unused: list[str], weights: int) -> str:
    """Return which weights a checkpoint lacks or has in another shape, and what helps."""
    if not missing:
        return f"has weights whose shape is not that of its config.json: {some(wrong)}"
    lacks = f"lacks {len(missing)} of its {weights} weights, which would be random numbers: {some(missing)}"
    prefixes = (name.removesuffix(lost) for lost in missing[:50] for name in unused if name.endswith(f".{lost}"))
    prefix = next(prefixes, "")
    if prefix:
        compiled = ", as in the state of a compiled model" if prefix == "_orig_mod." else ""
        return f'{lacks}; its names begin with "{prefix}"{compiled}: save it again without this prefix'
    return f"{lacks}: get the complete checkpoint"


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names as a text, and the number of the remaining ones.

    Args:
        names: The names.
        most: The largest number of names to list.
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def dropouts(settings: PretrainedConfig) -> dict[str, float]:
    """Return the non-zero rates of a base model's own dropout (or jitter).

    The keys are the names of the settings in config.json; within a section, "section.name".
    """
    text = settings.get_text_config()
    return {
        name: value
        for name, value in _numbers(text.to_dict(), "" if text is settings else "text_config.")
        if re.search(r"drop|jitter", name) and not re.match(r"(.*\.)?(summary|classifier)_", name) and value > 0
    }


def _numbers(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield all settings that are numbers, including those within sections."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _without_dropout(model: PreTrainedModel) -> list[str]:
    """Return a note that the base model's own dropout is off, if it has any."""
    if not (rates := dropouts(model.config)):
        return []
    listed = ", ".join(f"{name} {value:g}" for name, value in rates.items())
    return [f"the base model's own dropout ({listed}) is off in training here, but on in transformers' Trainer"]


def quantization(spec: config.Model, device: torch.device, dtype: str) -> dict[str, Any]:
    """Return the loader's arguments for a base model in 4 bits; an empty dictionary if it is not to be quantized.

    Weights become NormalFloat4, and their scaling constants are quantized too (Dettmers et al. 2023, QLoRA).

    Args:
        spec: The study's section `model`.
        device: The device of the model.
        dtype: The precision in which the model computes.

    Raises:
        UserError: The device is not a CUDA device, or the library is missing.
    """
    if spec.quantize == "none":
        return {}
    if device.type != "cuda":
        raise UserError(f"quantize: nf4 needs a CUDA device, got {device}: leave it out, or use --device cuda")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"quantize: nf4 needs bitsandbytes: {extras.install_command('quantize')}")
    import torch
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, DTYPES[dtype]),
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks (such as decoder layers) that a text passes through."""
    return [model.get_submodule(name) for name in block_names(model)]


def load_tokenizer(spec: config.Model) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer; raise UserError if the model does not exist.

    The tokenizer is loaded before the model, so an unknown model already fails here.
    """
    from transformers import AutoTokenizer

    return cast("PreTrainedTokenizerBase", _read(spec, AutoTokenizer))


def load_settings(spec: config.Model) -> PretrainedConfig:
    """Return the model's configuration, without its weights; raise UserError if it cannot be read."""
    from transformers import AutoConfig

    return cast("PretrainedConfig", _read(spec, AutoConfig))


def _read(spec: config.Model, kind: Any) -> Any:
    """Return what a class of transformers, such as AutoConfig, reads from a model's folder or repository."""
    check_exists(spec)
    with quiet():
        try:
            return kind.from_pretrained(spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
        except Exception as error:  # for a wrong file, libraries raise exceptions of any type
            raise _cannot_load(spec, error) from None


def ending(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a tokenizer appends to every text, such as EOS or SEP."""
    marked, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = [start for start in range(len(marked)) if marked[start : start + len(plain)] == plain]
    return list(marked[starts[-1] + len(plain) :]) if starts else []


def check_exists(spec: config.Model) -> None:
    """Raise UserError if a path is not a model's folder, without loading anything; accept every Hugging Face id."""
    path = Path(spec.path).expanduser()
    if path.is_dir():
        adapter = (path / "adapter_config.json").is_file()
        if not (path / "config.json").is_file():
            what = (
                "an adapter's folder: use the folder of its base model"
                if adapter
                else "not a model folder: it has no config.json"
            )
            raise UserError(f"{spec.path} is {what}")
        if adapter:
            raise UserError(f"model {spec.path} {ADAPTER_BESIDE}")
        kind = check_json(path / "config.json").get("model_type", "")
        if not isinstance(kind, str):
            raise UserError(
                f"{path / 'config.json'}: model_type must be a text, got {shown(kind)}: restore the file from a copy"
            )
        for weights in sorted(path.glob("model*.safetensors")):
            check_weights(weights)
    elif path.exists():
        raise UserError(f"{spec.path} is a file: a model is a folder or a Hugging Face id")
    elif path.is_absolute() or spec.path.startswith((".", "~")) or spec.path.count("/") > 1:
        raise UserError(f"no model folder {spec.path}{suggestion_beside(path)}")


def check_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise UserError if the file cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got {shown(content)}: restore it from a copy")
    return content


def check_weights(path: Path) -> None:
    """Raise UserError if a safetensors file is missing, cut or damaged, or holds no tensor."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} is missing: restore it from a copy")
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is cut or damaged: restore it from a copy ({one_line(error)})") from None
    if not names:
        raise UserError(f"{path} holds no tensor: restore it from a copy")


def _cannot_load(spec: config.Model, error: Exception) -> UserError:
    """Return a one-line error for a model that cannot be loaded: libraries word the same reasons in many ways."""
    text = one_line(error)
    if "trust_remote_code" in text:
        return UserError(f"model {spec.path} brings its own code, which only runs with trust_remote_code: true")
    if "safetensors" in text and spec.safetensors:
        return UserError(f"model {spec.path} has no safetensors weights (safetensors: false allows others): {text}")
    if Path(spec.path).is_dir():
        return UserError(f"model {spec.path} cannot be loaded: {text}")
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
    hint = suggestion_beside(Path(spec.path))
    return UserError(f'no folder "{spec.path}", and no such model from Hugging Face{offline}{hint}: {text}')


def check_vocabulary(base: Base, what: str, largest: int) -> None:
    """Check that a model has an embedding for the largest token id in use, and so for all smaller ones.

    Args:
        base: The base model.
        what: The source of the tokens, for the message.
        largest: The largest token id.

    Raises:
        UserError: There is no such embedding. The usual cause: tokens were added to the tokenizer, not to the model.
    """
    last = cast(Any, base.model).get_input_embeddings().weight.shape[0] - 1
    if largest > last:
        token = base.tokenizer.convert_ids_to_tokens(largest)
        raise UserError(
            f"{what} has token {largest} (\"{token}\"), but the model's embeddings end at {last}: use the model's own "
            "tokenizer, or resize the embeddings (model.resize_token_embeddings(len(tokenizer))) and save the model"
        )
