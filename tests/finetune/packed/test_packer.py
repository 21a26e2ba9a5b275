"""The packer: threads, packs that form, refill, shrink and halve, failures of one trial and of all, rungs."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.finetune import adapter
from partune.finetune.data import Examples, tokenise
from partune.finetune.engines import Outcome
from partune.finetune.model import Base
from partune.finetune.packed import checkpoint
from partune.finetune.packed.adapters import Carrier
from partune.finetune.packed.answers import PackedAnswers
from partune.finetune.packed.head import Head
from partune.finetune.packed.likelihoods import PackedLikelihoods
from partune.finetune.packed.optimizer import PackedOptimizer
from partune.finetune.packed.packer import Packer
from partune.finetune.packed.residents import Job, Residents
from partune.finetune.scoring.base import NotFiniteError
from partune.finetune.scoring.harness import harness_model
from partune.finetune.scoring.scores import Scorer, Scores
from partune.finetune.training import DivergedError
from partune.runtime.preemption import PreemptedError
from partune.trial.rungs import Rungs, rung_steps
from tests.support.peft_oracle import losses_differ
from tests.support.thorough import share
from tests.support.tiny import make_rows, write_jsonl
from tests.support.waiting import PATIENCE, eventually

Make = Callable[..., Job]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Examples:
    path = write_jsonl(tmp_path_factory.mktemp("packer") / "rows.jsonl", make_rows(14))
    return tokenise(config.Data(path=str(path)), tokenizer).cut(160, "answer")


@pytest.fixture(scope="module")
def scorer(base: Base, task_file: Path) -> Scorer:
    return Scorer(base, config.Validation(tasks=(str(task_file),)), config.Test(), 0)


@pytest.fixture
def packer(base: Base, scorer: Scorer) -> Packer:
    return Packer(base, lambda: scorer, PackedAnswers(base, Head(base)), width=3)


@pytest.fixture
def job(examples: Examples) -> Make:
    def make(seed: int = 0, rungs: Rungs | None = None, folder: Path | None = None, **changes: Any) -> Job:
        default = {"learning_rate": 0.03, "lora_r": 4, "lora_dropout": 0.1, "batch_size": 4, "steps": 6}
        settings = config.Training(**default | changes)
        judged: Any = {}
        if rungs is not None:
            judged = {"rungs": rung_steps(settings.steps or 0), "judge": rungs.judge(seed)}
        return Job(settings, examples, seed, 3, adapter=folder, **judged)

    return make


def run(packer: Packer, jobs: Sequence[Job]) -> list[Outcome]:
    """Each job from a thread of its own, as a study hands them in; the packer is at rest afterwards."""
    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        found = list(pool.map(lambda job: packer.submit(job).result(timeout=PATIENCE), jobs))
    packer.drop()
    return found


def score(outcome: Outcome) -> float:
    assert isinstance(outcome.scores, Scores), outcome.scores
    assert outcome.scores.score is not None
    return outcome.scores.score


def check_same(found: Outcome, expected: Outcome) -> None:
    assert losses_differ(found.losses, expected.losses) < 1e-4
    assert isinstance(found.scores, Scores)
    assert isinstance(expected.scores, Scores)
    name = "search/choices/loglikelihood"
    np.testing.assert_allclose(found.scores.items[name], expected.scores.items[name], atol=2e-3)
    assert found.cost["tokens"] == expected.cost["tokens"]


@pytest.mark.slow
def test_trials_come_back_the_same_alone_and_together(packer: Packer, job: Make) -> None:
    """More trials than slots, of different lengths: packs form, refill and shrink."""
    jobs = [job(seed, steps=3 + 2 * (seed % 3), lora_r=2 + seed, batch_size=2 + seed % 2) for seed in range(7)]
    together = run(packer, jobs)
    for mine, outcome in zip(jobs, together, strict=True):
        packer.width = 1
        check_same(outcome, run(packer, [mine])[0])
        assert outcome.cost["train_seconds"] > 0
        assert outcome.cost["score_seconds"] > 0
        assert len(outcome.losses) == mine.settings.steps


@pytest.mark.slow
def test_a_full_pack_trains_and_is_scored_in_common_passes(
    packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, packs, step, answers = [], [], Residents.step, PackedLikelihoods.answers

    def spy(self: Residents) -> None:
        widths.append(len(self))
        step(self)

    def answer(self: Any, name: str, requests: Any, carrier: Any, pack: Any, *look: Any) -> Any:
        packs.append(len(pack))
        return answers(self, name, requests, carrier, pack, *look)

    monkeypatch.setattr(Residents, "step", spy)
    monkeypatch.setattr(PackedLikelihoods, "answers", answer)
    monkeypatch.setattr(
        "partune.finetune.packed.packer.GATHER", 5.0
    )  # a full pack begins at once; a busy machine may be late
    run(packer, [job(seed) for seed in range(3)])
    assert widths == [3] * 6
    assert packs == [3]


@pytest.mark.slow
def test_the_engine_rests_when_nothing_waits(packer: Packer, job: Make) -> None:
    packer.submit(job()).result(timeout=PATIENCE)
    assert eventually(lambda: not any(thread.name == "engine" for thread in threading.enumerate()))
    assert score(run(packer, [job()])[0]) == score(run(packer, [job()])[0])


@pytest.mark.slow
def test_kinds_of_targets_form_packs_of_their_own(packer: Packer, job: Make) -> None:
    jobs = [job(seed, targets=("attention", "down_proj")[seed % 2]) for seed in range(4)]
    for mine, outcome in zip(jobs, run(packer, jobs), strict=True):
        check_same(outcome, run(packer, [mine])[0])


@pytest.mark.slow
def test_a_diverged_trial_is_its_own_failure(packer: Packer, job: Make) -> None:
    jobs = [job(0), job(1, learning_rate=1e30, schedule="constant", warmup_steps=0), job(2), job(3)]
    found = run(packer, jobs)
    assert isinstance(found[1].scores, DivergedError)
    assert 1 < len(found[1].losses) < 6
    for number in (0, 2, 3):
        check_same(found[number], run(packer, [jobs[number]])[0])


def test_a_trial_that_breaks_in_its_last_step_fails_in_scoring(packer: Packer, job: Make) -> None:
    found = run(packer, [job(0), job(1, learning_rate=1e30, steps=1, warmup_steps=0)])
    assert isinstance(found[0].scores, Scores)
    assert isinstance(found[1].scores, NotFiniteError)


@pytest.mark.slow
def test_a_pack_that_does_not_fit_is_halved_and_nothing_is_lost(
    packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    packer.width = 4
    jobs = [job(seed, batch_size=4, micro_batch_size=2) for seed in range(6)]
    expected = [run(packer, [each])[0] for each in jobs]
    widths: list[int] = []
    step = Residents.step

    def small(self: Residents) -> None:
        widths.append(len(self))
        if len(self) > 2 and sum(slot.step for slot in self.slots) >= 3:
            self.pack.gradients += 1.0  # type: ignore[union-attr, operator]
            raise torch.OutOfMemoryError("no room")
        step(self)

    monkeypatch.setattr(Residents, "step", small)
    for mine, theirs in zip(run(packer, jobs), expected, strict=True):
        check_same(mine, theirs)
    assert widths[0] == 4
    assert set(widths[widths.index(2) :]) <= {1, 2}


@pytest.mark.slow
def test_a_pack_whose_adapters_do_not_fit_is_made_smaller(
    packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(seed, steps=3 + seed % 3) for seed in range(5)]
    expected = [run(packer, [each])[0] for each in jobs]
    new = Carrier.new

    def small(self: Carrier, settings: Any, train: bool = True) -> Any:
        if train and len(settings) > 1:
            raise torch.OutOfMemoryError("no room")
        return new(self, settings, train)

    monkeypatch.setattr(Carrier, "new", small)
    for mine, theirs in zip(run(packer, jobs), expected, strict=True):
        check_same(mine, theirs)


@pytest.mark.slow
def test_scoring_that_does_not_fit_is_done_in_halves(
    packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(seed) for seed in range(3)]
    expected = [run(packer, [each])[0] for each in jobs]
    add = PackedLikelihoods._add

    def small(self: Any, part: Any, carrier: Any, pack: Any, *rest: Any) -> None:
        if pack is not None and len(pack) > 1:
            raise torch.OutOfMemoryError("no room")
        add(self, part, carrier, pack, *rest)

    monkeypatch.setattr(PackedLikelihoods, "_add", small)
    for mine, theirs in zip(run(packer, jobs), expected, strict=True):
        check_same(mine, theirs)


@pytest.mark.slow
def test_optimisers_that_break_off_half_done_start_their_trials_again(
    packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(seed) for seed in range(3)]
    expected = [run(packer, [each])[0] for each in jobs]
    update, calls = PackedOptimizer._update, [0]

    def small(self: PackedOptimizer, *arguments: Any) -> None:
        calls[0] += 1
        update(self, *arguments)
        if len(self.pack) > 1 and calls[0] == 4:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(PackedOptimizer, "_update", small)
    for mine, theirs in zip(run(packer, jobs), expected, strict=True):
        check_same(mine, theirs)
    assert calls[0] > 4 + 6


@pytest.mark.slow
def test_a_pack_that_cannot_shrink_loses_nothing(packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job(seed, steps=3 + 2 * seed) for seed in range(3)]
    expected = [run(packer, [each])[0] for each in jobs]
    arrange, failed = Residents.arrange, [False]

    def once(self: Residents, kept: Sequence[int], new: Any = ()) -> None:
        if len(kept) == 2 and not failed[0]:
            failed[0] = True
            raise torch.OutOfMemoryError("no room")
        arrange(self, kept, new)

    monkeypatch.setattr(Residents, "arrange", once)
    for mine, theirs in zip(run(packer, jobs), expected, strict=True):
        check_same(mine, theirs)
    assert failed[0]


def test_one_trial_that_does_not_fit_fails_and_the_engine_goes_on(
    packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Residents, "step", lambda self: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
        found = run(packer, [job(0), job(1)])
    assert [str(outcome.scores) for outcome in found] == ["no room", "no room"]
    assert isinstance(run(packer, [job(0)])[0].scores, Scores)


def test_a_bug_is_the_result_of_all_residents(packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Residents, "step", lambda self: 1 / 0)
        found = run(packer, [job(0), job(1)])
    assert all(isinstance(outcome.scores, ZeroDivisionError) for outcome in found)
    assert isinstance(run(packer, [job(0)])[0].scores, Scores)


@pytest.mark.slow
def test_dropped_work_raises_at_once_and_leaves_the_base(packer: Packer, job: Make, base: Base) -> None:
    modules = dict(base.model.named_modules())
    futures = [packer.submit(job(seed, steps=100_000)) for seed in range(5)]
    eventually(lambda: packer._futures)  # some are resident
    packer.drop()
    for future in futures:
        with pytest.raises(PreemptedError):
            future.result(timeout=1)
    assert dict(base.model.named_modules()) == modules
    assert isinstance(run(packer, [job(0)])[0].scores, Scores)


def test_what_is_handed_in_while_work_is_dropped_is_dropped_too(
    packer: Packer, job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, late = Residents.step, []

    def slow(self: Residents) -> None:
        if packer._dropping and not late:
            late.append(packer.submit(job(1, steps=100_000)))
        step(self)

    monkeypatch.setattr(Residents, "step", slow)
    future = packer.submit(job(0, steps=100_000))
    eventually(lambda: packer._futures)
    packer.drop()
    for each in (future, *late):
        with pytest.raises(PreemptedError):
            each.result(timeout=1)


@pytest.mark.slow
def test_examples_of_several_lengths_share_a_pack(packer: Packer, job: Make, examples: Examples) -> None:
    jobs = [job(0), job(0), job(0)]
    jobs[1] = dataclasses.replace(jobs[1], examples=examples.cut(110, "answer"))
    jobs[2] = dataclasses.replace(jobs[2], examples=examples.cut(110, "all"))
    for mine, outcome in zip(jobs, run(packer, jobs), strict=True):
        check_same(outcome, run(packer, [mine])[0])


@pytest.mark.slow
def test_adapters_are_saved_and_score_the_same_in_the_harness(
    packer: Packer, job: Make, base: Base, scorer: Scorer, tmp_path: Path
) -> None:
    jobs = [job(seed, folder=tmp_path / str(seed), lora_r=3 + seed) for seed in range(3)]
    for number, outcome in enumerate(run(packer, jobs)):
        with adapter.loaded(base, tmp_path / str(number)):
            expected = scorer.score(harness_model(base, 8), {"search"})
        assert isinstance(outcome.scores, Scores)
        assert outcome.scores.named == pytest.approx(expected.named, abs=1e-4)


@pytest.mark.slow
def test_an_adapter_that_cannot_be_saved_fails_its_trial(packer: Packer, job: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = run(packer, [job(0, folder=tmp_path / "file" / "adapter"), job(1, folder=tmp_path / "adapter")])
    assert isinstance(found[0].scores, OSError)
    assert isinstance(found[1].scores, Scores)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


# ----- rungs


@pytest.mark.slow
def test_the_worst_are_stopped_at_rungs_and_their_slots_refilled(packer: Packer, job: Make) -> None:
    rungs = Rungs()
    jobs = [job(seed, rungs, steps=9, learning_rate=10.0 ** (-2 - seed % 4)) for seed in range(9)]
    found = run(packer, jobs)
    stopped = [outcome for outcome in found if outcome.stopped is not None]
    done = [outcome for outcome in found if outcome.stopped is None]
    assert stopped
    assert done
    for outcome in stopped:
        assert outcome.stopped in (1 / 9, 2 / 9)
        assert len(outcome.rungs) == (1 if outcome.stopped == 1 / 9 else 2)
        assert len(outcome.losses) == round(outcome.stopped * 9)
        assert outcome.scores == Scores({}, {})
    for outcome in done:
        assert len(outcome.rungs) == 2
    for mine, outcome in zip(jobs, found, strict=True):
        if outcome.stopped is None:  # rungs change nothing of a trial that passes them
            check_same(outcome, run(packer, [job(mine.seed, **mine.settings.model_dump(exclude={"seed"}))])[0])


def test_a_rung_scores_the_same_few_search_items_for_all(scorer: Scorer) -> None:
    (rung,) = scorer.rungs
    (search,) = [part for part in scorer.parts if part.name == "search"]
    assert set(rung.indices) <= set(search.indices)
    assert len(rung.indices) == len(search.indices)  # as there are fewer than 64
    assert "rung" not in " ".join(scorer.summary["items"])


@pytest.mark.slow
@hypothesis_settings(max_examples=share(0.16), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mix_of_trials_widths_and_arrivals(packer: Packer, job: Make, data: st.DataObject) -> None:
    packer.width = data.draw(st.integers(1, 4), label="width")
    count = data.draw(st.integers(1, 6), label="trials")
    kinds = [
        {
            "steps": data.draw(st.integers(1, 5)),
            "batch_size": data.draw(st.integers(1, 20)),
            "lora_r": data.draw(st.integers(1, 9)),
            "targets": data.draw(st.sampled_from(["attention", "down_proj"])),
        }
        for _ in range(count)
    ]
    jobs = [job(seed, **kind) for seed, kind in enumerate(kinds)]
    found = run(packer, jobs)
    packer.width = 1
    for mine, outcome in zip(jobs, found, strict=True):
        check_same(outcome, run(packer, [mine])[0])


# ----- broken off, and gone on


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs jobs until some forward pass of a kind, and breaks them off there."""

    def broken(packer: Packer, jobs: Sequence[Job], steps: int = 10**6, passes: int = 10**6) -> None:
        left = {"steps": steps, "passes": passes}

        def counted(kind: str, then: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                left[kind] -= 1
                packer._dropping = packer._dropping or left[kind] < 0
                return then(*arguments)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(Residents, "step", counted("steps", Residents.step))
            patch.setattr(PackedLikelihoods, "_add", counted("passes", PackedLikelihoods._add))
            futures = [packer.submit(each) for each in jobs]
            for future in futures:
                with pytest.raises(PreemptedError):
                    future.result(timeout=PATIENCE)
        packer.drop()

    return broken


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (5, {}),
        (1, {"micro_batch_size": 1}),
        (0, {"optimizer": "sgd", "learning_rate": 0.3}),
        *(
            pytest.param(steps, changes, marks=pytest.mark.thorough)
            for steps, changes in [
                *((steps, {}) for steps in (0, 1)),
                *((steps, {"micro_batch_size": 1}) for steps in (0, 5)),
                *((steps, {"optimizer": "sgd", "learning_rate": 0.3}) for steps in (1, 5)),
            ]
        ),
    ],
)
def test_a_trial_that_was_broken_off_ends_as_an_unbroken_one(
    packer: Packer, job: Make, tmp_path: Path, broken_off: Callable[..., None], changes: dict[str, Any], steps: int
) -> None:
    jobs = [job(seed, folder=tmp_path / f"{seed}", steps=6 + seed, lora_r=4 * seed, **changes) for seed in (1, 2)]
    broken_off(packer, jobs, steps=steps)
    assert {each.name for each in tmp_path.iterdir()} == {".1-checkpoint", ".2-checkpoint"}
    found = run(packer, jobs)
    for mine, outcome in zip(jobs, found, strict=True):
        check_same(outcome, run(packer, [dataclasses.replace(mine, adapter=None)])[0])
        assert len(outcome.losses) == mine.settings.steps
        assert mine.adapter is not None
        assert (mine.adapter / "adapter_model.safetensors").is_file()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_progress_is_kept_and_paid_for_once(
    packer: Packer, job: Make, tmp_path: Path, broken_off: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = job(0, folder=tmp_path / "a", steps=12)
    broken_off(packer, [mine], steps=5)
    broken_off(packer, [mine], steps=4)
    steps, taken = Residents.step, []
    monkeypatch.setattr(Residents, "step", lambda self: taken.append(steps(self)))
    (outcome,) = run(packer, [mine])
    assert len(taken) == 12 - 5 - 4 - 2  # the step that is under way when it is broken off counts
    whole = run(packer, [dataclasses.replace(mine, adapter=None)])[0]
    assert outcome.cost["tokens"] == whole.cost["tokens"]


@pytest.mark.slow
def test_one_that_is_broken_off_while_it_is_scored_has_only_to_be_scored(
    packer: Packer, job: Make, tmp_path: Path, broken_off: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(seed, folder=tmp_path / f"{seed}") for seed in range(2)]
    broken_off(packer, jobs, passes=0)
    monkeypatch.setattr(Residents, "step", lambda self: 1 / 0)
    found = run(packer, jobs)
    monkeypatch.undo()
    for mine, outcome in zip(jobs, found, strict=True):
        check_same(outcome, run(packer, [dataclasses.replace(mine, adapter=None)])[0])


@pytest.mark.slow
def test_rungs_that_were_passed_are_reported_again(
    packer: Packer, job: Make, tmp_path: Path, broken_off: Callable[..., None]
) -> None:
    steps = 16
    whole = run(packer, [job(0, Rungs(), steps=steps)])[0]
    broken_off(packer, [job(0, Rungs(), tmp_path / "a", steps=steps)], steps=steps - 1)
    rungs = Rungs()  # a resumed study's
    outcome = run(packer, [job(0, rungs, tmp_path / "a", steps=steps)])[0]
    assert outcome.rungs == whole.rungs
    assert [scores[0] for scores in rungs._scores] == list(whole.rungs)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["settings", "torn", "unreadable"])
