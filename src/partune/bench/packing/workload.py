"""The work that all contenders share: the same trials on the same base, examples and items.

A trial is a configuration and a seed. The configurations are a small Latin hypercube over the space `lora`; a pack of
K trials repeats them with new seeds, so that every contender's mean is over the same configurations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from partune import config
from partune.bench.options import Packing
from partune.demo import DIRECTORY
from partune.errors import UserError
from partune.finetune.data import Examples, Row, alpaca_prompt, tokenise
from partune.finetune.model import DTYPES, Base, find_device, find_dtype, load, load_tokenizer
from partune.finetune.scoring.definitions import rendering
from partune.finetune.scoring.harness import encoder
from partune.finetune.scoring.scores import Part, aggregate, results
from partune.finetune.scoring.tasks import Answer, Loader, Request
from partune.finetune.training import batches
from partune.optimizers.sampling import LatinHypercube
from partune.runtime.isolation import own_generators, quiet
from partune.space import SPACES
from partune.trial.names import ItemSet

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerBase

DEMO = config.Model(path=str(DIRECTORY / "model"))
CONTEXT = 2048
# Llama's shape: width, layers, heads, key-value heads, width of the feed-forward layers, vocabulary.
SHAPES = {
    "1M": (128, 4, 4, 4, 344, 1419),
    "5M": (256, 6, 4, 4, 688, 1419),
    "15M": (384, 8, 6, 6, 1032, 1419),
    "1B": (2048, 16, 32, 8, 8192, 128_256),
    "3B": (3072, 28, 24, 8, 8192, 128_256),
}
ROWS, LENGTH = 256, 64  # of synthetic data; tokens of a row
CHOICES = 4
SHORTEST = 16  # tokens of a synthetic example
METRIC = "acc_norm"
DATA, TASK = "data.jsonl", "bench_items.yaml"


@dataclass(frozen=True)
class SeededTraining:
    """A trial as the contenders run it.

    Attributes:
        settings: Its configuration, as the settings of a training.
        seed: The seed of initialisation and dropout.
    """

    settings: config.Training
    seed: int


@dataclass(frozen=True)
class Workload:
    """What is trained and scored.

    Attributes:
        base: The base model, resident.
        path: Its folder or id; None for one of random weights.
        folder: Where the data and the task are, and, once asked for, the files of a random base.
        examples: The tokenised training examples.
        part: All items, which `task_file` has too.
        configurations: The configurations, as settings of a training.
        seed: The seed of everything.
    """

    base: Base
    path: str | None
    folder: Path
    examples: Examples
    part: Part
    configurations: tuple[config.Training, ...]
    seed: int

    @property
    def data_file(self) -> Path:
        """The file of the training data: Alpaca rows with their prompts."""
        return self.folder / DATA

    @property
    def task_file(self) -> Path:
        """The file of the task that trials are scored on."""
        return self.folder / TASK

    @property
    def targets(self) -> str:
        """The layers that adapters are on."""
        return self.configurations[0].targets

    @property
    def requests(self) -> list[Request]:
        """The requests that the items make of a model."""
        return self.part.requests

    @property
    def device(self) -> str:
        """The device's type."""
        return self.base.device.type

    def trials(self, count: int) -> list[SeededTraining]:
        """Return `count` trials: the configurations again and again, each time with new seeds."""
        # Sorted by rank, as a study fills its packs: a pack computes at the largest rank in it.
        n = len(self.configurations)
        trials = [SeededTraining(self.configurations[i % n], self.seed + i) for i in range(count)]
        return sorted(trials, key=lambda trial: trial.settings.lora_r)

    def order(self, trial: SeededTraining) -> list[list[int]]:
        """Return the examples' numbers of each optimiser step of a trial."""
        settings = trial.settings
        steps = batches(len(self.examples), settings.batch_size, settings.steps or 1, self.seed)
        return [indices.tolist() for indices in steps]

    def tokens(self, trial: SeededTraining) -> int:
        """Return how many tokens a trial reads in training, without padding."""
        return sum(int(self.examples.lengths[step].sum()) for step in self.order(trial))

    def score(self, answers: Sequence[Answer]) -> float:
        """Return the mean METRIC of a model's answers to the requests."""
        with rendering(self.part.task.trusted):
            values, _ = results(self.part, answers)
            return aggregate(self.part, values[METRIC])[0]

    @cached_property
    def model_path(self) -> str:
        """The folder or id from which another process can load the base; a random base is written first."""
        if self.path is not None:
            return self.path
        written = self.folder / "model"
        with quiet():
            self.base.model.save_pretrained(written)
            self.base.tokenizer.save_pretrained(written)
        return str(written)

    @property
    def summary(self) -> str:
        """The workload in words."""
        settings = self.configurations[0]
        millions = self.base.model.num_parameters() / 1e6
        return (
            f"{millions:.1f} million parameters in {self.base.dtype}; {settings.steps} steps of "
            f"{settings.batch_size} x {self.examples.lengths.mean():.0f} tokens, "
            f"{self.examples.trained_lengths.mean():.0f} of them trained on; {len(self.part.indices)} items "
            f"({len(self.requests)} requests of {np.mean([len(c) + len(k) for _, c, k in self.requests]):.0f} tokens); "
            f"{len(self.configurations)} configurations of lora"
        )


