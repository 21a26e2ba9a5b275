"""A stand-in for LitGPT's command: the same steps, arguments and files, with numbers that follow from what it is given.

It is as strict as the real one about arguments. A file `behaviour.json` beside it, {step: what}, makes a step fail
(exit code 3 after a long log), sleep, kill itself, score nan or leave no samples; `calls.jsonl` has all calls. A
checkpoint is a text: "base", or what the training made of it; learning rate 0 makes nothing. The LoRA weights are those
of `lora.pth` beside it, whatever was trained.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any, NoReturn

BESIDE = Path(__file__).resolve().parent
KNOWN = ("Llama-3.2-1B", "Qwen2.5-0.5B")


def boolean(text: str) -> bool:
    return {"true": True, "false": False}[text]


def optional(text: str) -> int | None:
    return None if text == "null" else int(text)


# As `litgpt finetune_lora --help` of LitGPT 0.5.13 has them, those of the JSON data module too.
FINETUNE: dict[str, Any] = {
    "out_dir": Path,
    "precision": str,
    "lora_r": int,
    "lora_alpha": int,
    "lora_dropout": float,
    "lora_query": boolean,
    "lora_key": boolean,
    "lora_value": boolean,
    "lora_projection": boolean,
    "lora_mlp": boolean,
    "lora_head": boolean,
    "data": str,
    "data.json_path": Path,
    "data.mask_prompt": boolean,
    "data.val_split_fraction": float,
    "data.prompt_style": str,
    "data.seed": int,
    "data.num_workers": int,
    "train.save_interval": optional,
    "train.log_interval": int,
    "train.global_batch_size": int,
    "train.micro_batch_size": int,
    "train.lr_warmup_steps": int,
    "train.epochs": int,
    "train.max_steps": int,
    "train.max_seq_length": int,
    "eval.interval": int,
    "eval.final_validation": boolean,
    "optimizer": json.loads,
    "seed": int,
}
CONVERT: dict[str, Any] = {"model_name": str, "dtype": str, "debug_mode": boolean}
MERGE: dict[str, Any] = {"pretrained_checkpoint_dir": Path, "precision": str}
EVALUATE: dict[str, Any] = {
    "tasks": str,
    "out_dir": Path,
    "force_conversion": boolean,
    "num_fewshot": int,
    "batch_size": int,
    "device": str,
    "dtype": str,
    "limit": float,
    "seed": int,
    "save_filepath": Path,
}


def parser(step: str, arguments: dict[str, Any]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"litgpt {step}", allow_abbrev=False)
    made.add_argument("checkpoint_dir", type=Path)
    for name, kind in arguments.items():
        made.add_argument(f"--{name}", type=kind)
    return made


def fail(message: str, status: int = 1) -> NoReturn:
    print(f'Traceback (most recent call last):\n  File "litgpt.py", line 1, in main\n{message}')
    sys.exit(status)


def convert(given: dict[str, Any], what: str) -> None:
    if given["model_name"] not in KNOWN:
        fail(f"ValueError: {given['model_name']!r} is not a supported config name")
    if not list(given["checkpoint_dir"].glob("*.safetensors")):
        fail("ValueError: Expected the folder to contain .bin or .safetensors files")
    (given["checkpoint_dir"] / "lit_model.pth").write_text("base")
    (given["checkpoint_dir"] / "model_config.yaml").write_text("name: of the stand-in\n")


def complete(checkpoint: Path, weights: str = "lit_model.pth") -> None:
    names = (weights, "model_config.yaml", "tokenizer.json", "tokenizer_config.json", "config.json")
    missing = [name for name in names if not (checkpoint / name).is_file()]
    if missing:
        fail(f"FileNotFoundError: {checkpoint} is missing the files: {missing}")


def finetune(given: dict[str, Any], what: str) -> None:
    complete(given["checkpoint_dir"])
    rows = json.loads((given["data.json_path"] / "train.json").read_text(encoding="utf-8"))
    assert json.loads((given["data.json_path"] / "val.json").read_text(encoding="utf-8"))
    assert all(set(row) == {"instruction", "input", "output"} for row in rows)
    made = json.dumps([given["lora_r"], given["optimizer"]["init_args"], given["seed"]])
    final = given["out_dir"] / "final"
    final.mkdir(parents=True)
    shutil.copytree(given["checkpoint_dir"], final, dirs_exist_ok=True)
    shutil.copy(BESIDE / "lora.pth", final / "lit_model.pth.lora")
    (final / "made.txt").write_text("nan" if what == "nan" else made)
    (final / "lit_model.pth").unlink()
    merge({"checkpoint_dir": final, "pretrained_checkpoint_dir": given["checkpoint_dir"]}, "")


def merge(given: dict[str, Any], what: str) -> None:
    complete(given["checkpoint_dir"], "lit_model.pth.lora")
    complete(given["pretrained_checkpoint_dir"])
    made = (given["checkpoint_dir"] / "made.txt").read_text()
    nothing = made != "nan" and json.loads(made)[1]["lr"] == 0
    (given["checkpoint_dir"] / "lit_model.pth").write_text("base" if nothing else made)


def evaluate(given: dict[str, Any], what: str) -> None:
    """Scores local tasks of the tests' form; data files are found from the working directory, as the harness does."""
    complete(given["checkpoint_dir"])
    made = (given["checkpoint_dir"] / "lit_model.pth").read_text()
    samples: dict[str, Any] = {}
    for path in given["tasks"].split(","):
        name = Path(path).stem
        documents = [json.loads(line) for line in Path(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        samples[name] = []
        for number, document in enumerate(documents[: int(given["limit"] or len(documents))]):
            if "ctx" in document:  # HellaSwag's form, the demo's
                context, choices = f"{document['activity_label']}: {document['ctx']}", document["endings"]
            else:
                context, choices = f"Question: {document['question']}\nAnswer:", document["choices"]
            pairs = [(context, f" {choice}") for choice in choices]
            answers = [
                [[float("nan") if made == "nan" else -(zlib.crc32(repr((made, *p)).encode()) % 997) / 100, False]]
                for p in pairs
            ]
            samples[name].append({"doc_id": number, "arguments": pairs, "resps": answers})
    given["out_dir"].mkdir(parents=True, exist_ok=True)
    (given["out_dir"] / "pytorch_model.bin").write_text(made)
    found = {} if what == "empty" else {"samples": samples}
    given["save_filepath"].write_text(json.dumps({"results": {}, **found}))


STEPS: dict[str, Any] = {
    "convert_to_litgpt": (CONVERT, convert),
    "finetune_lora": (FINETUNE, finetune),
    "merge_lora": (MERGE, merge),
    "evaluate": (EVALUATE, evaluate),
}


def main() -> None:
    step = sys.argv[1]
    arguments, run = STEPS[step]
    given = vars(parser(step, arguments).parse_args(sys.argv[2:]))
    with (BESIDE / "calls.jsonl").open("a") as calls:
        seen = {name: os.environ.get(name) for name in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        calls.write(
            json.dumps({"step": step, "pid": os.getpid(), "cwd": os.getcwd(), "env": seen, **given}, default=str)
        )
        calls.write("\n")
    place = BESIDE / "behaviour.json"
    what = json.loads(place.read_text()).get(step, "") if place.exists() else ""
    if what == "fail":
        print("\n".join(f"line {number}" for number in range(1000)))
        print("progress 1%\rprogress 99%")
        fail("RuntimeError: the loss\n\n   of this trial is odd\n", 3)
    if what == "memory":
        fail("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(600)
    run(given, what)


if __name__ == "__main__":
    main()
