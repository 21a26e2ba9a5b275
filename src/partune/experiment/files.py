"""Write the results of an experiment into its folder: a page, Markdown with two pictures, and data."""

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
    """Write the page, Markdown, data and pictures; those of an earlier run are overwritten.

    Returns:
        The files' paths.

    Raises:
        UserError: A file cannot be written.
    """
    findings = outcome.summary
    files = {PAGE: page(outcome), WORDS: markdown(findings), DATA: as_json(findings) + "\n"}
    files[COMPARED] = curves.picture(findings["comparison"])
    if findings["calibration"] is not None:
        files[EPOCHS] = over_epochs(findings["calibration"])
    folder = outcome.plan.directory
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def markdown(findings: Summary) -> str:
    """Return the results of an experiment as Markdown."""
    parts = sections(findings)
    lines = ["# Experiment", "", f"**{plain(findings['headline'])}**", ""]
    for part in ("bounds", "algorithms", "tests"):
        for section in parts[part]:
            lines += marked(section)
            if section.title == "Algorithms":
                lines += [f"![Best score so far, mean over repeats]({COMPARED})", ""]
    if findings["calibration"] is not None:
        lines += [*_all(parts["calibration"]), f"![Score over epochs]({EPOCHS})", ""]
    lines += [*_all(parts["cost"]), *_all(parts["studies"])]
    lines += [
        "<details><summary>The experiment's file</summary>",
        "",
        fenced(findings["file"], "yaml"),
        "",
        "</details>",
    ]
    return "\n".join(lines).rstrip() + "\n"


def _all(listed: Sequence[Section]) -> list[str]:
    return [line for section in listed for line in marked(section)]


def over_epochs(calibrated: Summary) -> str:
    """Draw the scores over epochs as SVG, with one line per configuration."""
    curves = [
        Curve([(k + 1, score) for k, score in enumerate(row) if score is not None], hue(i), dashed(i))
        for i, row in enumerate(calibrated["scores"])
    ]
    most = len(calibrated["steps"])
    return picture("Score over epochs", "one line per configuration", [Panel("", "epochs", curves, x=(1, most))], [])
