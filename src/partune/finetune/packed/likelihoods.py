"""Compute the log-likelihoods of a task's continuations for all trials of a pack in the same forward passes.

A pack is the trials that are trained and scored together on one base model. The results equal those of HFLM
in lm-evaluation-harness, which computes requests one by one. Here, the computation is planned once per part of a task:

- Requests with the same context form one *tree*. Its row has the context once, and after it the tokens of every choice.
  By a mask, a choice sees only the context and itself. Its positions are those that it would have in a row of its own.
- A request whose tokens begin the next request's context, such as an earlier answer of a conversation, is read from
  that context.
- Trees are sorted by length and divided into batches.
- Logits are computed only for the tokens of continuations. Those at the end of a context are computed once for all
  choices.

Some models cannot use such masks. They have a window shorter than the deepest position, a state, a bias by distance, or
no attention at all. For them, each request is a separate row. The configuration shows some of these models. For all
others, the longest and the deepest trees of each part are computed both as trees and as separate rows. The results may
differ only as much as two computations of the separate rows do.

Rows share a forward pass only if their lengths have the same rotary frequencies, because the longest row determines the
frequencies of the whole pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from partune.finetune.model import Base
from partune.finetune.packed.adapters import Carrier, Pack, Ragged
from partune.finetune.packed.head import Head
from partune.finetune.positions import Frequencies, deepest, frequencies
from partune.finetune.scoring.base import Continuation, Likelihood, distinct
from partune.runtime.failures import is_out_of_memory

TRUNK = -1  # the branch number of the context's tokens
# Largest number of tokens of a tree with a short context. Attention over a longer row would cost more than sharing the
# context saves.
ROW = 256
TOKENS = {"cpu": 4096, "cuda": 65536}  # tokens in a forward pass, over all trials and including padding
TRIED = 2  # how many of the longest trees, and of the deepest trees, are compared with separate rows
# Trees may differ from separate rows by NOISE times the difference of two computations of these rows, plus ROUNDING
# times the log-likelihoods, for their fp32 sums.
NOISE = 4
ROUNDING = 16 * float(np.finfo(np.float32).eps)

Ints = npt.NDArray[np.int64]


@dataclass
class Tree:
    """A context and its continuations, as one row of tokens.

    Attributes:
        context: The tokens with which all requests of the tree begin.
        tokens: (T,), the tokens of the row.
        positions: (T,), the position of each token in a row with its request alone.
        branch: (T,), the branch of each token: TRUNK for the context, or the number of a continuation.
        requests: Three things for each request: its index in the part; where in the row the tokens are that predict its
            continuation; and the tokens of the continuation.
    """

    context: list[int]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    requests: list[tuple[int, list[int], list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = list(self.context)
        self.positions = list(range(len(self.context)))
        self.branch = [TRUNK] * len(self.context)

    @property
    def branches(self) -> int:
        """The number of branches that have at least one token."""
        return len(set(self.branch) - {TRUNK})

    @property
    def depth(self) -> int:
        """The number of tokens of the context and the longest branch together: the longest separate row has as many."""
        return max(self.positions) + 1

    def add(self, request: int, continuation: list[int]) -> None:
        """Add a continuation. Its last token is not part of the row, because nothing after it is predicted.

        Args:
            request: The index of the request in the part.
            continuation: The tokens of the continuation.
        """
        read, start, end = continuation[:-1], len(self.tokens), len(self.context)
        number = len(self.requests)
        self.tokens += read
        self.positions += range(end, end + len(read))
        self.branch += [number] * len(read)
        self.requests.append((request, [end - 1, *range(start, start + len(read))], continuation))

    def read(self, request: int, start: int, continuation: list[int]) -> None:
        """Add a request whose continuation is part of the context.

        Args:
            request: The index of the request in the part.
            start: Where in the context the continuation begins.
            continuation: The tokens of the continuation.
        """
        self.requests.append((request, list(range(start - 1, start - 1 + len(continuation))), continuation))


def grow(
    requests: Sequence[Continuation], context: int, shared: bool, frequencies: Frequencies | None = None
) -> list[Tree]:
    """Return the trees of some requests.

    Args:
        requests: Contexts and continuations.
        context: The largest number of tokens that the model reads; longer requests lose their beginning.
        shared: Whether requests with the same context share a row, until it is full (see `ROW`).
        frequencies: Returns a key for the length of a request; requests with different keys cannot share a row.
    """
    trees: list[Tree] = []
    growing: dict[tuple[tuple[int, ...], Hashable], Tree] = {}
    earlier: list[tuple[int, int, list[int]]] = []  # requests whose tokens begin the context of the next one
    for index, (_, before, continuation) in enumerate(requests):
        trunk = (before + continuation)[-(context + 1) :][: -len(continuation)]
        frequency = frequencies and frequencies(len(trunk) + len(continuation) - 1)
        if shared and index + 1 < len(requests):
            _, following, end = requests[index + 1]
            fits = len(following) + len(end) <= context + 1
            alike = not frequencies or frequencies(len(following) + len(end) - 1) == frequency
            if fits and alike and following[: len(trunk) + len(continuation)] == trunk + continuation:
                earlier.append((index, len(trunk), continuation))
                continue
        key = tuple(trunk), frequency
        tree = growing.get(key) if shared else None
        if tree is None or len(tree.tokens) + len(continuation) > max(ROW, 2 * len(trunk)):
            tree = growing[key] = Tree(trunk)
            trees.append(tree)
        tree.add(index, continuation)
        for request in earlier:
            tree.read(*request)
        earlier = []
    return trees


@dataclass(frozen=True)
class Pass:
    """One forward pass: rows of trees, padded on the right.

    Attributes:
        ids: (R, T), the token ids.
        positions: (R, T), the tokens' positions.
        branch: (R, T), the tokens' branches.
        bare: Whether no tree has more than one branch, so that no mask is needed.
        states: (U,), the indices among the R T tokens whose logits are needed.
        of: (M,), for each continuation token, the index in `states` of the token that predicts it.
        targets: (M,), the continuation tokens.
        request: (M,), the index of the request of each continuation token.
    """

    ids: Tensor
    positions: Tensor
    branch: Tensor
    bare: bool
    states: Tensor
    of: Tensor
    targets: Tensor
    request: Tensor

    @classmethod
    def over(cls, trees: Sequence[Tree], device: torch.device, width: int = 0) -> Pass:
        """Return the forward pass over some trees.

        Args:
            trees: The trees, one per row.
            device: The device of the tensors.
            width: The smallest number of tokens in a row, including padding.
        """
        longest = max(width, *(len(tree.tokens) for tree in trees))
        ids, positions = np.zeros((2, len(trees), longest), np.int64)
        branch = np.full((len(trees), longest), TRUNK - 1, np.int64)
        states: dict[int, int] = {}
        of, targets, request = [], [], []
        for row, tree in enumerate(trees):
            n = len(tree.tokens)
            ids[row, :n], positions[row, :n], branch[row, :n] = tree.tokens, tree.positions, tree.branch
            for index, predicting, continuation in tree.requests:
                of += [states.setdefault(row * longest + token, len(states)) for token in predicting]
                targets += continuation
                request += [index] * len(continuation)
        return cls(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(positions).to(device),
            torch.from_numpy(branch).to(device),
            not any(tree.branches > 1 for tree in trees),
            torch.tensor(list(states), device=device),
            torch.tensor(of, device=device),
            torch.tensor(targets, device=device),
            torch.tensor(request, device=device),
        )

    def mask(self, K: int, dtype: torch.dtype | None) -> Tensor:
        """Return the mask, (K R, 1, T, T), that says for each token which tokens it sees.

        Args:
            K: The number of trials.
            dtype: The type of a mask that is added to attention scores; None for a boolean mask.
        """
        T = self.ids.shape[1]
        before = torch.ones(T, T, dtype=torch.bool, device=self.ids.device).tril()
        seen, seer = self.branch.unsqueeze(1), self.branch.unsqueeze(2)  # (R, 1, T), (R, T, 1)
        sees = before & ((seen == TRUNK) | (seen == seer))  # (R, T, T); padding sees padding and the context
        if dtype is not None:
            least = torch.finfo(dtype).min
            sees = torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, least)
        return sees.unsqueeze(1).repeat(K, 1, 1, 1)


@dataclass(frozen=True)
class Plan:
    """The plan for scoring one part of a task.

    Attributes:
        trees: The trees of the distinct requests, the longest first.
        places: For every request, its index among the distinct requests.
    """

    trees: list[Tree]
    places: list[int]

    @property
    def different(self) -> int:
        """The number of distinct requests."""
        return max(self.places, default=-1) + 1


class PackedLikelihoods:
    """Score requests with a base model and with packs on it. Plans are cached, because parts are scored many times.

    Args:
        base: The base model.
        head: The head of the base model.
        tokens: The number of tokens in a forward pass, over all trials; None takes the default of the device.
    """

    def __init__(self, base: Base, head: Head, tokens: int | None = None) -> None:
        self.base, self.head = base, head
        self.tokens = tokens or TOKENS.get(base.device.type, TOKENS["cpu"])
        self.shared: dict[str, bool] = {}  # for the name of each part, whether its requests share rows
        self._plans: dict[str, Plan] = {}
        self._deepest = deepest(base.model.config)
        self._frequencies = frequencies(base.model.config)

    def answers(
        self,
        name: str,
        requests: Sequence[Continuation],
        carrier: Carrier | None = None,
        pack: Pack | None = None,
        before_pass: Callable[[], None] = lambda: None,
    ) -> list[list[Likelihood]]:
        """Return the answers to requests: one list for each trial of a pack, or a single list for the base model alone.

        Args:
            name: The name of the part, under which its plan is cached.
            requests: The part's requests.
            carrier: The base model with layers that apply the pack; None for the base model alone.
            pack: The trials' adapters.
            before_pass: Called before each forward pass. It may raise an exception to interrupt the scoring.
        """
        while True:
            try:
                return self._answers(name, requests, carrier, pack, before_pass)
            except Exception as error:
                if not is_out_of_memory(error) or not self._shrink(name, requests, 1 if pack is None else len(pack)):
                    raise
            if self.base.device.type == "cuda":
                torch.cuda.empty_cache()

    def _answers(
        self,
        name: str,
        requests: Sequence[Continuation],
        carrier: Carrier | None,
        pack: Pack | None,
        before_pass: Callable[[], None],
    ) -> list[list[Likelihood]]:
        K = 1 if pack is None else len(pack)
        plan = self._plan(name, requests)
        sums = np.zeros((K, plan.different))
        greedy = np.ones((K, plan.different), bool)
        for part in self._passes(plan.trees, K):
            before_pass()
            self._add(part, carrier, pack, K, sums, greedy)
        sums, greedy = sums[:, plan.places], greedy[:, plan.places]
        return [list(zip(sums[k].tolist(), greedy[k].tolist(), strict=True)) for k in range(K)]

    def _shrink(self, name: str, requests: Sequence[Continuation], K: int) -> bool:
        """Halve the size of forward passes; return False if a pass is already one row or one tree per trial."""
        if name in self._plans:
            least = K * len(self._plans[name].trees[0].tokens)
        else:  # memory ran out while trees were compared with separate rows, with the base model only
            least = max(len(context) + len(continuation) for _, context, continuation in requests)
        if self.tokens < 2 * least:
            return False
        self.tokens //= 2
        return True

    def _plan(self, name: str, requests: Sequence[Continuation]) -> Plan:
        """Return the plan of a part. The longest trees come first, so that memory runs out early or not at all."""
        if name not in self._plans or len(self._plans[name].places) != len(requests):
            unique, places = distinct(requests)
            self.shared[name] = self._admits_trees(unique)
            self._plans[name] = Plan(by_length(self._grow(unique, self.shared[name])), places)
        return self._plans[name]

    def _grow(self, requests: Sequence[Continuation], shared: bool) -> list[Tree]:
        return grow(requests, self.base.context, shared, self._frequencies)

    def _passes(
        self, trees: Sequence[Tree], K: int, alike: Callable[[Tree], Hashable] | None = None, width: int = 0
    ) -> list[Pass]:
        """Return the forward passes over trees.

        Args:
            trees: The trees, the longest first.
            K: The number of trials.
            alike: Returns a key for a tree; only trees with equal keys share a pass. None takes the rotary frequencies
                as the key.
            width: The smallest number of tokens in a row.
        """
        groups: dict[Hashable, list[Tree]] = {}
        for tree in trees:
            key = alike(tree) if alike else self._frequencies and self._frequencies(tree.depth)
            groups.setdefault(key, []).append(tree)
        passes = []
        for group in groups.values():
            start = 0
            while start < len(group):
                rows = max(1, self.tokens // (K * max(width, len(group[start].tokens))))
                passes.append(Pass.over(group[start : start + rows], self.base.device, width))
                start += rows
        return passes

    @torch.inference_mode()
    def _add(
        self,
        part: Pass,
        carrier: Carrier | None,
        pack: Pack | None,
        K: int,
        sums: npt.NDArray[np.float64],
        greedy: npt.NDArray[np.bool_],
    ) -> None:
        """Add the log-probabilities of a pass's tokens to `sums` (K, requests), and update `greedy` (K, requests)."""
        ids = part.ids.repeat(K, 1)  # (K R, T)
        positions = None if part.bare else part.positions.repeat(K, 1)
        mask = None if part.bare else part.mask(K, self._mask_dtype)
        with carrying(carrier, pack):
            hidden = self.head.hidden(ids, mask, positions)  # (K R, T, d)
        states = hidden.view(K, -1, hidden.shape[-1])[:, part.states]  # (K, U, d)
        summands = torch.empty(K, len(part.of), dtype=torch.float64)
        best = torch.empty(K, len(part.of), dtype=torch.bool)
        size = self.head.chunk(K)
        for start in range(0, states.shape[1], size):
            in_chunk = (part.of >= start) & (part.of < start + size)
            of, targets = part.of[in_chunk] - start, part.targets[in_chunk]
            with carrying(carrier, pack):
                logits = self.head.logits(states[:, start : start + size])  # (K, u, V)
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            chosen = logits[:, of, targets] - logits.logsumexp(2)[:, of]  # (K, m)
            summands[:, in_chunk.cpu()] = chosen.cpu().double()
            best[:, in_chunk.cpu()] = (logits.argmax(2)[:, of] == targets).cpu()
        # `np.add.at` adds all tokens of a request. `sums[:, request] += ...` would add only the last one.
        request = part.request.cpu().numpy()
        np.add.at(sums.T, request, summands.T.numpy())
        np.logical_and.at(greedy.T, request, best.T.numpy())

    @property
    def _mask_dtype(self) -> torch.dtype | None:
        """The type of masks; None for boolean masks, which only scaled-dot-product attention accepts."""
        return None if self.base.model.config._attn_implementation == "sdpa" else self.base.model.dtype

    def _admits_trees(self, requests: Sequence[Continuation]) -> bool:
        """Return whether requests with the same context may share a row.

        Two conditions must hold. Every layer sees as far back as the trees are deep. And the longest and the deepest
        trees give the same log-likelihoods as separate rows, up to noise. The noise is measured by computing the
        separate rows twice: in passes of equal length, and padded to the length of the trees.
        """
        trees = [tree for tree in self._grow(requests, True) if tree.branches > 1]
        if not trees:
            return True
        if max(tree.depth for tree in trees) > self._deepest:
            return False
        deep = sorted(trees, key=lambda tree: -tree.depth)
        tried = {id(tree): tree for tree in (*by_length(trees)[:TRIED], *deep[:TRIED])}.values()
        chosen = [requests[index] for tree in tried for index, _, _ in tree.requests]
        rows, width = by_length(self._grow(chosen, False)), max(len(tree.tokens) for tree in tried)
        width = 0 if self._frequencies else min(width, self.base.positions)
        plain = self._sums(self._passes(rows, 1, lambda tree: len(tree.tokens)), len(chosen))
        padded = self._sums(self._passes(rows, 1, width=width), len(chosen))
        try:
            shared = self._sums(self._passes(by_length(self._grow(chosen, True)), 1), len(chosen))
        except Exception as error:  # models refuse masks with exceptions of any type
            if is_out_of_memory(error):
                raise
            return False
        tolerance = NOISE * np.abs(padded - plain).max() + ROUNDING * np.abs(plain).max()
        return bool(np.abs(shared - plain).max() <= tolerance)

    def _sums(self, passes: Sequence[Pass], requests: int) -> npt.NDArray[np.float64]:
        """Return the log-likelihoods of requests by the base model, (requests,)."""
        sums: npt.NDArray[np.float64] = np.zeros((1, requests))
        greedy = np.ones((1, requests), bool)
        for part in passes:
            self._add(part, None, None, 1, sums, greedy)
        return sums.reshape(-1)


def carrying(
    carrier: Carrier | None, pack: Pack | None, ragged: Ragged | None = None
) -> AbstractContextManager[object]:
    """Return a context manager that activates a pack's adapters, or does nothing for the base model alone.

    Args:
        carrier: The base model with layers that apply the pack; None for the base model alone.
        pack: The trials' adapters.
        ragged: The rows of each trial; None if there are equally many of one trial after another.
    """
    return nullcontext() if carrier is None else carrier.carrying(pack, ragged=ragged)


def by_length(trees: Sequence[Tree]) -> list[Tree]:
    """Return trees sorted by length, the longest first."""
    return sorted(trees, key=lambda tree: -len(tree.tokens))
