"""Fine-tune and score one LoRA adapter without partune, with transformers, PEFT, torch's AdamW and lm-eval.

    python script.py SPECIFICATION.json

The baseline "process per trial" of `partune bench packing` runs this script once per trial. The specification holds the
settings and names the files, including the file for the results. The script imports nothing from partune, because it
stands for a script that a user would write.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def clocks() -> tuple[float, float]:
    """Return the wall time and the CPU time in seconds. On a GPU, first wait until it has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def encode(row: dict[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens and labels of an example; only the answer and the end of sequence count in the loss.

    Args:
        row: The example, with its prompt and output.
        tokenizer: The tokenizer of the base model.
    """
    prompt = tokenizer(row["prompt"])["input_ids"]
    # Some tokenizers put a space before the first word of a text. The answer continues the prompt, so it is encoded
    # after a line break, whose tokens are then removed.
    line_break = tokenizer("\n", add_special_tokens=False)["input_ids"]
    encoded = tokenizer("\n" + row["output"], add_special_tokens=False)["input_ids"]
    answer = [*encoded[len(line_break) :], tokenizer.eos_token_id]
    return prompt + answer, [-100] * len(prompt) + answer


def collate(examples: list[tuple[list[int], list[int]]], device: str) -> dict[str, torch.Tensor]:
    """Return a batch that is padded on the right, as tensors of shape (b, T).

    Args:
        examples: The tokens and labels of each example.
        device: The device to put the tensors on.
    """
    longest = max(len(tokens) for tokens, _ in examples)
    padded = {
        "input_ids": [tokens + [0] * (longest - len(tokens)) for tokens, _ in examples],
        "attention_mask": [[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in examples],
        "labels": [labels + [-100] * (longest - len(labels)) for _, labels in examples],
    }
    return {name: torch.tensor(rows, device=device) for name, rows in padded.items()}


def train(spec: dict[str, Any], model: Any, examples: list[tuple[list[int], list[int]]]) -> list[float]:
    """Train the adapter and return the loss of each step.

    Args:
        spec: The specification.
        model: The model with its adapter.
        examples: The tokens and labels of all examples.
    """
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=spec["learning_rate"], weight_decay=spec["weight_decay"])
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: share(step, spec["warmup_steps"], len(spec["order"]))
    )
    losses = []
    for indices in spec["order"]:
        loss = model(**collate([examples[i] for i in indices], spec["device"])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, spec["max_grad_norm"])
        optimiser.step()
        rates.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


def share(step: int, warmup: int, steps: int) -> float:
    """Return the learning rate as a share of its peak: a linear warm-up, then a cosine decay to zero.

    Args:
        step: The number of the step, from 0 on.
        warmup: The number of warm-up steps.
        steps: The number of all steps.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def main(spec: dict[str, Any]) -> None:
    """Train and score as the specification says, and write the result."""
    torch.set_num_threads(spec["threads"])
    dtype = getattr(torch, spec["dtype"])
    # Loading and tokenising come before the clocks start, and so count as set-up: the benchmark counts all time of this
    # process as set-up, except training and scoring.
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    rows = [json.loads(line) for line in Path(spec["data"]).read_text(encoding="utf-8").splitlines()]
    examples = [encode(row, tokenizer) for row in rows]
    base = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype).to(spec["device"])
    torch.manual_seed(spec["seed"])
    model = get_peft_model(base, LoraConfig(**spec["lora"]))
    began = clocks()
    losses = train(spec, model, examples)
    trained = clocks()

    model.save_pretrained(spec["adapter"])
    del model, base  # the harness loads the base model again, and memory may not hold two copies
    lm = HFLM(
        pretrained=spec["model"],
        peft=spec["adapter"],
        dtype=dtype,
        device=spec["device"],
        batch_size=spec["score_batch_size"],
        softmax_dtype="float32",
    )
    tasks = TaskManager(include_path=str(Path(spec["task"]).parent), include_defaults=False)
    loaded = clocks()
    evaluated = simple_evaluate(lm, tasks=[Path(spec["task"]).stem], task_manager=tasks, log_samples=False)
    scored = clocks()
    result = {
        "losses": losses,
        "score": evaluated["results"][Path(spec["task"]).stem]["acc_norm,none"],
        "train": [after - before for before, after in zip(began, trained, strict=True)],
        "score_costs": [after - before for before, after in zip(loaded, scored, strict=True)],
        "peak": peak_bytes(),
    }
    Path(spec["result"]).write_text(json.dumps(result), encoding="utf-8")


def peak_bytes() -> float:
    """Return the peak memory in bytes: on a GPU what torch allocated, otherwise the resident set of this process."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():  # preferred, because ru_maxrss includes memory of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
