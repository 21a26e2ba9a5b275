"""Draw the pictures of the pages about measurements, from the tables of these pages.

`python benchmarks/pictures.py` writes them beside the pages; a test compares, so that a picture never shows other
numbers than its table.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from partune.report.svg.panels import Curve, Panel, picture

DOCS = Path(__file__).parents[1] / "docs"
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"
MEASURED = re.compile(r"(-?[\d.]+)(?:±([\d.]+))?")


def main() -> None:
    """Write both pictures."""
    (DOCS / "packing.svg").write_text(packing(), encoding="utf-8")
    (DOCS / "search-log.svg").write_text(search_log(), encoding="utf-8")


def packing() -> str:
    """Draw the time of a trial over the trials at once, and the regret of whole studies over CPU time."""
    sizes = [(cells[0], float(cells[2])) for cells in rows("packing.md", "| line | trials | seconds |")[3:]]
    alone = next(seconds for line, seconds in sizes if line.startswith("PEFT, tuned"))
    packs = [(int(line.removeprefix("pack of ")), seconds) for line, seconds in sizes if line.startswith("pack of ")]
    cost = Panel(
        "CPU-seconds per trial (demo, batch 1)",
        "trials at once",
        [Curve([(2, alone), (packs[-1][0], alone)], VERMILLION), Curve(packs, BLUE)],
        log_x=True,
        y=(0, 0.5),
    )
    table = {cells[0]: cells[1:] for cells in rows("packing.md", "CPU-seconds | 5 |")}
    seconds = [float(cell) for cell in table.pop("CPU-seconds")]
    curves = []
    for line, colour in (("packs of 4, `bo` (what `auto` finds)", BLUE), ("PEFT, `bo`", VERMILLION)):
        points = [(at, *measured(cell)) for at, cell in zip(seconds, table[line], strict=True) if cell != "-"]
        band = [(at, mean - error, mean + error) for at, mean, error in points]
        curves.append(Curve([(at, mean) for at, mean, _ in points], colour, band=band))
    regret = Panel("Regret of a study, ± standard error", "CPU-seconds", curves, True, True, (0.002, 0.5), (5, 180))
    legend = [("packs", BLUE), ("PEFT", VERMILLION)]
    return picture("Packs beside one trial after the other", "lower is better", [cost, regret], legend)


def search_log() -> str:
    """Draw regret over evaluations, of `auto` and of other libraries' optimisers."""
    table = {cells[0].strip("*"): cells[1:] for cells in rows("search-log.md", "BBOB at 20 / 30 / 50 | HPOBench")}
    shown = {"`bo`": BLUE, "Optuna's GPSampler": GREEN, "Optuna's TPE": VERMILLION, "random": GREY}
    panels = []
    charts = (("BBOB: log10 of the regret", (-0.5, 2.0)), ("HPOBench: regret under noise", (0.15, 0.3)))
    for column, (title, ends) in enumerate(charts):
        curves = []
        for name, colour in shown.items():
            numbers = re.findall(r"-?\d*\.\d+", table[name][column])[:3]
            if numbers:
                curves.append(Curve(list(zip((20, 30, 50), map(float, numbers), strict=True)), colour))
        panels.append(Panel(title, "evaluations", curves, x=(20, 50), y=ends))
    legend = [("bo", BLUE), ("GP", GREEN), ("TPE", VERMILLION), ("random", GREY)]
    return picture("The default beside others, lower is better", "development half of the problems", panels, legend)


def rows(page: str, head: str) -> list[list[str]]:
    """Return the cells of the rows of the first table whose head contains a text, the head's own first."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if head in line)
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines[start:]))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (table[0], *table[2:])]


def measured(cell: str) -> tuple[float, float]:
    """Return a mean and its standard error."""
    found = MEASURED.fullmatch(cell)
    if found is None:
        raise ValueError(f"no measurement: {cell}")
    return float(found[1]), float(found[2] or 0.0)


if __name__ == "__main__":
    main()
