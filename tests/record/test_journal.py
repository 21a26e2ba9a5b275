"""The journal: what a crash may leave behind, what is damaged, and what no failed write spoils."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from partune import Observation, Status, UserError
from partune.record import journal
from partune.record.place import JOURNAL
from partune.record.record import Record
from partune.trial import Trial
from tests.support.records import finished, proposed
from tests.support.waiting import PATIENCE


@pytest.mark.parametrize("cut", [1, 5, 50])
def test_a_torn_last_line_is_cut_and_the_record_goes_on(directory: Path, cut: int) -> None:
    journal = directory / JOURNAL
    whole = journal.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    journal.write_bytes(whole[:-cut] if last < len(whole) - cut else whole[: last + 3])
    assert len(Record.open(directory, read_only=True).trials()) == 2  # reading mends nothing
    record = Record.open(directory)
    assert [t.number for t in record.trials()] == [0, 1]
    record.propose(proposed(2))
    record.finish(finished(proposed(2)))
    record.close()
    assert [t.status for t in Record.open(directory).trials()] == [Status.DONE] * 3


def test_a_line_waits_for_the_lock_that_other_programs_take(directory: Path) -> None:
    record, written = Record.open(directory), threading.Event()
    lock = journal.Lock(str(directory / JOURNAL))
    lock.acquire()
    before, following = (directory / JOURNAL).read_bytes(), proposed(len(record.trials()))
    writer = threading.Thread(target=lambda: (record.propose(following), written.set()))
    writer.start()
    assert not written.wait(0.3)
    assert (directory / JOURNAL).read_bytes() == before
    lock.release()
    assert written.wait(PATIENCE)
    writer.join()
    record.close()


@pytest.mark.slow
def test_every_prefix_of_the_journal_opens(directory: Path, thorough: bool) -> None:
    """SIGKILL leaves a prefix of the file, line or part of a line; a header that is there is never lost again.

    Whole lines, whole lines but for their end, lines of one byte and some of each other length; all with --thorough.
    """
    journal = directory / JOURNAL
    whole = journal.read_bytes()
    header = whole.find(b"\n", whole.find(b'"partune"')) + 1
    counts = []
    lines = [place + 1 for place in range(header - 1, len(whole)) if whole[place : place + 1] == b"\n"]
    near = {end + by for end in lines for by in (-1, 0, 1) if header <= end + by <= len(whole)}
    for end in sorted(near | {*range(header, len(whole), 1 if thorough else 31)}):
        journal.write_bytes(whole[:end])
        record = Record.open(directory)
        trials = record.trials()
        counts.append(len(trials))
        assert all(t.observation is not None for t in trials if t.status.final)
        record.close()
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3}


def test_a_dead_drivers_journal_lock_does_not_block(directory: Path) -> None:
    (directory / f"{JOURNAL}.lock").symlink_to(JOURNAL)
    record = Record.open(directory)
    record.propose(proposed(3))  # would wait half a minute for the dead one's lock
    assert len(record.trials()) == 4


def test_a_damaged_line_is_named(directory: Path) -> None:
    journal = directory / JOURNAL
    lines = journal.read_bytes().split(b"\n")
    lines[3] = lines[3][:10] + b"\x00\xff" + lines[3][12:]
    journal.write_bytes(b"\n".join(lines))
    for read_only in (True, False):
        with pytest.raises(UserError, match="damaged in line 4"):
            Record.open(directory, read_only=read_only)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"5", "damaged in line 4: restore"),
        (b'"op_code"', "damaged in line 4: restore"),
        (b"", "damaged in line 4: restore"),
        (b'{"op_code": 4}', "damaged in line 4, or a newer Optuna wrote that line"),
        (b'{"op_code": 99, "worker_id": "w", "study_id": 0}', "damaged in line 4, or a newer Optuna wrote that line"),
        (b'{"worker_id": "w", "study_id": 0}', "damaged in line 4, or a newer Optuna wrote that line"),
        (b"cos\nsystem\n(S'touch pwned'\ntR.", "damaged in line 4: restore"),  # a pickle: nobody reads one
    ],
)
def test_a_line_that_is_none_of_optunas_is_named(
    directory: Path, line: bytes, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    journal = directory / JOURNAL
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([*lines[:3], line, *lines[4:]]))
    for read_only in (True, False):
        with pytest.raises(UserError, match=read) as caught:
            Record.open(directory, read_only=read_only)
        assert "\n" not in str(caught.value)
    journal.write_bytes(b"\n".join(lines))
    assert len(Record.open(directory).trials()) == 3  # a refusal holds no lock
    assert not (directory / "pwned").exists()


@pytest.mark.parametrize("size", [0, 40])
def test_a_journal_that_holds_nothing_is_one_line(directory: Path, size: int) -> None:
    journal = directory / JOURNAL
    journal.write_bytes(journal.read_bytes()[:size])
    for read_only in (True, False):
        with pytest.raises(UserError, match=r"journal\.log holds no study search: restore it from a copy"):
            Record.open(directory, read_only=read_only)


@pytest.mark.slow
def test_a_torn_line_of_an_anchor_is_cut_and_the_anchor_is_recorded_again(directory: Path) -> None:
    zero = Trial(0, {"learning_rate": 0.0}, seed=5).finished(Observation({"score": 0.4}), told=0)
    record = Record.open(directory)
    record.anchor("base", zero)
    before = (directory / JOURNAL).stat().st_size
    record.anchor("zero", zero)
    record.close()
    whole = (directory / JOURNAL).read_bytes()
    for end in range(before, len(whole), 41):
        (directory / JOURNAL).write_bytes(whole[:end])
        assert set(Record.open(directory, read_only=True).anchors()) == {"base"}
        record = Record.open(directory)
        record.anchor("zero", zero)
        record.close()
        reader = Record.open(directory, read_only=True)
        assert set(reader.anchors()) == {"base", "zero"}
        assert [trial.status for trial in reader.trials()] == [Status.DONE, Status.DONE, Status.RUNNING]


class Torn:
    """A file of which a write writes half, and then no more; `sealed`: it cannot be cut either."""

    def __init__(self, file: Any, sealed: bool) -> None:
        self.file, self.sealed, self.half = file, sealed, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: memoryview) -> int:
        if not self.half:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.half = False
        written: int = self.file.write(content[: len(content) // 2])
        return written

    def truncate(self, size: int) -> None:
        if self.sealed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.file.truncate(size)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_line_is_whole_or_not_there_and_none_follows_a_torn_one(sealed: bool, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"one\n")
    with path.open("rb+", buffering=0) as file:
        with pytest.raises(OSError, match="No space left"):
            journal._append(Torn(file, sealed), b"two, torn\n")  # type: ignore[arg-type]
        assert path.read_bytes() == (b"one\ntwo, " if sealed else b"one\n")
        journal._append(file, b"three\n")
    assert path.read_bytes() == b"one\nthree\n"
