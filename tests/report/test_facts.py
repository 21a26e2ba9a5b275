"""What a report says: where it comes from, and when it says it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from partune import Choice, Float, Int, Space, Study
from partune.report import sentences
from partune.report.facts import Facts
from partune.trial import Config, Observation, Trial
from tests.support.simulated import SimulatedTuning
from tests.support.studies import HOSTILE, PLANE, TUNED, hill


def test_a_study_is_over_when_its_winner_is_judged(facts: dict[str, Facts]) -> None:
    over = {name: each.over for name, each in facts.items()}
    assert over == {**dict.fromkeys(facts, True), "empty": True} | {"empty": over["empty"]}
    study = Study(PLANE, hill, "lhs")
    study.record.plan(3)
    assert not Facts(study.record).over


def test_a_fine_tuning_is_not_over_before_its_verdict(tmp_path: Path) -> None:
    study = Study(TUNED, SimulatedTuning(), "lhs", directory=tmp_path / "s")
    study.record.plan(1)
    study._baselines.score()
    trial = study._loop.next(budget=1)
    assert trial is not None
    study._loop.tell(trial, study.objective.evaluate(trial))
    before = Facts(study.record)
    assert not before.over
    assert sentences.badge(before) == ("no verdict yet", "open")
    assert sentences.headline(before).startswith("No verdict yet: trial 0 leads with 0.")
    study.run(1)
    assert Facts(study.record).over


def test_the_initial_design_is_told_from_the_search(facts: dict[str, Facts]) -> None:
    assert {name: facts[name].n_init for name in ("tuned", "conditional", "soo", "fda", "one")} == {
        "tuned": 10,
        "conditional": 10,
        "soo": 0,
        "fda": 0,
        "one": 0,
    }


def test_best_so_far_never_falls(facts: dict[str, Facts]) -> None:
    for each in facts.values():
        best = [score for _, score in each.best_so_far]
        assert best == sorted(best)
        assert not each.done or best[-1] == max(trial.score for trial in each.done)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "best", "hint"),
    [
        (Space(lora_r=Int(2, 64, log=True)), {"lora_r": 64}, "lora_r is at the top of its range, 64: widen it."),
        (Space(lora_r=Int(2, 64, log=True)), {"lora_r": 2}, "lora_r is at the bottom of its range, 2: widen it."),
        (Space(lora_r=Int(2, 64)), {"lora_r": 63}, None),
        (Space(rate=Float(1e-6, 1e-2, log=True)), {"rate": 9.9e-3}, "rate is at the top of its range, 0.01: widen it."),
        (Space(rate=Float(1e-6, 1e-2, log=True)), {"rate": 5e-3}, None),
        (Space(dropout=Float(0, 0.5)), {"dropout": 0.001}, "dropout is at the bottom of its range, 0: try without it."),
        (Space(k=Choice(["a", "b"])), {"k": "a"}, None),
    ],
)
def test_a_winner_at_a_bound_is_a_hint(space: Space, best: Config, hint: str | None) -> None:
    """Of three trials that are done, the other two next to the winner."""
    found = Facts(Study(space, lambda config: 0.0, "random").run(1).record)
    found.trials = [
        Trial(number, best, space.encode(best)).finished(Observation({"score": -float(number)}), told=number)
        for number in range(3)
    ]
    assert found.hints == ([] if hint is None else [hint])


def test_failures_are_counted_by_cause_whatever_their_numbers(facts: dict[str, Facts]) -> None:
    (failure,) = facts["conditional"].failures
    assert len(failure.trials) > 1
    assert failure.cause.startswith("FloatingPointError: loss diverged at step ")
    assert HOSTILE in failure.cause
    assert facts["failed"].failures[0].trials == [0, 1, 2]
    assert facts["soo"].failures == []
    assert sentences.failures(facts["failed"]) == "3 of 3 trials failed."
    assert sentences.headline(facts["failed"]) == "No result: all 3 trials failed."


def anchored(search: float, verdict: float, test: float) -> Mapping[str, object]:
    stderr = 0.02
    return {
        "config": {},
        "status": "done",
        "score": search,
        "stderr": stderr,
        "verdict": {"score": verdict, "stderr": stderr},
        "test": {"t": {"score": test, "stderr": stderr}},
        "error": None,
    }


@pytest.mark.parametrize(
    ("best", "flags"),
    [
        ((0.80, 0.80, 0.60), []),
        ((0.85, 0.80, 0.58), []),  # within two standard errors
        ((0.80, 0.62, 0.60), ["The winner gained 0.200"]),
        ((0.80, 0.80, 0.50), ["On t the winner scores 0.100"]),
        ((0.80, 0.62, 0.50), ["The winner gained", "On t the winner"]),
    ],
)
def test_overfitting_is_flagged_beyond_chance(
    facts: dict[str, Facts], best: tuple[float, float, float], flags: list[str]
) -> None:
    found = Facts.__new__(Facts)
    base = anchored(0.6, 0.6, 0.6)
    comparison = {"gain": best[1] - 0.6, "stderr": 0.02}
    found.summary = {"base": base, "best": anchored(*best), "verdict": {"over_base": comparison}, "trials": []}
    found.summary["loaded"] = {}
    assert len(found.overfitting) == len(flags)
    assert all(text.startswith(flag) for text, flag in zip(found.overfitting, flags, strict=True))


def test_a_higher_loss_on_a_test_task_is_flagged_as_one(facts: dict[str, Facts]) -> None:
    found = Facts.__new__(Facts)
    loaded = {"scoring": {"tests_shown_as": {"t": "loss per word"}}}
    found.summary = {"base": anchored(0.6, 0.6, -1.6), "best": anchored(0.8, 0.8, -1.8), "verdict": None}
    found.summary["loaded"] = loaded
    (flag,) = found.overfitting
    assert flag.replace("\u00a0", " ").startswith(
        "On t the winner's loss per word is 0.200 ± 0.028 above that of the untouched base model: tuning has cost"
    )


def test_the_verdict_is_a_sentence_rounded_to_its_error(facts: dict[str, Facts]) -> None:
    each = facts["tuned"]
    verdict = each.summary["verdict"]
    text = sentences.headline(each)
    assert text.startswith(
        f"Trial {each.summary['best']['trial']}, the winner, is better than the untouched base model by 0."
    )
    assert "on 400 held-out items, which no optimiser saw." in text
    assert f"{verdict['over_base']['gain']:.3f}\u00a0±\u00a0{verdict['over_base']['stderr']:.3f}" in text
    assert sentences.badge(each)[1] == "good"
    assert "is not shown" not in text


OPEN = ("better than base, shown worse than defaults", "open")


@pytest.mark.parametrize(
    ("better_than", "gain", "badge", "headline"),
    [
        ([], 0.1, ("not shown better", "bad"), "is not shown to be better than the untouched base model: gain +"),
        (["base"], 0.1, ("better than base", "good"), ", but not shown to be better than the field's defaults: gain +"),
        (["base"], -0.1, OPEN, ", and shown to be worse than the field's defaults: gain -"),
        (["base", "defaults"], 0.1, ("better than base and defaults", "good"), " and than the field's defaults by 0.1"),
    ],
)
def test_what_the_winner_beats_is_said_in_the_headline(
    facts: dict[str, Facts], better_than: list[str], gain: float, badge: tuple[str, str], headline: str
) -> None:
    """And where the defaults are shown better, a remark says so."""
    each, found = facts["tuned"], Facts.__new__(Facts)
    verdict = each.summary["verdict"]
    worse = gain < 0
    over = {**verdict["over_defaults"], "gain": gain, "relation": "worse" if worse else "open"}
    told = {"better_than": better_than, "worse_than": ["defaults"] if worse else [], "use_defaults": worse}
    given = {**verdict, **told, "over_defaults": over}
    found.__dict__.update({**each.__dict__, "summary": {**each.summary, "verdict": given}})
    assert sentences.badge(found) == badge
    assert headline in sentences.headline(found)
    assert any(text.startswith("The field's defaults are shown better") for text in sentences.remarks(found)) == worse


@pytest.mark.parametrize(
    ("device", "unit"), [("cuda", "GPU-hours"), ("cuda:1", "GPU-hours"), ("cpu", "CPU-hours"), (None, "CPU-hours")]
)
def test_an_hour_of_a_worker_is_one_of_its_device(facts: dict[str, Facts], device: str | None, unit: str) -> None:
    each, found = facts["tuned"], Facts.__new__(Facts)
    loaded = {} if device is None else {"device": device}
    found.__dict__.update({**each.__dict__, "summary": {**each.summary, "loaded": loaded}})
    assert found.unit == unit
    assert (f" on {device}: " in sentences.cost(found)) == (device is not None)


def test_scores_that_go_together_on_the_test_task(facts: dict[str, Facts]) -> None:
    each = Facts.__new__(Facts)
    rows = [{"status": "done", "score": k, "test": {"t": {"score": k**3}}} for k in range(6)]
    each.summary = {"trials": rows}
    assert each.agreement("t") == (1.0, 6)
    assert facts["tuned"].agreement("t") is None
    each.summary = {"trials": rows[:4]}
    assert each.agreement("t") is None


def test_the_parts_of_the_time_add_up() -> None:
    cost = {"seconds": 4.0, "train_seconds": 2.5, "score_seconds": 1.0}
    found = Facts(Study(PLANE, lambda config: Observation({"score": 1.0}, cost=cost), "lhs").run(3).record)
    took = {**found.summary["seconds"], "workers": 15.0, "search": 1.0}
    found.summary = {**found.summary, "seconds": took, "utilisation": 0.8}
    seconds = {part.name: part.seconds for part in found.parts}
    assert seconds == {
        "training": 7.5,
        "scoring": 3.0,
        "rest of the trials": pytest.approx(1.5),
        "search": 1.0,
        "waiting": pytest.approx(2.0),
    }
    assert sentences.cost(found) == (
        "15.0 s of worker time in total; a trial took 4.0 s on average; workers were busy for 80% of the search."
    )


def test_rows_have_names_for_sentences(facts: dict[str, Facts]) -> None:
    found = Facts.__new__(Facts)
    for first, expected in ((None, "the defaults"), ("peft", "the baseline peft")):
        found.summary = {"defaults": {"name": first}}
        assert sentences.called(found, "defaults") == expected
        assert sentences.called(found, "best") == "the winner"
        assert sentences.called(found, "mine") == "the baseline mine"
