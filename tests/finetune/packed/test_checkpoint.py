"""SIGTERM: what can save itself does, and goes on elsewhere, or when the study is resumed; it ends as if unbroken."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import partune as pt
from partune.finetune.packed.checkpoint import FILE, Checkpoint, load, save
from partune.finetune.packed.packer import Packer
from partune.finetune.packed.residents import Residents, Slot
from partune.objectives.finetune import FineTune
from partune.runtime.preemption import noticed
from partune.space import Float, Int, Space
from partune.study import Watcher
from partune.trial import Observation, Trial
from partune.workers import local
from tests.support.calls import saving_once, wait_for
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

SPACE = Space(lora_r=Int(2, 8), lora_dropout=Float(0.0, 0.3), learning_rate=Float(1e-4, 1e-2, log=True))


STEPS = 8  # of a trial
FOLDER = "TESTS_HELD"  # the environment's name of the folder in which `hold` says that a pack is to wait


class Held(FineTune):
    """A fine-tuning whose pack of two waits at its third step, once, until its process has to go."""

    def evaluate(self, trial: Trial, adapter: Path | None = None, *parts: Any) -> Observation:
        if Packer._advance.__name__ != "held":  # in a worker too, which knows nothing of this test's patches
            Packer._advance = held(Packer._advance)  # type: ignore[method-assign]
        return super().evaluate(trial, adapter, *parts)


def held(advance: Callable[[Packer, Residents], list[Slot]]) -> Callable[[Packer, Residents], list[Slot]]:
    def held(packer: Packer, residents: Residents) -> list[Slot]:
        hold = Path(os.environ.get(FOLDER, "nowhere")) / "hold"
        if len(residents) == 2 and residents.slots[0].step == 3 and hold.exists():
            hold.rename(hold.with_name("held"))
            eventually(lambda: noticed() or packer._dropping)
        return advance(packer, residents)

    return held


@pytest.fixture(autouse=True)
def _unpatched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packer, "_advance", Packer._advance)  # back to what it was, afterwards
    monkeypatch.setenv(FOLDER, str(tmp_path))


@pytest.fixture(scope="module")
def tuner(folders: dict[str, Path], data_file: Path, task_file: Path) -> FineTune:
    validation = {"points": 5, "select": "best", "metric": "loss"}  # so that scores depend on all of a trial's course
    training = {"steps": STEPS, "batch_size": 2}
    return Held(folders["llama"], data_file, task_file, validation=validation, training=training, run={"pack": 2})


def saved(study: Path) -> list[Path]:
    return list((study / "adapters").glob(".*-checkpoint"))


@pytest.fixture(scope="module")
def whole(tuner: FineTune, tmp_path_factory: pytest.TempPathFactory) -> pt.Study:
    """Two trials, and each once more to confirm it, that nothing broke off."""
    folder = tmp_path_factory.mktemp("whole") / "s"
    return pt.Study(SPACE, tuner, "sobol", 5, folder, keep="all", seeds=0, confirm=2).run(2)


PAID = 10**6


def pay(checkpoint: Path) -> None:
    """Puts a mark on a checkpoint: tokens that nobody trained. Only a trial that goes on from there has them."""
    path = checkpoint / FILE
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    numbers = json.loads(metadata["numbers"])
    numbers["tokens"] += PAID
    save_file(load_file(path), str(path), {**metadata, "numbers": json.dumps(numbers)})


def check_same(study: pt.Study, whole: pt.Study) -> None:
    """As the unbroken one; two trials, or their confirmations, went on from where they were."""
    assert study.record.directory is not None
    kept = {each.name for each in (study.record.directory / "adapters").iterdir()}
    assert kept == {"defaults", *(f"{each.number:04d}" for each in study.trials)}
    assert study.anchors.keys() == whole.anchors.keys()
    pairs = [*zip(study.trials, whole.trials, strict=True)]
    pairs += [(study.anchors[name], again) for name, again in whole.anchors.items()]
    assert len(pairs) == 2 + 3 + 2 + 2  # trials; base, zero, defaults; confirmations; winner, its adapter from disk
    paid = 0.0
    for mine, theirs in pairs:
        # In a pack of another width, the last bits of a loss may differ.
        assert (mine.config, mine.score) == (theirs.config, pytest.approx(theirs.score, abs=1e-6))
        assert mine.observation is not None
        assert theirs.observation is not None
        paid += mine.observation.cost.get("tokens", 0.0) - theirs.observation.cost.get("tokens", 0.0)
    assert paid == 2 * PAID


def worker_processes() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if "worker" in each.cmdline()]


class Terminated(Watcher):
    """Sends SIGTERM to some process when the trials are in training; notes what was saved."""

    def __init__(self, study: Path, victim: Callable[[], int], when: str) -> None:
        self._study, self._victim, self._when = study, victim, when
        self.saved: list[Path] = []
        self.thread = threading.Thread(target=self._terminate, daemon=True)

    def started(self, trial: pt.Trial) -> None:
        if trial.number == 1 and self._when == "search":
            self.thread.start()

    def phase(self, name: str) -> None:
        if name == self._when == "confirm":
            self.thread.start()

    def _terminate(self) -> None:
        (self._study.parent / "hold").touch()
        eventually((self._study.parent / "held").exists)
        os.kill(self._victim(), signal.SIGTERM)
        self.saved += eventually(lambda: saved(self._study) if len(saved(self._study)) == 2 else [])
        for each in self.saved:
            pay(each)


def test_what_saved_itself_in_a_worker_is_called_again_in_another(tmp_path: Path) -> None:
    with local.local(1) as workers:
        (victim,) = worker_processes()
        called = workers.submit(saving_once, tmp_path / "state")
        wait_for(tmp_path / "state.begun")
        os.kill(victim.pid, signal.SIGTERM)
        assert called.result(timeout=PATIENCE) != victim.pid
    assert (tmp_path / "state").read_text() == "saved"


@pytest.mark.thorough  # the test above, with trainings that save what they save in the test below
@pytest.mark.parametrize("when", ["search", "confirm"])
def test_what_a_worker_was_running_goes_on_elsewhere(
    tuner: FineTune, whole: pt.Study, tmp_path: Path, when: str
) -> None:
    study = tmp_path / "s"
    with local.local(1) as workers:
        (victim,) = worker_processes()
        watcher = Terminated(study, lambda: victim.pid, when)
        found = pt.Study(
            SPACE, tuner, "sobol", 5, study, keep="all", seeds=0, confirm=2, workers=workers, watcher=watcher
        ).run(2)
        assert victim.pid not in {each.pid for each in worker_processes()}
    assert watcher.saved
    check_same(found, whole)


@pytest.mark.parametrize("when", ["search", "confirm"])
def test_a_driver_that_has_to_go_leaves_what_it_was_running_to_the_next(
    tuner: FineTune, whole: pt.Study, tmp_path: Path, when: str
) -> None:
    study = tmp_path / "s"
    watcher = Terminated(study, os.getpid, when)
    broken = pt.Study(SPACE, tuner, "sobol", 5, study, keep="all", seeds=0, confirm=2, watcher=watcher)
    with pytest.raises(KeyboardInterrupt):
        broken.run(2)
    broken.close()
    watcher.thread.join()
    assert len(saved(study)) == 2
    check_same(pt.Study(SPACE, tuner, "sobol", 5, study, keep="all", seeds=0, confirm=2, resume=True).run(2), whole)


def test_another_training_does_not_go_on_from_there(tmp_path: Path) -> None:
    save(tmp_path / "0001", {"seed": 1}, Checkpoint(3, [0.5], [], 40, 1.0, 0.0, {}, {}, {}))
    assert load(tmp_path / "0001", {"seed": 2}) is None
    found = load(tmp_path / "0001", {"seed": 1})
    assert found is not None
    assert found.step == 3
