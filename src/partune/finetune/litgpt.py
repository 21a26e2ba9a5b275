"""LitGPT through its command line: our settings as its arguments, its steps as processes, what they leave as answers.

LitGPT cannot share an environment with our transformers, so nothing of it is imported here: it is a program in a
virtual environment of its own. Written against LitGPT 0.5.13.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import yaml

from partune import config
from partune.errors import UserError
from partune.finetune.adapter import written
from partune.finetune.data import Row
from partune.finetune.layers import linear_layers
from partune.finetune.model import find_targets, short_targets
from partune.finetune.training import WARMUP_SHARE, count_steps
from partune.runtime import extras
from partune.runtime.isolation import one_line, quiet

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

INSTALL = (
    "install it in a virtual environment of its own "
    f"(python -m venv V; {extras.command('litgpt', 'V/bin/pip install')}) and give --litgpt V/bin/litgpt"
)
WEIGHTS, LORA, SETTINGS = "lit_model.pth", "lit_model.pth.lora", "model_config.yaml"
PRECISION = {"fp32": "32-true", "bf16": "bf16-true", "fp16": "16-true"}
HARNESS_DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
NEVER = "1000000000"  # steps between validations, which would also print generated text

# Which of LitGPT's switches puts LoRA on a kind of linear layer; a switch adapts all of its kinds in every block.
SWITCHES = {
    "lora_query": ("q_proj",),
    "lora_key": ("k_proj",),
    "lora_value": ("v_proj",),
    "lora_projection": ("o_proj",),
    "lora_mlp": ("gate_proj", "up_proj", "down_proj"),
    "lora_head": ("lm_head",),
}
NEOX_SWITCHES = {
    "lora_query": ("query_key_value",),
    "lora_key": ("query_key_value",),
    "lora_value": ("query_key_value",),
    "lora_projection": ("dense",),
    "lora_mlp": ("dense_h_to_4h", "dense_4h_to_h"),
    "lora_head": ("embed_out",),
}
# Models that LitGPT can take in any size: the name under which its converter knows their weights.
STAND_INS = {"llama": "Llama-3.2-1B", "mistral": "Llama-3.2-1B", "qwen2": "Qwen2.5-0.5B"}

Answers = dict[tuple[str, str], tuple[float, bool]]


# ----- the program


class StepError(Exception):
    """A step of LitGPT that failed; says which, how, and the end of its log, in one line."""


@dataclass(frozen=True)
class Program:
    """LitGPT's command. path: absolute; environment: what its processes see."""

    path: str
    environment: Mapping[str, str]

    @classmethod
    def find(cls, command: str, environment: Mapping[str, str]) -> Program:
        """The program of a name or path; raises UserError where there is none."""
        found = shutil.which(os.path.expanduser(command))
        if found is None:
            raise UserError(f'no LitGPT command "{command}": {INSTALL}')
        return cls(os.path.abspath(found), environment)

    def check(self) -> None:
        """Raises UserError where the program does not run, or lacks an argument that we give."""
        needed = {each for each in _finetune_flags() if each.startswith("--") and not each.startswith("--data.")}
        with tempfile.TemporaryDirectory(prefix="partune-litgpt-") as folder:
            log = Path(folder) / "help.log"
            try:
                self.run("finetune_lora", ["--help"], log)
            except StepError as error:
                raise UserError(f"{self.path} does not run: {error}; {INSTALL}") from None
            known = set(re.findall(r"--[a-z][\w.]*", log.read_text(encoding="utf-8", errors="replace")))
        if missing := sorted(needed - known):
            raise UserError(f"{self.path} finetune_lora has no {missing[0]}, so is not LitGPT 0.5; {INSTALL}")

    def run(self, step: str, arguments: Sequence[str], log: Path, cwd: Path | None = None) -> float:
        """Runs one step to its end, its output in `log`; returns seconds. Raises StepError unless it exits with 0.

        Whatever ends the wait, an interrupt too, ends the process and those that it started.
        """
        started = time.perf_counter()
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    [self.path, step, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd or log.parent,
                    env=dict(self.environment),
                    start_new_session=True,
                )
            except OSError as error:
                raise StepError(f"litgpt {step} cannot be started: {error.strerror}") from None
            try:
                status = process.wait()
            finally:
                _end(process)
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
            said = tail(log)
            memory = "out of memory: " if status == -signal.SIGKILL or "out of memory" in said.lower() else ""
            raise StepError(f"{memory}litgpt {step} {how}: {said or 'it said nothing'} (log: {log})")
        return time.perf_counter() - started


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that still runs, and what it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log: Path, length: int = 300) -> str:
    """The end of a log in one line: its last lines with something in them, progress bars in their last state."""
    text = log.read_bytes().decode("utf-8", errors="replace")  # as it is: "\r" ends no line
    lines = [line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").split("\n")]
    joined = " ".join(" ".join(line.split()) for line in [line for line in lines if line][-3:])
    return joined if len(joined) <= length else f"...{joined[-length + 3 :]}"


def environment(device: str, threads: int | None) -> dict[str, str]:
    """What LitGPT's processes see: ours without Python's own settings, the device in sight, CPU threads as given.

    device: a torch device, cpu, cuda or cuda:1, which is all that they shall see.
    """
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    own["TOKENIZERS_PARALLELISM"] = "false"
    if device == "cpu":
        own["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        seen = [each for each in own.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        index = int(device.removeprefix("cuda:"))
        own["CUDA_VISIBLE_DEVICES"] = seen[index] if index < len(seen) else str(index)
    if threads is not None:
        own["OMP_NUM_THREADS"] = own["MKL_NUM_THREADS"] = str(threads)
    return own


# ----- settings as arguments


def objections(training: config.Training) -> list[str]:
    """The settings that LitGPT's finetune_lora has not, or reads differently."""
    alpha = training.lora_alpha
    rules = (
        (training.optimizer == "adamw", "optimizer sgd: its weight decay would be coupled; use adamw"),
        (training.schedule == "cosine", f"schedule {training.schedule}: it knows cosine only"),
        (training.max_grad_norm == 1.0, f"max_grad_norm {training.max_grad_norm}: it clips no gradients"),
        (alpha == int(alpha), f"lora_alpha {alpha}: it takes integers only"),
        (training.warmup_steps != 0, "warmup_steps 0: it divides by them; give at least 1"),
        (training.steps != 1, "steps 1: its schedule needs at least 2"),
    )
    return [reason for holds, reason in rules if not holds]


def refuse(training: config.Training) -> None:
    """Raises UserError for the first of them."""
    for reason in objections(training):
        raise UserError(f"LitGPT cannot do {reason} (--engine packed can)")


def find_switches(model: nn.Module, targets: str) -> dict[str, bool]:
    """LitGPT's switches for the layers that `targets` means; raises UserError where they mean others too, or fewer."""
    found = set(find_targets(model, targets))
    layers = linear_layers(model)
    table = NEOX_SWITCHES if any(name.endswith("query_key_value") for name in layers) else SWITCHES
    of_kind = {kind: {name for name in layers if name.rpartition(".")[2] == kind} for kind in sum(table.values(), ())}
    switches = {switch: all(of_kind[kind] and of_kind[kind] <= found for kind in table[switch]) for switch in table}
    covered = set().union(*(of_kind[kind] for switch, on in switches.items() if on for kind in table[switch]))
    if covered != found:
        odd = min(found - covered)
        raise UserError(
            f"targets {targets}: LitGPT adapts query, key, value, projection, the whole MLP or the head, "
            f"in every block, but not {odd} by itself"
        )
    tied: Any = getattr(model, "config", None)
    if switches["lora_head"] and getattr(tied, "tie_word_embeddings", False):
        raise UserError(f"targets {targets}: the head shares its weights with the embeddings, and cannot be merged")
    return switches


def finetune_arguments(
    base: Path,
    data: Path,
    out: Path,
    examples: int,
    training: config.Training,
    switches: Mapping[str, bool],
    *,
    max_length: int,
    loss_on: Literal["answer", "all"],
    dtype: str,
    seed: int,
    order_seed: int,
) -> list[str]:
    """Arguments of `litgpt finetune_lora`. Raises UserError where its schedule cannot be had.

    Steps are counted as our own engine counts them, so that a trial is as long; LitGPT's epochs only have to suffice.
    A micro-batch is the largest divisor of the batch that is no larger than asked.
    """
    batch, most = training.batch_size, training.micro_batch_size or training.batch_size
    micro = next(size for size in range(min(most, batch), 0, -1) if batch % size == 0)
    steps = count_steps(examples, training)
    warmup = training.warmup_steps or max(1, round(WARMUP_SHARE * steps))
    steps_per_epoch = math.ceil(examples / micro) // (batch // micro)
    if not steps_per_epoch:
        raise UserError(f"batch_size {batch}: LitGPT drops a batch that is not full, and there are {examples} examples")
    if steps == warmup or steps < 2:
        raise UserError(f"warmup_steps {warmup} of {steps} steps in all: LitGPT's schedule needs steps after them")
    optimizer = {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": training.learning_rate, "weight_decay": training.weight_decay},
    }
    values: dict[str, Any] = {
        "out_dir": out,
        "precision": PRECISION[dtype],
        "lora_r": training.lora_r,
        "lora_alpha": int(training.lora_alpha),
        "lora_dropout": training.lora_dropout,
        **{switch: str(on).lower() for switch, on in switches.items()},
        "data": "JSON",
        "data.json_path": data,
        "data.mask_prompt": str(loss_on == "answer").lower(),
        "data.prompt_style": "alpaca",
        "data.seed": order_seed,
        "data.num_workers": 0,
        "train.global_batch_size": batch,
        "train.micro_batch_size": micro,
        "train.epochs": math.ceil(steps / steps_per_epoch),
        "train.max_steps": steps,
        "train.lr_warmup_steps": warmup,
        "train.max_seq_length": max_length,
        "train.save_interval": "null",
        "eval.interval": NEVER,
        "eval.final_validation": "false",
        "optimizer": json.dumps(optimizer),
        "seed": seed,
    }
    return [str(base), *(str(part) for name, value in values.items() for part in (f"--{name}", value))]


def _finetune_flags() -> list[str]:
    switches = dict.fromkeys(SWITCHES, True)
    nowhere = Path()
    return finetune_arguments(
        nowhere,
        nowhere,
        nowhere,
        100,
        config.Training(),
        switches,
        max_length=8,
        loss_on="all",
        dtype="fp32",
        seed=0,
        order_seed=0,
    )


def write_data(rows: Sequence[Row], folder: Path) -> Path:
    """The folder that LitGPT's JSON data module reads: train.json with all rows, and val.json.

    It insists on validation rows and computes their loss for two batches before training, with no effect on it: the
    first two rows stand for them, none is lost for training.
    """
    plain = [{key: row.get(key) or "" for key in ("instruction", "input", "output")} for row in rows]
    with written(folder) as draft:
        for name, part in (("train", plain), ("val", plain[:2])):
            (draft / f"{name}.json").write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")
    return folder


# ----- checkpoints


def convert(program: Program, source: Path, folder: Path, name: str, log: Path) -> Path:
    """The LitGPT checkpoint of a model folder: itself if it is one, else converted into `folder`, once.

    name: the model's, by which LitGPT may know it (its tokenizer rules go by it too); `folder` should end in it.
    Raises StepError, and UserError for an architecture that LitGPT does not know.
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
        for path in weights:
            (draft / path.name).symlink_to(path.resolve())
        try:
            program.run("convert_to_litgpt", [str(draft), "--model_name", name], log)
        except StepError as error:
            if "is not a supported config name" not in str(error):
                raise
            stand_in, settings = describe(source)
            program.run("convert_to_litgpt", [str(draft), "--model_name", stand_in], log)
            (draft / SETTINGS).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        for path in weights:
            (draft / path.name).unlink()
    return folder


def describe(source: Path) -> tuple[str, dict[str, Any]]:
    """For a model that LitGPT does not know by name: a name of its architecture, and its LitGPT configuration.

    The converter only renames and joins weights, by architecture; sizes are in the configuration. Raises UserError.
    """
    from transformers import AutoConfig

    with quiet():
        try:
            found: PretrainedConfig = AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise UserError(f"model {source} cannot be read: {one_line(error)}") from None

    def get(name: str, default: Any = None) -> Any:
        return getattr(found, name, default)

    kind = found.model_type
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
            raise UserError(f"LitGPT knows no model of the name {source.name}, and of {what} only those it knows")
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
    """Keeps what finetune_lora left, without the merged weights; and the same adapter in PEFT's format, if it has one.

    model: the base, its weights are not read. PEFT's form is written for layers named as Llama's.
    """
    with written(folder) as draft:
        for path in final.iterdir():
            if path.is_file() and path.name != WEIGHTS:
                shutil.copy(path, draft)
        if any(name.endswith("q_proj") for name in linear_layers(model)):
            _write_peft(draft, model, training)


# LitGPT's names of layers, with a block's number between, and those of Llama.
LAYERS = {
    "attn.proj": "self_attn.o_proj",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}


def _write_peft(folder: Path, model: nn.Module, training: config.Training) -> None:
    """Writes an adapter beside LitGPT's LoRA weights: adapter_config.json and adapter_model.safetensors.

    LitGPT stacks the adapters of q, k and v, of those that have one: A is (n r, d), B (the sum of their widths, r).
    """
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    switches = find_switches(model, training.targets)
    layers = linear_layers(model)
    parts = [part for part, on in zip("qkv", list(switches.values())[:3], strict=True) if on]
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in torch.load(folder / LORA, map_location="cpu", weights_only=True)["model"].items():
        place, _, matrix = name.rpartition(".")
        block = re.fullmatch(r"transformer\.h\.(\d+)\.(.+)", place)
        if block is None:
            tensors[f"{place}.{matrix}"] = tensor
            continue
        prefix = f"model.layers.{block[1]}"
        if block[2] != "attn.qkv":
            tensors[f"{prefix}.{LAYERS[block[2]]}.{matrix}"] = tensor
            continue
        names = [f"{prefix}.self_attn.{part}_proj" for part in parts]
        widths = [cast("torch.nn.Linear", layers[each]).out_features for each in names]
        pieces = tensor.chunk(len(parts)) if matrix == "lora_A" else tensor.split(widths)
        tensors |= {f"{each}.{matrix}": piece for each, piece in zip(names, pieces, strict=True)}
    own = {f"base_model.model.{name}.weight": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(own, folder / "adapter_model.safetensors")
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


def require_own(scratch: Path) -> None:
    """Raise UserError where a scratch folder holds what partune did not make, and might replace."""
    own = {"base", "data", "trials", "convert_to_litgpt.log"}
    for folder, names in ((scratch, own), (scratch / "data", {"train.json", "val.json"})):
        there = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
        if foreign := [name for name in there if name not in names]:
            raise UserError(
                f"{folder} holds {foreign[0]}, and a scratch folder's content may be replaced: give a new one"
            )


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A trial's scratch folder, empty at first; afterwards only its logs are there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix != ".log":
                path.unlink()


# ----- answers


def read_answers(path: Path) -> Answers:
    """What `litgpt evaluate` left of every request: by (context, continuation) the log-likelihood, and is it greedy.

    Its results.json holds the harness's samples. Raises StepError where it does not.
    """
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))["samples"]
        return {
            (str(context), str(continuation)): (float(answer[0][0]), bool(answer[0][1]))
            for documents in samples.values()
            for document in documents
            for (context, continuation), answer in zip(document["arguments"], document["resps"], strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StepError(f"litgpt evaluate left no samples in {path}: {type(error).__name__} {error}") from None
