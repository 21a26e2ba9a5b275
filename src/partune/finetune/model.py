"""The base model: loaded once, resident, frozen, and lent to one trial after the other."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from partune import config
from partune.errors import UserError, suggestion
from partune.finetune.isolation import one_line, own_generators, quiet

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Base:
    """A frozen causal language model with its tokenizer, on its device."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: str

    @property
    def context(self) -> int:
        """Tokens that the model can read at once."""
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
            if isinstance(length := getattr(self.model.config, name, None), int):
                return length
        return 2**31

    @contextmanager
    def lent(self) -> Iterator[PreTrainedModel]:
        """The model, for adapters to be put in; afterwards every module stands again where it stood.

        Layers are put back by identity, not by PEFT's `unload`: a failure half-way through attaching leaves nothing.
        """
        before = [(module, dict(module._modules)) for module in self.model.modules()]
        try:
            yield self.model
        finally:
            for module, children in before:
                for name, child in children.items():
                    if module._modules[name] is not child:
                        module._modules[name] = child
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config
            self.model.eval()


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is the best there is."""
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
    """fp32, bf16 or fp16; "auto" is bf16 where the device has it, else fp32."""
    import torch

    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def load(
    spec: config.Model, dtype: str = "auto", device: str = "auto", compiled: bool = False, devices: int = 1
) -> Base:
    """The base model of a study; raises UserError where there is no such model.

    compiled: its blocks by torch.compile, each when it first runs; layers with adapters stay outside. devices: with
    several, its blocks are spread over the GPUs of this process by accelerate, one after another in a forward pass;
    adapters, their optimisers and everything else stay on the first.
    """
    import torch
    from transformers import AutoModelForCausalLM

    where = find_device(device)
    kind = find_dtype(dtype, where)
    placed = quantization(spec, where, kind)
    if devices > 1 and where.type == "cuda":
        placed |= {"device_map": "auto"}
    tokenizer = load_tokenizer(spec)
    with quiet(), own_generators(where):
        try:
            model = AutoModelForCausalLM.from_pretrained(
                spec.path,
                revision=spec.revision,
                dtype=getattr(torch, DTYPES[kind]),
                trust_remote_code=spec.trust_remote_code,
                use_safetensors=True if spec.safetensors else None,
                **placed,
            )
            if not placed:
                model.to(where)
        except (OSError, ValueError, ImportError) as error:
            raise _cannot_load(spec, error) from None
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise UserError(f"model {spec.path} does not fit on {where} in {kind}: {one_line(error)}") from None
        model.requires_grad_(False)
        model.eval()
        if compiled:
            for block in blocks(model):
                block.compile(dynamic=True)
    return Base(model, tokenizer, next(model.parameters()).device, kind)


def quantization(spec: config.Model, device: torch.device, dtype: str) -> dict[str, Any]:
    """What a loader has to be told for a base in 4 bits, computing in `dtype`; nothing for one that is not.

    NormalFloat4 with the constants quantized too: Dettmers et al. 2023 (QLoRA). Raises UserError where it cannot be.
    """
    if spec.quantize == "none":
        return {}
    if device.type != "cuda":
        raise UserError(f"quantize: nf4 needs a CUDA device, and this is {device}: leave it out, or give --device cuda")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("quantize: nf4 needs bitsandbytes: pip install 'partune[quantize]'")
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
    """The repeated blocks of a model: the children of its body's first list of modules."""
    from torch import nn

    body = cast(Any, model).base_model
    return next((list(each) for each in body.children() if isinstance(each, nn.ModuleList)), [])


def load_tokenizer(spec: config.Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer; the first to ask for the model's files, so an unknown model fails here."""
    from transformers import AutoTokenizer

    check_exists(spec)
    with quiet():
        try:
            return AutoTokenizer.from_pretrained(
                spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise _cannot_load(spec, error) from None


def check_exists(spec: config.Model) -> None:
    """Raises UserError for a folder that is no model's, without loading anything; an id passes."""
    path = Path(spec.path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{spec.path} is no model folder: it has no config.json")
    elif path.exists():
        raise UserError(f"{spec.path} is a file: a model is a folder or a Hugging Face id")
    elif path.is_absolute() or spec.path.startswith((".", "~")) or spec.path.count("/") > 1:
        raise UserError(f"no model folder {spec.path}{near(path)}")


def near(path: Path) -> str:
    """'; did you mean "x"?' where something of a similar name lies beside a path that does not exist."""
    parent = path.parent
    beside = os.listdir(parent) if parent.is_dir() else []
    return suggestion(path.name, difflib.get_close_matches(path.name, beside))


def _cannot_load(spec: config.Model, error: Exception) -> UserError:
    """The libraries' many ways to say that a model cannot be had, in one line."""
    text = one_line(error)
    if "trust_remote_code" in text:
        return UserError(f"model {spec.path} brings its own code, which only runs with trust_remote_code: true")
    if "safetensors" in text and spec.safetensors:
        return UserError(f"model {spec.path} has no safetensors weights (safetensors: false admits others): {text}")
    if Path(spec.path).is_dir():
        return UserError(f"model {spec.path} cannot be loaded: {text}")
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
    hint = near(Path(spec.path))
    return UserError(f'no folder "{spec.path}", and no such model from Hugging Face{offline}{hint}: {text}')


# ----- which layers get an adapter


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer by full name, the head (output embeddings) too; GPT-2's Conv1D is one."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def body_layers(model: nn.Module) -> list[str]:
    """The linear layers' names without the head."""
    head = cast(Any, model).get_output_embeddings()
    return [name for name, module in linear_layers(model).items() if module is not head]


def attention_layers(model: nn.Module) -> list[str]:
    """The linear layers within attention modules: q, k, v and o, or the fused projections of a model that has them."""
    inside = tuple(f"{name}." for name, module in model.named_modules() if "attention" in type(module).__name__.lower())
    return [name for name in body_layers(model) if name.startswith(inside)] if inside else []


def find_targets(model: nn.Module, targets: str) -> list[str]:
    """Full names of the layers that `targets` means: attention, all-linear, or names with commas between.

    The head gets an adapter only where it is named. A name is a full one or its end ("q_proj", "mlp.up_proj"). Raises
    UserError, with some layers, where one fits none.
    """
    linear = linear_layers(model)
    if targets == "all-linear":
        found = body_layers(model)
    elif targets == "attention":
        found = attention_layers(model)
    else:
        wanted = [name.strip() for name in targets.split(",") if name.strip()]
        for name in wanted:
            if not any(_fits(layer, name) for layer in linear):
                known = ["attention", "all-linear", *dict.fromkeys(layer.rpartition(".")[2] for layer in linear)]
                raise UserError(f'targets: the model has no linear layer "{name}"{_offer(name, known)}')
        found = [layer for layer in linear if any(_fits(layer, name) for name in wanted)]
    if not found:
        known = list(dict.fromkeys(layer.rpartition(".")[2] for layer in linear))
        raise UserError(f'targets: "{targets}" fits no linear layer; the model has {", ".join(known[:8]) or "none"}')
    return found


def short_targets(model: nn.Module, found: list[str]) -> list[str]:
    """The layers' last names, as adapter files have them, where these mean exactly the same; else the full names."""
    short = list(dict.fromkeys(name.rpartition(".")[2] for name in found))
    meant = [layer for layer, _ in model.named_modules() if any(_fits(layer, name) for name in short)]
    return short if meant == found else found


def _fits(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")


def _offer(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return suggestion(name, close) + f"; it has {', '.join(known[2:10])}"
