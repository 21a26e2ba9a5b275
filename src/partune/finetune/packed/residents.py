"""Train a pack: trials that share forward passes on one base model. Each has an adapter and an optimiser of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from partune import config
from partune.finetune.data import IGNORED, Examples
from partune.finetune.dropout import Place
from partune.finetune.packed import checkpoint as checkpoints
from partune.finetune.packed.adapters import Carrier, Pack, Weights, initial
from partune.finetune.packed.checkpoint import Checkpoint
from partune.finetune.packed.head import Head
from partune.finetune.packed.optimizer import PackedOptimizer
from partune.finetune.positions import Frequencies, frequencies
from partune.finetune.training import DivergedError, batches, count_steps, count_warmup, schedule
from partune.trial.rungs import Judge

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Job:
    """The work of one trial in a pack: train on the examples, score the items, save the adapter.

    Attributes:
        settings: The training settings.
        examples: The training examples.
        seed: The seed of initialisation and dropout.
        order_seed: The seed of the data's order.
        parts: Which items to score: any of "search", "verdict" and "test".
        adapter: The folder to save the adapter in, or None to keep no adapter.
        rungs: The numbers of steps after which the trial is scored on a few items for early stopping.
        judge: Decides at each rung whether to stop the trial early; None never stops it.
        points: The numbers of steps after which the trial is scored on a few items; the last is the end.
        best: Whether to keep the adapter of the best point instead of the last one.
    """

    settings: config.Training
    examples: Examples
    seed: int
    order_seed: int
    parts: frozenset[str] = frozenset({"search"})
    adapter: Path | None = None
    rungs: tuple[int, ...] = ()
    judge: Judge | None = None
    points: tuple[int, ...] = ()
    best: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Plain data that determines the training: settings, seeds and the digest of the examples."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "seeds": [self.seed, self.order_seed],
            "data": self.examples.digest,
        }

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The state that was saved when the trial was interrupted, or None if there is none."""
        return None if self.adapter is None else checkpoints.load(self.adapter, self.identity)