def test_another_training_or_a_torn_file_is_not_gone_on_with(
    packer: Packer, job: Make, tmp_path: Path, broken_off: Callable[..., None], change: str
) -> None:
    mine = job(0, folder=tmp_path / "a", steps=8)
    broken_off(packer, [mine], steps=3)
    (file,) = (tmp_path / ".a-checkpoint").iterdir()
    if change == "torn":
        file.write_bytes(file.read_bytes()[:-7])
    elif change == "unreadable":
        file.write_bytes(b"\0" * 100)
    else:
        mine = job(0, folder=tmp_path / "a", steps=9)
    (outcome,) = run(packer, [mine])
    check_same(outcome, run(packer, [dataclasses.replace(mine, adapter=None)])[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (checkpoint, "save_file", OSError(28, "No space left on device")),
        (Residents, "moments", torch.OutOfMemoryError("no room for a copy")),
    ],
)
def test_what_cannot_be_saved_costs_the_progress_alone(
    packer: Packer,
    job: Make,
    tmp_path: Path,
    broken_off: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: Exception,
) -> None:
    def failing(*arguments: object) -> None:
        raise error

    mine = job(0, folder=tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        broken_off(packer, [mine], steps=3)
    assert not list(tmp_path.iterdir())
    assert isinstance(run(packer, [mine])[0].scores, Scores)
