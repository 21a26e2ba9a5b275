"""Choose the number of trials in a pack by measurements on the base model, the data and the device.

memory   m(K, N) = base + K (adapter + N token), with N = b T tokens in a trial's micro-batch; three probes determine
         `base`, `adapter` and `token`
gain     a pack is doubled as long as this reduces a trial's share of the time of a step by GAIN or more
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

MOST = 32  # the largest number of trials that is chosen for a pack
GAIN = 0.1  # the smallest relative gain in the time per trial for which a pack is doubled
MARGIN = 0.9  # the share of the device's free memory that may be used
STEPS = 3  # the number of timed steps, after one step that is not timed


@dataclass(frozen=True)
class Memory:
    """A model of the bytes that a pack needs: base + trials * (adapter + tokens * token)."""

    base: float
    adapter: float
    token: float

    @classmethod
    def fit(cls, one: tuple[int, float], two: tuple[int, float], longer: tuple[int, float]) -> Memory:
        """Return the model that agrees exactly with three probes, each (tokens per trial, peak bytes).

        Args:
            one: The probe of one trial.
            two: The probe of two such trials.
            longer: The probe of one trial with more tokens.
        """
        token = max(0.0, (longer[1] - one[1]) / (longer[0] - one[0]))
        per_trial = max(0.0, two[1] - one[1])
        return cls(one[1] - per_trial, max(0.0, per_trial - one[0] * token), token)

    def fits(self, tokens: int, budget: float) -> int:
        """Return the number of trials that fit in a budget of memory, or 1 even if one trial does not fit.

        Args:
            tokens: The number of tokens in each trial's micro-batch.
            budget: The memory in bytes.
        """
        per_trial = self.adapter + tokens * self.token
        return MOST if per_trial <= 0 else max(1, min(MOST, int((budget - self.base) / per_trial)))


def choose(base: Base, head: Head, settings: config.Training, examples: Examples) -> int:
    """Return the size of the largest pack of typical trials that fits in memory and still gains time per trial.

    Args:
        base: The base model.
        head: The head of the base model.
        settings: The settings of a typical trial.
        examples: The training examples.
    """
    return doubled(
        lambda trials: probe(base, head, settings, like(examples), trials).seconds,
        fitting(base, head, settings, examples) if base.device.type == "cuda" else MOST,
    )


def doubled(seconds: Callable[[int], float], most: int) -> int:
    """Double a pack's size from 1 while this cuts a trial's share of a step's time by GAIN or more; return the size.

    Args:
        seconds: Returns the seconds of a step for a number of trials. If it runs out of memory, the pack is too large.
        most: The largest pack to try.
    """
    # Sizes are doubled because each size costs a measurement, and larger packs gain less per added trial.
    size, share = 1, seconds(1)
    while 2 * size <= most:
        try:
            doubled_share = seconds(2 * size) / (2 * size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        if doubled_share > (1 - GAIN) * share:
            break
        size, share = 2 * size, doubled_share
    return size


def fitting(base: Base, head: Head, settings: config.Training, examples: Examples) -> int:
    """Return the number of trials that fit in a CUDA device's memory with their longest micro-batches (see `Memory`).

    Args:
        base: The base model.
        head: The head of the base model.
        settings: The settings of a typical trial.
        examples: The training examples.
    """
    longest = int(examples.lengths.max())
    # Probes of two lengths separate the memory of a token from that of an adapter. The longest examples must fit.
    halves = alike(longest // 2 + 1, longest // 2, len(examples))
    half, two = (probe(base, head, settings, halves, trials) for trials in (1, 2))
    full = probe(base, head, settings, alike(longest, longest - 1, len(examples)), 1)
    memory = Memory.fit((half.tokens, half.bytes), (two.tokens, two.bytes), (full.tokens, full.bytes))
    free, _ = torch.cuda.mem_get_info(base.device)
    # The device counts this process's reserved memory as used, but the process can use it.
    return memory.fits(full.tokens, MARGIN * (free + torch.cuda.memory_reserved(base.device)))


@dataclass(frozen=True)
class Probe:
    """The time and the memory of a training step.

    Attributes:
        tokens: The number of tokens in one trial's micro-batch.
        seconds: The time of the fastest step.
        bytes: The peak memory on a CUDA device; 0 on other devices.
    """

    tokens: int
    seconds: float
    bytes: float


def probe(base: Base, head: Head, settings: config.Training, examples: Examples, trials: int) -> Probe:
    """Measure a few training steps of equal trials, and release everything afterwards.

    Args:
        base: The base model.
        head: The head of the base model.
        settings: The trials' settings.
        examples: The training examples.
        trials: The number of trials.
    """
    cuda = base.device.type == "cuda"
    job = Job(settings.model_copy(update={"steps": STEPS + 1}), examples, seed=0, order_seed=0)
    with carrier(base, settings.targets) as carrying:
        residents = Residents(carrying, head)
        residents.arrange([], [Slot(job) for _ in range(trials)])
        if cuda:
            torch.cuda.reset_peak_memory_stats(base.device)
        seconds = []
        for _ in range(STEPS + 1):
            began = time.perf_counter()
            residents.step()  # it reads the losses, so it returns only when the device has finished
            seconds.append(time.perf_counter() - began)
        tokens = residents.slots[0].micro * int(examples.lengths[0])
    peak = float(torch.cuda.max_memory_allocated(base.device)) if cuda else 0.0
    del residents
    gc.collect()  # otherwise reference cycles would keep tensors, and the next probe would measure them too
    if cuda:
        torch.cuda.empty_cache()
    # The first step allocates memory. The minimum of the others is best, because noise only adds time.
    return Probe(tokens, min(seconds[1:]), peak)


def like(examples: Examples) -> Examples:
    """Return equal examples with the data's mean length and mean number of trained tokens."""
    return alike(round(float(examples.lengths.mean())), round(float(examples.trained_lengths.mean())), len(examples))


def alike(length: int, trained: int, count: int) -> Examples:
    """Return equal examples.

    Args:
        length: The number of tokens of each example, at least 2.
        trained: The number of tokens of each example that are trained on, at most all but the first.
        count: The number of examples.
    """
    length = max(2, length)
    mask = np.arange(length) >= length - min(max(1, trained), length - 1)
    return Examples(
        np.zeros(count * length, np.int32),
        np.tile(mask, count),
        np.arange(0, (count + 1) * length, length),
        np.arange(count),
        count,
    )
