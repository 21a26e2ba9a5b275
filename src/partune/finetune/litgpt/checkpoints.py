"""Convert base models to LitGPT's format, and LitGPT's adapters to PEFT's format."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from partune import config
from partune.errors import UserError
from partune.finetune.adapter import written
from partune.finetune.layers import linear_layers
from partune.finetune.litgpt.arguments import find_switches
from partune.finetune.litgpt.files import LORA, SETTINGS, WEIGHTS
from partune.finetune.litgpt.program import Program, StepError
from partune.finetune.model import outline
from partune.finetune.targets import find_targets, short_targets
from partune.runtime.failures import one_line
from partune.runtime.isolation import quiet

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


# Maps a model type to a model with the same architecture that LitGPT knows by name. Under this name, LitGPT's converter
# accepts a model of any size.
STAND_INS = {"llama": "Llama-3.2-1B", "mistral": "Llama-3.2-1B", "qwen2": "Qwen2.5-0.5B"}


def find_model_folder(model: config.Model) -> Path:
    """Return the folder of a model; download it to Hugging Face's cache if the model is named by its id."""
    path = Path(model.path).expanduser()
    if path.is_dir():
        return path.absolute()
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.model", "*.safetensors", *([] if model.safetensors else ["*.bin"])]
    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise UserError(f"model {model.path} cannot be fetched: {one_line(error)}") from None