class Slot:
    """A resident trial (one in the pack): its position in the data and the schedule, its losses and its costs.

    Args:
        job: The trial's work, which resumes from its checkpoint if there is one.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.begin = begin = job.checkpoint  # the state to resume from, until the trial is in the pack
        settings = job.settings
        self.steps = count_steps(len(job.examples), settings)
        self.warmup = count_warmup(self.steps, settings)
        self.micro = min(settings.micro_batch_size or settings.batch_size, len(job.examples))
        self.step = 0 if begin is None else begin.step
        self.train_seconds = 0.0 if begin is None else begin.train_seconds
        self.score_seconds = 0.0 if begin is None else begin.score_seconds
        self.tokens = 0 if begin is None else begin.tokens
        self.losses: list[float] = [] if begin is None else begin.losses
        self.rungs: list[float] = [] if begin is None else begin.rungs
        self.points: list[float] = [] if begin is None else begin.points
        self.best: Weights = {} if begin is None else begin.best
        self.error: Exception | None = None
        self.stopped = False
        self.weights: Weights = {}  # set when the trial is trained, or scored at a rung
        self._batches = batches(len(job.examples), job.settings.batch_size, self.steps, job.order_seed)
        for _ in range(self.step + 1):  # skip the batches of the steps already taken
            self._next_batch()

    def _next_batch(self) -> None:
        self.batch: Indices = next(self._batches, np.empty(0, np.int64))
        self.trained = int(self.job.examples.trained_lengths[self.batch].sum())
        self.row = 0
        self._loss = 0.0

    @property
    def ended(self) -> bool:
        """Whether the trial takes no more steps: it is trained, has failed, or was stopped early."""
        return self.step >= self.steps or self.error is not None or self.stopped

    @property
    def whole(self) -> bool:
        """Whether the trial has taken all its steps without an error."""
        return self.step == self.steps and self.error is None

    @property
    def at_rung(self) -> bool:
        """Whether the trial is at a rung at which it has not been scored yet."""
        rungs = self.job.rungs
        return not self.ended and len(self.rungs) < len(rungs) and self.step >= rungs[len(self.rungs)]

    @property
    def at_point(self) -> bool:
        """Whether the trial is at a point of its training at which it has not been scored yet."""
        points = self.job.points
        going = self.error is None and not self.stopped
        return going and len(self.points) < len(points) and self.step >= points[len(self.points)]

    def score_point(self, score: float) -> None:
        """Store the score at a point; keep the trial's `weights` if they are the best so far and the best are wanted.

        Args:
            score: The score.
        """
        if self.job.best and (not self.points or score > max(self.points)):
            self.best = self.weights
        self.points.append(score)

    @property
    def rate(self) -> float:
        """The learning rate of the current step."""
        settings = self.job.settings
        return settings.learning_rate * schedule(self.step, self.steps, self.warmup, settings.schedule)

    def report(self) -> None:
        """Tell the judge, which may be a new object, about the rungs that the trial passed before an interruption."""
        if self.job.judge is not None:
            for rung, score in enumerate(self.rungs):
                self.job.judge.report(rung, score)

    def save(self, weights: Weights, moments: tuple[Weights, Weights] = ({}, {})) -> None:
        """Save the trial's state at the beginning of the current step, if the trial has a folder.

        Args:
            weights: The trial's adapter.
            moments: The first and second moments of the trial's optimiser; empty if no step is left.
        """
        if self.job.adapter is not None:
            costs = self.tokens, self.train_seconds, self.score_seconds
            state = Checkpoint(
                self.step, self.losses, self.rungs, *costs, weights, *moments, points=self.points, best=self.best
            )
            checkpoints.save(self.job.adapter, self.job.identity, state)

    def share(self, micro: int) -> Indices:
        """Return the indices of the examples in the next forward pass, at most `micro`."""
        return self.batch[self.row : self.row + micro]

    def lengths(self, micro: int) -> Indices:
        """Return, for each example in the next forward pass, its length padded as in the trial's own micro-batches."""
        padded = [
            np.full(len(part), self.job.examples.lengths[part].max())
            for start in range(0, len(self.batch), self.micro)
            for part in [self.batch[start : start + self.micro]]
        ]
        return np.concatenate([*padded, np.empty(0, np.int64)])[self.row : self.row + micro]

    def completes(self, micro: int) -> bool:
        """Return whether the next forward pass is the last one of the current step."""
        return self.row + micro >= len(self.batch)

    def rewind(self) -> None:
        """Go back to the beginning of the current step after its gradient is lost."""
        self.row, self._loss = 0, 0.0

    def advance(self, micro: int, loss: float, finite: bool) -> None:
        """Update the slot after a forward pass, and after the optimiser's step if that was due.

        Args:
            micro: The number of examples in the pass.
            loss: The pass's part of the step's loss.
            finite: Whether the loss and the gradient norm of the step are finite.
        """
        self._loss += loss
        if not self.completes(micro):
            self.row += micro
            return
        self.losses.append(self._loss)
        self.step += 1
        self.tokens += int(self.job.examples.lengths[self.batch].sum())
        if not finite:
            self.error = DivergedError(self.step)
            return
        self._next_batch()


