"""Make the workload that all contenders run: the same trials on the same base model, examples and items.

A trial is a configuration and a seed. The configurations are a small Latin hypercube over the space `lora`. If a pack
has more trials than there are configurations, the configurations are repeated with new seeds. So every contender
averages over the same configurations.
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
from partune.finetune.scoring.base import Continuation, Likelihood, Prompt
from partune.finetune.scoring.encoding import request_encoder
from partune.finetune.scoring.scores import Part, results
from partune.finetune.scoring.tasks import Loader
from partune.finetune.training import batches
from partune.optimizers.sampling import LatinHypercube
from partune.runtime.isolation import own_generators, quiet
from partune.space import SPACES
from partune.trial.names import ItemSet

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerBase

DEMO = config.Model(path=str(DIRECTORY / "model"))
CONTEXT = 2048
# The shape of each Llama: width, layers, heads, key-value heads, width of the feed-forward layers, vocabulary.
SHAPES = {
    "1M": (128, 4, 4, 4, 344, 1419),
    "5M": (256, 6, 4, 4, 688, 1419),
    "15M": (384, 8, 6, 6, 1032, 1419),
    "1B": (2048, 16, 32, 8, 8192, 128_256),
    "3B": (3072, 28, 24, 8, 8192, 128_256),
}
ROWS, LENGTH = 256, 64  # synthetic training examples, and the default number of tokens in each
CHOICES = 4
SHORTEST = 16  # the smallest number of tokens that a synthetic example may have
METRIC = "acc_norm"
DATA, TASK = "data.jsonl", "bench_items.yaml"


@dataclass(frozen=True)
class SeededTraining:
    """A trial as the contenders run it.

    Attributes:
        settings: The configuration, as the settings of a training.
        seed: The seed of the adapter's initialisation and of dropout.
    """

    settings: config.Training
    seed: int


@dataclass(frozen=True)
class Workload:
    """The models, data and configurations that every contender trains and scores.

    Attributes:
        base: The base model, loaded into memory.
        path: The folder or Hugging Face id of the base model; None if its weights are random.
        folder: The folder of the data and the task. `model_path` also writes a random base model to it.
        examples: The tokenised training examples.
        part: All items that trials are scored on. The file `task_file` holds the same items.
        configurations: The configurations, as settings of a training.
        seed: The seed of everything that is random.
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
        """The file that defines the task whose items score the trials."""
        return self.folder / TASK

    @property
    def targets(self) -> str:
        """The layers that adapters are attached to."""
        return self.configurations[0].targets

    @property
    def requests(self) -> list[Continuation]:
        """The requests of all items, which a model has to answer."""
        return [request for request in self.part.requests if not isinstance(request, Prompt)]

    @property
    def device(self) -> str:
        """The type of the device, such as "cpu" or "cuda"."""
        return self.base.device.type

    def trials(self, count: int) -> list[SeededTraining]:
        """Return `count` trials, which repeat the configurations in turn; every trial has a seed of its own."""
        # Sorted by LoRA rank, as in a study, because a pack computes with the largest rank in it.
        n = len(self.configurations)
        trials = [SeededTraining(self.configurations[i % n], self.seed + i) for i in range(count)]
        return sorted(trials, key=lambda trial: trial.settings.lora_r)

    def order(self, trial: SeededTraining) -> list[list[int]]:
        """Return the indices of the examples in each optimiser step of a trial."""
        settings = trial.settings
        steps = batches(len(self.examples), settings.batch_size, settings.steps or 1, self.seed)
        return [indices.tolist() for indices in steps]

    def tokens(self, trial: SeededTraining) -> int:
        """Return the number of tokens that a trial reads in training, without padding."""
        return sum(int(self.examples.lengths[step].sum()) for step in self.order(trial))

    def score(self, answers: Sequence[Likelihood]) -> float:
        """Return the score of a model, the mean METRIC over all items, from its answers to the requests."""
        values, _ = results(self.part, answers)
        return self.part.task.aggregate(self.part.indices, values[METRIC], METRIC)[0]

    @cached_property
    def model_path(self) -> str:
        """The folder or id from which another process can load the base model.

        A base model with random weights is written to a folder first.
        """
        if self.path is not None:
            return self.path
        written = self.folder / "model"
        with quiet():
            self.base.model.save_pretrained(written)
            self.base.tokenizer.save_pretrained(written)
        return str(written)

    @property
    def summary(self) -> str:
        """A description of the workload, as text."""
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
    """Make the workload that some options describe, and write its files.

    Args:
        folder: The folder to write the files to.
        options: The options of the benchmark.

    Raises:
        UserError: The options contradict each other, or the model cannot be loaded.
    """
    if options.model == "demo" and options.length is not None:
        raise UserError(
            f"`--length {options.length}` cannot change the demo's own data: leave it out, or choose another `--model`"
        )
    base, path = find_base(options)
    rows, documents = _demo() if options.model == "demo" else synthetic(base.tokenizer, options)
    _write_jsonl(folder / DATA, [{**row, "prompt": alpaca_prompt(row)} for row in rows])
    _write_task(folder, documents[: options.items])
    data = config.Data(path=str(folder / DATA), format="alpaca")
    with own_generators(base.device):
        task = Loader().load(str(folder / TASK), request_encoder(base))
    return Workload(
        base,
        path,
        folder,
        tokenise(data, base.tokenizer).cut(base.context, "answer"),
        Part(ItemSet.SEARCH, task, np.arange(len(task)), METRIC),
        drawn(options),
        options.seed,
    )