def load_outline(model: config.Model) -> PreTrainedModel:
    """Return the model without its weights; raise UserError if it cannot be read.

    A checkpoint in LitGPT's format is not checked for missing weights, because LitGPT's converter has checked it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (Path(model.path).expanduser() / WEIGHTS).is_file():
        return outline(model)
    with quiet(), torch.device("meta"):
        try:
            settings = AutoConfig.from_pretrained(model.path, revision=model.revision)
            empty: PreTrainedModel = AutoModelForCausalLM.from_config(settings)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"model {model.path} cannot be read: {one_line(error)}") from None
    return empty.eval()


def convert(program: Program, source: Path, folder: Path, name: str, log: Path) -> Path:
    """Return a model as a LitGPT checkpoint; convert it unless it is one already or was converted before.

    Args:
        program: LitGPT's command.
        source: The model's folder.
        folder: The folder for the checkpoint; its last part should be `name`.
        name: The model's name. By this name, LitGPT chooses the configuration and the tokenizer's rules.
        log: The file for the converter's log.

    Raises:
        StepError: The conversion failed.
        UserError: LitGPT does not know the architecture.
    """
    if (source / WEIGHTS).is_file() and (source / SETTINGS).is_file():
        return source.resolve()
    if (folder / WEIGHTS).is_file():
        return folder
    log.parent.mkdir(parents=True, exist_ok=True)
    with written(folder) as draft:
        weights = [path for end in ("*.safetensors", "*.bin") for path in sorted(source.glob(end))]
        for path in [*sorted(source.glob("*.json")), *sorted(source.glob("*.model"))]:
            shutil.copy(path, draft)
        if any(path.suffix == ".safetensors" for path in weights):
            weights = [path for path in weights if path.suffix == ".safetensors"]
        # The converter reads and writes the same folder. Links avoid copying the weights, which are large.
        for path in weights:
            (draft / path.name).symlink_to(path.resolve())
        try:
            program.run("convert_to_litgpt", [str(draft), "--model_name", name], log)
        except StepError as error:
            if "is not a supported config name" not in str(error):
                raise
            # Within an architecture, the name decides only the sizes. The model's own sizes are then written over them.
            stand_in, settings = describe(source)
            program.run("convert_to_litgpt", [str(draft), "--model_name", stand_in], log)
            (draft / SETTINGS).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        for path in weights:
            (draft / path.name).unlink()
    return folder


def describe(source: Path) -> tuple[str, dict[str, Any]]:
    """Describe a model that LitGPT does not know by name.

    LitGPT's converter only renames and joins weights, which depends on the architecture and not on sizes.

    Args:
        source: The model's folder.

    Returns:
        The name of a known model of the same architecture, and the model's own configuration in LitGPT's format.

    Raises:
        UserError: LitGPT has no such architecture.
    """
    from transformers import AutoConfig

    with quiet():
        try:
            loaded: PretrainedConfig = AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise UserError(f"model {source} cannot be read: {one_line(error)}") from None

    def get(name: str, default: Any = None) -> Any:
        """Return a setting of the model, or the default if its architecture has no such setting."""
        return getattr(loaded, name, default)

    kind = loaded.model_type
    rope = get("rope_parameters") or {}
    rope_type = rope.get("rope_type", "default")
    for holds, what in (
        (kind in STAND_INS, f"type {kind}"),
        (rope_type in ("default", "linear", "llama3"), f"rope_type {rope_type}"),
        (get("hidden_act", "silu") == "silu", f"hidden_act {get('hidden_act')}"),
        (kind == "qwen2" or not get("attention_bias"), "attention_bias"),
        (not get("mlp_bias"), "mlp_bias"),
        (kind == "qwen2" or not get("sliding_window"), "sliding_window"),
        (not get("use_sliding_window"), "use_sliding_window"),
    ):
        if not holds:
            raise UserError(
                f"LitGPT does not know the model {source.name}, and partune cannot describe it to LitGPT "
                f"because of its {what}; use `--engine packed`"
            )
    settings = {
        "name": STAND_INS[kind],
        "hf_config": {},
        "block_size": get("max_position_embeddings"),
        "vocab_size": get("vocab_size"),
        "padded_vocab_size": get("vocab_size"),
        "n_layer": get("num_hidden_layers"),
        "n_head": get("num_attention_heads"),
        "n_embd": get("hidden_size"),
        "head_size": get("head_dim") or get("hidden_size") // get("num_attention_heads"),
        "n_query_groups": get("num_key_value_heads"),
        "intermediate_size": get("intermediate_size"),
        "norm_class_name": "RMSNorm",
        "norm_eps": get("rms_norm_eps"),
        "mlp_class_name": "LLaMAMLP",
        "attn_bias": kind == "qwen2",
        "bias": False,
        "parallel_residual": False,
        "rotary_percentage": 1.0,
        "rope_base": int(rope.get("rope_theta") or get("rope_theta") or 10000),
    }
    if rope_type == "linear":
        settings["rope_condense_ratio"] = rope["factor"]
    if rope_type == "llama3":
        settings["rope_adjustments"] = {
            "factor": rope["factor"],
            "low_freq_factor": rope["low_freq_factor"],
            "high_freq_factor": rope["high_freq_factor"],
            "original_max_seq_len": rope["original_max_position_embeddings"],
        }
    return STAND_INS[kind], settings


def keep_lora(final: Path, folder: Path, model: nn.Module, training: config.Training) -> None:
    """Save the adapter that `finetune_lora` trained, in LitGPT's format without the merged weights, and in PEFT's.

    PEFT's format is written only if the base model names its layers as Llama does.

    Args:
        final: The folder that `finetune_lora` wrote.
        folder: The folder for the adapter.
        model: The base model; its weights are not read.
        training: The settings that the adapter was trained with.
    """
    with written(folder) as draft:
        for path in final.iterdir():
            if path.is_file() and path.name != WEIGHTS:
                shutil.copy(path, draft)
        if any(name.endswith("q_proj") for name in linear_layers(model)):
            _write_peft(draft, model, training)


# Maps LitGPT's names of the layers in a block to Llama's names.
LAYERS = {
    "attn.proj": "self_attn.o_proj",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}


def _write_peft(folder: Path, model: nn.Module, training: config.Training) -> None:
    """Write adapter_config.json and adapter_model.safetensors beside LitGPT's LoRA weights.

    LitGPT stacks the matrices of the n adapted layers among q, k and v: A is (n r, d), B is (the sum of their widths,
    r).
    """
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    switches = find_switches(model, training.targets)
    layers = linear_layers(model)
    parts = [part for part, on in zip("qkv", list(switches.values())[:3], strict=True) if on]
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in torch.load(folder / LORA, map_location="cpu", weights_only=True)["model"].items():
        layer, _, matrix = name.rpartition(".")
        block = re.fullmatch(r"transformer\.h\.(\d+)\.(.+)", layer)
        if block is None:  # the head, whose name is the same in LitGPT and PEFT
            tensors[f"{layer}.{matrix}"] = tensor
            continue
        prefix = f"model.layers.{block[1]}"
        if block[2] != "attn.qkv":
            tensors[f"{prefix}.{LAYERS[block[2]]}.{matrix}"] = tensor
            continue
        names = [f"{prefix}.self_attn.{part}_proj" for part in parts]
        widths = [cast("torch.nn.Linear", layers[name]).out_features for name in names]
        pieces = tensor.chunk(len(parts)) if matrix == "lora_A" else tensor.split(widths)
        tensors |= {f"{name}.{matrix}": piece for name, piece in zip(names, pieces, strict=True)}
    named = {f"base_model.model.{name}.weight": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    LoraConfig(
        r=training.lora_r,
        lora_alpha=int(training.lora_alpha),
        lora_dropout=training.lora_dropout,
        target_modules=short_targets(model, find_targets(model, training.targets)),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path or None,
        inference_mode=True,
    ).save_pretrained(str(folder))
