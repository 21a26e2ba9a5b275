"""Studies for the report: with everything in it, and odd ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from partune import Choice, Float, Int, Space, Study
from partune.record.record import Record
from partune.trial import Config, Observation
from tests.study.test_slots import Slotted
from tests.support.outcomes import Tested
from tests.support.simulated import SimulatedTuning

HOSTILE = "</script><script>window.pwned = 1</script>"
TUNED = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))
PLANE = Space(x=Float(-5, 5), y=Float(-5, 5))
CONDITIONAL = Space(
    {
        f"kind{HOSTILE}": Choice(["adamw", f"sgd{HOSTILE}"]),
        "momentum": Float(0, 0.99, when={f"kind{HOSTILE}": f"sgd{HOSTILE}"}),
        "learning_rate": Float(1e-6, 1e-2, log=True),
        "layers": Int(1, 4),
    }
)


def hill(config: Config) -> Observation:
    score = 1 - (float(config["x"]) - 1) ** 2 / 9 - (float(config["y"]) + 2) ** 2 / 40
    return Observation({"score": score}, stderr=0.02)


def failing(config: Config) -> Observation:
    rate = float(config["learning_rate"])
    if rate > 1e-3:
        raise FloatingPointError(f"loss diverged at step {int(rate * 1e5)} {HOSTILE}")
    return Observation({"score": -((math.log10(rate) + 4) ** 2) - 0.1 * int(config["layers"])}, stderr=0.05)


def broken(config: Config) -> float:
    raise MemoryError("CUDA out of memory")


class Tiring(Tested):
    """Each run scores a little less than the one before: the further runs of a trial differ from its first."""

    def accuracy(self, rate: float) -> float:
        return super().accuracy(rate) - (0.005 * len(self.calls) if rate else 0)


def tuned(folder: Path) -> Study:
    """Base, defaults, winner, verdict, tests, confirmations, failures; a hostile name and data file."""
    config = f"objective: finetune\ndata: '{HOSTILE}.json'\n"
    directory = folder / "tuned<script>window.pwned = 1"
    objective = SimulatedTuning(gain=0.4, items=400)
    return Study(TUNED, objective, "bo", seed=1, directory=directory, confirm=3, config=config).run(14)


def conditional(folder: Path) -> Study:
    return Study(CONDITIONAL, failing, "bo", directory=folder / "conditional").run(16)


STUDIES: dict[str, Callable[[Path], Study]] = {
    "tuned": tuned,
    "tested": lambda folder: Study(TUNED, Tiring(gain=0.4), "random", directory=folder / "tested", confirm=2).run(8),
    "stopped": lambda folder: Study(
        PLANE, Slotted(width=1, jitter=0), "lhs", directory=folder / "stopped", stop="rungs"
    ).run(16),
    "conditional": conditional,
    "soo": lambda folder: Study(PLANE, hill, "soo", directory=folder / "soo").run(25),
    "bamsoo": lambda folder: Study(PLANE, hill, "bamsoo", directory=folder / "bamsoo").run(25),
    "fda": lambda folder: Study(PLANE, hill, "fda", directory=folder / "fda").run(25),
    "failed": lambda folder: Study(PLANE, broken, "random", directory=folder / "failed").run(3),
    "one": lambda folder: Study(Space(x=Float(0, 1)), lambda c: float(c["x"]), "lhs", directory=folder / "one").run(6),
    "choices": lambda folder: Study(
        Space(a=Choice(["p", "q", "r"]), b=Choice([True, False])),
        lambda config: float(len(str(config["a"] + str(config["b"])))),
        "random",
        directory=folder / "choices",
    ).run(6),
    "single": lambda folder: Study(PLANE, hill, "lhs", directory=folder / "single").run(1),
    "empty": lambda folder: Study(PLANE, hill, "lhs", directory=folder / "empty"),
}


def records(folder: Path) -> dict[str, Record]:
    """The record of each, as a reader sees it."""
    found = {}
    for name, make in STUDIES.items():
        study = make(folder)
        study.close()
        assert study.record.directory is not None
        found[name] = Record.open(study.record.directory, read_only=True)
    return found
