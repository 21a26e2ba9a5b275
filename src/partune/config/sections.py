"""The sections of a study's file, as frozen classes that refuse unknown keys.

The docstring under a field is the help of its flag (`partune tune --help`) and its description in the documentation of
a study's file. This module checks values; `partune.config.unused` finds settings that would have no effect.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_serializer,
    field_validator,
    model_validator,
)

from partune.config.base import PathText, Section, flag
from partune.config.recipes import recipe_of
from partune.config.validation import Test, Validation, check_metric
from partune.demo import DIRECTORY as DEMO
from partune.demo import locate_rows

# The largest number of trials at once. No GPU can train more. Each trial has its own thread, and a machine can run this
# many threads.
PACK = 4096


AnySection = TypeVar("AnySection", bound=Section)


class Model(Section):
    """The base model, whose weights stay the same, because only the adapters are trained."""

    shorthand = "path"

    path: Annotated[PathText, flag("model")]
    """Base model: a model id of the Hugging Face Hub, a folder in its format, or demo for the demo's tiny model."""
    revision: Annotated[str | None, flag("model-revision")] = None
    """Branch, tag or commit to load, if the model is an id of the Hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    safetensors: bool = True
    """Load weights from safetensors files only. Without this, pickled weights are loaded too, which can run code."""
    quantize: Literal["none", "nf4"] = "none"
    """Keep the base model in 4 bits (nf4). Needs bitsandbytes and a CUDA device."""

    @field_validator("path")
    @classmethod
    def _embedded(cls, path: str) -> str:
        """Replace the name demo by the folder of the embedded model, unless a path of this name exists."""
        # This makes the path on record independent of the working folder.
        return str(DEMO / "model") if path == "demo" and not Path(path).exists() else path


def _joined(value: Any) -> Any:
    """Return a list of files as one comma-separated text."""
    if not isinstance(value, (list, tuple)):
        return value
    for name in value:
        if not isinstance(name, (str, os.PathLike)) or "," in os.fspath(name):
            raise ValueError("a list of files must have paths without commas")
    return ",".join(map(os.fspath, value))


def _columns(value: Any) -> Any:
    """Return the text of the flag, FIELD=COLUMN,FIELD=COLUMN, as a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",")]
    if wrong := [name for name, equals, column in pairs if not (name.strip() and equals and column.strip())]:
        raise ValueError(f'expected FIELD=COLUMN, such as instruction=question,output=answer; got "{wrong[0]}"')
    mapping = {name.strip(): column.strip() for name, _, column in pairs}
    if len(mapping) < len(pairs):
        raise ValueError("a field is given twice")
    return mapping


class Data(Section):
    """The rows that the adapters are trained on."""

    shorthand = "path"

    path: Annotated[PathText, BeforeValidator(_joined), AfterValidator(locate_rows), flag("data")]
    """Training data: a .json, .jsonl, .csv, .tsv or .parquet file (also .gz, .bz2, .xz, .zst), several such files
    separated by commas, a folder of such files, a data set id of the Hugging Face Hub, or rows of the demo: demo,
    demo:labels, demo:pairs, demo:conversations or demo:texts."""
    format: Literal["auto", "alpaca", "qa", "label", "chat", "sharegpt", "completion", "preference", "text"] = "auto"
    """Format of the rows; auto recognises it by the columns. docs/data.md describes each format."""
    columns: Annotated[dict[str, str] | None, BeforeValidator(_columns)] = None
    """Names of the columns that differ from the format's field names: FIELD=COLUMN pairs, separated by commas, such as
    instruction=question,output=answer."""
    config: Annotated[str | None, flag("data-config")] = None
    """Configuration to use, if the data are a data set id of the Hub."""
    split: Annotated[str, flag("data-split")] = "train"
    """Split to use, if the data are a data set id of the Hub or a folder."""
    loss_on: Literal["answer", "all"] = "answer"
    """Train on the tokens of the answers only, or on all tokens, prompts included."""
    max_length: PositiveInt = 512
    """Maximum number of tokens per example. Longer examples are cut, and their number is reported."""
    limit: Annotated[PositiveInt | None, flag("data-limit")] = None
    """Largest number of rows to use, taken from the beginning."""
    chat_template: str | None = None
    """Chat template: Jinja text, a file that contains it, or one of the names chatml, llama3, mistral, gemma, phi3,
    zephyr, alpaca. By default, it is the template of the tokenizer."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, folder or id that `path` names. A path with a comma that exists is one path."""
        try:
            is_one = "," not in self.path or Path(self.path).expanduser().exists()
        except (OSError, RuntimeError):
            is_one = False
        return (self.path,) if is_one else tuple(part.strip() for part in self.path.split(","))


