"""The base model: loaded once, resident, frozen, and lent to one trial after the other."""

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
# Where a configuration states how many tokens a model reads: the names that lm-evaluation-harness knows, in its order,
# and others; and its answers where neither configuration nor tokenizer says (a tokenizer without a limit has 10^30).
LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
OTHER_LENGTHS = ("max_seq_len", "max_sequence_length", "max_seq_length", "seq_length")
HARNESS_LENGTH, UNSET = 2048, 1e29


@dataclass(frozen=True)
class Base:
    """A frozen causal language model with its tokenizer, on its device.

    notes: what a user should know of how it was loaded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: str
    notes: tuple[str, ...] = ()

    @property
    def context(self) -> int:
        """Return how many tokens of a request are read; longer ones lose their beginning.

        As lm-evaluation-harness has it: what the configuration of the text part says, else what the tokenizer says,
        else 2,048; never more than the model has positions for.
        """
        config = self.model.config
        config = getattr(config, "text_config", None) or config
        stated = next((length for name in LENGTHS if (length := getattr(config, name, None)) is not None), None)
        if stated is not None:
            return int(stated)
        length = getattr(self.tokenizer, "model_max_length", None)
        return min(int(length) if length is not None and length < UNSET else HARNESS_LENGTH, self.positions)

    @property
    def positions(self) -> int:
        """Return how many tokens the model can read at once; without a limit (a state, ALiBi), a very large number."""
        config = self.model.config.get_text_config()
        lengths = (getattr(config, name, None) for name in (*LENGTHS, *OTHER_LENGTHS))
        return next((length for length in lengths if isinstance(length, int)), 2**31)

    @contextmanager
    def lent(self) -> Iterator[PreTrainedModel]:
        """Lend the model, for adapters to be put in; afterwards every module stands again where it stood."""
        with put_back(self.model):
            yield self.model


def find_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the best there is."""
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
        raise UserError(f'device "{name}" is not there: --device cpu works everywhere')
    return device


