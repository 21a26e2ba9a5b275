"""Define the benchmarks of `partune bench` and their options, for the command line and Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from partune import config


def spans(value: Any) -> Any:
    """Return the numbers in a text, which may contain spans: "1-4,7" means 1, 2, 3, 4 and 7."""
    texts = config.parts(value)
    if not isinstance(texts, list):
        return value
    numbers: list[Any] = []
    for text in texts:
        first, dash, last = text.partition("-")
        span = dash and first.isdecimal() and last.isdecimal()
        # Any other text is left unchanged, so that pydantic converts it or reports what is wrong.
        numbers += range(int(first), int(last) + 1) if span else [text]
    return numbers


Names = Annotated[tuple[str, ...], BeforeValidator(config.parts)]
Spans = Annotated[tuple[PositiveInt, ...], BeforeValidator(spans)]
Numbers = Annotated[tuple[PositiveInt, ...], BeforeValidator(config.parts)]
Baselines = Annotated[tuple[Literal["subprocess", "tuned"], ...], BeforeValidator(config.parts)]


def repeated_by(what: str, options: config.Section, without: Iterable[str] = ("out",)) -> str:
    """Return the command that repeats a benchmark with the same options.

    Args:
        what: The name of the benchmark.
        options: The options of the benchmark.
        without: The options to leave out because they change no result, such as the output folder.
    """
    given: dict[str, Any] = options.model_dump(exclude_defaults=True, exclude=set(without))
    text = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in text.items()]
    return " ".join([f"partune bench {what}", *flags])


class Packing(config.Section):
    """Options of `partune bench packing`."""

    model: str = "demo"
    """Base model: demo is the tiny model of the demo, and 1M, 5M, 15M, 1B or 3B is a Llama of that size with random
    weights; anything else is a folder or a model id of the Hugging Face Hub."""
    length: PositiveInt | None = None
    """Number of tokens per synthetic example, by default 64. The demo has data of its own and takes no length."""
    batch: PositiveInt = 4
    """Number of examples per optimiser step of a trial."""
    steps: Annotated[int, Field(ge=2)] = 20
    """Number of optimiser steps per trial."""
    items: PositiveInt = 64
    """Number of items that a trial is scored on; each has four choices."""
    configurations: PositiveInt = 4
    """Number of configurations to draw from the space lora. A pack of more trials repeats them with new seeds."""
    packs: Annotated[Numbers, Field(min_length=1)] = (2, 4, 8, 16, 32)
    """Numbers of trials in a pack, separated by commas. Each is a multiple or a divisor of the number of
    configurations."""
    repetitions: PositiveInt = 5
    """Number of times that each contender (each way of training and each size of pack) runs."""
    without: Baselines = ()
    """Ways of training one by one to leave out, separated by commas: subprocess (a process per trial) or tuned (PEFT on
    one base model in memory)."""
    litgpt: str | None = None
    """LitGPT's command, or its path. If it is set, LitGPT as shipped is one more contender."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the base model; auto is bf16 if the device supports it, otherwise fp32."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, mps; auto is the best that this machine has."""
    threads: PositiveInt | None = None
    """Number of CPU threads; by default one for a base model of fewer than 20 million parameters, otherwise torch's own
    choice."""
    seed: NonNegativeInt = 0
    """Seed of everything: the configurations, random weights, synthetic data, the order of the data, and the trials."""
    out: config.FolderText = "bench-packing"
    """Folder to write the table to; it must not exist yet."""


class Searching(config.Section):
    """Options of `partune bench search`."""

    problems: Annotated[
        tuple[Literal["bbob", "bbob-mixint", "bbob-noisy", "hpobench", "demo"], ...],
        BeforeValidator(config.parts),
        Field(min_length=1),
    ] = ("bbob", "hpobench")
    """Suites of problems to run, separated by commas: bbob, bbob-mixint, bbob-noisy, hpobench or demo."""
    functions: Spans = ()
    """Numbers of the BBOB functions to run, with spans and commas, such as 1-12,17; by default all 24."""
    instances: Annotated[Spans, Field(min_length=1)] = (1, 2, 3)
    """Numbers of the BBOB instances to run of each function, with spans and commas."""
    dimension: Annotated[int, Field(ge=2)] = 5
    """Dimension of the BBOB functions; bbob-mixint needs a multiple of 5."""
    datasets: Names = ()
    """Data sets of hpobench to run, separated by commas; by default all eight."""
    contenders: Annotated[Names, Field(min_length=1)] = ("all",)
    """Optimisers to compare, separated by commas; all means every optimiser that is installed. Options follow a
    colon, as in bo:n_init=5."""
    seeds: PositiveInt = 20
    """Number of runs of each optimiser on each problem; each run has a seed of its own."""
    first_seed: NonNegativeInt = 0
    """First of the seeds, which are consecutive numbers."""
    budget: Annotated[int, Field(ge=2)] = 50
    """Number of evaluations per run."""
    jobs: PositiveInt = 1
    """Number of runs at once; each has a process of its own."""
    out: config.FolderText = "bench-search"
    """Folder to write the tables to. Runs that it already holds are not repeated."""


