"""A disk that is full, read-only, or gone in mid run: one line, nothing that ended is lost, and the study goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune import Float, Observation, Space, Status, Study, UserError
from partune.cli import main
from partune.objectives.base import Objective
from partune.runtime import disk
from partune.study import Watcher
from partune.trial import Config, Trial
from partune.workers.base import Threads
from tests.study.test_study import PLANE, SPACE, himmelblau, outcomes
from tests.support.simulated import SimulatedTuning


def mount(*arguments: str) -> None:
    """Skips where this user may not mount."""
    if subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "PATIENCE", 0.0)
    monkeypatch.setattr(disk, "AGAIN", 0.02)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 1024):
                pass
        except OSError:
            return


class At(Watcher):
    """Does something when so many trials have ended."""

    def __init__(self, count: int, action: Callable[[], object]) -> None:
        self.count, self.action = count, action

    def finished(self, trial: Trial) -> None:
        self.count -= 1
        if self.count == 0:
            self.action()


def rate(config: Config) -> float:
    return float(config["learning_rate"])


def ended(study: Study) -> list[int]:
    return [trial.number for trial in study.record.trials() if trial.status.final]


# ----- full


class Itemised(Objective):
    """Leaves per-item results, and no adapter."""

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        values = np.random.default_rng(trial.number).random(400)
        return Observation({"score": float(values.mean())}, items={"search/t/acc": values})


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 5, 9])
@pytest.mark.parametrize("objective", [SimulatedTuning, Itemised, None])
def test_a_full_disk_ends_the_run_in_one_line_and_the_study_goes_on(
    objective: Callable[[], Objective] | None, at: int, small: Path
) -> None:
    """Full for an adapter, for per-item results, in the middle of a line of the journal."""

    def study(name: str, **options: Any) -> Study:
        tuning = objective() if objective else rate
        return Study(SPACE, tuning, "lhs", seed=1, directory=small / name, seeds=0, **options)

    unbroken = study("u").run(25)
    unbroken.close()
    broken = study("s", watcher=At(at, lambda: fill(small)))
    with pytest.raises(UserError, match="No space left on device") as caught:
        broken.run(25)
    broken.close()
    assert "\n" not in str(caught.value)
    assert (small / "s" / "journal.log").read_bytes().endswith(b"\n")  # what was torn is taken back
    assert all(path.suffix == ".npz" and path.name[0] != "." for path in (small / "s" / "items").glob("*"))
    (small / "filler").unlink()
    resumed = study("s", resume=True)
    there = ended(resumed)
    assert len(there) >= at
    resumed.run(25)
    assert outcomes(resumed) == outcomes(unbroken)
    assert all(resumed.trials[number].attempts == 1 for number in there)  # none ran twice


def test_room_that_is_made_in_time_is_waited_for(
    small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk, "PATIENCE", 60.0)

    def full_for_a_while() -> None:
        fill(small)
        threading.Timer(0.3, (small / "filler").unlink).start()

    study = Study(PLANE, himmelblau, "lhs", seed=1, directory=small / "s", watcher=At(5, full_for_a_while)).run(40)
    assert outcomes(study) == outcomes(Study(PLANE, himmelblau, "lhs", seed=1).run(40))
    assert "No space left on device: waiting up to 1 minutes for free space." in caplog.text


class Scratch(Objective):
    """Four at once, of which one finds the disk full, before or after the others have ended."""

    def count_slots(self) -> int:
        return 4

    def __init__(self, full: int | None) -> None:
        self.full = full
        self.calls: list[int] = []

    def evaluate(self, trial: Trial, adapter: Path | None = None) -> Observation:
        self.calls.append(trial.number)
        if trial.number == self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Observation({"score": himmelblau(trial.config)})


@pytest.mark.slow
@pytest.mark.parametrize("full", [4, 7])
def test_a_full_disk_is_no_configurations_fault(full: int, tmp_path: Path) -> None:
    study = Study(PLANE, Scratch(full), "lhs", directory=tmp_path / "s")
    with pytest.raises(UserError, match=r"No space left on device; correct this and resume"):
        study.run(12)
    study.close()
    there = ended(study)
    assert full not in there
    assert set(range(4)) <= set(there)
    again = Scratch(None)
    resumed = Study(PLANE, again, "lhs", directory=tmp_path / "s", resume=True).run(12)
    assert {trial.status for trial in resumed.trials} == {Status.DONE}
    assert sorted(again.calls) == [number for number in range(12) if number not in there]


def test_what_ended_with_the_trial_that_stops_the_run_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack's trials end together."""
    monkeypatch.setattr(Threads, "first", lambda self, futures: wait(futures).done)
    study = Study(PLANE, Scratch(0), "lhs", directory=tmp_path / "s")
    with pytest.raises(UserError, match="No space left"):
        study.run(4)
    study.close()
    assert ended(study) == [1, 2, 3]


def test_an_anchor_that_the_disk_spoilt_is_scored_again(tmp_path: Path) -> None:
    class Full(SimulatedTuning):
        spoilt = True

        def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
            if self.spoilt:
                return Observation.failure(f"OSError: {os.strerror(errno.EDQUOT)}")
            return super().score_defaults(trial, adapter)

    study = Study(SPACE, Full(), "lhs", directory=tmp_path / "s")
    with pytest.raises(UserError, match="quota exceeded; correct this"):
        study.run(3)
    study.close()
    Full.spoilt = False
    resumed = Study(SPACE, Full(), "lhs", directory=tmp_path / "s", resume=True).run(3)
    assert resumed.anchors["defaults"].status is Status.DONE


