"""A tiny benchmark of packs, and the comparison of two contenders' measurements."""

from __future__ import annotations

import numpy as np

from partune.bench.options import Packing
from partune.bench.packing.contenders import Measurement

TINY = Packing(model="demo", batch=2, steps=3, items=6, configurations=2, packs=(2,), repetitions=2)


def assert_same(found: Measurement, expected: Measurement, tolerance: float) -> None:
    np.testing.assert_allclose(found.losses, expected.losses, rtol=tolerance)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-9)
    assert found.tokens == expected.tokens
