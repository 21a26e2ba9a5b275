"""The figures of a page, and what is in them."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from partune.report import figures
from partune.report.facts import Facts
from partune.report.html.page import Page

near = functools.partial(pytest.approx, rel=1e-4)  # figures have five digits


def drawn(facts: Facts) -> dict[str, figures.Figure]:
    """Return all figures of a study's page by their names."""
    page = Page(facts)
    page.text(None)
    return page.figures


def traces(figure: figures.Figure) -> dict[str, dict[str, Any]]:
    """Return a figure's traces by their names."""
    return {trace.get("name", ""): trace for trace in figure["data"]}
