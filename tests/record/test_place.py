"""Where a record is: what the study's folder says of it, and what that folder may be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from partune import Float, Space, Study, UserError
from partune.record.place import STORAGE, DatabasePlace, JournalPlace, MemoryPlace, Place, find_study, place_of
from partune.record.record import Record
from tests.study.test_study import PLANE, himmelblau

pytestmark = pytest.mark.usefixtures("revisions")


def test_no_study_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study in .*journal\.log is missing"):
        Record.open(tmp_path)


def test_a_folder_whose_name_is_no_utf_8_is_refused_before_the_work(tmp_path: Path) -> None:
    """safetensors reads no file there, and that would show only when the winner's adapter is loaded."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xff"))
    for begin in (lambda: Record.check(folder), lambda: Record.create(folder, Space(x=Float(0, 1)), {})):
        with pytest.raises(UserError, match=r"cannot write .*/s\\udcff: its name is not UTF-8"):
            begin()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_file_that_names_the_storage_is_checked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/all.db"
    Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", storage=url).run(2).close()
    path = tmp_path / "s" / STORAGE
    form = json.loads(path.read_text())
    for change, message in (
        ({"study": "../../other"}, "names no study of partune"),
        ({"study": "s-0123456789ab"}, "holds no study s-0123456789ab/search"),
        ({"url": "mysql://host/db"}, "a storage is"),
        ({"url": f"sqlite:///{tmp_path}/gone.db"}, "there is no file"),
    ):
        path.write_text(json.dumps({**form, **change}))
        with pytest.raises(UserError, match=message):
            Record.open(tmp_path / "s", read_only=True)
    assert not (tmp_path / "gone.db").exists()
    path.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Record.open(tmp_path / "s")


@pytest.mark.slow
def test_a_relative_file_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Study(PLANE, himmelblau, "soo", directory="s", storage="sqlite:///all.db").run(2).close()
    os.mkdir("elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(Record.open(tmp_path / "s", read_only=True).trials()) == 2


def test_a_database_goes_with_a_directory_and_a_journal_without_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pass a `directory`"):
        Study(PLANE, himmelblau, "soo", storage=f"sqlite:///{tmp_path}/all.db")
    Study(PLANE, himmelblau, "soo", directory=tmp_path / "s").close()
    with pytest.raises(UserError, match=r"in journal\.log and not in a database"):
        Study(PLANE, himmelblau, "soo", directory=tmp_path / "s", resume=True, storage="sqlite:///all.db")


def test_a_record_in_memory_is_driven_by_this_process_alone() -> None:
    memory = MemoryPlace()
    memory.begin(Path(), {"format": 1})
    storage, drivers = memory.drive(join=False)
    assert storage is memory.read()
    assert drivers.lead()
    assert storage.get_study_user_attrs(find_study(storage, memory, "search")) == {"partune": {"format": 1}}
    with pytest.raises(UserError, match="the record in memory holds no study search: restore it"):
        find_study(MemoryPlace().read(), memory, "search")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_who_drives_a_place_keeps_others_from_leading_and_leaves_when_they_fail(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    place: Place = (
        JournalPlace(folder) if kind == "journal" else DatabasePlace.new(folder, f"sqlite:///{tmp_path}/all.db")
    )
    place.begin(folder, {"format": 1})
    assert type(place_of(folder)) is type(place)
    _, first = place.drive(join=False)
    with pytest.raises(UserError, match="is already being run"):
        place.drive(join=False)
    if kind == "journal":
        place.drive(join=True)[1].leave()
    else:
        with pytest.raises(UserError, match="SQLite takes one process at a time"):
            place.drive(join=True)
    first.leave()
    place.drive(join=False)[1].leave()
