"""Draw the report's figures in Plotly's JSON format, as traces and a layout.

Figures have no titles, because the page has headings and captions.

Colours are those of Okabe and Ito (2008), which people with any kind of colour vision can tell apart. Marks differ in
shape too. Scores are shaded by cividis (Nuñez, Anderton and Renslow 2018). The colours of text, axes and hover boxes
are not set here, because they depend on the page's light or dark mode. The page sets them.

The page stores data of trials once for all figures, and fills it into the traces. If a trace's `meta.trials` lists
numbers of trials, its marks get the hover texts of these trials. If the trace also has `meta.over`, the names of two
hyperparameters, each mark is placed at its trial's values of them in the unit cube (0 to 1). If the first name is
None, x is the trial's number. Texts from a study go through `plain`, because Plotly interprets markup in labels.
"""

from __future__ import annotations

from partune.report.figures.comparison import best_so_far, dashed, hue, over_epochs, renumbered
from partune.report.figures.hyperparameters import importances, over_trials, parallel, plane
from partune.report.figures.partition import cells, depths
from partune.report.figures.parts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    UNSURE,
    VERMILLION,
    Figure,
    Trace,
    ends,
    floor,
    plain,
    score_name,
    time_unit,
)
from partune.report.figures.time import over_time, spent
from partune.report.figures.training import at_points, training_loss
from partune.report.figures.trials import scores
from partune.report.figures.validation import against_test, sides, tested

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "UNSURE",
    "VERMILLION",
    "Figure",
    "Trace",
    "against_test",
    "at_points",
    "best_so_far",
    "cells",
    "dashed",
    "depths",
    "ends",
    "floor",
    "hue",
    "importances",
    "over_epochs",
    "over_time",
    "over_trials",
    "parallel",
    "plain",
    "plane",
    "renumbered",
    "score_name",
    "scores",
    "sides",
    "spent",
    "tested",
    "time_unit",
    "training_loss",
]
