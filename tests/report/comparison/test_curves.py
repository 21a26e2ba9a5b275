"""The picture of a comparison has a curve for each algorithm, within its frame."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

from partune.report.comparison import curves
from partune.report.plain_data import Summary

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_has_a_curve_and_a_band_for_each_algorithm(found: Summary) -> None:
    drawn = ElementTree.fromstring(curves.picture(found))
    assert len(drawn.findall(f"{SVG}polyline")) == len(drawn.findall(f"{SVG}polygon")) == 2 * 2
    width, height = float(drawn.attrib["width"]), float(drawn.attrib["height"])
    for line in drawn.iterfind(f"{SVG}polyline"):
        points = [tuple(map(float, each.split(","))) for each in line.attrib["points"].split()]
        assert all(0 < x < width and 0 < y < height for x, y in points)
        assert all(y >= next_y for (_, y), (_, next_y) in itertools.pairwise(points))  # pixels: upwards
    assert {"lhs (4)", "random (4)", "trials", "seconds"} <= set(drawn.itertext())
