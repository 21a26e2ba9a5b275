"""What an experiment leaves in its folder beside its studies: a page, Markdown with two pictures, data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from partune.experiment.findings import Outcome
from partune.experiment.page import page
from partune.experiment.sentences import sections
from partune.report.comparison import curves
from partune.report.figures import dashed, hue
from partune.report.plain_data import Summary, as_json
from partune.report.svg.panels import Curve, Panel, picture
from partune.report.tables import Section, marked
from partune.runtime.disk import write_whole
from partune.runtime.markdown import fenced, plain

PAGE, WORDS, DATA = "experiment.html", "experiment.md", "experiment.json"
COMPARED, EPOCHS = "experiment.svg", "epochs.svg"


def write(outcome: Outcome) -> list[Path]:
    """Write page, Markdown, data and pictures, over those of an earlier run.

    Returns:
        The files' paths.

    Raises:
        UserError: One of them cannot be written.
    """
    found = outcome.summary
    files = {PAGE: page(outcome), WORDS: markdown(found), DATA: as_json(found) + "\n"}
    files[COMPARED] = curves.picture(found["comparison"])
    if found["calibration"] is not None:
        files[EPOCHS] = over_epochs(found["calibration"])
    folder = outcome.plan.directory
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def markdown(found: Summary) -> str:
    """Return what an experiment found as Markdown."""
    parts = sections(found)
    lines = ["# Experiment", "", f"**{plain(found['headline'])}**", ""]
    for part in ("bounds", "algorithms", "tests"):
        for section in parts[part]:
            lines += marked(section)
            if section.title == "Algorithms":
                lines += [f"![Best score so far, in the mean over repeats]({COMPARED})", ""]
    if found["calibration"] is not None:
        lines += [*_all(parts["calibration"]), f"![Score over epochs]({EPOCHS})", ""]
    lines += [*_all(parts["cost"]), *_all(parts["studies"])]
    lines += ["<details><summary>The experiment's file</summary>", "", fenced(found["file"], "yaml"), "", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def _all(listed: Sequence[Section]) -> list[str]:
    return [line for section in listed for line in marked(section)]


def over_epochs(found: Summary) -> str:
    """Draw the scores over epochs as SVG, a line per configuration."""
    curves = [
        Curve([(k + 1, each) for k, each in enumerate(row) if each is not None], hue(i), dashed(i))
        for i, row in enumerate(found["scores"])
    ]
    most = len(found["steps"])
    return picture("Score over epochs", "a line per configuration", [Panel("", "epochs", curves, x=(1, most))], [])
