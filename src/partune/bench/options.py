"""The options of the benchmarks, for the command line and Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from partune import config


def spans(value: Any) -> Any:
    """Numbers, and spans of them: "1-4,7" is 1, 2, 3, 4 and 7."""
    texts = config.parts(value)
    if not isinstance(texts, list):
        return value
    found: list[Any] = []
    for text in texts:
        first, dash, last = text.partition("-")
        span = dash and first.isdecimal() and last.isdecimal()
        found += range(int(first), int(last) + 1) if span else [text]
    return found


Names = Annotated[tuple[str, ...], BeforeValidator(config.parts)]
Spans = Annotated[tuple[PositiveInt, ...], BeforeValidator(spans)]
Numbers = Annotated[tuple[PositiveInt, ...], BeforeValidator(config.parts)]
Baselines = Annotated[tuple[Literal["subprocess", "tuned"], ...], BeforeValidator(config.parts)]


def repeated_by(what: str, options: config.Section, without: Iterable[str] = ("out",)) -> str:
    """The command that repeats a benchmark, without its folder and other flags that change no number."""
    given: dict[str, Any] = options.model_dump(exclude_defaults=True, exclude=set(without))
    text = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in text.items()]
    return " ".join([f"partune bench {what}", *flags])


class Packing(config.Section):
    """Options of `partune bench packing`."""

    model: str = "demo"
    """demo; a Llama of random weights of size 1M, 5M, 15M, 1B or 3B; a folder or a Hugging Face id."""
    length: PositiveInt | None = None
    """Tokens of a synthetic example, for all models but the demo; 64 if not given."""
    batch: PositiveInt = 4
    """Examples of a trial's optimiser step."""
    steps: Annotated[int, Field(ge=2)] = 20
    """Optimiser steps of a trial."""
    items: PositiveInt = 64
    """Items that a trial is scored on, four choices each."""
    configurations: PositiveInt = 4
    """Configurations of the space lora; a pack of more trials repeats them with new seeds."""
    packs: Annotated[Numbers, Field(min_length=1)] = (2, 4, 8, 16, 32)
    """Sizes of the packs, with commas between; each a multiple or a divisor of the configurations."""
    repetitions: PositiveInt = 5
    """Times that every contender runs."""
    without: Baselines = ()
    """Leave out a baseline: subprocess, tuned."""
    litgpt: str | None = None
    """LitGPT's command, for the baseline of LitGPT as shipped."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the base; auto is bf16 where the device has it, else fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto is the best there is."""
    threads: PositiveInt | None = None
    """CPU threads; by default one for a base of under 20 million parameters."""
    seed: NonNegativeInt = 0
    """Of configurations, random weights, synthetic data, order and trials."""
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
    """Of the BBOB functions; for bbob-mixint a multiple of 5."""
    datasets: Names = ()
    """Data sets of hpobench; all eight if not given."""
    contenders: Annotated[Names, Field(min_length=1)] = ("all",)
    """Optimisers, with commas between; options after colons (bo:n_init=5); all is whatever is installed."""
    seeds: PositiveInt = 20
    """Runs of a contender on a problem."""
    first_seed: NonNegativeInt = 0
    """Seeds are this and the next ones."""
    budget: Annotated[int, Field(ge=2)] = 50
    """Evaluations of a run."""
    jobs: PositiveInt = 1
    """Runs at once, a process each."""
    out: config.FolderText = "bench-search"
    """Folder to write; what was run there is not run again."""


class Scaling(config.Section):
    """Options of `partune bench scaling`."""

    workers: Annotated[Numbers, Field(min_length=1)] = (2, 8, 32)
    """Numbers of workers, with commas between."""
    trials: PositiveInt = 48
    """Trials of a study."""
    seconds: PositiveFloat = 60.0
    """Mean length of a trial, in seconds on the virtual clock."""
    cv: Annotated[
        tuple[Annotated[NonNegativeFloat, Field(le=10)], ...], BeforeValidator(config.parts), Field(min_length=1)
    ] = (0.02, 0.3, 1.0)
    """Coefficients of variation of the length, its standard deviation over its mean, with commas between."""
    failures: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the trials whose worker is lost."""
    algorithms: Annotated[Names, Field(min_length=1)] = ("random", "soo", "bo")
    """Optimisers, with commas between."""
    modes: Annotated[tuple[Literal["async", "sync"], ...], BeforeValidator(config.parts), Field(min_length=1)] = (
        "async",
        "sync",
    )
    """Loops: async begins a trial whenever one ends, sync a batch whenever all have ended."""
    objective: Literal["himmelblau", "branin", "hartmann3", "hartmann6", "sphere"] = "hartmann6"
    """Synthetic function that trials are scored by."""
    seeds: PositiveInt = 1
    """Studies of a case."""
    first_seed: NonNegativeInt = 0
    """Seeds are this and the next ones."""
    record: Literal["disk", "memory"] = "disk"
    """Where a study's record is while it runs: in a folder of --out, or in memory."""
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
    """Of the study and of the kills."""
    out: config.FolderText = "bench-chaos"
    """Folder to write, which must not exist yet."""
