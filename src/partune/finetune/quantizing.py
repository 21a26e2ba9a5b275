"""Quantize the linear layers of a model's folder with bitsandbytes, to 4 bits (nf4) or 8 bits (int8)."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from partune import config
from partune.errors import UserError
from partune.finetune.adapter import check_alike, written
from partune.finetune.layers import read_text
from partune.finetune.model import DTYPES, find_device, load
from partune.runtime import extras
from partune.runtime.failures import one_line
from partune.runtime.isolation import own_generators, quiet

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

FORMS = ("nf4", "int8")
WEIGHTS = re.compile(r".*\.(safetensors|bin)(\.index\.json)?")


def require(form: str) -> None:
    """Raise UserError if a form of quantization is unknown, or the library for it is missing."""
    if form not in FORMS:
        raise UserError(f"`--quantize` accepts {' or '.join(FORMS)}, got {form}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"`--quantize {form}` needs bitsandbytes: {extras.install_command('quantize')}")


def quantize(folder: Path, out: Path, form: str, trust_remote_code: bool = False) -> None:
    """Write a quantized copy of a model's folder.

    The weights of linear layers become NormalFloat4, whose scaling constants are quantized too (Dettmers et al. 2023,
    QLoRA), or 8-bit integers with a scale per row (Dettmers et al. 2022, LLM.int8). Embeddings and the output head keep
    their precision.

    Args:
        folder: The model's folder.
        out: The new model's folder.
        form: The form of the weights.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        UserError: The model cannot be quantized, or gives other logits once it is loaded again.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = find_device("auto")
    with written(out) as draft:
        try:
            with quiet(), own_generators(device):
                dtype = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).dtype or torch.float32
                model = AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=dtype,
                    device_map={"": device},
                    quantization_config=_settings(form, dtype),
                    trust_remote_code=trust_remote_code,
                ).eval()
                if not any(type(module).__module__.startswith("bitsandbytes.") for module in model.modules()):
                    raise ValueError("bitsandbytes finds no layer in it that it can quantize")
                model.save_pretrained(str(draft), safe_serialization=True)
                expected = read_text(model).detach().float()
        except Exception as error:  # libraries refuse with exceptions of any type
            raise UserError(f"the merged model cannot be quantized to {form}: {one_line(error)}") from None
        for file in folder.iterdir():  # the tokenizer, and all other files except weights
            if file.is_file() and not (draft / file.name).exists() and not WEIGHTS.fullmatch(file.name):
                shutil.copy(file, draft / file.name)
        spec = config.Model(path=str(draft), trust_remote_code=trust_remote_code)
        precision = next((name for name, kind in DTYPES.items() if getattr(torch, kind) is dtype), "fp32")
        reloaded = load(spec, precision, str(device))
        check_alike(expected, reloaded.model, f"the model in {form} does not load as it was written")


def _settings(form: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig

    if form == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