class Training(Section):
    """How an adapter is trained. A value that is set here is fixed and not searched.

    The defaults are those of a published recipe (`partune baselines` names its source). Unless the study names other
    baselines, its baseline is an adapter trained with this recipe.
    """

    lora_r: PositiveInt = 16
    """Rank of the adapters."""
    lora_alpha: PositiveFloat = 32
    """Scale of the adapters: their output is multiplied by alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the input of the adapters."""
    learning_rate: NonNegativeFloat = 2e-4
    """Peak learning rate, which is reached at the end of the warm-up."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay, decoupled from the gradient (AdamW)."""
    epochs: PositiveFloat = 1.0
    """Number of passes over the data; fractions are allowed."""
    steps: PositiveInt | None = None
    """Number of optimiser steps, instead of epochs."""
    batch_size: PositiveInt = 16
    """Number of examples per optimiser step."""
    micro_batch_size: PositiveInt | None = None
    """Number of examples per forward pass; by default all of a step. Gradients are accumulated over the passes."""
    warmup_steps: NonNegativeInt | None = None
    """Number of steps during which the learning rate rises from 0 to its peak; by default 3 % of all steps."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or falling to zero (linear, cosine)."""
    max_grad_norm: PositiveFloat = 1.0
    """Largest norm of the gradient; a larger gradient is scaled down to it."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimiser that trains the adapters."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of the optimiser sgd."""
    targets: str = "all-linear"
    """Linear layers that get an adapter: all-linear (all but the output head), attention (layers that mix tokens), or
    names separated by commas."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the base model; auto is bf16 if the device supports it, otherwise fp32."""
    seed: Annotated[NonNegativeInt | None, flag("training-seed")] = None
    """Seed of initialisation and dropout for all trials; by default each trial has its own seed."""


class NamedBaseline(Section):
    """A recipe that the winner is compared with: a name, a source and settings of section `training`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
    """Name in the report, of letters, digits, - and _."""
    source: str = "the study's file"
    """Where the values come from."""
    training: Training
    """Settings of the recipe. Settings that are left out have the study's values."""

    @model_validator(mode="after")
    def _sets_something(self) -> NamedBaseline:
        if not self.training.model_fields_set:
            raise ValueError(f"the baseline {self.name} sets nothing: name the training settings of the recipe")
        if self.name.isdecimal() or self.name in RESERVED:
            raise ValueError(f"a baseline cannot be called {self.name}: choose another name")
        return self

    @field_serializer("training")
    def _only_what_is_set(self, training: Training) -> dict[str, Any]:
        return training.model_dump(exclude_unset=True)


RESERVED = ("base", "zero", "defaults", "winner", "best", "none")  # names of other models in a report


Ship = Literal["first", "median", "best"]  # which run of a winner has the adapter to export


def _seeds(value: Any) -> Any:
    """Return a number of seeds, which may be text; raise ValueError if it is not valid."""
    if not _is_count(value) or int(value) == 1:
        raise ValueError("must be 0 or at least 2: one run says nothing about other seeds")
    return int(value)


def _is_count(value: Any) -> bool:
    # In Python, True is an integer, but `seeds: true` must not mean one seed.
    return not isinstance(value, bool) and str(value).isdecimal()


