"""Recorded studies from Python: what is read is what the study said, and what can go on goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

import partune as pt
from partune.cli import main
from tests.support.simulated import SimulatedTuning

SPACE = pt.Space(learning_rate=pt.Float(1e-6, 1e-3, log=True), lora_r=pt.Int(2, 64, log=True))


def hill(config: dict[str, float]) -> float:
    return -((config["x"] - 0.3) ** 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> pt.Study:
    folder = tmp_path_factory.mktemp("runs") / "first"
    found = pt.Study(SPACE, SimulatedTuning(), "random", directory=folder, seeds=2).run(4)
    found.close()
    return found


def test_it_reads_what_the_study_said(study: pt.Study) -> None:
    loaded = pt.load_study(str(study.directory))
    assert repr(loaded) == f"load_study({str(study.directory)!r})"
    assert loaded.space == study.space
    assert loaded.trials == study.trials
    assert loaded.anchors == study.anchors
    assert loaded.best == study.best
    assert loaded.verdict == study.verdict
    assert loaded.verdict is not None
    assert loaded.summary()["verdict"]["sentence"] == loaded.verdict.sentence
    assert loaded.write_report().read_text(encoding="utf-8").startswith("<!doctype html>")


def test_its_adapter_is_exported(study: pt.Study, tmp_path: Path) -> None:
    out = pt.load_study(study.directory or "").export(str(tmp_path / "out"), recipes=())
    assert (out / "rate").is_file()
    assert (out / "README.md").is_file()
    with pytest.raises(pt.UserError, match="exists already"):
        pt.load_study(study.directory or "").export(tmp_path / "out")


@pytest.mark.slow
def test_a_study_of_a_file_goes_on(tmp_path: Path) -> None:
    arguments = ["tune", "--objective", "branin", "--algorithm", "soo", "--budget", "4", "--runs", str(tmp_path)]
    main([*arguments, "--name", "s", "--quiet"])
    loaded = pt.load_study(tmp_path / "s")
    finished = loaded.resume(budget=7)
    finished.close()
    loaded = pt.load_study(tmp_path / "s")
    assert loaded.trials == finished.trials
    assert len(loaded.trials) == 7
    with pytest.raises(pt.UserError, match="budget"):
        loaded.resume(budget=0)
    again = loaded.resume()
    again.close()
    assert again.trials == finished.trials


def test_a_study_from_python_goes_on_there(study: pt.Study) -> None:
    with pytest.raises(pt.UserError, match=r"begun from Python: continue it there, with Study\(\.\.\., resume=True\)"):
        pt.load_study(study.directory or "").resume()


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pt.UserError, match="no study in"):
        pt.load_study(tmp_path)


def test_no_trial_no_winner(tmp_path: Path) -> None:
    pt.Study(pt.Space(x=pt.Float(0, 1)), hill, "random", directory=tmp_path / "s").close()
    loaded = pt.load_study(tmp_path / "s")
    assert loaded.verdict is None
    with pytest.raises(ValueError, match="no trial has ended yet"):
        _ = loaded.best


def test_studies_are_compared(tmp_path: Path) -> None:
    space = pt.Space(x=pt.Float(0, 1))
    folders = [tmp_path / name for name in ("random", "lhs")]
    for folder in folders:
        pt.Study(space, hill, folder.name, directory=folder).run(5).close()
    found = pt.compare([str(folders[0]), folders[1]], out=tmp_path / "out")
    assert {each["algorithm"] for each in found["algorithms"]} == {"random", "lhs"}
    assert any((tmp_path / "out").iterdir())
