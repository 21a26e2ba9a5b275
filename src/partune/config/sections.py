"""The sections of a study's file: frozen, and refusing keys that they do not know."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from partune.demo import DIRECTORY as DEMO
from partune.runtime import paths


def flag(name: str) -> Any:
    """The field's flag on the command line, in place of its own name."""
    return Field(json_schema_extra={"flag": name})


class Section(BaseModel):
    """A part of the file. `shorthand` names the field that a bare string stands for."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    shorthand: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if cls.shorthand is not None and isinstance(value, (str, os.PathLike)):
            return {cls.shorthand: os.fspath(value)}
        return value


PACK = 4096  # trials at once: far more than any GPU trains, and no more threads than a machine can hold


def _possible(text: str) -> str:
    paths.place(text)
    return text


PathText = Annotated[str, AfterValidator(_possible)]  # a path, or a name that may be one


FolderText = Annotated[str, AfterValidator(lambda text: str(paths.place(text)))]  # a folder to write in


AnySection = TypeVar("AnySection", bound=Section)


class Model(Section):
    shorthand = "path"

    path: Annotated[PathText, flag("model")]
    """Hugging Face model id, or a folder in its format; demo: the embedded demo's model."""
    revision: Annotated[str | None, flag("model-revision")] = None
    """Branch, tag or commit of a model id."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    safetensors: bool = True
    """Load safetensors only; false also admits pickled weights, which can run code."""
    quantize: Literal["none", "nf4"] = "none"
    """Keep the frozen base in 4 bits (bitsandbytes; needs a CUDA device)."""

    @field_validator("path")
    @classmethod
    def _embedded(cls, path: str) -> str:
        """The name `demo` is a folder of that name where there is one."""
        return str(DEMO / "model") if path == "demo" and not Path(path).exists() else path


class Data(Section):
    shorthand = "path"

    path: Annotated[PathText, flag("data")]
    """Instruction data: .json, .jsonl (either .gz), or a data set id."""
    format: Literal["auto", "alpaca", "chat"] = "auto"
    """Alpaca rows (instruction, input, output) or chat rows (messages)."""
    split: Annotated[str, flag("data-split")] = "train"
    """Which split of a data set id."""
    loss_on: Literal["answer", "all"] = "answer"
    """Train on the answers' tokens only, or on prompts too."""
    max_length: PositiveInt = 512
    """Tokens an example at most; longer ones are cut and counted."""
    limit: Annotated[PositiveInt | None, flag("data-limit")] = None
    """Use the first so many rows only."""
    chat_template: str | None = None
    """Jinja template (or a file of one) for chat rows, in place of the tokenizer's."""


class Training(Section):
    """LoRA and AdamW; the first five are the field's defaults, scored as an anchor in every study."""

    lora_r: PositiveInt = 16
    """Rank of the adapters."""
    lora_alpha: PositiveFloat = 32
    """Adapters are scaled by alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the adapters' input."""
    learning_rate: NonNegativeFloat = 2e-4
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    epochs: PositiveFloat = 1.0
    """Passes over the data; may be fractional."""
    steps: PositiveInt | None = None
    """Optimiser steps, in place of epochs."""
    batch_size: PositiveInt = 16
    """Examples an optimiser step."""
    micro_batch_size: PositiveInt | None = None
    """Examples a forward pass; the rest is accumulated."""
    warmup_steps: NonNegativeInt | None = None
    """Steps of linear warm-up; 3 % of all steps if not given."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate decays to zero after warm-up."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Which optimiser trains the adapters."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """SGD's momentum."""
    targets: str = "attention"
    """Which linear layers get an adapter: attention (what mixes tokens), all-linear, or names with commas between."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the base model; auto is bf16 where the device has it, else fp32."""
    seed: Annotated[NonNegativeInt | None, flag("training-seed")] = None
    """Seed of initialisation and dropout for all trials; by default each has its own, as all runs again do."""


DEFAULTS = ("lora_r", "lora_alpha", "lora_dropout", "learning_rate", "weight_decay")  # that the field has


DATA_SETTINGS = ("max_length", "loss_on")  # of `Data`, which a space may search


def given(training: Training, data: Data | None) -> dict[str, Any]:
    """Return the settings that a study's file or flags give, of those that a space may search, by name."""
    found = {name: getattr(training, name) for name in Training.model_fields if name in training.model_fields_set}
    if data is not None:
        found |= {name: getattr(data, name) for name in DATA_SETTINGS if name in data.model_fields_set}
    return found