class Scaling(config.Section):
    """Options of `partune bench scaling`."""

    workers: Annotated[Numbers, Field(min_length=1)] = (2, 8, 32)
    """Numbers of workers to simulate, separated by commas."""
    trials: PositiveInt = 48
    """Number of trials per study."""
    seconds: PositiveFloat = 60.0
    """Mean length of a trial, in seconds on the virtual clock."""
    cv: Annotated[
        tuple[Annotated[NonNegativeFloat, Field(le=10)], ...], BeforeValidator(config.parts), Field(min_length=1)
    ] = (0.02, 0.3, 1.0)
    """Coefficients of variation of a trial's length (its standard deviation over its mean), separated by commas."""
    failures: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the trials that fail because their worker is lost."""
    algorithms: Annotated[Names, Field(min_length=1)] = ("random", "soo", "bo")
    """Optimisers to run, separated by commas."""
    modes: Annotated[tuple[Literal["async", "sync"], ...], BeforeValidator(config.parts), Field(min_length=1)] = (
        "async",
        "sync",
    )
    """Loops to run, separated by commas: async begins a trial whenever one ends, sync begins a batch once all have
    ended."""
    objective: Literal["himmelblau", "branin", "hartmann3", "hartmann6", "sphere"] = "hartmann6"
    """Synthetic function that scores the trials."""
    seeds: PositiveInt = 1
    """Number of studies per case; each study has a seed of its own."""
    first_seed: NonNegativeInt = 0
    """First of the seeds, which are consecutive numbers."""
    record: Literal["disk", "memory"] = "disk"
    """Where a study keeps its record while it runs: disk (in a folder of --out) or memory."""
    out: config.FolderText = "bench-scaling"
    """Folder to write the tables and pictures to."""


class Chaos(config.Section):
    """Options of `partune bench chaos`."""

    trials: PositiveInt = 200
    """Number of trials of the study."""
    workers: PositiveInt = 4
    """Number of worker processes."""
    seconds: PositiveFloat = 2.0
    """Mean length of a trial, in seconds."""
    every: PositiveFloat = 3.0
    """Mean time from one kill to the next, in seconds."""
    seed: NonNegativeInt = 0
    """Seed of the study, and of when and what is killed."""
    out: config.FolderText = "bench-chaos"
    """Folder to write the table to; it must not exist yet."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that `partune bench` can run.

    Attributes:
        options: The class of the benchmark's options.
        module: The module whose function `bench` runs the benchmark. The function takes the options and a callback
            that reports progress.
        summary: One line that says what the benchmark measures.
        description: The help text that says what the benchmark does.
        dask: Whether the benchmark needs partune's optional dependency `dask`.
    """

    options: type[config.Section]
    module: str
    summary: str
    description: str
    dask: bool = False


BENCHMARKS = {
    "packing": Benchmark(
        Packing,
        "partune.bench.packing.run",
        "compare training many trials at once with training one by one",
        "Run the same trials in several ways: one by one in processes (PEFT, or LitGPT as shipped), one by one on one "
        "base model in memory (PEFT, tuned for speed), and in packs (many trials trained together on one base model). "
        "Every way runs several times, in turn. Write a table of seconds per trial, memory, and time ratios.",
    ),
    "search": Benchmark(
        Searching,
        "partune.bench.search.run",
        "compare partune's optimisers with those of other libraries",
        "Run partune's optimisers and those of other libraries on the same problems, with the same budget and seeds. "
        "Write tables of regrets, ranks and seconds. Runs that the folder already holds are not repeated.",
    ),
    "scaling": Benchmark(
        Scaling,
        "partune.bench.scaling.run",
        "measure studies with many simulated workers on a virtual clock",
        "Run studies with many workers, up to thousands. Only the workers are simulated, on a virtual clock. The "
        "optimiser, the study loop and the record are real. Write a table and pictures of speed-up, utilisation and "
        "regret, for asynchronous and synchronous loops.",
    ),
    "chaos": Benchmark(
        Chaos,
        "partune.bench.chaos",
        "check a study whose processes are killed",
        "Run a study whose scheduler, workers and driver are separate processes, and kill one of these processes every "
        "few seconds. Compare the study's record with the record of the same study run without any kills.",
        dask=True,
    ),
}
