"""A pack in training: its trials' slots, their adapters and optimisers, and the forward passes that they share."""

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
    """A trial's work in a pack: train on the examples, score the parts, save the adapter.

    Attributes:
        settings: How it trains.
        examples: What it trains on.
        seed: Seed of initialisation and dropout.
        order_seed: Seed of the data's order.
        parts: Parts of the items to score.
        adapter: Folder to save the adapter in; None keeps none.
        rungs: Steps after each of which the trial is scored on a few items, and the judge asked.
        judge: Says at a rung whether the trial goes on.
    """

    settings: config.Training
    examples: Examples
    seed: int
    order_seed: int
    parts: frozenset[str] = frozenset({"search"})
    adapter: Path | None = None
    rungs: tuple[int, ...] = ()
    judge: Judge | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides how it trains, as plain data."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "seeds": [self.seed, self.order_seed],
            "data": self.examples.digest,
        }

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What was saved when it was broken off; None where nothing was."""
        return None if self.adapter is None else checkpoints.load(self.adapter, self.identity)


class Slot:
    """A resident trial: where it stands in its data and its schedule, and what it has cost.

    Args:
        job: The trial's work; it goes on where it was broken off, if it was.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.begin = begin = job.checkpoint  # where it starts, until it has; None at the beginning
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
        self.error: Exception | None = None
        self.stopped = False
        self.weights: Weights = {}  # once trained, or at a rung
        self._batches = batches(len(job.examples), job.settings.batch_size, self.steps, job.order_seed)
        for _ in range(self.step + 1):  # a batch follows from those before it, so all are passed by
            self._next_batch()

    def _next_batch(self) -> None:
        self.batch: Indices = next(self._batches, np.empty(0, np.int64))
        self.trained = int(self.job.examples.trained_lengths[self.batch].sum())
        self.row = 0
        self._loss = 0.0

    @property
    def ended(self) -> bool:
        """Whether no step is left for it."""
        return self.step >= self.steps or self.error is not None or self.stopped

    @property
    def whole(self) -> bool:
        """Whether it was trained to its end."""
        return self.step == self.steps and self.error is None

    @property
    def at_rung(self) -> bool:
        """Whether it stands at a rung at which it was not scored yet."""
        rungs = self.job.rungs
        return not self.ended and len(self.rungs) < len(rungs) and self.step >= rungs[len(self.rungs)]

    @property
    def rate(self) -> float:
        """The learning rate of the current step."""
        settings = self.job.settings
        return settings.learning_rate * schedule(self.step, self.steps, self.warmup, settings.schedule)

    def report(self) -> None:
        """Tell the judge of the rungs that were passed before the trial was broken off; it may be a new judge."""
        if self.job.judge is not None:
            for rung, score in enumerate(self.rungs):
                self.job.judge.report(rung, score)

    def save(self, weights: Weights, moments: tuple[Weights, Weights] = ({}, {})) -> None:
        """Save the trial as it is at the beginning of the current step, where it has a place on disk.

        Args:
            weights: Its adapter.
            moments: Its optimiser's first and second moments; empty where no step is left.
        """
        if self.job.adapter is not None:
            costs = self.tokens, self.train_seconds, self.score_seconds
            state = Checkpoint(self.step, self.losses, self.rungs, *costs, weights, *moments)
            checkpoints.save(self.job.adapter, self.job.identity, state)

    def share(self, micro: int) -> Indices:
        """Return the examples of the next forward pass, at most `micro`."""
        return self.batch[self.row : self.row + micro]

    def lengths(self, micro: int) -> Indices:
        """Return the length to which each of these examples is padded in the trial's own micro-batches."""
        padded = [
            np.full(len(part), self.job.examples.lengths[part].max())
            for start in range(0, len(self.batch), self.micro)
            for part in [self.batch[start : start + self.micro]]
        ]
        return np.concatenate([*padded, np.empty(0, np.int64)])[self.row : self.row + micro]

    def completes(self, micro: int) -> bool:
        """Whether the next forward pass is the last of a step."""
        return self.row + micro >= len(self.batch)

    def rewind(self) -> None:
        """Go back to the beginning of the current step, whose gradient was lost."""
        self.row, self._loss = 0, 0.0

    def advance(self, micro: int, loss: float, finite: bool) -> None:
        """Move on after a forward pass, and after the optimiser's step where that was due.

        Args:
            micro: Examples of the pass.
            loss: The pass's part of the step's loss.
            finite: Whether the step's loss and gradient norm are.
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
    """The trials that train together; row k of the pack is slot k's.

    Args:
        carrier: The base with layers that carry the pack.
        head: Its logits.
    """

    def __init__(self, carrier: Carrier, head: Head) -> None:
        self.carrier, self.head = carrier, head
        self.slots: list[Slot] = []
        self.pack: Pack | None = None
        self.optimizer: PackedOptimizer | None = None
        self._frequencies = frequencies(carrier.base.model.config)
        self.sound = True  # False while optimisers step: a step that breaks off leaves their numbers half done

    def __len__(self) -> int:
        return len(self.slots)

    def arrange(self, kept: Sequence[int], new: Sequence[Slot] = ()) -> None:
        """Keep some rows, in this order, and put new slots after them; the numbers of those kept do not change.

        Where it fails, for want of memory, everything stays as it was.

        Args:
            kept: Rows that stay.
            new: Slots that join.
        """
        # A new pack is built beside the one that is there, and only then takes its place: whatever runs out of memory
        # half-way leaves the old one whole.
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
            slot.begin = None  # not before all are in: a pack that does not fit is tried again with fewer
        self.slots, self.pack, self.optimizer = slots, pack, optimizer

    def step(self) -> None:
        """Pass the next micro-batch of every trial forward and backward, and take the optimisers' steps that are due.

        Several passes where its rows' lengths have different rotary frequencies.
        """
        assert self.pack is not None
        assert self.optimizer is not None
        micro = min(slot.micro for slot in self.slots)  # all trials take as many rows, and the smallest has no more
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
        # A trial steps when its batch is complete; others, with larger batches, go on adding up gradients meanwhile.
        if any(rate is not None for rate in due):
            finite = self.optimizer.step(due, losses).tolist()
        else:
            finite = [True] * len(self)
        for slot, loss, sound in zip(self.slots, losses.tolist(), finite, strict=True):
            slot.advance(micro, loss, sound)
        self.sound = True

    def _losses(self, batch: Batch, place: Place) -> Tensor:
        """Return each trial's part of the loss of its step, (K,): the mean over the step's trained tokens."""
        K = len(self)
        with self.carrier.carrying(self.pack, place):
            hidden = self.head.hidden(batch.ids)  # (K b, T, d)
            rows = torch.arange(K, device=hidden.device).unsqueeze(1)
            states = hidden.view(K, -1, hidden.shape[-1])[rows, batch.where]  # (K, n, d)
            with self.carrier.carrying(self.pack, place.of(batch.where)):
                entropies = self.head.losses(states, batch.targets)  # (K, n)
        # By `where`, not by a product: padding of a diverged trial may be NaN, and 0 times NaN is NaN.
        return torch.where(batch.real, entropies, 0.0).sum(1) / batch.trained

    def rewind(self) -> None:
        """Forget the current step's gradients, after a pass that broke off."""
        if self.pack is not None and self.pack.gradients is not None:
            self.pack.gradients.zero_()
        for slot in self.slots:
            slot.rewind()

    def weights(self, row: int) -> Weights:
        """Return a copy of a trial's adapter."""
        assert self.pack is not None
        return self.pack.take(row)

    def moments(self, row: int) -> tuple[Weights, Weights]:
        """Return a copy of the state of a trial's optimiser."""
        assert self.pack is not None
        assert self.optimizer is not None
        return self.pack.take(row, self.optimizer.first), self.pack.take(row, self.optimizer.second)


