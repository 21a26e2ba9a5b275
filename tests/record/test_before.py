"""Records that earlier versions wrote: they open, are reported and go on.

The folders below `before/` were written by the code of commit ca9dfc7: `whole` and `interrupted` by studies of the
simulated fine-tuning below (6 trials of `random` with seed 3, confirm=3, seeds=2; `interrupted` ended before the
winner was judged), `function` by `partune tune --objective branin --algorithm soo --budget 6`.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from partune import Float, Int, Space, Study
from partune.cli import main
from partune.record.record import Record
from partune.report.summary import summarise
from partune.trial.names import Baseline, Confirmation, FreshRun, WinnerScoring
from tests.support.simulated import SimulatedTuning

BEFORE = Path(__file__).parent / "before"
SPACE = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))
VERDICT = (
    "BETTER than the untouched base model (gain +0.225 ± 0.067, p = 0.002), but NOT SHOWN BETTER than the defaults "
    "(gain +0.025 ± 0.025, p = 0.5)."
).replace(" ± ", "\u00a0±\u00a0")  # the numbers of a gain stay on one line


class Simulated(SimulatedTuning):
    name = "simulated"  # as its records call it, wherever this class is defined


@pytest.fixture
def before(tmp_path: Path) -> Path:
    shutil.copytree(BEFORE, tmp_path / "runs")
    return tmp_path / "runs"


def resumed(directory: Path, objective: SimulatedTuning) -> Study:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="changed since this study began")  # of libraries' versions
        return Study(SPACE, objective, "random", 3, directory, confirm=3, seeds=2, resume=True)


def test_its_runs_have_their_names(before: Path) -> None:
    fresh = {FreshRun(whose, run) for whose in (4, Baseline.DEFAULTS) for run in (1, 2)}
    confirmed = {Confirmation(trial, run) for trial, run in ((1, 1), (1, 2), (4, 1), (4, 2), (5, 1))}
    anchors = Record.open(before / "whole", read_only=True).anchors()
    assert set(anchors) == {*Baseline, WinnerScoring.JUDGED, *fresh, *confirmed}


def test_it_is_reported(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summarise(Record.open(before / "whole", read_only=True))["verdict"]["sentence"] == VERDICT
    assert main(["report", str(before / "whole")]) == 0
    assert "gain +0.225" in " ".join(capsys.readouterr().out.split())


def test_what_is_whole_runs_nothing_again(before: Path) -> None:
    objective = Simulated(items=40)
    study = resumed(before / "whole", objective).run(6)
    assert objective.calls == []
    assert study.best.number == 4
    assert study.verdict is not None
    assert study.verdict.sentence == VERDICT


def test_what_is_missing_runs(before: Path) -> None:
    objective = Simulated(items=40)
    study = resumed(before / "interrupted", objective).run(6)
    assert objective.calls == ["adapter:0004"]
    assert study.verdict is not None
    assert study.verdict.sentence == VERDICT
    assert not (before / "interrupted" / "adapters" / "fresh.defaults.2").exists()


@pytest.mark.slow
def test_a_longer_search_goes_on(before: Path) -> None:
    study = resumed(before / "whole", Simulated(items=40)).run(9)
    alone = Study(SPACE, Simulated(items=40), "random", 3, before / "alone", confirm=3, seeds=2).run(9)
    assert [trial.config for trial in study.trials] == [trial.config for trial in alone.trials]
    assert [trial.score for trial in study.trials] == [trial.score for trial in alone.trials]


@pytest.mark.slow
def test_a_study_of_a_file_goes_on(before: Path, tmp_path: Path) -> None:
    assert main(["resume", str(before / "function"), "--budget", "9", "--quiet"]) == 0
    assert main(
        ["tune", "--objective", "branin", "--algorithm", "soo", "--budget", "9", "--runs", str(tmp_path), "--quiet"]
    ) in (0, 1)
    alone = Record.open(tmp_path / "branin-1", read_only=True).trials()
    assert [trial.score for trial in Record.open(before / "function", read_only=True).trials()] == [
        trial.score for trial in alone
    ]
