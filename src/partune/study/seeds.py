"""Derive the seed of each run from the study's seed, the purpose of the run and the run's numbers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a seed. The seeds are derived from these numbers, so the numbers must not change."""

    SEARCH = 0
    BASELINE = 1
    CONFIRMATION = 2
    FRESH = 3
    ORDER = 4


def derived_seed(seed: int, purpose: Purpose, *numbers: int) -> int:
    """Return the seed of a run, which is independent of the seeds of other runs.

    Args:
        seed: The study's seed.
        purpose: The purpose of the seed.
        *numbers: The numbers that identify the run among runs with this purpose.
    """
    # The numbers are hashed and not added up, because with sums, studies with neighbouring seeds would share seeds of
    # runs.
    return int(np.random.SeedSequence([seed, int(purpose), *numbers]).generate_state(1)[0])
