"""The benchmarks by name, and their options, for the command line and Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from partune import config


def spans(value: Any) -> Any:
    """Return numbers and spans of numbers as a list: "1-4,7" is 1, 2, 3, 4 and 7."""
    texts = config.parts(value)
    if not isinstance(texts, list):
        return value
    numbers: list[Any] = []
    for text in texts:
        first, dash, last = text.partition("-")
        span = dash and first.isdecimal() and last.isdecimal()
        # What is not a span is left as it is: pydantic says what is wrong with it.
        numbers += range(int(first), int(last) + 1) if span else [text]
    return numbers


Names = Annotated[tuple[str, ...], BeforeValidator(config.parts)]
Spans = Annotated[tuple[PositiveInt, ...], BeforeValidator(spans)]
Numbers = Annotated[tuple[PositiveInt, ...], BeforeValidator(config.parts)]
Baselines = Annotated[tuple[Literal["subprocess", "tuned"], ...], BeforeValidator(config.parts)]


def repeated_by(what: str, options: config.Section, without: Iterable[str] = ("out",)) -> str:
    """Return the command that repeats a benchmark.

    Args:
        what: The benchmark's name.
        options: Its options.
        without: Flags to leave out, as they change no number: its folder and the like.
    """
    given: dict[str, Any] = options.model_dump(exclude_defaults=True, exclude=set(without))
    text = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in text.items()]
    return " ".join([f"partune bench {what}", *flags])


class Packing(config.Section):
    """Options of `partune bench packing`."""

    model: str = "demo"
    """demo; a Llama of random weights of size 1M, 5M, 15M, 1B or 3B; a folder or a Hugging Face id."""
    length: PositiveInt | None = None
    """Tokens per synthetic example, for all models but the demo; 64 if not given."""
    batch: PositiveInt = 4
    """Examples per optimiser step of a trial."""
    steps: Annotated[int, Field(ge=2)] = 20
    """Optimiser steps per trial."""
    items: PositiveInt = 64
    """Items that a trial is scored on, four choices each."""
    configurations: PositiveInt = 4
    """Configurations of the space lora; a pack of more trials repeats them with new seeds."""
    packs: Annotated[Numbers, Field(min_length=1)] = (2, 4, 8, 16, 32)
    """Sizes of the packs, with commas between; each a multiple or a divisor of the configurations."""
    repetitions: PositiveInt = 5
    """How many times every contender runs."""
    without: Baselines = ()
    """Baselines to leave out: subprocess, tuned."""
    litgpt: str | None = None
    """LitGPT's command, for the baseline of LitGPT as shipped."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the base; auto is bf16 where the device has it, else fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto is the best there is."""
    threads: PositiveInt | None = None
    """CPU threads; by default one for a base with fewer than 20 million parameters."""
    seed: NonNegativeInt = 0
    """Seed of configurations, random weights, synthetic data, order and trials."""
    out: config.FolderText = "bench-packing"
    """Folder to write, which must not exist yet."""


class Searching(config.Section):
    """Options of `partune bench search`."""

    problems: Annotated[
        tuple[Literal["bbob", "bbob-mixint", "bbob-noisy", "hpobench", "demo"], ...],
        BeforeValidator(config.parts),
        Field(min_length=1),
    ] = ("bbob", "hpobench")
    """Suites of problems, with commas between: bbob, bbob-mixint, bbob-noisy, hpobench, demo."""
    functions: Spans = ()
    """BBOB functions, numbers and spans (1-12,17); all 24 if not given."""
    instances: Annotated[Spans, Field(min_length=1)] = (1, 2, 3)
    """BBOB instances."""
    dimension: Annotated[int, Field(ge=2)] = 5
    """Dimension of the BBOB functions; for bbob-mixint a multiple of 5."""
    datasets: Names = ()
    """Data sets of hpobench; all eight if not given."""
    contenders: Annotated[Names, Field(min_length=1)] = ("all",)
    """Optimisers, with commas between; options after colons (bo:n_init=5); all is whatever is installed."""
    seeds: PositiveInt = 20
    """Runs of each contender on each problem, with a seed each."""
    first_seed: NonNegativeInt = 0
    """First of the seeds, which are consecutive."""
    budget: Annotated[int, Field(ge=2)] = 50
    """Evaluations per run."""
    jobs: PositiveInt = 1
    """Runs at once, each in a process of its own."""
    out: config.FolderText = "bench-search"
    """Folder to write; runs that it already holds are not repeated."""


