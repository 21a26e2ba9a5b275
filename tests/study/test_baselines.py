"""Studies with several baselines: each is scored and run again, and the verdict takes them in the given order."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from partune.cli.progress import Quiet
from partune.errors import UserError
from partune.export.export import export
from partune.record.record import Record
from partune.report import sentences, verdict_words
from partune.report.facts import Facts
from partune.report.html.page import page
from partune.report.markdown import markdown
from partune.report.terminal import show
from partune.space import Float, Space
from partune.study import Study
from partune.trial import Config, Observation, Status, Trial
from partune.trial.names import Baseline, FreshRun, FurtherBaseline
from tests.support.simulated import ALL, Died, Mortal, SimulatedTuning

SPACE = Space(learning_rate=Float(1e-4, 2e-3, log=True))


@dataclass
class Compared(SimulatedTuning):
    """A simulated fine-tuning that is compared with recipes, each of which is a learning rate."""

    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> Mapping[str, Any]:
        recipes = [
            {"name": name, "source": f"page {k} of the book", "training": {"learning_rate": rate}}
            for k, (name, rate) in enumerate(self.rates.items())
        ]
        return {"baseline": recipes or None}

    @property
    def defaults(self) -> Config:
        first = next(iter(self.rates.values()), 2e-4)
        return {"learning_rate": first, "lora_r": 16}

    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        if trial.config["learning_rate"] > 4e-3:
            return Observation.failure("loss diverged at step 3")
        return super().score_defaults(trial, adapter)

    @property
    def further(self) -> Mapping[str, Config]:
        return {name: {"learning_rate": rate} for name, rate in list(self.rates.items())[1:]}


def run(directory: Path, budget: int = 4, resume: bool = False, **rates: float) -> tuple[Study, Compared]:
    tuning = Compared(rates=rates)
    study = Study(SPACE, tuning, "lhs", 1, directory, seeds=2, resume=resume, watcher=Quiet()).run(budget)
    study.close()
    return study, tuning


def printed(facts: Facts) -> str:
    written = io.StringIO()
    show(facts.summary, Console(file=written, width=400))
    return written.getvalue()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    directory = tmp_path_factory.mktemp("runs") / "three"
    run(directory, weak=1e-6, weaker=1.1e-6, strong=1e-3)
    return Facts(Record.open(directory, read_only=True))


def test_each_is_scored_before_the_search_and_run_again_after_it(three: Facts) -> None:
    names = [name for name in three.baselines if not isinstance(name, FreshRun)]
    scored = [Baseline.BASE, Baseline.ZERO, Baseline.DEFAULTS, FurtherBaseline("weaker"), FurtherBaseline("strong")]
    assert names[:5] == scored
    winner = three.summary["best"]["trial"]
    whose = {name.whose for name in three.baselines if isinstance(name, FreshRun)}
    assert whose == {winner, Baseline.DEFAULTS, FurtherBaseline("weaker"), FurtherBaseline("strong")}
    assert three.summary["defaults"]["name"] == "weak"
    assert [row["name"] for row in three.summary["baselines"]] == ["weaker", "strong"]
    assert {name: len(runs) for name, runs in three.summary["fresh"]["baselines"].items()} == {"weaker": 2, "strong": 2}


def test_the_verdict_takes_them_in_their_order(three: Facts) -> None:
    verdict = three.summary["verdict"]
    assert verdict["better_than"] == ["base", "defaults", "weaker"]
    assert [(other["name"], other["tested"]) for other in verdict["others"]] == [("weaker", True), ("strong", True)]
    assert "BETTER than the untouched base model" in verdict["sentence"]
    assert "and than the baseline weak (gain" in verdict["sentence"]
    assert "; BETTER than the baseline weaker (gain" in verdict["sentence"]
    assert "; NOT SHOWN BETTER than the baseline strong (gain" in verdict["sentence"]


@pytest.mark.slow
def test_the_sequence_ends_at_the_first_that_is_not_beaten(tmp_path: Path) -> None:
    run(tmp_path / "s", strong=1e-3, weak=1e-6)
    facts = Facts(Record.open(tmp_path / "s", read_only=True))
    verdict = facts.summary["verdict"]
    assert verdict["better_than"] == ["base"]
    assert verdict["others"][0]["gain"] > 0.1  # clear, but a test after the end of the sequence would not be honest
    assert not verdict["others"][0]["tested"]
    assert verdict["sentence"].endswith("; not tested against the baseline weak.")
    assert sentences.comparisons(facts)[2][0::3] == ("weak", "not tested")
    assert "it was not tested against the baseline weak" in sentences.headline(facts)


def test_every_form_of_the_report_shows_each(three: Facts) -> None:
    for text in (printed(three), markdown(three), page(three)):
        for name in ("weak", "weaker", "strong"):
            assert name in text
        assert "page 2 of the book" in text
        assert "the field's defaults" not in text
    headers, rows = sentences.standing(three)
    assert [row[0] for row in rows] == ["base", "weak", "weaker", "strong", "winner"]
    assert len(headers) == len(rows[0])
    assert sentences.badge(three) == ("better than base, weak and weaker", "good")
    assert "3 of the baseline strong" in verdict_words.small_print(three.summary)


@pytest.mark.slow
def test_a_better_recipe_is_advised(tmp_path: Path) -> None:
    narrow = Space(learning_rate=Float(1e-6, 1.2e-6, log=True))
    tuning = Compared(rates={"weak": 1e-6, "strong": 1e-3})
    study = Study(narrow, tuning, "lhs", 1, tmp_path / "s", seeds=2, watcher=Quiet()).run(3)
    study.close()
    summary = Facts(study.record).summary
    assert "strong" in summary["verdict"]["worse_than"]
    assert "The baseline strong is shown better than the winner" in verdict_words.advice(summary)[-1]
    assert "`partune export --trial strong`" in verdict_words.advice(summary)[-1]


def test_the_adapter_of_each_is_exported_by_its_name(three: Facts, tmp_path: Path) -> None:
    assert three.directory is not None
    for name, rate in (("strong", "0.001"), ("weak", "1e-06"), ("defaults", "1e-06")):
        out = export(three.directory, tmp_path / name, name)
        assert (out / "rate").read_text() == rate
    with pytest.raises(UserError, match='has no baseline "stron"; did you mean "strong"'):
        export(three.directory, tmp_path / "other", "stron")


@pytest.mark.slow
def test_a_longer_study_looks_again_with_all_of_them(tmp_path: Path) -> None:
    run(tmp_path / "s", weak=1e-6, weaker=1.1e-6)
    study, tuning = run(tmp_path / "s", 6, True, weak=1e-6, weaker=1.1e-6)
    assert not any(call.endswith((":1e-06", ":1.1e-06")) for call in tuning.calls)  # all on record
    assert all(look.others == 2 for look in study.record.looks)
    with pytest.raises(UserError, match=r"holds another study: objective\.baseline is"):
        run(tmp_path / "s", 8, True, weak=1e-6)


@pytest.mark.slow
def test_a_baseline_that_fails_is_reported_and_left_out_of_the_verdict(tmp_path: Path) -> None:
    run(tmp_path / "s", weak=1e-6, wild=1e-2, weaker=1.1e-6)
    facts = Facts(Record.open(tmp_path / "s", read_only=True))
    assert facts.summary["baselines"][0]["status"] == Status.FAILED
    assert "loss diverged" in printed(facts)
    assert facts.summary["verdict"]["better_than"] == ["base", "defaults", "weaker"]


class Raising(Compared):
    """A wild baseline raises an exception, as a trial does, instead of returning a failure."""

    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        return self.evaluate(trial, adapter, ALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Compared, Raising])
def test_a_baseline_that_failed_by_itself_is_not_run_again(tmp_path: Path, kind: type[Compared]) -> None:
    rates = {"weak": 1e-6, "wild": 1e-2}
    for budget, resume in ((4, False), (6, True)):
        tuning = kind(rates=rates)
        study = Study(SPACE, tuning, "lhs", 1, tmp_path / "s", seeds=2, resume=resume, watcher=Quiet()).run(budget)
        study.close()
        assert study.anchors[FurtherBaseline("wild")].status is Status.FAILED
        assert FreshRun(FurtherBaseline("wild"), 1) not in study.anchors
        assert not resume or "0:0.01" not in tuning.calls
        facts = Facts(Record.open(tmp_path / "s", read_only=True))
        assert "loss diverged" in printed(facts)


@pytest.mark.slow
@pytest.mark.parametrize("name", [Baseline.DEFAULTS, FurtherBaseline("weaker")])
def test_a_baseline_whose_worker_died_runs_again(
    tmp_path: Path, name: Baseline | FurtherBaseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"weak": 1e-6, "weaker": 1.1e-6}
    rate = rates[name.name] if isinstance(name, FurtherBaseline) else 1e-6

    def die(self: Compared, trial: Trial, adapter: Path) -> Observation:
        if trial.config["learning_rate"] == rate:
            raise Died
        return self.evaluate(trial, adapter, ALL)

    with monkeypatch.context() as patched:
        patched.setattr(Compared, "score_defaults", die)
        tuning, pool = Compared(rates=rates), Mortal()
        study = Study(SPACE, tuning, "lhs", 1, tmp_path / "s", seeds=2, workers=pool, watcher=Quiet())
        with pytest.raises(UserError, match=r"its worker died 3 times.*partune resume"):
            study.run(4)
        study.close()
    assert name not in study.anchors
    later, _ = run(tmp_path / "s", 4, True, **rates)
    assert later.anchors[name].status is Status.DONE
    assert FreshRun(name, 2) in later.anchors


@pytest.mark.slow
def test_one_baseline_stands_in_the_record_as_it_always_did(tmp_path: Path) -> None:
    study, _ = run(tmp_path / "s")
    assert {str(name).split("/")[0] for name in study.anchors} <= {"base", "zero", "defaults", "winner", "fresh"}
    assert '"others"' not in (tmp_path / "s" / "journal.log").read_text()
    facts = Facts(Record.open(tmp_path / "s", read_only=True))
    assert "the baseline" not in facts.summary["verdict"]["sentence"]
    assert sentences.compared(facts) == "Base, defaults, winner"
    assert isinstance(study.anchors[Baseline.DEFAULTS], Trial)
    assert isinstance(study.anchors[Baseline.DEFAULTS].observation, Observation)
