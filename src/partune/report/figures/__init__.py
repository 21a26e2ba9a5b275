"""The report's figures, as Plotly's JSON: traces and a layout, without titles (the page has headings and captions).

Colours are Okabe and Ito's (2008), which people with any kind of colour vision tell apart, and differ in their marks
too; scores are shaded by cividis (Nuñez, Anderton and Renslow 2018). What depends on light or dark is the page's.

A trace whose `meta.trials` lists numbers of trials has what is said of these when the pointer is on a mark, and, where
`meta.over` names hyperparameters, their places in the unit cube (None: their numbers): the page holds both once for all
figures, and fills them in. Whatever comes from a study is `plain`, as Plotly reads markup in labels.
"""

from __future__ import annotations

from partune.report.figures.comparison import apart, best_so_far, dashed, hue, over_epochs
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
    "apart",
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
    "score_name",
    "scores",
    "sides",
    "spent",
    "tested",
    "time_unit",
]
