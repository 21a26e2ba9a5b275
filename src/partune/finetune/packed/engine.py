"""Train and score trials in packs: trials that several threads submit run together on one base model in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from partune import config
from partune.errors import UserError
from partune.finetune.engines import ZERO_SETTINGS, Assignment, Engine, Outcome, Reloaded, Settings, score_untrained
from partune.finetune.failures import cause
from partune.finetune.materials import suitable_threads
from partune.finetune.peft import PeftEngine
from partune.trial import Value
from partune.trial.rungs import rung_steps

if TYPE_CHECKING:
    from partune.finetune.model import Base
    from partune.finetune.packed.packer import Packer
    from partune.finetune.scoring.base import PackAnswers


class PackedEngine(Engine):
    """Train and score together all trials that threads have submitted, at most as many as an assignment's `slots`.

    The untouched base model, and adapters from other sources, are not part of a pack. PEFT's engine scores them, with
    the answers of this engine instead of lm-evaluation-harness.

    Args:
        study: The study's settings.
    """

    stoppable = True
    identity: Mapping[str, str] = {}
    zero_settings: Mapping[str, Value] = ZERO_SETTINGS

    def __init__(self, study: config.StudyConfig) -> None:
        self._unpacked = PeftEngine(study, self._answering)
        self.materials = self._unpacked.materials
        self._packers: dict[str, Packer] = {}

    def _answering(self, base: Base) -> PackAnswers:
        """Make the packer of a base model, and return the function that answers requests with the packer's pack.

        The function answers for the base model with the adapter that is attached to it, if there is one.
        """
        from partune.finetune.packed.answers import PackedAnswers
        from partune.finetune.packed.head import Head
        from partune.finetune.packed.packer import Packer

        answering = PackedAnswers(base, Head(base))
        self._packers[base.dtype] = Packer(
            base,
            lambda: self.materials.scorer,
            answering,
            lend=lambda: self.materials.lock,  # scoring outside packs waits until the packer is idle
            cpu_threads=suitable_threads(base, self.materials.study.run.threads),
        )
        return answering.answers

    def refuse(self) -> None:
        """Accept every study."""

    def refuse_training(self, training: config.Training) -> None:
        """Accept all settings."""

    def check(self, targets: Sequence[str], settings: Sequence[Settings]) -> None:
        """Raise UserError for targets with layers that a pack cannot adapt."""
        from partune.finetune.packed.adapters import find_sites

        base = self.materials.base(self.materials.study.training.dtype)
        for names in targets:
            find_sites(base, names)

    def capacity(self, typical: Callable[[], Settings], recorded: int | None) -> int:
        """Return the size of a pack: as configured, as recorded, or measured on this base, data and device."""
        configured = self.materials.study.run.pack
        if isinstance(configured, int):
            return configured
        # A resumed study keeps its size, because the size decides which results are known when a trial is proposed.
        return recorded or self._measure(typical())

    def _measure(self, typical: Settings) -> int:
        from partune.finetune.packed.capacity import choose
        from partune.runtime.failures import is_out_of_memory
        from partune.runtime.isolation import own_generators

        self.materials.prepare()
        training, max_length, loss_on = typical
        with self.materials.lent(training.dtype) as base, own_generators(base.device):
            examples = self.materials.examples(base, max_length, loss_on)
            try:
                return choose(base, self._packers[base.dtype].head, training, examples)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                sizes = f"batch_size {training.batch_size}, max_length {max_length}, dtype {base.dtype}"
                raise UserError(f"one trial does not fit on {base.device} ({sizes}): {cause(error)}") from error

    def describe(self, slots: int) -> Mapping[str, int | str]:
        """Return the size of a pack, which a resumed study keeps."""
        return {"pack": slots}

    def evaluate(self, assignment: Assignment) -> Outcome:
        """Submit an assignment to the packer and wait for its outcome."""
        training, max_length, loss_on = assignment.settings
        self.materials.prepare()
        from partune.finetune.packed.residents import Job
        from partune.finetune.training import count_steps

        base = self.materials.base(training.dtype)
        examples, packer = self.materials.examples(base, max_length, loss_on), self._packers[base.dtype]
        packer.width = assignment.slots  # takes effect when the next pack forms
        job = Job(
            training,
            examples,
            seed=assignment.seed,
            order_seed=assignment.order_seed,
            parts=assignment.parts,
            adapter=assignment.adapter,
            rungs=() if assignment.judge is None else rung_steps(count_steps(len(examples), training)),
            judge=assignment.judge,
            points=assignment.point_steps(count_steps(len(examples), training)),
            best=assignment.select == "best",
        )
        return packer.submit(job).result()

    def score_zero(self, assignment: Assignment) -> Outcome:
        """Evaluate an assignment with learning rate 0 in the same way as a trial."""
        return self.evaluate(assignment)

    def score_base(self, dtype: str, parts: frozenset[str]) -> Outcome:
        """Score the untouched base model."""
        return self._unpacked.score_base(dtype, parts)

    def score_kept(self, training: config.Training, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter that this engine saved, in a pack, so that the computation is the same as for a trial."""
        from partune.finetune.packed.adapters import carrier

        self.materials.prepare()
        scorer = self.materials.scorer
        with self.materials.lent(training.dtype) as base, carrier(base, training.targets) as carrying:
            pack = carrying.loaded([(training, carrying.read(adapter))])
            answering = self._packers[base.dtype].answering
            return score_untrained(
                lambda: scorer.score_one(
                    lambda name, requests: answering.answers(name, requests, carrying, pack), parts
                ),
                self._unpacked.sizes,
                tokens=0.0,
            )

    def score_adapter(self, dtype: str, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Score an adapter from any source, loaded by PEFT."""
        return self._unpacked.score_adapter(dtype, adapter, parts)

    def reload(self, dtype: str, adapter: Path) -> Reloaded | None:
        """Load a saved adapter through PEFT and answer a few items with lm-evaluation-harness."""
        return self._unpacked.reload(dtype, adapter)

    def interrupt(self) -> None:
        """Drop all waiting and training trials; return once the base model is untouched again."""
        for packer in self._packers.values():
            packer.drop()

    def close(self) -> None:
        """Drop all trials and release the base models."""
        self.interrupt()
        self._packers.clear()
        self._unpacked.close()