class Residents:
    """The trials that train together. Row k of the pack belongs to slot k.

    Args:
        carrier: The base model with layers that apply the pack.
        head: The head of the base model.
    """

    def __init__(self, carrier: Carrier, head: Head) -> None:
        self.carrier, self.head = carrier, head
        self.slots: list[Slot] = []
        self.pack: Pack | None = None
        self.optimizer: PackedOptimizer | None = None
        self._frequencies = frequencies(carrier.base.model.config)
        self.sound = True  # False during the optimisers' step: an exception in it leaves weights half updated

    def __len__(self) -> int:
        return len(self.slots)

    def arrange(self, kept: Sequence[int], new: Sequence[Slot] = ()) -> None:
        """Keep some rows with their weights and optimiser states, and add new slots after them.

        If memory runs out, nothing changes.

        Args:
            kept: The rows that stay, in their new order.
            new: The slots that join.
        """
        # A new pack is built first and then replaces the old one, so that running out of memory leaves the old one.
        slots = [self.slots[row] for row in kept] + list(new)
        if not slots:
            self.slots, self.pack, self.optimizer, self.sound = [], None, None, True
            return
        settings = [slot.job.settings for slot in slots]
        pack = self.carrier.new(settings)
        optimizer = PackedOptimizer(pack, settings)
        if self.pack is not None and self.optimizer is not None and kept:
            pack.copy(pack.values, self.pack, self.pack.values, kept)
            optimizer.copy(self.optimizer, kept)
        for row, slot in enumerate(new, len(kept)):
            if (begin := slot.begin) is None:
                pack.put(row, initial(self.carrier.sites, slot.job.settings.lora_r, slot.job.seed))
            else:
                pack.put(row, begin.weights)
                optimizer.put(row, begin.step, begin.first, begin.second)
        for slot in new:
            slot.begin = None  # not earlier, because a smaller pack would need it if memory ran out above
        self.slots, self.pack, self.optimizer = slots, pack, optimizer

    def step(self) -> None:
        """Pass the next micro-batch of every trial forward and backward, and take the optimisers' steps that are due.

        Rows whose lengths need different rotary frequencies take separate passes.
        """
        assert self.pack is not None
        assert self.optimizer is not None
        micro = min(slot.micro for slot in self.slots)  # all trials must have the same number of rows in a pass
        losses = torch.zeros(len(self), device=self.carrier.base.device, dtype=self.pack.values.dtype)
        for batch in Batch.all(self.slots, micro, self.carrier.base.device, self._frequencies):
            place = Place(
                [slot.job.seed for slot in self.slots],
                [slot.step for slot in self.slots],
                [slot.row for slot in self.slots],
                (micro, batch.ids.shape[1]),
            )
            parts = self._losses(batch, place)
            self.pack.accumulate(parts)
            losses = losses + parts.detach()
        due = [slot.rate if slot.completes(micro) else None for slot in self.slots]
        self.sound = False
        # A trial steps when its batch is complete. Trials with larger batches continue to add up gradients.
        if any(rate is not None for rate in due):
            finite = self.optimizer.step(due, losses).tolist()
        else:
            finite = [True] * len(self)
        for slot, loss, sound in zip(self.slots, losses.tolist(), finite, strict=True):
            slot.advance(micro, loss, sound)
        self.sound = True

    def _losses(self, batch: Batch, place: Place) -> Tensor:
        """Return each trial's contribution to the loss of its current step, (K,).

        It is the sum of the cross-entropies in this pass, divided by the number of trained tokens in the whole step.
        """
        K = len(self)
        with self.carrier.carrying(self.pack, place):
            hidden = self.head.hidden(batch.ids)  # (K b, T, d)
            rows = torch.arange(K, device=hidden.device).unsqueeze(1)
            states = hidden.view(K, -1, hidden.shape[-1])[rows, batch.where]  # (K, n, d)
            with self.carrier.carrying(self.pack, place.of(batch.where)):
                entropies = self.head.losses(states, batch.targets)  # (K, n)
        # By `where` and not by a product: padding of a diverged trial may be NaN, and 0 times NaN is NaN.
        return torch.where(batch.real, entropies, 0.0).sum(1) / batch.trained

    def rewind(self) -> None:
        """Reset gradients and positions of all trials to the beginning of the step, after an interrupted pass."""
        if self.pack is not None and self.pack.gradients is not None:
            self.pack.gradients.zero_()
        for slot in self.slots:
            slot.rewind()

    def weights(self, row: int) -> Weights:
        """Return a copy of a trial's adapter."""
        assert self.pack is not None
        return self.pack.take(row)

    def moments(self, row: int) -> tuple[Weights, Weights]:
        """Return a copy of the first and second moments of a trial's optimiser."""
        assert self.pack is not None
        assert self.optimizer is not None
        return self.pack.take(row, self.optimizer.first), self.pack.take(row, self.optimizer.second)


@dataclass(frozen=True)
class Share:
    """A trial's share of a batch: some examples and their rows in the trial's micro-batch.

    Attributes:
        examples: All examples of the trial.
        indices: (n,), the indices of the examples in the batch.
        rows: (n,), the row of each example.
        longest: The number of tokens in the longest row. If rotary frequencies depend on length, this includes the
            padding of the trial's own micro-batch.
        trained: The number of trained tokens in the trial's whole step.
    """

    examples: Examples
    indices: Indices
    rows: Indices
    longest: int
    trained: int

    @classmethod
    def of(cls, slot: Slot, micro: int) -> Share:
        """Return the share of a slot's next micro-batch.

        Args:
            slot: The trial's slot.
            micro: The largest number of examples to take from the slot.
        """
        examples, indices = slot.job.examples, slot.share(micro)
        longest = int(examples.lengths[indices].max(initial=1))
        return cls(examples, indices, np.arange(len(indices)), longest, max(1, slot.trained))

    def only(self, chosen: npt.NDArray[np.bool_], lengths: Indices) -> Share:
        """Return the share with only some of its rows.

        Args:
            chosen: (n,), whether to keep each row.
            lengths: (n,), the padded length of each row.
        """
        longest = int(lengths[chosen].max(initial=1))
        return Share(self.examples, self.indices[chosen], self.rows[chosen], longest, self.trained)

    def alike(self, other: Share) -> bool:
        """Return whether both shares have the same examples in the same rows."""
        return (
            self.examples is other.examples
            and np.array_equal(self.indices, other.indices)
            and np.array_equal(self.rows, other.rows)
        )