class Search(Section):
    """How the hyperparameters are searched, and how the winner is judged."""

    algorithm: str = "auto"
    """Name of an optimiser (`partune algorithms` lists them), or package.module:Class; auto is the optimiser that did
    best in our measurements."""
    budget: PositiveInt = 50
    """Number of trials. Failed trials count; the baselines do not. With hours or device_hours, the number is limited
    only if budget is set too."""
    hours: Annotated[PositiveFloat, Field(le=1_000_000)] | None = None
    """Hours of the clock until the study ends. Baselines, confirmations, fresh runs and the verdict are part of them: a
    trial begins only if everything after it can still end in time."""
    device_hours: Annotated[PositiveFloat, Field(le=1_000_000)] | None = None
    """Hours of all workers together, busy or idle: with 4 workers, 8 device-hours are 2 hours of the clock."""
    seed: NonNegativeInt = 0
    """Seed of everything random: proposals, split of the items, order of the data, trials."""
    options: dict[str, Any] = Field(default={})
    """Options of the optimiser."""
    confirm: NonNegativeInt = 0
    """Run this many of the best trials again with fresh seeds, then the better half of them, and so on; the best mean
    wins. This guards against a winner that scored high only by chance."""
    seeds: Annotated[int, BeforeValidator(_seeds)] = 4
    """Number of fresh runs for the verdict: winner and defaults are trained again with other seeds, so that the verdict
    is about their hyperparameters and not about single adapters. With 0, one adapter of each is compared."""
    ship: Ship = "first"
    """Run of the winner whose adapter is exported: first is the run in which it won; median and best are fresh runs,
    chosen by their scores on search items."""

    @model_validator(mode="after")
    def _can_ship(self) -> Search:
        if self.ship != "first" and not self.seeds:
            raise ValueError(
                f"search.ship {self.ship} chooses among fresh runs, but search.seeds 0 makes none: use 2 seeds or "
                "more, or ship the first run"
            )
        return self


def _positive_or(word: str, what: str) -> Callable[[Any], Any]:
    """Return a function that reads a positive integer, which may be text, or one word.

    It is needed because pydantic's own message for such a union only contains the error of its first member.

    word: The word.
    what: A description of the number, for the message.
    """

    def read(value: Any) -> Any:
        """Return the number or the word; raise ValueError for anything else."""
        if isinstance(value, str) and value == word:
            return word
        if not _is_count(value) or int(value) < 1:
            raise ValueError(f"must be {what}, or {word}")
        return int(value)

    return read


def _checked_pack(pack: int | str) -> int | str:
    if isinstance(pack, int) and pack > PACK:
        raise ValueError(f"must be at most {PACK} trials, because each trial has its own thread")
    return pack


Tracker = Literal["mlflow", "wandb", "tensorboard", "trackio"]
TRACKERS: tuple[str, ...] = get_args(Tracker)


def _listed(value: Any) -> Any:
    return () if value is None else [value] if isinstance(value, str) else value


class Where(Section):
    """Where trials run: in this process, or in worker processes. A study may be resumed elsewhere."""

    workers: PositiveInt = 1
    """Number of worker processes on this machine; each gets its own GPUs, or its share of the CPU cores."""
    devices_per_worker: PositiveInt = 1
    """Number of GPUs per worker. The blocks of the base model are spread over them, for a base model that does not fit
    on one GPU."""
    scheduler: str | None = None
    """Address of a running Dask scheduler whose workers run the trials, such as tcp://10.0.0.5:8786."""
    tls: PathText | None = None
    """Folder with the certificates for the Dask scheduler (`partune certificates` makes one)."""
    cluster: PathText | None = None
    """YAML file that describes a batch system (slurm, oar, pbs, lsf, htcondor, sge), whose jobs run the trials."""
    time_limit: PositiveFloat | None = None
    """Time limit of a trial on a worker, in seconds. A trial that takes longer fails, and its worker is restarted."""
    track: Annotated[tuple[Tracker, ...], BeforeValidator(_listed)] = ()
    """Experiment tracker that gets a run for each trial and baseline: mlflow, wandb, tensorboard or trackio. Repeat it
    for several."""


