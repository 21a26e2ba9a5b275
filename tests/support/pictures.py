"""The gallery's pictures as they are in the documentation, and their circles."""

from xml.etree import ElementTree

from partune.bench.marks import HIGH, LEFT, LOW, SIDE, TOP
from tests.support import ROOT

DOCS = ROOT / "docs" / "gallery"
SVG = "{http://www.w3.org/2000/svg}"


def circles(picture: ElementTree.Element) -> set[tuple[float, float]]:
    return {(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in picture.iterfind(f"{SVG}circle")}


def pixels(x1: float, x2: float) -> tuple[float, float]:
    """By hand: the square's left lower corner is (LOW, LOW)."""
    share = [(x - LOW) / (HIGH - LOW) for x in (x1, x2)]
    return round(LEFT + SIDE * share[0], 1), round(TOP + SIDE - SIDE * share[1], 1)