def find_base(options: Packing) -> tuple[Base, str | None]:
    """Return the base model, and its folder or id, which is None if the weights are random."""
    if options.model in SHAPES:
        return random_base(options), None
    model = DEMO if options.model == "demo" else config.Model(path=options.model)
    return load(model, options.dtype, options.device), model.path


def drawn(options: Packing) -> tuple[config.Training, ...]:
    """Return a Latin hypercube of configurations over the space `lora`, with a schedule that all contenders support."""
    n = options.configurations
    # The targets are fixed too, so that a new default does not change what docs/packing.md measured.
    common = {"batch_size": options.batch, "steps": options.steps, "warmup_steps": 1, "schedule": "cosine"}
    common["targets"] = "attention"
    return tuple(
        config.Training.model_validate({**common, **proposal.config})
        for proposal in LatinHypercube(SPACES["lora"], options.seed, size=n).ask(n)
    )


def random_base(options: Packing) -> Base:
    """Return a Llama with random weights, created on its device, with the tokenizer of the demo."""
    # The speed does not depend on the values of the weights, so there is no need to download a trained model.
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
    """Return the configuration of a Llama of a size in SHAPES."""
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
    """Return training rows in Alpaca's format and items in HellaSwag's format, both made of random words.

    A training example has `length` tokens, and half of them are the answer. The context of an item and one of its four
    endings also have `length` tokens together, and a third of them are the ending. These numbers are exact if every
    word is one token, as with the demo's tokenizer.

    Args:
        tokenizer: The tokenizer of the base model.
        options: The options of the benchmark.

    Raises:
        UserError: `length` is too short for the fixed text of the prompt.
    """
    length = options.length or LENGTH
    # The length of an example includes the fixed text of the prompt. The length of its answer includes the
    # end-of-sequence token.
    fixed = len(tokenizer(alpaca_prompt({"instruction": "", "input": ""}))["input_ids"])
    if length < max(SHORTEST, 2 * fixed):
        raise UserError(f"`--length` must be >= {max(SHORTEST, 2 * fixed)} with this tokenizer, got {length}")
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
    """Return the lower-case words in the demo's instructions, sorted."""
    texts = [f"{row['instruction']} {row['output']}" for row in _read_jsonl(DIRECTORY / "instructions.jsonl")]
    return sorted({word for text in texts for word in re.findall(r"\b[a-z]+\b", text)})


def _write_task(folder: Path, documents: Sequence[Row]) -> None:
    """Write a task like the demo's validation task, but with other documents, to files that any process can load."""
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
