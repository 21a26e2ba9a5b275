"""The numbers of a simulated study, and the mean course of several."""

from __future__ import annotations

import math

import pytest

from partune.bench.scaling.makespans import Case, SimulatedStudy, WorkerSpan, steps


def test_the_numbers_of_a_run() -> None:
    tasks = [WorkerSpan(0, 1, 6), WorkerSpan(1, 2, 4, lost=True), WorkerSpan(1, 4, 8)]
    run = SimulatedStudy(Case("random", "async", 0.3, 2, 0), tasks, [0.5, math.inf, 0.7], driver=2.0, makespan=10.0)
    assert (run.busy, run.speedup, run.utilisation) == (11, 1.1, 0.55)
    assert run.ideal == 11 / (2 * 6)  # 5 on one, 2 and 4 on the other
    assert run.before_tail == pytest.approx((3 + 2) / (2 * 4))  # the last begins at 4
    assert (run.driver_share, run.sustained, run.lost) == (0.2, 1.5, 1)
    assert run.course == [(6, 0.5)]  # the third is no better
    assert run.regret == 0.5


def test_the_mean_course_is_a_staircase_from_when_all_have_a_score() -> None:
    def run(*courses: tuple[float, float]) -> SimulatedStudy:
        tasks = [WorkerSpan(0, 0, end) for end, _ in courses]
        return SimulatedStudy(Case("random", "async", 0.3, 1, 0), tasks, [regret for _, regret in courses], 0.0, 10.0)

    assert steps([run((1, 8.0), (4, 2.0)), run((2, 4.0))]) == [(2, 6.0), (4, 6.0), (4, 3.0), (10, 3.0)]
    assert steps([run((1, math.inf)), run((2, 4.0))]) == []