def baseline(defaults: Mapping[str, Any]) -> str:
    """Return what a configuration of the defaults is called: with what was given in the place of the field's values."""
    own = {name: value for name, value in defaults.items() if name in DEFAULTS and value != _of_the_field(name)}
    told = ", ".join(f"{name}={value}" for name, value in own.items())
    return f"the field's defaults with {told} as given" if own else "the field's defaults"


def _of_the_field(name: str) -> Any:
    return Training.model_fields[name].default


Names = Annotated[tuple[PathText, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Validation(Section):
    tasks: Annotated[Names, Field(min_length=1), flag("task")]
    """Harness tasks, by name or local YAML file, whose mean score is searched for."""
    metric: Literal["acc", "acc_norm", "loss", "margin"] | None = None
    """Score: accuracy, length-normalised accuracy, minus the loss, or the choices' log-likelihood margin.

    By default acc_norm where all tasks have it, else acc."""
    verdict_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the items kept for the verdict; no optimiser sees them."""
    limit: PositiveInt | None = None
    """Use the first so many items of a task only."""
    fewshot: NonNegativeInt | None = None
    """Examples shown before each question; by default the task's own number."""
    batch_size: Annotated[PositiveInt, flag("score-batch-size")] = 64
    """Continuations a forward pass when scoring with engine peft or litgpt; packs find their own size."""
    trust_task_code: bool = False
    """Run Python code that local task files name (!function), also of test tasks, and render their templates freely."""


class Test(Section):
    tasks: Annotated[Names, flag("test-task")] = ()
    """Tasks that watch for overfitting; never told to the optimiser."""
    every_trial: Annotated[bool, flag("test-every-trial")] = False
    """Score them for all trials, not only for base, defaults and winner."""
    limit: Annotated[PositiveInt | None, flag("test-limit")] = None
    """Use the first so many items of a task only."""


Ship = Literal["first", "median", "best"]  # which run of a winner hands its adapter over


def _seeds(value: Any) -> Any:
    """Return a number of seeds, as text too; raises ValueError for one that makes no sense."""
    if not _is_count(value) or int(value) == 1:
        raise ValueError("must be 0 or at least 2, as one run says nothing of other seeds")
    return int(value)


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and str(value).isdecimal()


class Search(Section):
    algorithm: str = "auto"
    """An optimiser's name (auto: the best by measurement), or package.module:Class."""
    budget: PositiveInt = 50
    """Trials that the optimiser may start; failed ones count, base and defaults do not."""
    seed: NonNegativeInt = 0
    """Seed of everything: search, split of the items, data order, trials."""
    options: dict[str, Any] = {}
    """The optimiser's own options."""
    confirm: NonNegativeInt = 0
    """So many of the best run again with fresh seeds, then the better half, ...; the winner is the best in the mean."""
    seeds: Annotated[int, BeforeValidator(_seeds)] = 4
    """Runs of winner and defaults with fresh seeds, for a verdict on hyperparameters; 0: on the two adapters only."""
    ship: Ship = "first"
    """Adapter of the winner to hand over: its first run's, or of the fresh runs the median or best on search items."""

    @model_validator(mode="after")
    def _can_ship(self) -> Search:
        if self.ship != "first" and not self.seeds:
            raise ValueError(
                f"ship: {self.ship} chooses among fresh runs, and seeds: 0 makes none; ship: first hands over what won"
            )
        return self


def _positive_or(word: str, what: str) -> Callable[[Any], Any]:
    """Read a number, as text too, or a word; the union by itself answers with the first of its two complaints."""

    def read(value: Any) -> Any:
        if isinstance(value, str) and value == word:
            return word
        if not _is_count(value) or int(value) < 1:
            raise ValueError(f"must be {what}, or {word}")
        return int(value)

    return read


def _one_thread_each(pack: int | str) -> int | str:
    if isinstance(pack, int) and pack > PACK:
        raise ValueError(f"must be {PACK} trials at most, as each has a thread of its own")
    return pack


class Where(Section):
    """Where trials run: this process, or worker processes. A study that is resumed may run elsewhere."""

    workers: PositiveInt = 1
    """Worker processes of this machine, each with GPUs of its own, or with its share of the cores."""
    devices_per_worker: PositiveInt = 1
    """GPUs each of them has; with several, for a base that one cannot hold, its blocks are spread over them."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, whose workers are used instead (tcp://10.0.0.5:8786)."""
    tls: PathText | None = None
    """Folder of certificates for it (partune certificates makes some)."""
    cluster: PathText | None = None
    """YAML file of a batch system (slurm, oar, pbs, lsf, htcondor) that is asked for workers instead."""
    time_limit: PositiveFloat | None = None
    """Seconds a trial may take on a worker process; one that hangs fails, and its worker begins anew."""


class Run(Where):
    """How trials run, and where."""

    engine: Literal["packed", "peft", "litgpt"] = "packed"
    """Many trials at once on one resident base, one after the other through PEFT, or LitGPT's command line."""
    litgpt: PathText = "litgpt"
    """LitGPT's command or its full path; it needs a virtual environment of its own."""
    pack: Annotated[
        PositiveInt | Literal["auto"],
        BeforeValidator(_positive_or("auto", "a number of trials")),
        AfterValidator(_one_thread_each),
    ] = "auto"
    """Trials trained and scored at once (packed engine); auto measures what fits and pays."""
    stop: Literal["none", "rungs"] = "none"
    """Stop trials early that score worst at equal steps of their schedule (packed engine)."""
    compile: bool = False
    """Compile the base's blocks with torch.compile (packed engine): slow to begin, and worth a try on a GPU."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto is the best there is."""
    threads: PositiveInt | None = None
    """CPU threads of training and scoring; by default one for a base of under 20 million parameters."""
    keep: Annotated[
        PositiveInt | Literal["all"], BeforeValidator(_positive_or("all", "a number of adapters, at least 1"))
    ] = 1
    """How many of the best adapters stay on disk."""
    storage: Annotated[str | None, Field(repr=False)] = None
    """A database for the record: postgresql://user@host/database, or sqlite:///file; by default a journal file."""


class StudyConfig(Section):
    """A study's file, whole."""

    version: Literal[1] = 1
    """Of this format."""
    objective: str = "finetune"
    """What is searched: finetune, a synthetic function, or package.module:function of a configuration."""
    model: Model | None = None
    data: Data | None = None
    training: Training = Training()
    validation: Validation | None = None
    test: Test = Test()
    space: PathText | dict[str, Any] | None = None
    """A ready-made space, a YAML file of one, or (in a study's file) hyperparameters by name; by default lora."""
    search: Search = Search()
    run: Run = Run()

    @model_validator(mode="before")
    @classmethod
    def _without_searched(cls, value: Any) -> Any:
        """What a space has may be null in its section, as `dump` writes it: each trial has its own."""
        space = value.get("space") if isinstance(value, Mapping) else None
        if not isinstance(space, Mapping):
            return value
        return value | {
            name: {key: each for key, each in value[name].items() if each is not None or key not in space}
            for name in ("training", "data")
            if isinstance(value.get(name), Mapping)
        }

    @model_validator(mode="after")
    def _complete(self) -> StudyConfig:
        run = self.run
        if run.engine != "packed":
            for name, given in (("stop: rungs", run.stop != "none"), ("compile", run.compile)):
                if given:
                    raise ValueError(f"run.{name} needs engine: packed, got engine: {run.engine}")
        elsewhere = [name for name in ("scheduler", "cluster") if getattr(run, name) is not None]
        if len(elsewhere) == 2 or (elsewhere and run.workers > 1):
            raise ValueError("workers, scheduler and cluster are three ways to have workers: give one")
        if run.time_limit is not None and not elsewhere and run.workers == 1:
            raise ValueError(
                "run.time_limit needs worker processes: give --workers 2 or more, --scheduler or --cluster"
            )
        if self.objective == "finetune":
            for name, option in (("model", "--model"), ("data", "--data"), ("validation", "--task")):
                if getattr(self, name) is None:
                    raise ValueError(f"{name} is missing: give {option} or a section in the file")
        return self


class Batch(Section):
    """A batch system's file: what to ask it for."""

    system: Literal["slurm", "oar", "pbs", "lsf", "htcondor", "sge"]
    """Which batch system."""
    minimum: PositiveInt = 1
    """Workers at least, as long as the study runs."""
    maximum: PositiveInt
    """Workers at most: as many whole jobs as that holds."""
    workers_per_job: PositiveInt = 1
    """Worker processes a job starts: one for each GPU of its node, or for each few."""
    devices_per_worker: PositiveInt = 1
    """GPUs each worker sees."""
    prologue: tuple[str, ...] = ()
    """Lines of shell before the workers start: module load, source .venv/bin/activate."""
    job: dict[str, Any] = {}
    """What dask-jobqueue's class for the system takes: queue, walltime, memory, job_extra_directives, ..."""

    @model_validator(mode="after")
    def _in_order(self) -> Batch:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum <= maximum must hold, got minimum={self.minimum}, maximum={self.maximum}")
        if self.workers_per_job > self.maximum:
            got = f"workers_per_job={self.workers_per_job}, maximum={self.maximum}"
            raise ValueError(f"workers_per_job <= maximum must hold, got {got}")
        return self