def find_dtype(name: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16; "auto" is bf16 where the device has it, else fp32.

    Args:
        name: The setting.
        device: Where the base is to be.
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
        spec: Which model.
        dtype: Its precision, as the setting says it.
        device: Its device, as the setting says it.
        compiled: Compile its blocks by torch.compile, each when it first runs; layers with adapters stay outside.
        devices: GPUs of this process. Over several, blocks are spread by accelerate, one after another in a forward
            pass; adapters, their optimisers and everything else stay on the first.

    Raises:
        UserError: There is no such model, it is not whole, or it does not fit.
    """
    import torch

    where = find_device(device)
    kind = find_dtype(dtype, where)
    placed = quantization(spec, where, kind)
    if devices > 1 and where.type == "cuda":  # elsewhere a process has one device, whatever was asked for
        placed |= {"device_map": "auto"}
    tokenizer = load_tokenizer(spec)
    with quiet(), own_generators(where):  # a model draws its weights before the checkpoint's take their place
        try:
            model, unused = _pretrained(spec, dtype=getattr(torch, DTYPES[kind]), **placed)
            if not placed:
                model.to(where)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise UserError(f"model {spec.path} does not fit on {where} in {kind}: {one_line(error)}") from None
        model.requires_grad_(False)
        model.eval()  # its own dropout stays off in training too: adapters have theirs
        if compiled:
            for block in blocks(model):
                block.compile(dynamic=True)
    notes = (*unused, *_without_dropout(model))
    return Base(model, tokenizer, next(model.parameters()).device, kind, notes)


def outline(spec: config.Model) -> PreTrainedModel:
    """Return the base model on the meta device: names and shapes, without the weights themselves.

    Raises:
        UserError: As `load` does; the checkpoint has to hold all weights here too.
    """
    with quiet():
        model, _ = _pretrained(spec, device_map={"": "meta"})
    return model.eval()


def _pretrained(spec: config.Model, **placement: Any) -> tuple[PreTrainedModel, list[str]]:
    """Return the model of a checkpoint that holds it whole, and notes on what of the checkpoint is not used.

    The loader of transformers would put random numbers in the place of weights that are not there, other ones in each
    process, and an adapter that lies beside them into the base.

    Args:
        spec: Which model.
        placement: Further arguments of `from_pretrained`: dtype, device map, quantization.

    Raises:
        UserError: When there is no such model, or it is not the checkpoint's.
        torch.OutOfMemoryError: When it does not fit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            spec.path,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True if spec.safetensors else None,
            ignore_mismatched_sizes=True,  # they are refused below, all of them by name
            output_loading_info=True,
            **placement,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # of a wrong config.json or a cut file libraries raise what they like
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
        raise UserError(f"model {spec.path} {_not_whole(missing, wrong, unused, len(model.state_dict()))}")
    if not unused:
        return model, []
    return model, [
        f"{len(unused)} tensors of the checkpoint have no place in the model, and are left out: {some(unused)}"
    ]


ADAPTER_BESIDE = (
    "holds an adapter too (adapter_config.json), which would be loaded into the base: merge it first, or keep the two "
    "in folders of their own"
)


def _not_whole(missing: list[str], wrong: list[str], unused: list[str], weights: int) -> str:
    """Say which weights a checkpoint lacks or has in another shape, and what helps."""
    if not missing:
        return f"has weights of another shape than its config.json says: {some(wrong)}"
    lacks = f"lacks {len(missing)} of its {weights} weights, which would be random numbers: {some(missing)}"
    wrapped = (name.removesuffix(lost) for lost in missing[:50] for name in unused if name.endswith(f".{lost}"))
    prefix = next(wrapped, "")
    if prefix:
        compiled = ", as in the state of a compiled model" if prefix == "_orig_mod." else ""
        return f'{lacks}; its names begin with "{prefix}"{compiled}: save it again without'
    return f"{lacks}: get the whole checkpoint"


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names, and how many there are beyond these.

    Args:
        names: The names.
        most: How many to give.
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def dropouts(settings: PretrainedConfig) -> dict[str, float]:
    """Return the settings of a base's own dropout (or jitter) that are not zero, by their names in config.json.

    A setting within a section has the section's name and a dot before its own.
    """
    text = settings.get_text_config()
    return {
        name: value
        for name, value in _numbers(text.to_dict(), "" if text is settings else "text_config.")
        if re.search(r"drop|jitter", name) and not re.match(r"(.*\.)?(summary|classifier)_", name) and value > 0
    }


def _numbers(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Give all settings that are numbers, those of sections too."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _without_dropout(model: PreTrainedModel) -> list[str]:
    """Note that a base's own dropout is off, where it has any."""
    if not (rates := dropouts(model.config)):
        return []
    listed = ", ".join(f"{name} {value:g}" for name, value in rates.items())
    return [f"the base's own dropout ({listed}) is off in training here, and on in the Trainer of transformers"]


def quantization(spec: config.Model, device: torch.device, dtype: str) -> dict[str, Any]:
    """Return what a loader has to be told for a base in 4 bits; nothing for one that is not.

    NormalFloat4 with the constants quantized too: Dettmers et al. 2023 (QLoRA).

    Args:
        spec: Which model.
        device: Where it is to be.
        dtype: Precision that it computes in.

    Raises:
        UserError: The device or the library for it is missing.
    """
    if spec.quantize == "none":
        return {}
    if device.type != "cuda":
        raise UserError(f"quantize: nf4 needs a CUDA device, and this is {device}: leave it out, or give --device cuda")
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
    """Return the repeated blocks of a model that a text passes through."""
    return [model.get_submodule(name) for name in block_names(model)]


def load_tokenizer(spec: config.Model) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer.

    It is the first to ask for the model's files, so that an unknown model fails here.
    """
    from transformers import AutoTokenizer

    check_exists(spec)
    with quiet():
        try:
            return AutoTokenizer.from_pretrained(
                spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
            )
        except Exception as error:  # of a wrong file libraries raise what they like
            raise _cannot_load(spec, error) from None


def ending(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a tokenizer puts after every text, such as EOS or SEP; a text goes on without them."""
    marked, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = [start for start in range(len(marked)) if marked[start : start + len(plain)] == plain]
    return list(marked[starts[-1] + len(plain) :]) if starts else []


def check_exists(spec: config.Model) -> None:
    """Raise UserError for a folder that is no model's, without loading anything; an id passes."""
    path = Path(spec.path).expanduser()
    if path.is_dir():
        adapter = (path / "adapter_config.json").is_file()
        if not (path / "config.json").is_file():
            what = (
                "an adapter's folder: give the folder of its base"
                if adapter
                else "no model folder: it has no config.json"
            )
            raise UserError(f"{spec.path} is {what}")
        if adapter:
            raise UserError(f"model {spec.path} {ADAPTER_BESIDE}")
        kind = check_json(path / "config.json").get("model_type", "")
        if not isinstance(kind, str):
            raise UserError(f"{path / 'config.json'}: model_type is a text, got {shown(kind)}: restore it from a copy")
        for weights in sorted(path.glob("model*.safetensors")):
            check_weights(weights)
    elif path.exists():
        raise UserError(f"{spec.path} is a file: a model is a folder or a Hugging Face id")
    elif path.is_absolute() or spec.path.startswith((".", "~")) or spec.path.count("/") > 1:
        raise UserError(f"no model folder {spec.path}{suggestion_beside(path)}")


def check_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises UserError where it cannot be read, or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object but {shown(content)}: restore it from a copy")
    return content


def check_weights(path: Path) -> None:
    """Raise UserError where a file of safetensors is missing, cut or damaged, or holds no tensor."""
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
    """Return, in one line, what libraries say in many ways: that a model cannot be had."""
    text = one_line(error)
    if "trust_remote_code" in text:
        return UserError(f"model {spec.path} brings its own code, which only runs with trust_remote_code: true")
    if "safetensors" in text and spec.safetensors:
        return UserError(f"model {spec.path} has no safetensors weights (safetensors: false admits others): {text}")
    if Path(spec.path).is_dir():
        return UserError(f"model {spec.path} cannot be loaded: {text}")
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
    hint = suggestion_beside(Path(spec.path))
    return UserError(f'no folder "{spec.path}", and no such model from Hugging Face{offline}{hint}: {text}')


def check_vocabulary(base: Base, what: str, largest: int) -> None:
    """Check that a model has an embedding for each of some tokens.

    Args:
        base: The model.
        what: Where the tokens come from, for the message.
        largest: The largest id of them.

    Raises:
        UserError: Where that is beyond the embeddings: a token that was added to the tokenizer alone.
    """
    last = cast(Any, base.model).get_input_embeddings().weight.shape[0] - 1
    if largest > last:
        token = base.tokenizer.convert_ids_to_tokens(largest)
        raise UserError(
            f'{what} has token {largest} ("{token}"), the model\'s embeddings end at {last}: take the tokenizer that '
            "belongs to the model, or resize these (model.resize_token_embeddings(len(tokenizer))) and save it"
        )
