"""A fine-tuning without a model: answers drawn from a known accuracy, in the shape that `FineTune` gives them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from partune.errors import UserError
from partune.objectives.base import Anchored
from partune.space import Space
from partune.trial import Config, Observation, Trial
from partune.workers.base import Inline, WorkerLostError

SEARCH = frozenset({"search"})
JUDGED = frozenset({"search", "verdict"})
ALL = JUDGED | {"test"}


@dataclass
class SimulatedTuning(Anchored):
    """Accuracy rises with log learning rate up to 1e-3, then falls; base .5.

    gain: of the best rate over the base; faulty: learning rate 0 changes the answers; calls: what was run.
    """

    gain: float = 0.3
    items: int = 400
    faulty: bool = False
    calls: list[str] = field(default_factory=list)

    @property
    def defaults(self) -> Config:
        return {"learning_rate": 2e-4, "lora_r": 16}

    @property
    def zero(self) -> Config:
        return {**self.defaults, "learning_rate": 0.0}

    @property
    def summary(self) -> Mapping[str, Any]:
        return {"scoring": {"metric": "acc"}}

    def check(self, searched: Space) -> None:
        if "learning_rate" not in searched.names:
            raise UserError("the space has no learning_rate")

    def evaluate(self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH) -> Observation:
        rate = float(trial.config["learning_rate"])
        self.calls.append(f"{trial.number}:{rate:g}")
        if rate > 4e-3:
            raise FloatingPointError("loss diverged\nat step 3")
        if adapter is not None:
            adapter.mkdir(parents=True, exist_ok=True)
            (adapter / "rate").write_text(repr(rate))
        return self._score(self.accuracy(rate), parts)

    def score_base(self) -> Observation:
        self.calls.append("base")
        return self._score(0.5, ALL)

    def score_zero(self, trial: Trial) -> Observation:
        return self.evaluate(trial)

    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        return self.evaluate(trial, adapter, ALL)

    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        return self.evaluate(trial, adapter, JUDGED)

    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        if not adapter.is_dir():
            return self.evaluate(trial, adapter, ALL)
        self.calls.append(f"adapter:{adapter.name}")
        return self._score(self.accuracy(float((adapter / "rate").read_text())), ALL)

    def disagreement(self, base: Observation, zero: Observation) -> str | None:
        same = all((base.items[name] == zero.items[name]).all() for name in zero.items)
        return None if same else "the answers differ"

    def accuracy(self, rate: float) -> float:
        if rate == 0:
            return 0.45 if self.faulty else 0.5
        return 0.5 + self.gain * math.exp(-(math.log10(rate / 1e-3) ** 2))

    def _score(self, accuracy: float, parts: Collection[str]) -> Observation:
        scores, items = {}, {}
        for part in ("search", "verdict", "test"):
            if part in parts:
                draws = np.random.default_rng(len(part)).random(self.items)
                values = (draws < accuracy).astype(float)
                items[f"{part}/t/acc"] = values
                name = "score" if part == "search" else part if part == "verdict" else "test/t"
                scores[name] = float(values.mean())
                scores[f"{name}_stderr"] = float(values.std(ddof=1) / math.sqrt(self.items))
        return Observation(scores, scores["score_stderr"], items=items)


class Died(BaseException):
    """What ends a worker; it is no Exception, so nothing between the worker and its pool can catch it."""


class Mortal(Inline):
    """A worker that dies of the calls that raise `Died`."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        try:
            return super().submit(fn, *args, **kwargs)
        except Died:
            lost: Future[Any] = Future()
            lost.set_exception(WorkerLostError("its worker died 3 times"))
            return lost