# ----- read-only, gone


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 6])
def test_a_directory_that_became_read_only_ends_the_run_in_one_line(at: int, tmp_path: Path) -> None:
    def lock() -> None:
        mount("--bind", str(tmp_path / "s"), str(tmp_path / "s"))
        mount("-o", "remount,ro,bind", str(tmp_path / "s"))

    study = Study(PLANE, himmelblau, "lhs", seed=2, directory=tmp_path / "s", watcher=At(at, lock))
    try:
        with pytest.raises(UserError, match=r"cannot write .*s: Read-only file system\. Fix this, and continue"):
            study.run(9)
        study.close()
        with pytest.raises(UserError, match=r"cannot write .*: Read-only file system"):
            Study(PLANE, himmelblau, "lhs", seed=2, directory=tmp_path / "s", resume=True)
        assert len(ended(study)) == at  # reading needs no right to write
    finally:
        subprocess.run(["umount", str(tmp_path / "s")], capture_output=True, check=False)
    resumed = Study(PLANE, himmelblau, "lhs", seed=2, directory=tmp_path / "s", resume=True).run(9)
    assert outcomes(resumed) == outcomes(Study(PLANE, himmelblau, "lhs", seed=2).run(9))


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 6])
def test_a_directory_that_went_away_ends_the_run_and_is_not_made_anew(at: int, tmp_path: Path) -> None:
    def move() -> None:
        (tmp_path / "s").rename(tmp_path / "elsewhere")

    study = Study(PLANE, himmelblau, "soo", seed=2, directory=tmp_path / "s", watcher=At(at, move))
    with pytest.raises(UserError, match=r"s or a part of it is gone. Restore it, and continue with `partune resume"):
        study.run(9)
    study.close()
    assert not (tmp_path / "s").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "s")
    resumed = Study(PLANE, himmelblau, "soo", seed=2, directory=tmp_path / "s", resume=True).run(9)
    assert outcomes(resumed) == outcomes(Study(PLANE, himmelblau, "soo", seed=2).run(9))


def test_a_journal_that_went_away_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "s" / "journal.log"
    study = Study(PLANE, himmelblau, "lhs", directory=tmp_path / "s", watcher=At(3, path.unlink))
    with pytest.raises(UserError, match="is gone"):
        study.run(9)
    assert not path.exists()


def test_on_the_command_line_it_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vanishing.py").write_text(
        "import shutil\n"
        "from partune import Float, Space\n"
        "def f(config):\n"
        "    shutil.rmtree('runs/a', ignore_errors=True)\n"
        "    return config['x']\n"
        "f.space = Space(x=Float(0, 1))\n"
    )
    status = main(["tune", "--objective", "vanishing:f", "--algorithm", "lhs", "--budget", "3", "--name", "a"])
    errors = capsys.readouterr().err
    assert status == 2
    assert errors.startswith("partune: error: runs/a or a part of it is gone. Restore it")
    assert errors.count("\n") == 1


# ----- the clock


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-30.0, 30.0])
def test_a_clock_that_jumps_changes_nothing(hours: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine; waits, seconds and signs of life go by clocks that cannot be set."""
    real = time.time

    class Moved(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=hours)

    def jump() -> None:
        monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
        monkeypatch.setattr("optuna.storages.journal._storage.datetime", Moved)

    space = Space(x=Float(-5, 5), y=Float(-5, 5))
    study = Study(space, himmelblau, "bo", seed=2, directory=tmp_path / "s", watcher=At(5, jump))
    other = study.record.drivers
    assert other.alive(other.name)
    study.run(12)
    assert other.alive(other.name)
    study.close()
    resumed = Study(space, himmelblau, "bo", seed=2, directory=tmp_path / "s", resume=True).run(15)
    assert outcomes(resumed) == outcomes(Study(space, himmelblau, "bo", seed=2).run(15))
    assert [trial.told for trial in resumed.trials] == list(range(15))
    assert Counter(trial.attempts for trial in resumed.trials) == {1: 15}
    costs = [trial.observation.cost for trial in resumed.trials if trial.observation is not None]
    assert all(0 <= value < 60 for cost in costs for value in cost.values())


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_in_a_folders_way_is_put_aside(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("mine")
    place = tmp_path / "0003"
    place.write_text("mine") if kind == "file" else place.symlink_to(tmp_path / "other")
    disk.make_way(place)
    assert not place.exists()
    (aside,) = tmp_path.glob("0003.aside-*")
    assert aside.read_text() == "mine" if kind == "file" else aside.is_symlink()
    assert (tmp_path / "other" / "mine").read_text() == "mine"
    assert f"0003 was in the way and was renamed to {aside.name}." in caplog.text


def test_a_file_is_not_written_through_a_link_that_lies_where_drafts_did(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in (f".page.{os.getpid()}", ".page.tmp", "page.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    disk.write_whole(tmp_path / "page", "text")
    assert (tmp_path / "page").read_text() == "text"
    assert (tmp_path / "precious").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 5
