"""The record: what Optuna's journal is told, what a crash may leave behind, what other tools can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from partune import Observation, UserError
from partune.record.place import JOURNAL
from partune.record.record import Record
from partune.trial import Trial
from tests.support.records import HEADER, SPACE, finished, proposed


def test_optuna_reads_the_search_as_an_ordinary_study(directory: Path) -> None:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(directory / JOURNAL)))
    study = optuna.load_study(study_name="search", storage=storage)
    assert study.best_value == 0.5
    assert study.best_params == dict(SPACE.decode((0.5,) * 6))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert optuna.search_space.intersection_search_space(study.trials)["learning_rate"].log


def test_a_study_that_partune_did_not_begin_is_refused(tmp_path: Path, directory: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    for name in ("anchors", "search"):
        optuna.create_study(study_name=name, storage=optuna.storages.JournalStorage(backend))
    with pytest.raises(UserError, match="an Optuna study that partune did not begin"):
        Record.open(tmp_path)
    backend = optuna.storages.journal.JournalFileBackend(str(directory / JOURNAL))
    study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))
    study.ask()
    with pytest.raises(UserError, match=r"trial 3 of .* was not written by partune: another program wrote"):
        Record.open(directory).trials()


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
    with pytest.raises(UserError, match="file is not a folder with write permission"):
        Record.check(tmp_path / "file" / "runs" / "s")
    Record.check(tmp_path / "new" / "runs" / "s")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


def test_a_newer_format_is_refused(directory: Path) -> None:
    journal = directory / JOURNAL
    journal.write_text(journal.read_text().replace('"format":1', '"format":2'))
    with pytest.raises(UserError, match="written by a newer partune"):
        Record.open(directory)


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


def test_memory_holds_the_same(tmp_path: Path) -> None:
    record = Record.create(None, SPACE, HEADER)
    record.propose(proposed(0))
    record.finish(finished(proposed(0)))
    assert record.trials() == [finished(proposed(0))]
    assert record.items("search", 0)["search/t/acc"].tolist() == [1.0, 0.0]
    with pytest.raises(UserError, match="keeps no adapters"):
        record.adapter(0)