def make(folder: Path, options: Packing) -> Workload:
    """Return the workload of some options.

    Args:
        folder: Where to write its files.
        options: What to measure.

    Raises:
        UserError: The options do not fit together, or the model cannot be loaded.
    """
    if options.model == "demo" and options.length is not None:
        raise UserError("the demo has its own data: give --length with another --model")
    base, path = find_base(options)
    rows, documents = _demo() if options.model == "demo" else synthetic(base.tokenizer, options)
    _write_jsonl(folder / DATA, [{**row, "prompt": alpaca_prompt(row)} for row in rows])
    _write_task(folder, documents[: options.items])
    data = config.Data(path=str(folder / DATA), format="alpaca")
    with own_generators(base.device):
        task = Loader().load(str(folder / TASK), encoder(base))
    return Workload(
        base,
        path,
        folder,
        tokenise(data, base.tokenizer).cut(base.context, "answer"),
        Part(ItemSet.SEARCH, task, np.arange(len(task.items)), METRIC),
        drawn(options),
        options.seed,
    )


def find_base(options: Packing) -> tuple[Base, str | None]:
    """Return the base, and its folder or id; None for a base of random weights, which has none yet."""
    if options.model in SHAPES:
        return random_base(options), None
    model = DEMO if options.model == "demo" else config.Model(path=options.model)
    return load(model, options.dtype, options.device), model.path


def drawn(options: Packing) -> tuple[config.Training, ...]:
    """Return the configurations: a Latin hypercube over the space `lora`, with a schedule that every contender has."""
    n = options.configurations
    common = {"batch_size": options.batch, "steps": options.steps, "warmup_steps": 1, "schedule": "cosine"}
    return tuple(
        config.Training.model_validate({**common, **proposal.config})
        for proposal in LatinHypercube(SPACES["lora"], options.seed, size=n).ask(n)
    )


def random_base(options: Packing) -> Base:
    """Return a Llama of random weights, made on its device, with the demo's tokenizer."""
    # Speed does not depend on the weights' values, so nothing has to be downloaded.
    import torch
    from transformers import AutoModelForCausalLM

    device = find_device(options.device)
    dtype = find_dtype(options.dtype, device)
    with quiet(), own_generators(device, options.seed), device:
        model = AutoModelForCausalLM.from_config(shape(options.model), dtype=getattr(torch, DTYPES[dtype]))
    model.requires_grad_(False)
    model.eval()
    return Base(model, load_tokenizer(DEMO), next(model.parameters()).device, dtype)


def shape(size: str) -> LlamaConfig:
    """Return the configuration of a Llama of one of the SHAPES."""
    from transformers import LlamaConfig

    width, layers, heads, kv_heads, inner, vocabulary = SHAPES[size]
    return LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        vocab_size=vocabulary,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )


# ----- data and items


def _demo() -> tuple[list[Row], list[Row]]:
    return _read_jsonl(DIRECTORY / "instructions.jsonl"), _read_jsonl(DIRECTORY / "tasks" / "factory_cloze.jsonl")


def synthetic(tokenizer: PreTrainedTokenizerBase, options: Packing) -> tuple[list[Row], list[Row]]:
    """Return Alpaca rows, and items in HellaSwag's form, of random words.

    An example has `length` tokens, half of them its answer; an item's context with one of its four endings has as many,
    a third of them the ending. The numbers are exact if a word is a token, as with the demo's tokenizer.

    Args:
        tokenizer: The base's tokenizer.
        options: What to measure.

    Raises:
        UserError: `length` is too short for the prompt's fixed text.
    """
    length = options.length or LENGTH
    # The prompt's fixed text counts in an example's length, and the answer's end of sequence in its answer.
    fixed = len(tokenizer(alpaca_prompt({"instruction": "", "input": ""}))["input_ids"])
    if length < max(SHORTEST, 2 * fixed):
        raise UserError(f"length >= {max(SHORTEST, 2 * fixed)} must hold with this tokenizer, got length={length}")
    words = _words()
    draw = np.random.default_rng([options.seed, length])

    def text(count: int) -> str:
        return " ".join(draw.choice(words, count))

    answer, ending = length // 2, length // 3
    rows: list[Row] = [
        {"instruction": f" {text(length - answer - fixed)}", "input": "", "output": f" {text(answer - 1)}"}
        for _ in range(ROWS)
    ]
    documents: list[Row] = [
        {
            "activity_label": text(1),
            "ctx": text(length - ending - 2),
            "endings": [text(ending) for _ in range(CHOICES)],
            "label": int(draw.integers(CHOICES)),
        }
        for _ in range(options.items)
    ]
    return rows, documents


def _words() -> list[str]:
    """Return the words in lower case of the demo's instructions."""
    texts = [f"{row['instruction']} {row['output']}" for row in _read_jsonl(DIRECTORY / "instructions.jsonl")]
    return sorted({word for text in texts for word in re.findall(r"\b[a-z]+\b", text)})


def _write_task(folder: Path, documents: Sequence[Row]) -> None:
    """Write the demo's validation task over some documents, as a file that any process can load."""
    import yaml

    _write_jsonl(folder / Path(TASK).with_suffix(".jsonl"), documents)
    task = config.load(DIRECTORY / "tasks" / "factory_cloze.yaml")
    task["task"] = Path(TASK).stem
    task["dataset_kwargs"] = {"data_files": {"validation": str(folder / Path(TASK).with_suffix(".jsonl"))}}
    (folder / TASK).write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")


def _read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
