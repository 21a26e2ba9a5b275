"""What all trackers share: which runs they get, that nothing is sent twice, and that no failure ends a study."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from partune.integrations import tracking
from partune.integrations.tracking import TrackedRun, Tracker, plain_name
from partune.space import Float, Space
from partune.study import Study, Watchers
from partune.trial import Config, Observation

SPACE = Space(x=Float(0.0, 1.0))


class Kept(Tracker):
    """A tracker that keeps what it gets."""

    name = "kept"

    def __init__(self) -> None:
        self.notes: list[str] = []
        super().__init__(self.notes.append)
        self.runs: list[TrackedRun] = []
        self.threads: set[str] = set()

    def send(self, run: TrackedRun) -> None:
        self.threads.add(threading.current_thread().name)
        self.runs.append(run)


def scored(config: Config) -> Observation:
    if config["x"] > 0.9:
        raise ArithmeticError("too large")
    losses = np.array([3.0, np.nan, 1.0])
    return Observation(
        {"score": config["x"], "acc": 0.5}, 0.1, items={"training_loss": losses, "points": np.array([[2.0, 0.25]])}
    )


def test_every_trial_is_sent_once_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    tracker = Kept()
    study = Study(SPACE, scored, "random", directory=tmp_path / "first", watcher=tracker).run(30)
    study.close()
    assert [run.name for run in tracker.runs] == [f"trial {number}" for number in range(30)]
    assert {run.study for run in tracker.runs} == {"first"}
    assert len(tracker.threads) == 1
    assert threading.current_thread().name not in tracker.threads
    for run, trial in zip(tracker.runs, study.trials, strict=True):
        assert run.config == dict(trial.config)
        assert run.failed == (trial.config["x"] > 0.9)
        if run.failed:
            assert run.tags["error"] == "ArithmeticError: too large"
            continue
        assert run.metrics["score"] == trial.score
        assert (run.metrics["acc"], run.metrics["score_stderr"]) == (0.5, 0.1)
        assert run.metrics["cost/seconds"] == run.seconds
        steps, values = run.curves["training_loss"]
        assert (steps.tolist(), values.tolist()) == ([1, 3], [3.0, 1.0])
        assert [array.tolist() for array in run.curves["score in training"]] == [[2], [0.25]]
    assert any(run.failed for run in tracker.runs)


def test_a_resumed_study_sends_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    Study(SPACE, scored, "random", directory=tmp_path / "s").run(3).close()
    late = Kept()
    Study(SPACE, scored, "random", directory=tmp_path / "s", resume=True, watcher=late).run(5).close()
    again = Kept()
    Study(SPACE, scored, "random", directory=tmp_path / "s", resume=True, watcher=again).run(6).close()
    assert sorted(run.name for run in late.runs) == [f"trial {number}" for number in range(5)]
    assert [run.name for run in again.runs] == ["trial 5"]


def test_a_tracker_that_fails_says_so_once_and_the_study_goes_on(tmp_path: Path) -> None:
    class Broken(Kept):
        name = "broken"

        def send(self, run: TrackedRun) -> None:
            if run.name == "trial 2":
                raise ConnectionError("no route\nto host")
            super().send(run)

    broken, sound = Broken(), Kept()
    study = Study(SPACE, scored, "random", directory=tmp_path / "s", watcher=Watchers(broken, sound)).run(6)
    study.close()
    assert len(study.trials) == len(sound.runs) == 6
    assert [run.name for run in broken.runs] == ["trial 0", "trial 1"]
    (note,) = broken.notes
    assert note.startswith("broken: ConnectionError: no route to host. The study goes on without it; `partune resume`")
    mended = Kept()
    mended.name = "broken"  # type: ignore[misc]
    Study(SPACE, scored, "random", directory=tmp_path / "s", resume=True, watcher=mended).run(6).close()
    assert [run.name for run in mended.runs] == [f"trial {number}" for number in range(2, 6)]


def test_a_tracker_that_hangs_does_not_hold_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    class Hanging(Kept):
        def send(self, run: TrackedRun) -> None:
            answered.wait()

    monkeypatch.setattr(tracking, "PATIENCE", 0.01)
    hanging = Hanging()
    try:
        assert len(Study(SPACE, scored, "random", watcher=hanging).run(4).trials) == 4
        (note,) = hanging.notes
        assert note.startswith("kept: has not answered for")
    finally:
        answered.set()


def test_names_are_those_that_all_trackers_take() -> None:
    assert plain_name("verdict/ärger (%)/acc:1") == "verdict/_rger ___/acc_1"