class Run(Where):
    """How trials run, and where."""

    engine: Literal["packed", "peft", "litgpt"] = "packed"
    """What trains and scores: packed (many trials at once on one base model), peft (one at a time through PEFT), or
    litgpt (one at a time through LitGPT's commands)."""
    litgpt: PathText = "litgpt"
    """LitGPT's command, or its path. LitGPT is installed in its own virtual environment."""
    pack: Annotated[
        PositiveInt | Literal["auto"],
        BeforeValidator(_positive_or("auto", "a number of trials")),
        AfterValidator(_checked_pack),
    ] = "auto"
    """Number of trials that are trained and scored at once (a pack; engine packed only); auto measures how many fit in
    memory and save time."""
    stop: Literal["none", "rungs"] = "none"
    """Stop poor trials early: rungs compares trials at fixed points of their training (the rungs) and stops the worst
    (engine packed only)."""
    compile: bool = False
    """Compile the blocks of the base model with torch.compile (engine packed only). The first trials start later, but
    all may run faster on a GPU."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1 or mps; auto is the best device of this machine."""
    threads: PositiveInt | None = None
    """Number of CPU threads; by default one for a base model of fewer than 20 million parameters, otherwise torch's own
    choice."""
    keep: Annotated[
        PositiveInt | Literal["all"], BeforeValidator(_positive_or("all", "a number of adapters, at least 1"))
    ] = 1
    """Number of the best trials whose adapters stay on disk, or all."""
    storage: Annotated[str | None, Field(repr=False)] = None  # not in the repr, because a URL may contain a password
    """Database for the record of the study: postgresql://user@host/database or sqlite:///file; by default a file in the
    study's directory."""


Baselines = Annotated[
    tuple[Annotated[NamedBaseline, BeforeValidator(recipe_of)], ...],
    BeforeValidator(lambda value: () if value is None else [value] if isinstance(value, (str, Mapping)) else value),
]


class StudyConfig(Section):
    """The complete file of a study."""

    version: Literal[1] = 1
    """Version of this format."""
    objective: str = "finetune"
    """Objective to maximise: finetune (the score of a fine-tuned model), the name of a synthetic function, or
    package.module:function for a function that takes a configuration."""
    model: Model | None = None
    data: Data | None = None
    training: Training = Training()
    validation: Validation | None = None
    test: Test = Test()
    space: PathText | dict[str, Any] | None = None
    """Hyperparameters to search: a ready-made space (`partune spaces` lists them), a YAML file, or, in a study's file,
    a mapping of names to hyperparameters; by default the space lora."""
    search: Search = Search()
    run: Run = Run()
    baseline: Baselines = ()
    """Recipe that the winner is compared with: its name (`partune baselines` lists them) or a YAML file of training
    settings, such as those that you use today. Repeat it for several; the verdict compares in their order. By default
    the field's defaults, axolotl's recipe for Llama 3.2 1B."""

    @model_validator(mode="before")
    @classmethod
    def _scored(cls, value: Any) -> Any:
        """Add section `validation` to a fine-tuning without one, so that validation rows score its trials."""
        if not isinstance(value, Mapping) or value.get("objective", "finetune") != "finetune":
            return value
        return {**value, "validation": {}} if value.get("validation") is None else value

    @model_validator(mode="before")
    @classmethod
    def _without_searched(cls, value: Any) -> Any:
        """Remove the nulls that `dump` writes for searched hyperparameters, because each trial has its own value."""
        space = value.get("space") if isinstance(value, Mapping) else None
        if not isinstance(space, Mapping):
            return value
        return value | {
            name: {key: setting for key, setting in value[name].items() if setting is not None or key not in space}
            for name in ("training", "data")
            if isinstance(value.get(name), Mapping)
        }

    @model_validator(mode="after")
    def _complete(self) -> StudyConfig:
        run = self.run
        # Not checked in `Where`, because a flag may ask for other workers than the file.
        elsewhere = [name for name in ("scheduler", "cluster") if getattr(run, name) is not None]
        if len(elsewhere) == 2 or (elsewhere and run.workers > 1):
            raise ValueError("workers, scheduler and cluster are three ways to get workers: give only one of them")
        if run.time_limit is not None and not elsewhere and run.workers == 1:
            raise ValueError(
                "run.time_limit needs worker processes: give --workers 2 or more, --scheduler or --cluster"
            )
        names = [baseline.name.casefold() for baseline in self.baseline]  # some file systems ignore case
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the baseline {twice} is given twice: leave one out, or give it another name")
        if self.objective == "finetune":
            for name, option in (("model", "--model"), ("data", "--data")):
                if getattr(self, name) is None:
                    raise ValueError(f"{name} is missing: give {option} or a section in the file")
            check_metric(cast(Validation, self.validation))
        return self
