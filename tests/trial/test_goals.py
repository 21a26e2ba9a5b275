"""How users read a study's scores."""

from __future__ import annotations

import pytest

from partune.trial.goals import LOSS, SCORE, Goal, goal_of, perplexity


@pytest.mark.parametrize(
    ("loaded", "goal"),
    [
        ({}, SCORE),
        ({"scoring": {"metric": "loss"}}, SCORE),  # the loss of a task's choices, as in earlier records
        ({"scoring": {"metric": "loss", "shown_as": "loss"}}, LOSS),
    ],
)
def test_only_validation_rows_are_read_as_losses(loaded: dict[str, dict[str, str]], goal: Goal) -> None:
    assert goal_of(loaded) is goal


def test_a_loss_is_read_without_its_sign() -> None:
    assert LOSS.measured(-1.234, 0.012) == "1.234\u00a0±\u00a00.012"
    assert SCORE.measured(-1.234, 0.012) == "-1.234\u00a0±\u00a00.012"
    assert (LOSS.score(-1.234, 0.12), LOSS.shown(-2.0), LOSS.lower_is_better) == ("1.23", 2.0, True)
    assert (LOSS.score(None, None), LOSS.measured(None, 0.1)) == ("–", "–")
    assert (LOSS.axis, SCORE.axis) == ("minus loss", "score")
    assert (LOSS.label, SCORE.label) == ("loss", "")


def test_the_perplexity_of_a_loss() -> None:
    assert perplexity(-0.6931471805599453) == "2"
    assert (perplexity(None), perplexity(-1e6)) == ("–", "–")
