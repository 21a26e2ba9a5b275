"""Fisher's randomisation test of paired differences, by flipping their signs."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

EXACT = 13  # the largest number of differing items for which all sign flips are enumerated
FLIPS = 9_999  # the number of random sign flips if more items differ
TINY = float(np.finfo(float).tiny)

Array = np.ndarray[Any, Any]


def sign_flips(effects: Array) -> tuple[float, float]:
    """Return the p-values of a gain and of a loss, by Fisher's randomisation test.

    If there is no difference between the two sides, an item's difference is equally likely to be positive or negative.
    The p-values are the chances that, with random signs, the sum of the effects is at least as large, or at most as
    large, as observed. Effects of equal size have a binomial sum, which gives McNemar's exact test. If sizes differ,
    all combinations of signs are enumerated for at most EXACT effects. For more effects, FLIPS random combinations are
    drawn, and the observed one counts as one more draw (Phipson and Smyth 2010), so that p is never 0.

    Args:
        effects: (n,), the weighted differences of the items.
    """
    sizes = np.abs(effects[np.abs(effects) > 1e-12 * np.abs(effects).max(initial=0.0)])
    if not len(sizes):
        return 1.0, 1.0
    observed = float(effects.sum())
    close = 1e-6 * float(sizes.sum())  # a tolerance, because equal sums may differ by rounding
    if np.ptp(sizes) <= 1e-9 * sizes[0]:
        won = int((effects >= sizes.min()).sum())
        fair = scipy.stats.binom(len(sizes), 0.5)
        return max(TINY, float(fair.sf(won - 1))), max(TINY, float(fair.cdf(won)))
    if len(sizes) <= EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1)
        sums = signs @ sizes
        return float((sums >= observed - close).mean()), float((sums <= observed + close).mean())
    rng = np.random.default_rng(0)
    above = below = 1
    for start in range(0, FLIPS, block := max(1, 4_000_000 // len(sizes))):
        count = min(block, FLIPS - start)
        coins = rng.integers(0, 256, (count, -(-len(sizes) // 8)), dtype=np.uint8)
        up = np.unpackbits(coins, axis=1, count=len(sizes)).astype(np.float32)  # (count, n)
        sums = 2.0 * (up @ sizes.astype(np.float32)).astype(float) - sizes.sum()
        above += int((sums >= observed - close).sum())
        below += int((sums <= observed + close).sum())
    return above / (1 + FLIPS), below / (1 + FLIPS)
