"""How many epochs are enough: its design, and its correlations against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune import Float, Int, Space, Study
from partune.experiment.calibration import EPOCHS, Ladder, Step, enough, rank_correlation, scores, steps
from partune.trial import Config

LOW, MOST = 1e-6, 3
SPACE = Space(learning_rate=Float(LOW, 1e-2, log=True), lora_r=Int(2, 64, log=True), epochs=Int(1, MOST))
Table = list[list[float]]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """By its definition: Pearson's correlation of the ranks, equal values sharing theirs."""
    ranks = [[np.sum(side < each) + (np.sum(side == each) + 1) / 2 for each in side] for side in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_a_ladder_is_a_hypercube_with_every_number_of_epochs_the_longest_first() -> None:
    ladder = Ladder(SPACE, seed=1, configurations=4)
    configs = [proposal.config for proposal in ladder.ask(100)]
    assert [config[EPOCHS] for config in configs] == [3] * 4 + [2] * 4 + [1] * 4
    apart = [{name: value for name, value in config.items() if name != EPOCHS} for config in configs]
    assert apart[:4] == apart[4:8] == apart[8:]
    strata = [
        math.floor(4 * SPACE.hyperparameters["learning_rate"].encode(each["learning_rate"])) for each in apart[:4]
    ]
    assert sorted(strata) == [0, 1, 2, 3]
    assert ladder.ask(1) == []


def test_scores_are_those_of_the_trials_and_nan_where_one_failed() -> None:
    def objective(config: Config) -> float:
        if config["lora_r"] == configs[0]["lora_r"] and config[EPOCHS] == 2:
            raise MemoryError
        return float(config["learning_rate"]) * int(config[EPOCHS])

    configs = [proposal.config for proposal in Ladder(SPACE, seed=1, configurations=4).ask(4)]
    study = Study(SPACE, objective, Ladder(SPACE, seed=1, configurations=4), seed=1).run(12)
    found, table = scores(study.trials)
    assert [{**config, EPOCHS: MOST} for config in found] == configs
    expected = [[float(config["learning_rate"]) * epochs for epochs in (1, 2, 3)] for config in configs]
    expected[0][1] = math.nan
    np.testing.assert_array_equal(table, expected)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=8))
def test_correlations_are_spearmans_ties_and_all(rows: list[tuple[int, int, int]]) -> None:
    table = np.array(rows, dtype=float)
    for k, step in enumerate(steps(table)):
        if len(set(table[:, k])) == 1 or len(set(table[:, -1])) == 1:
            assert step.correlation is None
        else:
            assert step.correlation == pytest.approx(spearman(table[:, k], table[:, -1]), abs=1e-12)
        assert step.epochs == k + 1
        assert step.leader == table[np.argmax(table[:, k]), -1]


def test_a_failure_is_the_worst_score() -> None:
    failing = np.array([[1.0, 3.0], [2.0, math.nan], [3.0, 1.0]])
    worst = np.array([[1.0, 3.0], [2.0, -9.0], [3.0, 1.0]])
    assert steps(failing)[0].correlation == pytest.approx(spearman(worst[:, 0], worst[:, 1]))
    led_by_a_failure = np.array([[2.0, math.nan], [1.0, 1.0], [0.0, 0.0]])
    assert steps(led_by_a_failure)[0].leader is None


def test_constant_scores_correlate_with_nothing() -> None:
    assert rank_correlation(np.ones(4), np.arange(4.0)) is None


@pytest.mark.parametrize(
    ("correlations", "expected"),
    [
        ([0.95, 0.97, 1.0], 1),
        ([0.2, 0.9, 1.0], 2),
        ([0.95, 0.2, 1.0], 3),  # what a larger number does not keep is luck
        ([0.1, None, 1.0], 3),
        ([None, None, None], 3),
    ],
)
def test_enough_is_the_smallest_from_which_all_correlate(correlations: list[float | None], expected: int) -> None:
    found = [Step(k + 1, correlation, None) for k, correlation in enumerate(correlations)]
    assert enough(found, 0.9) == expected


def test_a_failure_is_worse_than_any_loss() -> None:
    """Scores below 0: a failure that counted as 0 would be the best."""
    first, last = steps(np.array([[-3.0, -3.0], [-2.0, -2.0], [-1.0, -1.0], [math.nan, math.nan]]))
    assert (first.leader, last.leader) == (-1.0, -1.0)
