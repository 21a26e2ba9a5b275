"""The options of the benchmarks, for the command line and Python."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from partune import config

Numbers = Annotated[tuple[PositiveInt, ...], BeforeValidator(config.parts)]
Baselines = Annotated[tuple[Literal["subprocess", "tuned"], ...], BeforeValidator(config.parts)]


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
    out: str = "bench-packing"
    """Folder to write, which must not exist yet."""
