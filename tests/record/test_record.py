"""The record: what Optuna's journal is told, what a crash may leave behind, what other tools can read."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import numpy as np
import optuna
import pytest

from partune import Choice, Float, Int, Observation, Space, Status, UserError
from partune.record.place import JOURNAL
from partune.record.record import Record
from partune.trial import Trial

SPACE = Space(
    learning_rate=Float(1e-6, 1e-2, log=True),
    lora_r=Int(2, 64, log=True),
    dropout=Float(0, 0.5),
    optimizer=Choice(["adamw", "sgd"]),
    momentum=Float(0.0, 0.99, when={"optimizer": "sgd"}),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
)
HEADER = {"algorithm": "soo", "options": {}, "seed": 0}


def proposed(number: int, point: tuple[float, ...] = (0.5,) * 6) -> Trial:
    config = SPACE.decode(point)
    notes = ({"point": [0.1, 0.2], "mean": 1 / 3},)
    return Trial(number, config, point, seed=2**32 - 1 - number, notes=notes, told_before=number).started()


def finished(trial: Trial, score: float = 0.1 + 0.2) -> Trial:
    items = {"search/t/acc": np.array([1.0, 0.0])}
    observation = Observation({"score": score, "verdict": 1.0}, 0.01, cost={"seconds": 1.5}, items=items)
    return trial.finished(observation, told=trial.number)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    record = Record.create(tmp_path / "s", SPACE, HEADER)
    for number, u in enumerate((0.123456789, 0.5, 0.987654321)):
        trial = proposed(number, (u, u, u, u, u, u))
        record.propose(trial)
        if number < 2:
            record.finish(finished(trial, score=u))
    record.close()
    return tmp_path / "s"


def test_trials_come_back_as_they_went(directory: Path) -> None:
    trials = Record.open(directory).trials()
    assert [t.status for t in trials] == [Status.DONE, Status.DONE, Status.RUNNING]
    for number, u in enumerate((0.123456789, 0.5, 0.987654321)):
        expected = proposed(number, (u,) * 6)
        if number < 2:
            expected = finished(expected, score=u)
        assert trials[number] == expected
        assert list(trials[number].config) == list(expected.config)


def test_optuna_reads_the_search_as_an_ordinary_study(directory: Path) -> None:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(directory / JOURNAL)))
    study = optuna.load_study(study_name="search", storage=storage)
    assert study.best_value == 0.5
    assert study.best_params == dict(SPACE.decode((0.5,) * 6))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert optuna.search_space.intersection_search_space(study.trials)["learning_rate"].log


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


def test_every_prefix_of_the_journal_opens(directory: Path) -> None:
    """SIGKILL leaves a prefix of the file, line or part of a line; a header that is there is never lost again."""
    journal = directory / JOURNAL
    whole = journal.read_bytes()
    header = whole.find(b"\n", whole.find(b'"partune"')) + 1
    counts = []
    for end in [*range(header, len(whole), 7), len(whole)]:
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


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"5", "damaged in line 4: restore"),
        (b'"op_code"', "damaged in line 4: restore"),
        (b"", "damaged in line 4: restore"),
        (b'{"op_code": 4}', "damaged in line 4, or that line is of a newer Optuna"),
        (b'{"op_code": 99, "worker_id": "w", "study_id": 0}', "damaged in line 4, or that line is of a newer Optuna"),
        (b'{"worker_id": "w", "study_id": 0}', "damaged in line 4, or that line is of a newer Optuna"),
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


def test_a_study_that_partune_did_not_begin_is_refused(tmp_path: Path, directory: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    for name in ("anchors", "search"):
        optuna.create_study(study_name=name, storage=optuna.storages.JournalStorage(backend))
    with pytest.raises(UserError, match="a study of Optuna's that partune did not begin"):
        Record.open(tmp_path)
    backend = optuna.storages.journal.JournalFileBackend(str(directory / JOURNAL))
    study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))
    study.ask()
    with pytest.raises(UserError, match=r"trial 3 of .* is not partune's: another program wrote to it"):
        Record.open(directory).trials()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"cos\nsystem\n(S'touch pwned'\ntR."])
def test_damaged_per_item_results_are_named(directory: Path, content: bytes) -> None:
    (directory / "items" / "0001.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"items/0001\.npz is damaged: restore it from a copy"):
        Record.open(directory, read_only=True).items("search", 1)


def test_one_driver_at_a_time(directory: Path) -> None:
    first = Record.open(directory)
    with pytest.raises(UserError, match="is being run already"):
        Record.open(directory)
    assert len(Record.open(directory, read_only=True).trials()) == 3
    first.close()
    Record.open(directory).close()


def test_a_file_system_without_locks_is_not_taken_for_another_driver(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\): put the study where they can be"):
        Record.open(directory)


def test_a_record_that_exists_is_never_overwritten(directory: Path) -> None:
    before = (directory / JOURNAL).read_bytes()
    with pytest.raises(UserError, match="exists already"):
        Record.create(directory, SPACE, HEADER)
    assert (directory / JOURNAL).read_bytes() == before


def test_a_record_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("partune.record.place.begin_studies", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        Record.create(tmp_path / "runs" / "s", SPACE, HEADER)
    assert not (tmp_path / "runs" / "s").exists()
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Record.create(tmp_path / "file" / "s", SPACE, HEADER)


def test_an_unwritable_place_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is no folder that can be written in"):
        Record.check(tmp_path / "file" / "runs" / "s")
    Record.check(tmp_path / "new" / "runs" / "s")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


def test_a_newer_format_is_refused(directory: Path) -> None:
    journal = directory / JOURNAL
    journal.write_text(journal.read_text().replace('"format":1', '"format":2'))
    with pytest.raises(UserError, match="written by a newer partune"):
        Record.open(directory)


def test_no_study_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study in .*journal\.log is missing"):
        Record.open(tmp_path)


def test_anchors_do_not_touch_the_search(directory: Path) -> None:
    record = Record.open(directory)
    for score in (0.4, 0.5):
        zero = Trial(0, {"learning_rate": 0.0, "steps": 4}, seed=5)
        items = {"search/t/acc": np.array([score])}
        record.anchor("zero", zero.finished(Observation({"score": score}, items=items), told=0))
    anchor = record.anchors()["zero"]
    assert anchor.score == 0.5  # the latest
    assert anchor.config == {"learning_rate": 0.0, "steps": 4}
    assert record.items("anchors", anchor.number)["search/t/acc"] == [0.5]
    assert len(record.trials()) == 3


def test_failed_trials_store_no_score(directory: Path) -> None:
    record = Record.open(directory)
    record.finish(proposed(2).finished(Observation.failure("loss diverged"), told=2))
    trial = record.trials()[2]
    assert trial.status is Status.FAILED
    assert trial.observation is not None
    assert (trial.observation.error, dict(trial.observation.scores)) == ("loss diverged", {})
    lines = [json.loads(line) for line in (directory / JOURNAL).read_text().splitlines()]
    assert lines[-1]["values"] is None


def test_items_are_small_and_read_without_pickle(directory: Path) -> None:
    record = Record.open(directory)
    packed = record.items("search", 0)
    assert packed["search/t/acc"].tolist() == [1.0, 0.0]
    assert record.items("search", 2) == {}
    assert all(path.suffix == ".npz" and path.name[0] != "." for path in (directory / "items").iterdir())
    with pytest.raises(ValueError, match="allow_pickle"):
        record.artifacts.write_items("search", 9, {"x": np.array([object()])})


def test_memory_holds_the_same(tmp_path: Path) -> None:
    record = Record.create(None, SPACE, HEADER)
    record.propose(proposed(0))
    record.finish(finished(proposed(0)))
    assert record.trials() == [finished(proposed(0))]
    assert record.items("search", 0)["search/t/acc"].tolist() == [1.0, 0.0]
    with pytest.raises(UserError, match="keeps no adapters"):
        record.adapter(0)


def test_a_folder_whose_name_is_no_utf_8_is_refused_before_the_work(tmp_path: Path) -> None:
    """safetensors reads no file there, and that would show only when the winner's adapter is loaded."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xff"))
    for begin in (lambda: Record.check(folder), lambda: Record.create(folder, Space(x=Float(0, 1)), {})):
        with pytest.raises(UserError, match=r"cannot write .*/s\\udcff: its name is not UTF-8"):
            begin()
    assert list(tmp_path.iterdir()) == []
