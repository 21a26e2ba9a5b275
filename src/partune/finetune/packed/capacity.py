"""How many trials make a pack: measured on the base, the data and the device that will train them.

memory   m(K, N) = base + K (adapter + N token), N = b T tokens of a trial's micro-batch; the three from probe steps
gain     a pack is doubled as long as a trial's share of the time of a step falls by GAIN or more
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from partune import config
from partune.finetune.data import Examples
from partune.finetune.model import Base
from partune.finetune.packed.adapters import carrier
from partune.finetune.packed.head import Head
from partune.finetune.packed.residents import Job, Residents, Slot
from partune.runtime.isolation import is_out_of_memory

MOST = 32  # trials in a pack that was chosen here
GAIN = 0.1  # of the time of a trial's step, for a doubling to pay
MARGIN = 0.9  # of the device's memory
STEPS = 3  # timed, after one that is not


@dataclass(frozen=True)
class Memory:
    """Bytes that a pack needs: base + trials * (adapter + tokens * token)."""

    base: float
    adapter: float
    token: float

    @classmethod
    def fit(cls, one: tuple[int, float], two: tuple[int, float], longer: tuple[int, float]) -> Memory:
        """From (tokens, peak bytes) of one trial, of two such trials, and of one trial with more tokens."""
        token = max(0.0, (longer[1] - one[1]) / (longer[0] - one[0]))
        each = max(0.0, two[1] - one[1])
        return cls(one[1] - each, max(0.0, each - one[0] * token), token)

    def fits(self, tokens: int, budget: float) -> int:
        """The trials with so many tokens each that fit in a budget of bytes; at least one, which may or may not fit."""
        each = self.adapter + tokens * self.token
        return MOST if each <= 0 else max(1, min(MOST, int((budget - self.base) / each)))


def choose(base: Base, head: Head, settings: config.Training, examples: Examples) -> int:
    """The largest pack of trials like this one that fits in the device's memory and still gains."""
    return doubled(
        lambda trials: probe(base, head, settings, like(examples), trials).seconds,
        fitting(base, head, settings, examples) if base.device.type == "cuda" else MOST,
    )


def doubled(seconds: Callable[[int], float], most: int) -> int:
    """1, 2, 4, ..., as long as a doubling makes a trial's share of a step's time smaller by GAIN; at most `most`.

    seconds: of a step of so many trials; one that raises for want of memory is too large a pack.
    """
    size, share = 1, seconds(1)
    while 2 * size <= most:
        try:
            twice = seconds(2 * size) / (2 * size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        if twice > (1 - GAIN) * share:
            break
        size, share = 2 * size, twice
    return size


def fitting(base: Base, head: Head, settings: config.Training, examples: Examples) -> int:
    """The trials whose longest micro-batches fit in the memory of a CUDA device, by a fit of the model above."""
    longest = int(examples.lengths.max())
    halves = alike(longest // 2 + 1, longest // 2, len(examples))
    half, two = (probe(base, head, settings, halves, trials) for trials in (1, 2))
    whole = probe(base, head, settings, alike(longest, longest - 1, len(examples)), 1)
    memory = Memory.fit((half.tokens, half.bytes), (two.tokens, two.bytes), (whole.tokens, whole.bytes))
    free, _ = torch.cuda.mem_get_info(base.device)
    return memory.fits(whole.tokens, MARGIN * (free + torch.cuda.memory_reserved(base.device)))


@dataclass(frozen=True)
class Probe:
    """What a step took: tokens of one trial's micro-batch, the fastest step's seconds, and (CUDA) peak bytes."""

    tokens: int
    seconds: float
    bytes: float


def probe(base: Base, head: Head, settings: config.Training, examples: Examples, trials: int) -> Probe:
    """A few steps of so many equal trials, which leave nothing behind."""
    cuda = base.device.type == "cuda"
    job = Job(settings.model_copy(update={"steps": STEPS + 1}), examples, seed=0, order_seed=0)
    with carrier(base, settings.targets) as carrying:
        residents = Residents(carrying, head)
        residents.arrange([], [Slot(job) for _ in range(trials)])
        if cuda:
            torch.cuda.reset_peak_memory_stats(base.device)
        took = []
        for _ in range(STEPS + 1):
            began = time.perf_counter()
            residents.step()  # answers with numbers, so the device has finished
            took.append(time.perf_counter() - began)
        tokens = residents.slots[0].micro * int(examples.lengths[0])
    peak = float(torch.cuda.max_memory_allocated(base.device)) if cuda else 0.0
    del residents
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    return Probe(tokens, min(took[1:]), peak)


def like(examples: Examples) -> Examples:
    """Equal examples as long, and with as many trained tokens, as the data's mean."""
    return alike(round(float(examples.lengths.mean())), round(float(examples.trained_lengths.mean())), len(examples))


def alike(length: int, trained: int, count: int) -> Examples:
    """So many equal examples; all but the first token may be trained on."""
    length = max(2, length)
    mask = np.arange(length) >= length - min(max(1, trained), length - 1)
    return Examples(
        np.zeros(count * length, np.int32), np.tile(mask, count), np.arange(0, (count + 1) * length, length), count
    )
