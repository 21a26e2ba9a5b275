"""A report in a terminal: every trial, the baselines and the winner, the verdict, whatever the width."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from partune import Budget, Float, Int, Observation, Space, Study
from partune.cli.progress import Terminal
from partune.export.card import Exported, card
from partune.report import summary, words
from partune.report.dashboard import NOTE_PART, STUDY, View
from partune.report.facts import Facts
from partune.report.html.page import page
from partune.report.markdown import markdown
from partune.runtime import rounding
from partune.trial import Config
from partune.trial.rungs import SHARES
from tests.study.test_slots import Slotted
from tests.support.printed import printed
from tests.support.simulated import SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(
        SPACE, SimulatedTuning(gain=0.4, items=1000), "lhs", directory=tmp_path / "s", options={"size": 12}
    ).run(12)


def test_people_see_trials_scores_verdict_and_adapter(study: Study) -> None:
    shown = printed(summary.summarise(study.record))
    assert study.verdict is not None
    assert f"Verdict: {study.verdict.sentence.split(' (')[0]}" in shown
    assert "on 1000 held-out items, which no optimiser saw" in shown
    assert "FloatingPointError: loss diverged at step 3" in shown
    assert f"Winner's adapter: {study.record.adapter(study.best.number)}" in shown.replace("\n", "")
    (row,) = [line for line in shown.splitlines() if line.rstrip().endswith(" winner")]
    assert study.best.observation is not None
    assert rounding.measured(study.best.score, study.best.observation.stderr) in row
    for name in ("base", "defaults", "winner"):
        assert any(line.strip().startswith(name) for line in shown.splitlines())


def test_a_stopped_trial_says_where() -> None:
    found = summary.summarise(
        Study(Space(x=Float(-5, 5), y=Float(-5, 5)), Slotted(), "lhs", stop="rungs").run(16).record
    )
    rows = [row for row in found["trials"] if row["status"] == "stopped"]
    assert {row["fidelity"] for row in rows} <= set(SHARES)
    shown = printed(found)
    assert sum(shown.count(f"stopped at {share:.0%}") for share in SHARES) == len(rows) > 0
    assert f"{len(rows)} stopped) by lhs" in shown


def test_a_plain_function_has_no_base_and_no_verdict() -> None:
    def score(config: Config) -> float:
        return float(config["lora_r"])

    found = summary.summarise(Study(SPACE, score, "random").run(4).record)
    assert found["base"] is found["defaults"] is found["verdict"] is None
    shown = printed(found)
    assert "Winner: trial" in shown
    assert "Verdict" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120])
def test_numbers_are_never_cut(study: Study, width: int) -> None:
    shown = printed(summary.summarise(study.record), width)
    assert study.best.observation is not None
    assert rounding.measured(study.best.score, study.best.observation.stderr) in shown


def surfaces(facts: Facts) -> dict[str, str]:
    """Return all that is told of a study that has a winner, wherever people read it."""
    assert facts.directory is not None
    assert facts.winner is not None
    return {
        "terminal": printed(facts.summary, 200),
        "page": page(facts),
        "markdown": markdown(facts),
        "dashboard": View(facts.directory).get_study_system_attrs(STUDY)[f"{NOTE_PART}0"],
        "card": card(facts.summary, None, facts.winner, None, Exported()),
    }


@pytest.mark.slow
def test_a_number_reads_the_same_wherever_it_is_printed(study: Study) -> None:
    """The lines while it runs, the report in the terminal, the page, Markdown, the dashboard and the model card."""
    facts = Facts(study.record)
    scored = facts.summary["best"]
    score = rounding.measured(scored["score"], scored["stderr"])
    judged = rounding.measured(scored["verdict"]["score"], scored["verdict"]["stderr"])
    small = min(trial.config["learning_rate"] for trial in facts.trials)
    assert small < 1e-4  # a power of ten, in which the surfaces used to differ
    running = Console(file=io.StringIO(), width=200, highlight=False)
    progress = Terminal(running)
    progress.began(study, Budget(12))
    for trial in facts.trials:
        progress.finished(trial)
    told = {"progress": running.file.getvalue(), **surfaces(facts)}  # type: ignore[attr-defined]
    for name, text in told.items():
        assert score in text, name
        assert judged in text or name == "progress", name
    for name in ("progress", "terminal", "page"):
        assert words.value(small) in told[name], name
        assert f"{small:.3g}" not in told[name], name


class TextTuning(SimulatedTuning):
    """A simulated fine-tuning whose test task is scored by the perplexity of texts: .2 nats per word, or fewer."""

    @property
    def summary(self) -> Mapping[str, Any]:
        return {"scoring": {"metric": "acc", "tests_shown_as": {"t": "loss per word"}}}

    def _score(self, accuracy: float, parts: Collection[str]) -> Observation:
        found = super()._score(accuracy, parts)
        lost = {"test/t": found.scores["test/t"] - 1.2} if "test/t" in found.scores else {}
        return replace(found, scores={**found.scores, **lost})


@pytest.mark.slow
def test_a_test_task_of_texts_is_shown_as_a_loss_everywhere(tmp_path: Path) -> None:
    tuned = Study(SPACE, TextTuning(), "lhs", directory=tmp_path / "s", options={"size": 4}).run(4)
    facts = Facts(tuned.record)
    test = facts.summary["best"]["test"]["t"]
    assert test["score"] < 0
    loss = rounding.measured(-test["score"], test["stderr"])
    perplexity = f"winner {math.exp(-test['score']):.3g}"
    for name, text in surfaces(facts).items():
        assert "loss per word" in text, name
        assert loss in text, name
        assert f"-{loss}" not in text, name
        assert perplexity in text.replace("this one", "winner"), name
    assert facts.summary["loaded"]["scoring"]["tests_shown_as"] == {"t": "loss per word"}