@dataclass(frozen=True)
class Batch:
    """The micro-batches of all trials in one forward pass, padded on the right.

    Attributes:
        ids: (K b, T), the token ids.
        where: (K, n), the tokens just before trained tokens, as indices among the b T tokens of each trial.
        targets: (K, n), these trained tokens.
        real: (K, n), False for padding.
        trained: (K,), the number of trained tokens in each trial's whole step.
    """

    ids: Tensor
    where: Tensor
    targets: Tensor
    real: Tensor
    trained: Tensor

    @classmethod
    def all(
        cls, slots: Sequence[Slot], micro: int, device: torch.device, frequencies: Frequencies | None
    ) -> list[Batch]:
        """Join the next micro-batches of all trials into batches: one batch, unless rotary frequencies differ.

        A model chooses rotary frequencies by the longest row of a forward pass. So rows share a pass only if the
        lengths of their trials' own micro-batches have the same frequencies. In each pass, the rows that have other
        frequencies are blank.

        Args:
            slots: The trials.
            micro: The number of examples of each trial.
            device: The device of the tensors.
            frequencies: Returns a key for a length; rows with different keys cannot share a pass. None lets all rows
                share one pass.
        """
        if frequencies is None:
            return [cls.of([Share.of(slot, micro) for slot in slots], micro, device)]
        lengths = [slot.lengths(micro) for slot in slots]
        kinds = [[frequencies(int(length)) for length in slot_lengths] for slot_lengths in lengths]
        return [
            cls.of(
                [
                    Share.of(slot, micro).only(np.array([row == kind for row in slot_kinds], bool), slot_lengths)
                    for slot, slot_kinds, slot_lengths in zip(slots, kinds, lengths, strict=True)
                ],
                micro,
                device,
            )
            for kind in dict.fromkeys(kind for slot_kinds in kinds for kind in slot_kinds)
        ]

    @classmethod
    def of(cls, shares: Sequence[Share], micro: int, device: torch.device) -> Batch:
        """Return the batch of the trials' shares.

        Args:
            shares: The share of each trial.
            micro: The number of rows of each trial.
            device: The device of the tensors.
        """
        trained = torch.tensor([share.trained for share in shares], device=device)
        trials, longest = len(shares), max(1, *(share.longest for share in shares))
        if all(share.alike(shares[0]) for share in shares[1:]):
            shares = shares[:1]  # all trials read the same tokens, so they are prepared once
        ids = np.zeros((len(shares), micro, longest), np.int64)
        positions = []  # per share, the indices of the tokens before trained tokens, and the trained tokens
        for row, share in enumerate(shares):
            if len(share.indices):
                tokens, _, labels = share.examples.batch(share.indices)  # (n, T_k)
                ids[row, share.rows, : tokens.shape[1]] = tokens
                i, t = np.nonzero(labels[:, 1:] != IGNORED)
                positions.append((share.rows[i] * longest + t, labels[i, t + 1]))
            else:
                positions.append((np.empty(0, np.int64), np.empty(0, np.int64)))
        most = max(1, max(len(where) for where, _ in positions))
        where, targets, real = (np.zeros((len(shares), most), kind) for kind in (np.int64, np.int64, np.bool_))
        for row, (before, target) in enumerate(positions):
            where[row, : len(before)], targets[row, : len(before)], real[row, : len(before)] = before, target, True

        def spread(array: npt.NDArray[np.generic]) -> Tensor:
            """Return an array on the device; if all trials read the same tokens, repeat its one row for all trials."""
            tensor = torch.from_numpy(array).to(device)
            return tensor.expand(trials, *tensor.shape[1:]) if len(shares) < trials else tensor

        return cls(
            spread(ids).reshape(-1, longest),
            spread(where),
            spread(targets),
            spread(real),
            trained,
        )
