"""An axis shows what its scale can."""

from __future__ import annotations

import math

from partune.report.svg.frame import Axis


def test_axes_show_what_their_scale_can() -> None:
    axis = Axis.over([0.0, 1.0, 100.0, math.inf], log=True)
    assert (axis.low, axis.high, axis.place(10.0)) == (1.0, 100.0, 0.5)
    assert axis.ticks() == [1, 10, 100]
    assert Axis.over([1, 8], log=True).ticks() == [1, 2, 4, 8]
    assert not axis.shows(0.0)
    assert Axis.over([3.0], log=False).place(3.0) == 0.5
