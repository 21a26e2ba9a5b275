"""A study under fire, in short; and that the comparison would see what it is there to see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partune.bench import chaos
from partune.bench.options import Chaos
from partune.errors import UserError
from partune.record.place import JOURNAL
from partune.record.record import Record
from partune.space import Space
from partune.study import Study
from partune.trial import Observation


@pytest.mark.slow
@pytest.mark.thorough
def test_where_no_kill_hits_the_study_ends_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = chaos.Service.kill  # which also stops a service in the end
    monkeypatch.setattr(chaos.Service, "kill", lambda self: self._stopped.is_set() and kill(self))
    monkeypatch.setattr(chaos.Keeper, "kill", lambda self: False)
    options = Chaos(trials=4, workers=1, seconds=0.1, every=0.5, out=str(tmp_path / "chaos"))
    (tmp_path / "chaos").mkdir()
    found = chaos.under_fire(options, tmp_path / "chaos", lambda text: None)
    assert (found.trials, found.lost, found.doubled, found.differing) == (4, 0, 0, 0)
    assert not any(found.kills.values())


@pytest.mark.thorough  # the benchmark itself; test_resume.py and the tests of workers kill each kind of process once
def test_nothing_is_lost_doubled_or_changed_by_kills(tmp_path: Path) -> None:
    told: list[str] = []  # seed 16: of a scheduler, a worker, a driver, a worker, ...
    options = Chaos(trials=24, workers=2, seconds=0.5, every=3.0, seed=16, out=str(tmp_path / "chaos"))
    (tmp_path / "chaos").mkdir()
    found = chaos.under_fire(options, tmp_path / "chaos", told.append)
    assert (found.trials, found.lost, found.doubled, found.differing) == (24, 0, 0, 0)
    assert set(chaos.KINDS) == {kind for kind, count in found.kills.items() if count}
    assert sum(found.kills.values()) <= len(told)


def test_the_comparison_counts_what_is_lost_doubled_and_other(tmp_path: Path) -> None:
    options = Chaos(trials=6)
    study = Study(Space.parse(chaos.SPACE), chaos.unhurried, "sobol", 0, tmp_path / "s").run(4)
    study.close()
    found = chaos.damage(tmp_path / "s", options, {}, 1.0)
    assert (found.trials, found.lost, found.doubled, found.differing) == (4, 2, 0, 0)

    again = Study(Space.parse(chaos.SPACE), chaos.unhurried, "sobol", 0, tmp_path / "s", resume=True)
    object.__setattr__(again.objective, "function", lambda config: Observation({"score": 1.0}))
    again.run(6)
    again.close()
    assert chaos.damage(tmp_path / "s", options, {}, 1.0).differing == 2

    journal = tmp_path / "s" / JOURNAL
    lines = journal.read_text().splitlines()
    last = next(line for line in reversed(lines) if json.loads(line)["op_code"] == chaos.SET_STATE)
    journal.write_text("\n".join([*lines, last]) + "\n")
    assert chaos.results(tmp_path / "s").count(json.loads(last)["trial_id"]) == 2


def test_a_missing_trial_does_not_make_the_later_ones_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Chaos(trials=5)
    Study(Space.parse(chaos.SPACE), chaos.unhurried, "sobol", 0, tmp_path / "s").run(5).close()
    whole = Record.trials
    monkeypatch.setattr(Record, "trials", lambda self: [trial for trial in whole(self) if trial.number != 2])
    found = chaos.damage(tmp_path / "s", options, {}, 1.0)
    assert (found.trials, found.lost, found.doubled, found.differing) == (4, 1, 0, 0)


def test_the_folder_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="never overwritten"):
        chaos.bench(Chaos(out=str(tmp_path)), print)
