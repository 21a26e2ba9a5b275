"""How users read a study's scores."""

from __future__ import annotations

import pytest

from partune.trial.goals import LOSS, SCORE, Goal, goal_of, goal_on_test, perplexity, text_loss


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
    assert perplexity(-0.6931471805599453) == pytest.approx(2)
    assert (perplexity(-1e6), perplexity(float("nan"))) == (None, None)


@pytest.mark.parametrize("aggregate", ["perplexity", "weighted_perplexity", "bits_per_byte"])
def test_losses_of_texts_have_the_perplexities_of_the_harness(aggregate: str) -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    metric = {"weighted_perplexity": "word_perplexity"}.get(aggregate, aggregate)
    texts = [(-6.0, 4), (-2.5, 2)]  # log-likelihoods and numbers of words or bytes
    theirs = getattr(metrics, aggregate)([-6.0, -2.5] if aggregate == "perplexity" else texts)
    size = 2 if aggregate == "perplexity" else 6
    score = -8.5 / size / (0.6931471805599453 if aggregate == "bits_per_byte" else 1)  # as partune keeps it
    goal = text_loss(metric)
    assert goal is not None
    assert goal.lower_is_better
    assert theirs == pytest.approx(perplexity(score) if goal.in_nats else goal.shown(score))


def test_the_goal_of_a_test_task() -> None:
    loaded = {"scoring": {"tests_shown_as": {"wikitext": "loss per word"}}}
    assert goal_on_test(loaded, "wikitext") == text_loss("word_perplexity,none")
    assert goal_on_test(loaded, "arc") is goal_on_test({}, "arc") is SCORE
    assert text_loss("acc") is None
