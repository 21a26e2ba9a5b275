"""The simulation of many workers: its clock, its loops, and the command's files."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune import Float, Space, Status, Study
from partune.bench.options import Scaling
from partune.bench.scaling import run as scaling
from partune.bench.scaling.makespans import Case, WorkerSpan, batched, greedy
from partune.bench.scaling.run import Length, LogNormal, Simulated, simulate
from partune.cli import main
from partune.errors import UserError
from partune.report.svg.panels import HEIGHT, LEFT, RIGHT, TOP, WIDTH

LINE = Space(x=Float(0, 1))
SECONDS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=30)


def standing() -> float:
    """The clock of a driver that takes no time."""
    return 0.0


def ticking(step: float) -> Callable[[], float]:
    """A clock that goes on by one step whenever it is read."""
    times: Iterator[int] = count()
    return lambda: step * next(times)


def study(workers: Simulated, trials: int) -> Study:
    return Study(LINE, lambda config: float(config["x"]), "random", workers=workers).run(trials)


def ran(seconds: list[float], workers: int, barrier: bool = False) -> Simulated:
    """Workers after a study whose trials took so many seconds, under a driver that takes none."""
    found = Simulated(workers, lambda n: Length(seconds[n]), barrier, standing)
    study(found, len(seconds))
    return found


def test_each_trial_begins_on_the_worker_that_is_free_first() -> None:
    """Two workers, 5 3 4 1: the third follows the second at 3, the last the first at 5."""
    workers = ran([5, 3, 4, 1], 2)
    assert workers.tasks == [WorkerSpan(0, 0, 5), WorkerSpan(1, 0, 3), WorkerSpan(1, 3, 7), WorkerSpan(0, 5, 6)]
    assert (workers.now, workers.driver) == (7, 0)


def test_a_barrier_begins_the_next_batch_when_the_slowest_has_ended() -> None:
    workers = ran([5, 3, 4, 1], 2, barrier=True)
    assert [(task.begin, task.end) for task in workers.tasks] == [(0, 5), (0, 3), (5, 9), (5, 6)]
    assert workers.now == 9


def test_trials_that_end_together_are_told_together() -> None:
    workers = ran([2, 2, 2, 2], 2)
    assert [(task.begin, task.end) for task in workers.tasks] == [(0, 2), (0, 2), (2, 4), (2, 4)]


def test_the_drivers_own_time_delays_what_it_begins_and_is_all_that_is_added() -> None:
    """Read when left and when called, once each: a step to each of two submits, two waits and the end."""
    workers = Simulated(1, lambda n: Length(10.0), clock=ticking(0.5))
    study(workers, 2)
    workers.end()
    assert [(task.begin, task.end) for task in workers.tasks] == [(0.5, 10.5), (11.0, 21.0)]
    assert workers.driver == 5 * 0.5
    assert workers.now == 21.5


def test_what_an_evaluation_takes_is_not_the_drivers() -> None:
    now = [0.0]

    def slow(config: object) -> float:
        now[0] += 1000.0
        return 1.0

    workers = Simulated(2, lambda n: Length(1.0), clock=lambda: now[0])
    Study(LINE, slow, "random", workers=workers).run(4)
    assert (workers.driver, workers.now) == (0.0, 2.0)


def test_what_ends_while_the_driver_computes_is_answered_at_once() -> None:
    workers = Simulated(3, lambda n: Length(1.0 + n), clock=ticking(10.0))
    futures = [workers.submit(float, n) for n in range(3)]
    assert workers.first(futures) == set(futures)
    assert workers.now == 40.0  # not the 32 at which the last one ended


def test_an_interrupt_ends_what_runs() -> None:
    workers = Simulated(4, lambda n: Length(1.0), clock=standing)

    def broken(config: object) -> float:
        if len(workers.tasks) == 2:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        Study(LINE, broken, "random", workers=workers).run(8)


@pytest.mark.slow
@given(SECONDS, st.integers(1, 9), st.booleans())
def test_no_worker_does_two_things_at_once(seconds: list[float], workers: int, barrier: bool) -> None:
    found = ran(seconds, workers, barrier)
    for worker in range(workers):
        own = sorted((task.begin, task.end) for task in found.tasks if task.worker == worker)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(own))
    busy = sum(task.end - task.begin for task in found.tasks)
    assert busy == pytest.approx(sum(seconds))
    assert busy <= workers * found.now * (1 + 1e-9)


@pytest.mark.slow
@given(SECONDS, st.integers(1, 9))
def test_a_barrier_is_never_faster(seconds: list[float], workers: int) -> None:
    """Nor does any trial begin earlier behind it."""
    free, bound = ran(seconds, workers), ran(seconds, workers, barrier=True)
    assert (free.now, bound.now) == pytest.approx((greedy(seconds, workers), batched(seconds, workers)))
    assert free.now <= bound.now
    assert all(a.begin <= b.begin for a, b in zip(free.tasks, bound.tasks, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("cv", [0.0, 0.02, 0.3, 1.0])
def test_lengths_have_the_mean_and_the_variation_that_were_asked_for(cv: float) -> None:
    """20,000 draws: the mean to 5 standard errors, the variation to 6 %, as its own tails are heavy at 1."""
    draw = LogNormal(60.0, cv)
    seconds = np.array([draw(n).seconds for n in range(20_000)])
    assert seconds.mean() == pytest.approx(60, abs=5 * 60 * cv / math.sqrt(len(seconds)) + 1e-9)
    assert seconds.std() / 60 == pytest.approx(cv, rel=0.06, abs=1e-12)
    assert LogNormal(60.0, cv)(7) == draw(7)
    assert cv == 0 or LogNormal(60.0, cv, seed=1)(7) != draw(7)


def test_lost_workers_are_failed_trials_that_end_early() -> None:
    whole, draw = LogNormal(60.0, 0.3), LogNormal(60.0, 0.3, failures=0.25)
    lost = [n for n in range(40) if draw(n).lost]
    assert 2 <= len(lost) <= 20
    assert all((draw(n).seconds < whole(n).seconds) == (n in lost) for n in range(40))
    workers = Simulated(3, draw, clock=standing)
    found = study(workers, 40)
    assert [trial.number for trial in found.trials if trial.status is Status.FAILED] == lost
    assert [n for n, task in enumerate(workers.tasks) if task.lost] == lost


@pytest.mark.slow
def test_eight_workers_are_nearly_always_busy_until_the_tail(tmp_path: Path) -> None:
    """The issue's figures, in the mean over 20 seeds; 48 trials of 60 s."""
    options = Scaling(record="memory", out=str(tmp_path))
    runs = [simulate(Case("random", "async", 0.3, 8, seed), options) for seed in range(20)]
    assert np.mean([run.before_tail for run in runs]) >= 0.95
    assert np.mean([run.utilisation for run in runs]) >= 0.9
    bound = [simulate(Case("random", "sync", 0.3, 8, seed), options) for seed in range(20)]
    assert np.mean([run.utilisation for run in bound]) < 0.75


