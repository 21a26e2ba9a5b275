"""What is assumed of scores before any is known."""

from __future__ import annotations

import pytest

from partune.verdict.assumed import MEASURED, Kind, Yardstick
from partune.verdict.variation import Shape


@pytest.mark.parametrize(
    ("metric", "rows", "shape", "kind"),
    [
        ("acc_norm", False, "answers", "choices"),
        ("acc", True, "answers", "labels"),
        ("exact_match,strict-match", False, "answers", "answers"),
        ("loss", True, "losses", "losses"),
        ("loss", False, "losses", "likelihoods"),
        ("word_perplexity", False, "losses", "losses"),
        ("margin", True, "numbers", "margins"),
        ("shop:score", True, "numbers", "losses"),
    ],
)
def test_each_metric_has_its_assumption(metric: str, rows: bool, shape: Shape, kind: Kind) -> None:
    yardstick = Yardstick(metric, rows)
    assert yardstick.shape == shape
    assert yardstick.kind(shape) == kind
    assert yardstick.assumed().alike == MEASURED[kind].alike
    assert yardstick.assumed().shape == ("answers" if shape == "answers" else "numbers")
    assert yardstick.assumed("shares").shape == "shares"


@pytest.mark.parametrize("kind", MEASURED)
def test_models_that_are_closer_are_more_alike(kind: Kind) -> None:
    assumed = MEASURED[kind]
    assert 0 <= assumed.base <= assumed.alike <= assumed.same < 1
    assert 0 < assumed.seeds < 0.5
