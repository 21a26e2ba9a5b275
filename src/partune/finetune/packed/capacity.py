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
from partune.runtime.failures import is_out_of_memory

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
        """Return the model that three probes fit exactly, each (tokens, peak bytes).

        Args:
            one: Of one trial.
            two: Of two such trials.
            longer: Of one trial with more tokens.
        """
        token = max(0.0, (longer[1] - one[1]) / (longer[0] - one[0]))
        per_trial = max(0.0, two[1] - one[1])
        return cls(one[1] - per_trial, max(0.0, per_trial - one[0] * token), token)

    def fits(self, tokens: int, budget: float) -> int:
        """Return the trials that fit in a budget; at least one, which may or may not fit.

        Args:
            tokens: Of each trial.
            budget: Bytes.
        """
        per_trial = self.adapter + tokens * self.token
        return MOST if per_trial <= 0 else max(1, min(MOST, int((budget - self.base) / per_trial)))


def choose(base: Base, head: Head, settings: config.Training, examples: Examples) -> int:
    """Return the largest pack of trials like this one that fits in the device's memory and still gains.

    Args:
        base: The base model.
        head: Its logits.
        settings: A usual trial's settings.
        examples: What trials train on.
    """
    return doubled(
        lambda trials: probe(base, head, settings, like(examples), trials).seconds,
        fitting(base, head, settings, examples) if base.device.type == "cuda" else MOST,
    )


def doubled(seconds: Callable[[int], float], most: int) -> int:
    """Return the largest of 1, 2, 4, ... that still makes a trial's share of a step's time smaller by GAIN.

    Args:
        seconds: Gives a step's seconds for a number of trials; one that raises for want of memory is too large a pack.
        most: The largest pack to try.
    """
    # By doubling: the gain shrinks with every trial that joins, and each size costs a measurement.
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
    """Return the trials whose longest micro-batches fit in the memory of a CUDA device, by a fit of the model above.

    Args:
        base: The base model.
        head: Its logits.
        settings: A usual trial's settings.
        examples: What trials train on.
    """
    longest = int(examples.lengths.max())
    # Two lengths tell what a token costs from what an adapter costs; the longest examples are what has to fit.
    halves = alike(longest // 2 + 1, longest // 2, len(examples))
    half, two = (probe(base, head, settings, halves, trials) for trials in (1, 2))
    whole = probe(base, head, settings, alike(longest, longest - 1, len(examples)), 1)
    memory = Memory.fit((half.tokens, half.bytes), (two.tokens, two.bytes), (whole.tokens, whole.bytes))
    free, _ = torch.cuda.mem_get_info(base.device)
    # What this process has reserved is free for it, though the device counts it as taken.
    return memory.fits(whole.tokens, MARGIN * (free + torch.cuda.memory_reserved(base.device)))


@dataclass(frozen=True)
class Probe:
    """What a step took.

    Attributes:
        tokens: Of one trial's micro-batch.
        seconds: Of the fastest step.
        bytes: Peak on a CUDA device; 0 elsewhere.
    """

    tokens: int
    seconds: float
    bytes: float


def probe(base: Base, head: Head, settings: config.Training, examples: Examples, trials: int) -> Probe:
    """Take a few steps of equal trials, which leave nothing behind, and return what one took.

    Args:
        base: The base model.
        head: Its logits.
        settings: The trials' settings.
        examples: What they train on.
        trials: Their number.
    """
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
    gc.collect()  # what refers to itself in a circle would keep its tensors, and the next probe would measure them
    if cuda:
        torch.cuda.empty_cache()
    return Probe(tokens, min(took[1:]), peak)  # the first step allocates; of the others, noise only adds


def like(examples: Examples) -> Examples:
    """Return equal examples as long, and with as many trained tokens, as the data's mean."""
    return alike(round(float(examples.lengths.mean())), round(float(examples.trained_lengths.mean())), len(examples))


def alike(length: int, trained: int, count: int) -> Examples:
    """Return equal examples.

    Args:
        length: Tokens of each.
        trained: Tokens of each that are trained on; all but the first may be.
        count: Their number.
    """
    length = max(2, length)
    mask = np.arange(length) >= length - min(max(1, trained), length - 1)
    return Examples(
        np.zeros(count * length, np.int32), np.tile(mask, count), np.arange(0, (count + 1) * length, length), count
    )