@pytest.mark.slow
def test_a_trial_costs_the_loop_no_more_in_a_long_study() -> None:
    """Of processor time: four times the trials, less than seven times as much; eleven where the loop looked at all."""

    def cost(trials: int) -> float:
        workers = Simulated(256, LogNormal(60.0, 0.3), clock=time.process_time)
        study(workers, trials)
        return workers.driver

    cost(100)  # imports
    # On a busy machine, processor time varies too, so that one of three measurements has to do.
    assert any(cost(2000) < 7 * cost(500) for _ in range(3))


@pytest.mark.slow
def test_the_command_writes_tables_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = ["--workers", "1,4", "--cv", "0.1,1", "--algorithms", "random,soo", "--trials", "9", "--seeds", "2"]
    assert main(["bench", "scaling", *flags, "--failures", "0.2", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("regrets.csv", "scaling-random.svg", "scaling-soo.svg", "table.csv", "table.md"),
    ]
    with (out / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * 2 * 2 * 2  # algorithms, loops, variations, numbers of workers
    assert all(0 < float(row["utilisation"]) <= 1 for row in table)
    for row in table:
        if row["workers"] == "1":
            assert float(row["speed-up"]) <= 1
    text = (out / "table.md").read_text()
    assert "`partune bench scaling --workers 1,4 --trials 9 --cv 0.1,1.0 --failures 0.2" in text
    assert "each lost with a probability of 20%" in text
    assert text.strip() in capsys.readouterr().out
    picture = ElementTree.parse(out / "scaling-soo.svg")
    shown = [line.get("points", "").split() for line in picture.iterfind("{http://www.w3.org/2000/svg}polyline")]
    assert len(shown) == 1 + 4 + 4 + 4  # the ideal; two variations by two loops in each panel
    places = [tuple(map(float, each.split(","))) for points in shown for each in points]
    assert all(TOP <= y <= TOP + HEIGHT and 0 < x < 3 * (LEFT + WIDTH + RIGHT) for x, y in places)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "0"], "greater than 0"),
        (["--failures", "1"], "less than 1"),
        (["--cv", "-1"], "greater than or equal to 0"),
        (["--modes", "both"], "sync"),
        (["--algorithms", "sooo"], 'no algorithm "sooo"'),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "scaling", *flags, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_algorithm_fails_before_anything_runs(tmp_path: Path) -> None:
    told: list[str] = []
    options = Scaling(algorithms=("random", "sooo"), out=str(tmp_path / "out"))
    with pytest.raises(UserError, match="did you mean"):
        scaling.bench(options, told.append)
    assert not told
    assert not (tmp_path / "out").exists()
