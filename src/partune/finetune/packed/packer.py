"""Form packs, which are trials trained together on one base model, from the trials that threads submit.

The packer has one thread, which runs while there are trials. Trials with the same targets train together, up to the
packer's width. When a trial ends or diverges, the next waiting trial takes its slot, or the pack shrinks. A pack that
does not fit in memory is halved: one half continues, and the other half starts again later. Interrupted trials are
saved, and resume when they are submitted again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager

import numpy as np
import torch

from partune.finetune.engines import RUNG, Outcome
from partune.finetune.model import Base
from partune.finetune.packed import checkpoint
from partune.finetune.packed.adapters import Carrier, carrier
from partune.finetune.packed.answers import PackedAnswers
from partune.finetune.packed.head import Head
from partune.finetune.packed.residents import Job, Residents, Slot
from partune.finetune.scoring.scores import Scorer, Scores
from partune.runtime.failures import is_out_of_memory, one_line
from partune.runtime.preemption import PreemptedError, noticed, saving_on_notice
from partune.runtime.threads import torch_threads

GATHER = 0.02  # an incomplete pack begins after this many seconds without a new trial
# A trained trial waits for trials that have at most this share of their steps left, to be scored with them.
TOGETHER = 0.1

log = logging.getLogger(__name__)


class Packer:
    """Train and score trials on one base model, `width` at a time.

    The class is longer than most, because all of its methods use the state of one thread under one lock: the waiting
    trials, the resident trials (those in the pack), and the futures of both.

    Args:
        base: The base model.
        scorer: Returns the scorer. It is first called when a trial is scored.
        answering: Answers the scorer's requests for the base model and for packs on it.
        width: The number of trials that train at once.
        lend: Returns a context manager that is held while the packer works, so that nothing else uses the base model.
        cpu_threads: The number of CPU threads for torch; None takes torch's default.
    """

    def __init__(
        self,
        base: Base,
        scorer: Callable[[], Scorer],
        answering: PackedAnswers,
        width: int = 8,
        lend: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        cpu_threads: int | None = None,
    ) -> None:
        self.base, self.scorer, self.answering = base, scorer, answering
        self.width = width
        self.lend, self.cpu_threads = lend, cpu_threads
        self.head: Head = answering.head
        self._waiting: list[tuple[Job, Future[Outcome]]] = []
        self._futures: dict[Slot, Future[Outcome]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._dropping = False
        self._most: int | None = None  # the largest pack to try after one did not fit in memory

    # ----- for the threads that submit trials

    def submit(self, job: Job) -> Future[Outcome]:
        """Submit a trial and return the future of its outcome."""
        future: Future[Outcome] = Future()
        with self._changed:
            if self._dropping:
                future.set_exception(PreemptedError("the engine was told to stop"))
                return future
            self._waiting.append((job, future))
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
                self._thread.start()
        return future

    def drop(self) -> None:
        """Drop all waiting and resident trials, and return once the packer is idle.

        Their futures raise PreemptedError. Trials that are submitted meanwhile are dropped too.
        """
        with self._changed:
            thread = self._thread
            self._dropping = thread is not None
        if thread is not None:
            thread.join()
        with self._changed:
            self._dropping = False

    # ----- the packer's own thread

    def _work(self) -> None:
        try:
            with torch_threads(self.cpu_threads):
                while self._gather():
                    with self.lend(), saving_on_notice():
                        self._session()
        except BaseException as error:
            with self._changed:
                self._thread = None
                abandoned = [future for _, future in self._waiting] + list(self._futures.values())
                self._waiting.clear()
                self._futures.clear()
            for future in abandoned:
                future.set_exception(error)
            # Waiting threads get the error from their futures. An exception that should end the process (such as
            # KeyboardInterrupt) is raised in this thread too.
            if not isinstance(error, (Exception, PreemptedError)):
                raise

    def _gather(self) -> bool:
        """Wait until the waiting trials fill a pack or no more are coming; return whether there are any.

        If there are none, the packer's thread will end. `_thread` is reset under the lock that `submit` takes, so that
        no trial is left to a thread that is about to end.
        """
        with self._changed:
            while 0 < (count := len(self._waiting)) < self.width and not self._dropping:
                self._changed.wait(GATHER)
                if len(self._waiting) == count:
                    break
            if not self._waiting:
                self._thread = None
            return bool(self._waiting)

    def _session(self) -> None:
        """Work on the trials with one value of `targets` until none of them is resident or waiting."""
        targets = self._waiting[0][0].settings.targets
        with carrier(self.base, targets) as carrying:
            residents, trained = Residents(carrying, self.head), list[Slot]()
            try:
                self._carry_out(residents, trained, targets)
            except PreemptedError:
                self._save(residents, trained)
                raise

    def _carry_out(self, residents: Residents, trained: list[Slot], targets: str) -> None:
        """Admit, train and score trials until none is left.

        Args:
            residents: The pack, which is empty at first.
            trained: A list for the trials that wait for scoring. After an exception, the caller saves the trials in it.
            targets: The value of `targets` of the trials that may join.
        """
        size = min(self.width, self._most or self.width)
        while True:
            self._check_stop()
            size = self._admit(residents, trained, targets, size)
            if not (len(residents) or trained):
                return
            if trained and not self._more_soon(residents, len(trained)):
                self._finish(residents.carrier, trained)
                trained.clear()
            else:
                size = self._train(residents, trained, size)

    def _train(self, residents: Residents, trained: list[Slot], size: int) -> int:
        """Advance the pack by a micro-step, and return the largest size that it may have from now on.

        A pack that does not fit in memory is halved. Any other error becomes the outcome of all trials of the pack,
        because no single trial caused the error.

        Args:
            residents: The pack.
            trained: A list to which trials are added once they are trained.
            size: The largest number of trials that the pack may have.
        """
        try:
            trained += self._advance(residents)
            return size
        except Exception as error:
            if not is_out_of_memory(error) or len(residents) < 2:
                self._fail(residents, error)
                return size
        # This is outside the `except` block, because the error's traceback keeps the tensors of the step alive.
        self._most = self._halve(residents)
        return self._most

    def _check_stop(self) -> None:
        """Raise PreemptedError if the trials must be dropped or this process must end."""
        if self._dropping or noticed():
            raise PreemptedError("the engine was told to stop")

    def _save(self, residents: Residents, trained: Sequence[Slot]) -> None:
        """Save all trials that have not ended. If that fails (the disk is full), only their progress is lost."""
        try:
            for row, slot in enumerate(residents.slots):
                if not slot.ended:
                    slot.save(residents.weights(row), residents.moments(row))
            for slot in trained:
                if slot in self._futures:
                    slot.save(slot.weights)
        except Exception as error:
            log.warning("Interrupted trials could not be saved, so they will start again: %s", one_line(error))

    def _admit(self, residents: Residents, trained: list[Slot], targets: str, size: int) -> int:
        """Fill the free slots with waiting trials of the same targets, those of similar rank first.

        A trial that was interrupted after its training only has to be scored.

        Args:
            residents: The pack.
            trained: A list that gets the trials that only have to be scored.
            targets: The value of `targets` of the trials that may join.
            size: The largest number of trials that the pack may have.

        Returns:
            The largest size from now on, which is smaller if the trials did not fit in memory.
        """
        with self._changed:
            free = size - len(residents)
            fitting = [pair for pair in self._waiting if pair[0].settings.targets == targets]
            if free <= 0 or not fitting:
                return size
            if len(fitting) > free:
                # All adapters of a pack are padded to its largest rank, so similar ranks waste the least.
                lead = residents.slots[0].job if len(residents) else fitting[0][0]
                fitting.sort(key=lambda pair: abs(np.log2(pair[0].settings.lora_r / lead.settings.lora_r)))
            chosen = fitting[:free]
            self._waiting = [pair for pair in self._waiting if pair not in chosen]
        slots = [Slot(job) for job, _ in chosen]
        self._futures.update(zip(slots, (future for _, future in chosen), strict=True))
        for slot in slots:
            slot.report()
        for slot in [slot for slot in slots if slot.whole]:
            assert slot.begin is not None
            slot.weights, slot.begin = slot.begin.weights, None
            trained.append(slot)
        slots = [slot for slot in slots if not slot.whole]
        try:
            residents.arrange(range(len(residents)), slots)
            return size
        except Exception as error:
            if not is_out_of_memory(error) or len(residents) + len(slots) < 2:
                for slot in slots:
                    self._give_back(slot, error)
                return size
        with self._changed:
            self._waiting = [(slot.job, self._futures.pop(slot)) for slot in slots] + self._waiting
        # Half the size instead of one less, because each failed attempt costs as much time as a successful one.
        self._most = (len(residents) + len(slots)) // 2
        return self._admit(residents, trained, targets, self._most)

    def _more_soon(self, residents: Residents, trained: int) -> bool:
        """Return whether other trials will soon be trained, so that all can be scored in the same forward passes."""
        return trained < self.width and any(slot.steps - slot.step <= TOGETHER * slot.steps for slot in residents.slots)

    def _advance(self, residents: Residents) -> list[Slot]:
        """Take one micro-step of all trials, score those at a rung, and return the trials that are now fully trained.

        Trials that failed or were stopped early get their outcomes.
        """
        with shared_time(residents.slots, "train_seconds"):
            residents.step()
        if rows := [row for row, slot in enumerate(residents.slots) if slot.at_rung or slot.at_point]:
            self._score_midway(residents, rows)
        ended = [row for row, slot in enumerate(residents.slots) if slot.ended]
        if not ended:
            return []
        slots = [residents.slots[row] for row in ended]
        for row, slot in zip(ended, slots, strict=True):
            slot.weights = (slot.best or residents.weights(row)) if slot.whole else {}
        residents.arrange([row for row, slot in enumerate(residents.slots) if not slot.ended])
        for slot in slots:
            if not slot.whole:
                self._give_back(slot, slot.error or Scores({}, {}))
        return [slot for slot in slots if slot.whole]

    def _score_midway(self, residents: Residents, rows: list[int]) -> None:
        """Score the trials that are at a rung or at a point, all together.

        At a rung, ask the judge of each trial whether to stop it early.
        """
        slots = [residents.slots[row] for row in rows]
        with shared_time(slots, "score_seconds"):
            for row, slot in zip(rows, slots, strict=True):
                slot.weights = residents.weights(row)
            scored = self._score(residents.carrier, slots, RUNG)
        judges = []
        for slot, scores in zip(slots, scored, strict=True):
            if isinstance(scores, Exception):
                slot.error = scores
            else:
                score = scores.score if scores.score is not None else -np.inf
                at_rung = slot.at_rung
                if slot.at_point:
                    slot.score_point(score)
                if at_rung:
                    slot.rungs.append(score)
                    judges += [] if slot.job.judge is None else [(slot, slot.job.judge)]
            slot.weights = {}
        # All scores are reported before any trial is stopped, so that the order of the trials does not matter.
        for slot, judge in judges:
            judge.report(len(slot.rungs) - 1, slot.rungs[-1])
        for slot, judge in judges:
            slot.stopped = judge.stops(len(slot.rungs) - 1)

    def _finish(self, carrying: Carrier, trained: list[Slot]) -> None:
        """Score trials that trained to the end, save their adapters, and set their outcomes."""
        for parts in dict.fromkeys(slot.job.parts for slot in trained):
            slots = [slot for slot in trained if slot.job.parts == parts]
            with shared_time(slots, "score_seconds"):
                scored = self._score(carrying, slots, parts)
            # Adapters are saved after scoring, so that a trial without valid scores leaves no adapter.
            for slot, scores in zip(slots, scored, strict=True):
                failure = scores if isinstance(scores, Exception) else self._save_adapter(carrying, slot)
                self._give_back(slot, failure or scores)

    def _save_adapter(self, carrying: Carrier, slot: Slot) -> Exception | None:
        """Save a trial's adapter if the trial has a folder for it; return the exception if that fails."""
        if slot.job.adapter is not None:
            try:
                carrying.save(slot.job.settings, slot.weights, slot.job.adapter)
            except Exception as error:
                return error
        return None

    def _give_back(self, slot: Slot, scores: Scores | Exception) -> None:
        """Set a trial's outcome and remove its checkpoint."""
        cost = {
            "seconds": slot.train_seconds + slot.score_seconds,  # the trial's share of the time of its packs
            "train_seconds": slot.train_seconds,
            "score_seconds": slot.score_seconds,
            "tokens": float(slot.tokens),
            "examples": float(len(slot.job.examples)),
        }
        stopped = slot.step / slot.steps if slot.stopped else None
        points = tuple(zip(slot.job.points, slot.points, strict=False))
        selected = slot.job.points[int(np.argmax(slot.points))] if slot.best else None
        outcome = Outcome(scores, cost, tuple(slot.rungs), stopped, np.array(slot.losses), points, selected)
        if slot.job.adapter is not None:
            checkpoint.remove(slot.job.adapter)
        self._futures.pop(slot).set_result(outcome)  # last, because the waiting thread may submit a trial at once

    def _score(self, carrying: Carrier, slots: list[Slot], parts: frozenset[str]) -> Sequence[Scores | Exception]:
        """Score some trials together, or in halves if memory is too small for even one item of all trials at once."""
        try:
            pack = carrying.loaded([(slot.job.settings, slot.weights) for slot in slots])
            return self.scorer().score_all(
                lambda name, requests: self.answering.answers(name, requests, carrying, pack, self._check_stop), parts
            )
        except Exception as error:
            if not is_out_of_memory(error) or len(slots) == 1:
                return [error] * len(slots)
        half = len(slots) // 2
        return [*self._score(carrying, slots[:half], parts), *self._score(carrying, slots[half:], parts)]

    def _halve(self, residents: Residents) -> int:
        """Move the second half of a pack back to the waiting trials, to start again; return the remaining size.

        Trials that ended in the interrupted step start again too. So do all trials if the step was interrupted while
        optimisers were updated.
        """
        size = len(residents) // 2
        rows = [row for row in range(size) if residents.sound and not residents.slots[row].ended]
        with self._changed:
            for row, slot in enumerate(residents.slots):
                if row not in rows:
                    self._waiting.append((slot.job, self._futures.pop(slot)))
        residents.rewind()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        residents.arrange(rows)
        return size

    def _fail(self, residents: Residents, error: Exception) -> None:
        """Set an error as the outcome of all trials of a pack, because no single trial caused it."""
        for slot in residents.slots:
            self._give_back(slot, error)
        residents.arrange([])


@contextlib.contextmanager
def shared_time(slots: Sequence[Slot], name: str) -> Iterator[None]:
    """Add the seconds spent in the context to an attribute of some slots, in equal shares.

    Args:
        slots: The trials on which the time is spent.
        name: The name of the attribute.
    """
    slots = list(slots)
    began = time.perf_counter()
    try:
        yield
    finally:
        share = (time.perf_counter() - began) / max(1, len(slots))
        for slot in slots:
            setattr(slot, name, getattr(slot, name) + share)