class Scaling(config.Section):
    """Options of `partune bench scaling`."""

    workers: Annotated[Numbers, Field(min_length=1)] = (2, 8, 32)
    """Numbers of workers, with commas between."""
    trials: PositiveInt = 48
    """Trials per study."""
    seconds: PositiveFloat = 60.0
    """Mean length of a trial, in seconds on the virtual clock."""
    cv: Annotated[
        tuple[Annotated[NonNegativeFloat, Field(le=10)], ...], BeforeValidator(config.parts), Field(min_length=1)
    ] = (0.02, 0.3, 1.0)
    """Coefficients of variation of the length (standard deviation over mean), with commas between."""
    failures: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of trials whose worker is lost."""
    algorithms: Annotated[Names, Field(min_length=1)] = ("random", "soo", "bo")
    """Optimisers, with commas between."""
    modes: Annotated[tuple[Literal["async", "sync"], ...], BeforeValidator(config.parts), Field(min_length=1)] = (
        "async",
        "sync",
    )
    """Loops, with commas between: async begins a trial whenever one ends, sync a batch once all have ended."""
    objective: Literal["himmelblau", "branin", "hartmann3", "hartmann6", "sphere"] = "hartmann6"
    """Synthetic function that trials are scored by."""
    seeds: PositiveInt = 1
    """Studies per case, with a seed each."""
    first_seed: NonNegativeInt = 0
    """First of the seeds, which are consecutive."""
    record: Literal["disk", "memory"] = "disk"
    """Where a study keeps its record while it runs: in a folder of --out, or in memory."""
    out: config.FolderText = "bench-scaling"
    """Folder to write."""


class Chaos(config.Section):
    """Options of `partune bench chaos`."""

    trials: PositiveInt = 200
    """Trials of the study."""
    workers: PositiveInt = 4
    """Worker processes."""
    seconds: PositiveFloat = 2.0
    """Mean length of a trial."""
    every: PositiveFloat = 3.0
    """Mean seconds from one kill to the next."""
    seed: NonNegativeInt = 0
    """Seed of the study and of the kills."""
    out: config.FolderText = "bench-chaos"
    """Folder to write, which must not exist yet."""


@dataclass(frozen=True)
class Benchmark:
    """A kind of `partune bench`.

    Attributes:
        options: The class of its options.
        module: The module whose function `bench` runs it, given options and a function that is told what runs.
        summary: What it measures, in one line.
        description: What it does, for its help.
        dask: Whether it needs the optional part dask.
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
        "many trials at once, against one by one",
        "Run the same trials in three ways, several times in turn: each in a process of LitGPT as shipped, one by one "
        "through a tuned PEFT, and in packs (many trials trained at once on one base model). Write a table of seconds "
        "per trial, memory and paired ratios.",
    ),
    "search": Benchmark(
        Searching,
        "partune.bench.search.run",
        "our optimisers, against those of other libraries",
        "Run partune's optimisers and those of other libraries on the same problems, with the same budget and seeds. "
        "Write tables of regrets, ranks and seconds. Runs that the folder already holds are not repeated.",
    ),
    "scaling": Benchmark(
        Scaling,
        "partune.bench.scaling.run",
        "studies with many workers, on a virtual clock",
        "Run studies with many workers, up to thousands. Only the evaluations are simulated, on a virtual clock; "
        "optimiser, loop and record are real. Write a table and pictures of speed-up, utilisation and regret, for "
        "asynchronous and synchronous loops.",
    ),
    "chaos": Benchmark(
        Chaos,
        "partune.bench.chaos",
        "a study whose processes are killed",
        "Run a study with scheduler, workers and driver in processes of their own, kill one of them every few seconds, "
        "and compare the record with that of the same study undisturbed.",
        dask=True,
    ),
}
