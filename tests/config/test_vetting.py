"""A study whose validation rows are rows of its training data does not begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from partune import FineTune, Float, Space, Study, UserError, config
from partune.cli import main
from partune.config import vetting

SPACE = {"learning_rate": {"float": [1e-6, 1e-2], "log": True}}


def study_of(data: Any, validation: str) -> config.StudyConfig:
    """The settings of a study with these training and validation rows."""
    return config.parse({"model": "m", "data": data, "validation": {"data": validation}, "space": SPACE})


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two files of rows and links to one of them, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("rows.csv", "other.csv"):
        (tmp_path / name).write_text("instruction,output\na,b\n")
    (tmp_path / "link.csv").symlink_to("rows.csv")
    (tmp_path / "hard.csv").hardlink_to("rows.csv")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("data", "validation"),
    [
        ("rows.csv", "rows.csv"),
        ("rows.csv", "./folder/../rows.csv"),
        ("rows.csv", "link.csv"),
        ("link.csv", "rows.csv"),
        ("rows.csv", "hard.csv"),
        ("other.csv,rows.csv", "rows.csv"),
        ("rows.csv", "other.csv, link.csv"),
        ("folder", "folder/"),
        ("demo", "demo"),
        ("acme/tickets", "acme/tickets"),
        ({"path": "acme/tickets", "config": "en", "split": "train[:90%]"}, "acme/tickets"),
    ],
    ids=str,
)
def test_validation_rows_that_are_trained_on_are_refused(rows: Path, data: Any, validation: str) -> None:
    with pytest.raises(UserError, match=r"validation\.data names rows that are trained on: ") as caught:
        vetting.vet(study_of(data, validation), SPACE)
    assert "\n" not in str(caught.value)
    assert "--validation-split" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "validation"),
    [
        ("rows.csv", "other.csv"),
        ("rows.csv", "missing.csv"),
        ("~/rows-that-are-nowhere.csv", "rows.csv"),
        ("acme/tickets", "acme/others"),
        ("demo:pairs", "demo:labels"),
    ],
)
def test_other_validation_rows_are_not(rows: Path, data: str, validation: str) -> None:
    vetting.vet(study_of(data, validation), SPACE)


def test_a_study_does_not_begin_with_them(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--model", "demo", "--data", "rows.csv", "--validation-data", "link.csv"]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith("partune: error: --validation-data names rows that are trained on: ")
    assert not (rows / "runs").exists()
    assert told.out == ""
    tuner = FineTune("demo", "rows.csv", validation={"data": "rows.csv"})
    with pytest.raises(UserError, match="rows that are trained on"):
        Study(Space({"learning_rate": Float(1e-5, 1e-2, log=True)}), tuner, directory=rows / "s").run(1)


def test_a_setting_without_effect_is_refused_first(rows: Path) -> None:
    study = config.parse({**study_of("rows.csv", "rows.csv").model_dump(), "test": {"limit": 3}})
    with pytest.raises(UserError, match=r"test\.limit would have no effect"):
        vetting.vet(study, SPACE)
