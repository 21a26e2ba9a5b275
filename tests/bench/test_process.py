"""The picture of a Gaussian process against what it shows."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import norm

from partune.bench.marks import GAP, HIGH, LEFT, LOW, SIDE, STRIP, TOP
from partune.bench.process import process
from partune.report.figures import BLUE, ORANGE, VERMILLION
from tests.support.pictures import DOCS, SVG, circles


@pytest.mark.parametrize("source", [process, (DOCS / "process.svg").read_text], ids=["drawn", "shown"])
def test_the_process_its_improvement_and_the_next_point_belong_together(source: Callable[[], str]) -> None:
    picture = ElementTree.fromstring(source())
    bottom = TOP + 300  # of the upper frame, where a unit is 60 pixels
    corner = np.array([LEFT, bottom])

    def line(path: str) -> np.ndarray:
        (mark,) = picture.iterfind(SVG + path)
        return np.array([each.split(",") for each in mark.attrib["points"].split()], dtype=float)

    def values(pixels: np.ndarray) -> np.ndarray:
        x, y = ((pixels - corner) / (SIDE, -60)).T
        return np.array([LOW + (HIGH - LOW) * x, y])

    x, f = values(line("polyline[@stroke-dasharray]"))
    _, mean = values(line(f"polyline[@stroke='{BLUE}']"))
    _, edge = values(line("polygon"))  # the lower one, and back along the upper one
    tried, scores = values(np.array(sorted(circles(picture))))
    assert (x[0], x[-1], len(tried)) == (LOW, HIGH, 6)
    assert np.allclose(f, np.sin(x) ** 2 + np.sqrt(x + 5), atol=2e-3)  # a tenth of a pixel
    assert np.allclose(scores, np.sin(tried) ** 2 + np.sqrt(tried + 5), atol=4e-3)
    at = np.interp(tried, x, mean)
    assert np.allclose(scores, at, atol=0.2)
    std = (edge[::-1] - edge)[: len(x)] / 2 / 1.96
    z = (mean - at.max()) / std
    improvement = std * (z * norm.cdf(z) + norm.pdf(z))
    orange = line(f"polyline[@stroke='{ORANGE}']")
    shown = (bottom + GAP + STRIP - orange[:, 1]) / STRIP
    assert np.allclose(shown, improvement / improvement.max(), atol=0.03)
    rules = picture.findall(f"{SVG}path[@stroke='{VERMILLION}']")
    ends = [float(end) for rule in rules for end in re.findall(r"[ML]([\d.]+),", rule.attrib["d"])]
    assert len(ends) == 4
    assert np.allclose(ends, orange[shown.argmax(), 0], atol=2)
