"""The seeds of a study's runs: each is a function of the study's seed, what the run is for, and its numbers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a seed is for. The numbers enter the seeds, so that they stay what they are."""

    SEARCH = 0
    BASELINE = 1
    CONFIRMATION = 2
    FRESH = 3
    ORDER = 4


def derived_seed(seed: int, purpose: Purpose, *numbers: int) -> int:
    """Return the seed of a run, independent of that of any other run.

    Args:
        seed: The study's seed.
        purpose: What the run is for.
        *numbers: Which of those runs it is.
    """
    # Hashed and not added up: studies with neighbouring seeds would have runs in common.
    return int(np.random.SeedSequence([seed, int(purpose), *numbers]).generate_state(1)[0])
