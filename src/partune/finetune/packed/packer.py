"""Packs as they form and change: threads hand trials in, and each comes back when it ends.

One thread of the packer's own works while there are trials, and ends when there are none. Trials of the same targets
train together, as many as the packer is wide; one that ends or diverges leaves its slot to the next that waits, or the
pack shrinks. A pack that does not fit in memory is halved: half of it goes on, the other half starts again later.
What is broken off is saved, and goes on from there when it is handed in again.
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

from partune.finetune.engines import Outcome
from partune.finetune.model import Base
from partune.finetune.packed import checkpoint
from partune.finetune.packed.adapters import Carrier, carrier
from partune.finetune.packed.head import Head
from partune.finetune.packed.likelihoods import PackedLikelihoods
from partune.finetune.packed.residents import Job, Residents, Slot
from partune.finetune.scoring.scores import Scorer, Scores
from partune.runtime.failures import is_out_of_memory, one_line
from partune.runtime.preemption import PreemptedError, noticed, saving_on_notice
from partune.runtime.threads import torch_threads
from partune.trial.names import ItemSet

GATHER = 0.02  # seconds without a new trial after which a pack that is not full begins
TOGETHER = 0.1  # a trained trial waits for those with less than this share of their steps to go, to be scored with them
RUNG = frozenset({ItemSet.RUNG})

log = logging.getLogger(__name__)


class Packer:
    """Trains and scores trials on one base, `width` at a time.

    The class is longer than most, as its methods share what one thread and one lock keep together: trials that wait,
    trials that are resident, and the futures of both.

    Args:
        base: The resident base.
        scorer: Gives the scorer; called when the first trial is scored.
        likelihoods: Answers the scorer's requests for the base and for packs on it.
        width: Trials that train at once.
        lend: Context held while the packer works, so that nobody else uses the base meanwhile.
        cpu_threads: Threads for torch; None takes torch's default.
    """

    def __init__(
        self,
        base: Base,
        scorer: Callable[[], Scorer],
        likelihoods: PackedLikelihoods,
        width: int = 8,
        lend: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        cpu_threads: int | None = None,
    ) -> None:
        self.base, self.scorer, self.likelihoods = base, scorer, likelihoods
        self.width = width
        self.lend, self.cpu_threads = lend, cpu_threads
        self.head: Head = likelihoods.head
        self._waiting: list[tuple[Job, Future[Outcome]]] = []
        self._futures: dict[Slot, Future[Outcome]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._dropping = False
        self._most: int | None = None  # trials that fitted in memory, once some did not

    # ----- for the threads that hand trials in

    def submit(self, job: Job) -> Future[Outcome]:
        """Hand a trial in; the future gives its outcome once it has ended."""
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
        """Drop all work, waiting or resident, and return once the packer is idle; every future raises PreemptedError.

        What is handed in meanwhile is dropped too.
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
            # The futures carry the error to those who wait. What means the whole process ends the thread as well.
            if not isinstance(error, (Exception, PreemptedError)):
                raise

    def _gather(self) -> bool:
        """Wait until the waiting trials make a full pack or no more are coming; tell whether there are any.

        The packer's thread ends where there are none. It is signed off under the same lock as a trial is handed in, so
        that none is handed to a thread that is about to end.
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
        """Work on the trials of one kind of targets until none of them is resident or waiting."""
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
            residents: The pack, empty at first.
            trained: Trials that are to be scored; a caller saves those that an exception leaves here.
            targets: Of the trials that may join.
        """
        size = min(self.width, self._most or self.width)
        while True:
            self._look()
            size = self._admit(residents, trained, targets, size)
            if not (len(residents) or trained):
                return
            if trained and not self._soon(residents, len(trained)):
                self._finish(residents.carrier, trained)
                trained.clear()
            else:
                size = self._train(residents, trained, size)

    def _train(self, residents: Residents, trained: list[Slot], size: int) -> int:
        """Advance the pack by a micro-step and return the size that it may have from now on.

        A pack that does not fit in memory is halved; any other failure is the result of all its trials, as no single
        one caused it.

        Args:
            residents: The pack.
            trained: Gets the trials that are trained now.
            size: Trials that the pack may have.
        """
        try:
            trained += self._advance(residents)
            return size
        except Exception as error:
            if not is_out_of_memory(error) or len(residents) < 2:
                self._fail(residents, error)
                return size
        # Out here the error is gone, and with its traceback the tensors of the step that did not fit.
        self._most = self._halve(residents)
        return self._most

    def _look(self) -> None:
        """Raise PreemptedError where the work is to be dropped, or this process has to go."""
        if self._dropping or noticed():
            raise PreemptedError("the engine was told to stop")

    def _save(self, residents: Residents, trained: Sequence[Slot]) -> None:
        """Save all trials that have not ended; where that fails for want of room, it costs their progress alone."""
        try:
            for row, slot in enumerate(residents.slots):
                if not slot.ended:
                    slot.save(residents.weights(row), residents.moments(row))
            for slot in trained:
                if slot in self._futures:
                    slot.save(slot.weights)
        except Exception as error:
            log.warning("Trials that were broken off could not be saved, and will start again: %s", one_line(error))

    def _admit(self, residents: Residents, trained: list[Slot], targets: str, size: int) -> int:
        """Fill the free slots with waiting trials of the same targets, those of similar rank first.

        One that was broken off when it was trained already has only to be scored.

        Args:
            residents: The pack.
            trained: Gets the trials that have only to be scored.
            targets: Of the trials that may join.
            size: Trials that the pack may have.

        Returns:
            The size from now on: a smaller one where they do not fit in memory.
        """
        with self._changed:
            free = size - len(residents)
            fitting = [pair for pair in self._waiting if pair[0].settings.targets == targets]
            if free <= 0 or not fitting:
                return size
            if len(fitting) > free:
                # A pack computes with its largest rank, the others padded with zeros: similar ranks waste the least.
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
        # Half, not one less: each attempt that fails costs as much as one that does not.
        self._most = (len(residents) + len(slots)) // 2
        return self._admit(residents, trained, targets, self._most)

    def _soon(self, residents: Residents, trained: int) -> bool:
        """Tell whether trained trials should wait for others that soon will be, to be scored in the same passes."""
        return trained < self.width and any(slot.steps - slot.step <= TOGETHER * slot.steps for slot in residents.slots)

    def _advance(self, residents: Residents) -> list[Slot]:
        """Take one micro-step of all trials and score the rungs that are due; return the trials that are trained.

        Those that failed or were stopped are given back.
        """
        with shared_time(residents.slots, "train_seconds"):
            residents.step()
        if rows := [row for row, slot in enumerate(residents.slots) if slot.at_rung]:
            self._judge(residents, rows)
        ended = [row for row, slot in enumerate(residents.slots) if slot.ended]
        if not ended:
            return []
        slots = [residents.slots[row] for row in ended]
        for row, slot in zip(ended, slots, strict=True):
            slot.weights = residents.weights(row) if slot.whole else {}
        residents.arrange([row for row, slot in enumerate(residents.slots) if not slot.ended])
        for slot in slots:
            if not slot.whole:
                self._give_back(slot, slot.error or Scores({}, {}))
        return [slot for slot in slots if slot.whole]

    def _judge(self, residents: Residents, rows: list[int]) -> None:
        """Score the trials that stand at a rung, together, and ask for each whether it goes on."""
        slots = [residents.slots[row] for row in rows]
        with shared_time(slots, "score_seconds"):
            for row, slot in zip(rows, slots, strict=True):
                slot.weights = residents.weights(row)
            scored = self._score(residents.carrier, slots, RUNG)
        for slot, scores in zip(slots, scored, strict=True):
            slot.weights = {}
            if isinstance(scores, Exception):
                slot.error = scores
            else:
                slot.rungs.append(scores.score if scores.score is not None else -np.inf)
        judges = [(slot, slot.job.judge) for slot in slots if slot.error is None and slot.job.judge is not None]
        # All are reported before any is judged: trials at one rung are compared with each other, in whatever order.
        for slot, judge in judges:
            judge.report(len(slot.rungs) - 1, slot.rungs[-1])
        for slot, judge in judges:
            slot.stopped = judge.stops(len(slot.rungs) - 1)

    def _finish(self, carrying: Carrier, trained: list[Slot]) -> None:
        """Score trials that ran to their end, save their adapters, and give them back."""
        for parts in dict.fromkeys(slot.job.parts for slot in trained):
            slots = [slot for slot in trained if slot.job.parts == parts]
            with shared_time(slots, "score_seconds"):
                scored = self._score(carrying, slots, parts)
            # Saved after scoring, so that a trial whose scores are no numbers leaves no adapter.
            for slot, scores in zip(slots, scored, strict=True):
                failed = scores if isinstance(scores, Exception) else self._saved(carrying, slot)
                self._give_back(slot, failed or scores)

    def _saved(self, carrying: Carrier, slot: Slot) -> Exception | None:
        """Save a trial's adapter where it is asked for; return what went wrong."""
        if slot.job.adapter is not None:
            try:
                carrying.save(slot.job.settings, slot.weights, slot.job.adapter)
            except Exception as error:
                return error
        return None

    def _give_back(self, slot: Slot, scores: Scores | Exception) -> None:
        cost = {
            "seconds": slot.train_seconds + slot.score_seconds,  # its share of the time that its packs took
            "train_seconds": slot.train_seconds,
            "score_seconds": slot.score_seconds,
            "tokens": float(slot.tokens),
            "examples": float(len(slot.job.examples)),
        }
        stopped = slot.step / slot.steps if slot.stopped else None
        outcome = Outcome(scores, cost, tuple(slot.rungs), stopped, np.array(slot.losses))
        if slot.job.adapter is not None:
            checkpoint.remove(slot.job.adapter)
        self._futures.pop(slot).set_result(outcome)  # last: whoever waits may hand in the next trial at once

    def _score(self, carrying: Carrier, slots: list[Slot], parts: frozenset[str]) -> Sequence[Scores | Exception]:
        """Score some trials; in halves where one item of all of them does not fit in memory."""
        try:
            pack = carrying.loaded([(slot.job.settings, slot.weights) for slot in slots])
            return self.scorer().score_all(
                lambda name, requests: self.likelihoods.answers(name, requests, carrying, pack, self._look), parts
            )
        except Exception as error:
            if not is_out_of_memory(error) or len(slots) == 1:
                return [error] * len(slots)
        half = len(slots) // 2
        return [*self._score(carrying, slots[:half], parts), *self._score(carrying, slots[half:], parts)]

    def _halve(self, residents: Residents) -> int:
        """Send the later half of a pack back to wait and start again; return the size that is left.

        With it go trials that ended in the step that broke off, and all of them where their optimisers were half done.
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
        """Give all trials of a pack back with an error that no single one of them caused."""
        for slot in residents.slots:
            self._give_back(slot, error)
        residents.arrange([])


@contextlib.contextmanager
def shared_time(slots: Sequence[Slot], name: str) -> Iterator[None]:
    """Add the seconds within to an attribute of some slots, in equal shares.

    Args:
        slots: Trials that the time is spent on.
        name: The attribute.
    """
    slots = list(slots)
    began = time.perf_counter()
    try:
        yield
    finally:
        share = (time.perf_counter() - began) / max(1, len(slots))
        for slot in slots:
            setattr(slot, name, getattr(slot, name) + share)
