"""The engine of packs: threads that share one, its size, rungs."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from partune.errors import UserError
from partune.finetune.packed import capacity
from partune.finetune.packed.residents import Residents
from partune.runtime.preemption import PreemptedError
from partune.space import Float, Int, Space
from partune.study import Study
from partune.trial import Status, Trial
from tests.support.tuning import near
from tests.support.waiting import PATIENCE


def test_an_interrupt_ends_trials_in_packs(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both, step = threading.Event(), Residents.step

    def spy(self: Residents) -> None:
        step(self)
        if len(self) == 2:
            both.set()

    monkeypatch.setattr(Residents, "step", spy)
    tuner = make(training={"steps": 10_000})
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(tuner.evaluate, Trial(number, {})) for number in range(2)]
        assert both.wait(PATIENCE)
        tuner.interrupt()
        for future in futures:
            with pytest.raises(PreemptedError):
                future.result(timeout=PATIENCE)


@pytest.mark.slow
def test_threads_share_a_pack_and_its_scores_are_those_of_peft(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trials, dropout included, have the same scores with either engine."""
    widths: list[int] = []
    step = Residents.step

    def spy(self: Residents) -> None:
        widths.append(len(self))
        step(self)

    monkeypatch.setattr(Residents, "step", spy)
    trials = [
        Trial(n, {"lora_r": 2 + 3 * n, "learning_rate": 0.01 * (n + 1), "lora_dropout": 0.2}, seed=n) for n in range(4)
    ]
    monkeypatch.setattr(
        "partune.finetune.packed.packer.GATHER", 5.0
    )  # a full pack begins at once; a busy machine may be late
    packed, alone = make(run={"pack": 4}), make(run={"engine": "peft"})
    assert (packed.count_slots(), alone.count_slots()) == (4, 1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(packed.evaluate, trials))
    assert widths == [4] * 3
    for trial, observation in zip(trials, found, strict=True):
        expected = alone.evaluate(trial)
        assert near(observation, expected)
        assert observation.scores == pytest.approx(expected.scores, abs=1e-5)


@pytest.mark.slow
def test_a_study_refills_its_slots_while_others_train(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of different lengths through a study: the pack stays full until nothing waits."""
    widths: list[int] = []
    step = Residents.step

    def spy(self: Residents) -> None:
        widths.append(len(self))
        step(self)
        time.sleep(0.03)  # so that the study is not the slower one

    space = Space(steps=Int(2, 40), learning_rate=Float(1e-4, 1e-2, log=True))
    tuner = make(run={"pack": 3}, training={"batch_size": 2})
    study = Study(space, tuner, "lhs", directory=tmp_path / "s")
    monkeypatch.setattr(Residents, "step", spy)
    study.run(12)
    study.close()
    assert len(study.trials) == 12
    searching = widths[3 + tuner.defaults.get("steps", 1) :]
    assert sum(width == 3 for width in searching) > 0.6 * sum(width > 1 for width in searching) > 20


def test_the_pack_is_measured_once_and_recalled(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(capacity, "choose", lambda *arguments: asked.append(arguments) or 8)
    tuner = make(run={"pack": "auto"})
    assert (tuner.count_slots(), tuner.count_slots(), tuner.summary["pack"]) == (8, 8, 8)
    assert len(asked) == 1
    again = make(run={"pack": "auto"})
    again.recall(tuner.summary)
    assert again.count_slots() == 8
    fixed = make(run={"pack": 3})
    fixed.recall(tuner.summary)
    assert fixed.count_slots() == 3
    assert len(asked) == 1


@pytest.mark.slow
def test_a_judged_trial_is_stopped_with_its_rung_and_score(make: Any) -> None:
    class Strict:
        def report(self, rung: int, score: float) -> None:
            reported.append((rung, score))

        def stops(self, rung: int) -> bool:
            return rung == 1

    reported: list[tuple[int, float]] = []
    found = make(training={"steps": 9}).evaluate_judged(Trial(0, {}), None, Strict())
    assert (found.status, found.fidelity) == (Status.STOPPED, 2 / 9)
    assert [rung for rung, _ in reported] == [0, 1]
    assert found.scores == {"score": reported[1][1], "rung/0": reported[0][1], "rung/1": reported[1][1]}
    assert not make(run={"engine": "peft"}).stoppable


def test_a_base_that_cannot_be_scored_is_the_users_to_mend(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = make()
    tuner.prepare()

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(tuner.engine.materials.scorer, "score_one", fail)
    with pytest.raises(UserError, match=r"cannot be scored \(dtype auto\): out of memory: no room"):
        tuner.score_base()


@pytest.mark.slow
def test_memory_stays_flat_over_many_trials(make: Any) -> None:
    tuner = make(training={"steps": 1, "batch_size": 2})

    def alive() -> tuple[int, int]:
        gc.collect()
        # Of these two types alone: other tests' compilation leaves tensors that have no size.
        found = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
        return len(found), sum(each.nbytes for each in found)

    def tensors() -> tuple[int, int]:
        """Once the engine's thread has ended, which holds the last pack a little longer than its trials."""
        last = alive()
        for _ in range(50):
            time.sleep(0.1)
            if last == (last := alive()):
                break
        return last

    def trial(number: int) -> None:
        config = {"lora_r": 2 + number % 7, "learning_rate": 1e30 if number % 10 == 0 else 1e-3}
        tuner.evaluate(Trial(number, config, seed=number))

    for number in range(5):
        trial(number)
    before, objects = tensors(), len(gc.get_objects())
    for number in range(40):
        trial(number)
    assert tensors() == before
    assert len(gc.get_objects()) < objects + 200