@dataclass(frozen=True)
class Share:
    """A trial's part of a batch: some examples, each in a row of its micro-batch.

    Attributes:
        examples: All of the trial's examples.
        indices: (n,), those of the batch.
        rows: (n,), the row of each.
        longest: Tokens of the longest row, padding of the trial's own micro-batch included where it matters.
        trained: Trained tokens of the whole step.
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
            slot: The trial.
            micro: Examples of it at most.
        """
        examples, indices = slot.job.examples, slot.share(micro)
        longest = int(examples.lengths[indices].max(initial=1))
        return cls(examples, indices, np.arange(len(indices)), longest, max(1, slot.trained))

    def only(self, chosen: npt.NDArray[np.bool_], lengths: Indices) -> Share:
        """Return the share with some of its rows alone.

        Args:
            chosen: (n,), which rows.
            lengths: (n,), to which rows are padded.
        """
        longest = int(lengths[chosen].max(initial=1))
        return Share(self.examples, self.indices[chosen], self.rows[chosen], longest, self.trained)

    def alike(self, other: Share) -> bool:
        """Return whether both put the same tokens in the same rows."""
        return (
            self.examples is other.examples
            and np.array_equal(self.indices, other.indices)
            and np.array_equal(self.rows, other.rows)
        )


@dataclass(frozen=True)
class Batch:
    """The micro-batches of all trials in one forward pass, padded on the right.

    Attributes:
        ids: (K b, T).
        where: (K, n), the tokens of a trial's b T after which a trained token stands.
        targets: (K, n), that token.
        real: (K, n), False for padding.
        trained: (K,), trained tokens of the whole step.
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
        """Return the batches that the next micro-batches of all trials make up: one, unless frequencies differ.

        Frequencies are chosen by the longest row of a forward pass: rows share one where their trials' own
        micro-batches are as long, as far as frequencies go. The others' rows are blank in it.

        Args:
            slots: The trials.
            micro: Examples of each.
            device: Where the tensors go.
            frequencies: What tells apart lengths whose rows cannot share a pass; None where all can.
        """
        if frequencies is None:
            return [cls.of([Share.of(slot, micro) for slot in slots], micro, device)]
        lengths = [slot.lengths(micro) for slot in slots]
        kinds = [[frequencies(int(length)) for length in slot_lengths] for slot_lengths in lengths]
        return [
            cls.of(
                [
                    Share.of(slot, micro).only(
                        np.array([slot_kind == kind for slot_kind in slot_kinds], bool), slot_lengths
                    )
                    for slot, slot_kinds, slot_lengths in zip(slots, kinds, lengths, strict=True)
                ],
                micro,
                device,
            )
            for kind in dict.fromkeys(kind for slot_kinds in kinds for kind in slot_kinds)
        ]

    @classmethod
    def of(cls, shares: Sequence[Share], micro: int, device: torch.device) -> Batch:
        """Return the batch of some shares.

        Args:
            shares: Each trial's.
            micro: Rows of each trial.
            device: Where the tensors go.
        """
        trained = torch.tensor([share.trained for share in shares], device=device)
        trials, longest = len(shares), max(1, *(share.longest for share in shares))
        if all(share.alike(shares[0]) for share in shares[1:]):
            shares = shares[:1]  # trials in step read the same tokens
        ids = np.zeros((len(shares), micro, longest), np.int64)
        positions = []  # of each share's trained tokens, and these tokens
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
        for row, (columns, target) in enumerate(positions):
            where[row, : len(columns)], targets[row, : len(columns)], real[row, : len(columns)] = columns, target, True

        def spread(array: npt.NDArray[np.generic]) -> Tensor:
            """Return an array on the device, its one row repeated for all trials where they read the same tokens."""
            tensor = torch.from_numpy(array).to(device)
            return tensor.expand(trials, *tensor.shape[1:]) if len(shares) < trials else tensor

        return cls(
            spread(ids).reshape(-1, longest),
            spread(where),
            spread(targets),
            spread(real),
            trained,
        )
