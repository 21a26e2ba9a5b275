"""Log-likelihoods of a task's continuations, for all trials of a pack in the same forward passes.

What lm-evaluation-harness's HFLM computes request by request is planned once per part of a task:

- requests that share a context are one *tree*: the context once, then every choice's tokens after it, each choice
  seeing the context and itself alone (a mask) and standing at the positions it would have by itself;
- trees are sorted by length and cut into batches;
- logits are computed where a continuation's token is predicted and nowhere else, and at the end of a context once for
  all of its choices.

Where a model does not take such masks (it has windows that are not deeper than the deepest position, a state, a bias by
distance, or no attention at all), each request is a row of its own. Its configuration tells, and a trial on the longest
and the deepest trees of each part: they have to give what their requests have as rows, but for what two computations of
these rows differ by.

Rows share a forward pass where their lengths have the same rotary frequencies: another row would change them otherwise.
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
from partune.finetune.packed.adapters import Carrier, Pack
from partune.finetune.packed.head import Head
from partune.finetune.positions import Frequencies, deepest, frequencies
from partune.finetune.scoring.tasks import Answer, Request, distinct
from partune.runtime.failures import is_out_of_memory

TRUNK = -1  # a token of the context
ROW = 256  # tokens of a tree, unless its context is long: attention to a longer row costs more than sharing saves
TOKENS = {"cpu": 4096, "cuda": 65536}  # of all trials' rows in a forward pass, padding included
TRIED = 2  # of the longest trees, and of the deepest, on which a model is tried
NOISE = 4  # times what two computations of the same rows differ by that trees may differ from them
ROUNDING = 16 * float(np.finfo(np.float32).eps)  # the same, as a share of the log-likelihoods: sums are in fp32

Ints = npt.NDArray[np.int64]


@dataclass
class Tree:
    """A context and the continuations after it, as one row of tokens.

    Attributes:
        context: The tokens that all requests of the tree begin with.
        tokens: (T,), of the row.
        positions: (T,), of the tokens, each as in a row of its request alone.
        branch: (T,), whose token each is: TRUNK, or a branch's number.
        requests: Of each its place in the part, the tokens after which its continuation's tokens stand, and these.
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
        """Return the number of branches that have a token."""
        return len(set(self.branch) - {TRUNK})

    @property
    def depth(self) -> int:
        """Return the tokens of the context and its longest branch: what the longest request has as a row."""
        return max(self.positions) + 1

    def add(self, request: int, continuation: list[int]) -> None:
        """Add a continuation; its last token predicts nothing that is asked for, and is not read.

        Args:
            request: The number of its request in the part.
            continuation: Its tokens.
        """
        read, start, end = continuation[:-1], len(self.tokens), len(self.context)
        number = len(self.requests)
        self.tokens += read
        self.positions += range(end, end + len(read))
        self.branch += [number] * len(read)
        self.requests.append((request, [end - 1, *range(start, start + len(read))], continuation))


def grow(requests: Sequence[Request], context: int, shared: bool, frequencies: Frequencies | None = None) -> list[Tree]:
    """Return the trees of some requests.

    Args:
        requests: Contexts and continuations.
        context: Tokens that the model reads at most; longer requests lose their beginning.
        shared: Whether requests of one context share its row, as long as it is not much longer than the context.
        frequencies: What tells apart lengths whose requests cannot share a row.
    """
    trees: list[Tree] = []
    growing: dict[tuple[tuple[int, ...], Hashable], Tree] = {}
    for request, (_, before, continuation) in enumerate(requests):
        kept = (before + continuation)[-(context + 1) :][: -len(continuation)]
        key = tuple(kept), frequencies and frequencies(len(kept) + len(continuation) - 1)
        tree = growing.get(key) if shared else None
        if tree is None or len(tree.tokens) + len(continuation) > max(ROW, 2 * len(kept)):
            tree = growing[key] = Tree(kept)
            trees.append(tree)
        tree.add(request, continuation)
    return trees


@dataclass(frozen=True)
class Pass:
    """One forward pass: rows of trees, padded on the right.

    Attributes:
        ids: (R, T).
        positions: (R, T).
        branch: (R, T).
        bare: Whether no tree has branches that must not see each other.
        states: (U,), the tokens of R T whose logits are wanted.
        of: (M,), for each continuation token the state that predicts it.
        targets: (M,), the continuation tokens.
        request: (M,), whose they are.
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
        """Return the pass over some trees.

        Args:
            trees: Its rows.
            device: Where the tensors go.
            width: Tokens of a row at least, padding included.
        """
        longest = max(width, *(len(tree.tokens) for tree in trees))
        ids, positions = np.zeros((2, len(trees), longest), np.int64)
        branch = np.full((len(trees), longest), TRUNK - 1, np.int64)
        states: dict[int, int] = {}
        of, targets, request = [], [], []
        for row, tree in enumerate(trees):
            n = len(tree.tokens)
            ids[row, :n], positions[row, :n], branch[row, :n] = tree.tokens, tree.positions, tree.branch
            for number, at, continuation in tree.requests:
                of += [states.setdefault(row * longest + token, len(states)) for token in at]
                targets += continuation
                request += [number] * len(continuation)
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
        """Return who sees whom, (K R, 1, T, T).

        Args:
            K: Trials.
            dtype: Type of what is added to attention's scores; None for booleans.
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
    """How a part is scored.

    Attributes:
        trees: Over its different requests, the longest first.
        places: For every request, its place among the different ones.
    """

    trees: list[Tree]
    places: list[int]

    @property
    def different(self) -> int:
        """Return the number of different requests."""
        return max(self.places, default=-1) + 1


class PackedLikelihoods:
    """Scores requests of a base and of packs on it; plans are kept, as the same parts come again and again.

    Args:
        base: The base model.
        head: Its logits.
        tokens: Tokens of all trials' rows in a forward pass; None takes what suits the device.
    """

    def __init__(self, base: Base, head: Head, tokens: int | None = None) -> None:
        self.base, self.head = base, head
        self.tokens = tokens or TOKENS.get(base.device.type, TOKENS["cpu"])
        self.shared: dict[str, bool] = {}  # whether a part's requests share rows, by its name
        self._plans: dict[str, Plan] = {}
        self._deepest = deepest(base.model.config)
        self._frequencies = frequencies(base.model.config)

    def answers(
        self,
        name: str,
        requests: Sequence[Request],
        carrier: Carrier | None = None,
        pack: Pack | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> list[list[Answer]]:
        """Return each request's log-likelihood and whether it is greedy, for every trial of a pack or the base.

        Args:
            name: The part that the requests make up, under which their plan is kept.
            requests: The part's requests.
            carrier: The base with layers that carry the pack; None for the base alone.
            pack: The trials' adapters.
            look: Called before each forward pass, which it may break off by raising.
        """
        while True:
            try:
                return self._answers(name, requests, carrier, pack, look)
            except Exception as error:
                if not is_out_of_memory(error) or not self._shrink(name, requests, 1 if pack is None else len(pack)):
                    raise
            if self.base.device.type == "cuda":
                torch.cuda.empty_cache()

    def _answers(
        self,
        name: str,
        requests: Sequence[Request],
        carrier: Carrier | None,
        pack: Pack | None,
        look: Callable[[], None],
    ) -> list[list[Answer]]:
        K = 1 if pack is None else len(pack)
        plan = self._plan(name, requests)
        sums = np.zeros((K, plan.different))
        greedy = np.ones((K, plan.different), bool)
        for part in self._passes(plan.trees, K):
            look()
            self._add(part, carrier, pack, K, sums, greedy)
        sums, greedy = sums[:, plan.places], greedy[:, plan.places]
        return [list(zip(sums[k].tolist(), greedy[k].tolist(), strict=True)) for k in range(K)]

    def _shrink(self, name: str, requests: Sequence[Request], K: int) -> bool:
        """Halve the forward passes; return False where the longest is one row, or one tree for each trial, already."""
        if name in self._plans:
            least = K * len(self._plans[name].trees[0].tokens)
        else:  # it was being tried whether requests share rows, on the base
            least = max(len(context) + len(continuation) for _, context, continuation in requests)
        if self.tokens < 2 * least:
            return False
        self.tokens //= 2
        return True

    def _plan(self, name: str, requests: Sequence[Request]) -> Plan:
        """Return a part's plan, its longest trees first: what does not fit in memory shows at once."""
        if name not in self._plans or len(self._plans[name].places) != len(requests):
            asked, places = distinct(requests)
            self.shared[name] = self._admits_trees(asked)
            self._plans[name] = Plan(by_length(self._grow(asked, self.shared[name])), places)
        return self._plans[name]

    def _grow(self, requests: Sequence[Request], shared: bool) -> list[Tree]:
        return grow(requests, self.base.context, shared, self._frequencies)

    def _passes(
        self, trees: Sequence[Tree], K: int, alike: Callable[[Tree], Hashable] | None = None, width: int = 0
    ) -> list[Pass]:
        """Return passes over trees, which come by length.

        Args:
            trees: Of which those of the same rotary frequencies share passes.
            K: Trials.
            alike: What trees have to share instead, to share a pass.
            width: Tokens of a pass's rows, at least.
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
        """Add the log-probabilities of a pass's continuation tokens to their requests' sums, (K, requests)."""
        ids = part.ids.repeat(K, 1)  # (K R, T)
        positions = None if part.bare else part.positions.repeat(K, 1)
        mask = None if part.bare else part.mask(K, self._mask_dtype)
        with _carrying(carrier, pack):
            hidden = self.head.hidden(ids, mask, positions)  # (K R, T, d)
        states = hidden.view(K, -1, hidden.shape[-1])[:, part.states]  # (K, U, d)
        summands = torch.empty(K, len(part.of), dtype=torch.float64)
        best = torch.empty(K, len(part.of), dtype=torch.bool)
        size = self.head.chunk(K)
        for start in range(0, states.shape[1], size):
            here = (part.of >= start) & (part.of < start + size)
            of, targets = part.of[here] - start, part.targets[here]
            with _carrying(carrier, pack):
                logits = self.head.logits(states[:, start : start + size])  # (K, u, V)
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            chosen = logits[:, of, targets] - logits.logsumexp(2)[:, of]  # (K, m)
            summands[:, here.cpu()] = chosen.cpu().double()
            best[:, here.cpu()] = (logits.argmax(2)[:, of] == targets).cpu()
        # Unbuffered sums: a request's tokens stand at many places, and `sums[:, request] += ...` would keep the last.
        request = part.request.cpu().numpy()
        np.add.at(sums.T, request, summands.T.numpy())
        np.logical_and.at(greedy.T, request, best.T.numpy())

    @property
    def _mask_dtype(self) -> torch.dtype | None:
        """Return the type of masks; None for booleans, which scaled-dot-product attention alone takes."""
        return None if self.base.model.config._attn_implementation == "sdpa" else self.base.model.dtype

    def _admits_trees(self, requests: Sequence[Request]) -> bool:
        """Return whether requests that share a context may share its row.

        Every layer has to see as far back as the trees are deep, and the longest and deepest trees have to give their
        requests the log-likelihoods that these have as rows of their own, up to what two computations of those differ
        by: rows of one length together, and rows padded to the length of the trees.
        """
        trees = [tree for tree in self._grow(requests, True) if tree.branches > 1]
        if not trees:
            return True
        if max(tree.depth for tree in trees) > self._deepest:
            return False
        deep = sorted(trees, key=lambda tree: -tree.depth)
        tried = {id(tree): tree for tree in (*by_length(trees)[:TRIED], *deep[:TRIED])}.values()
        chosen = [requests[number] for tree in tried for number, _, _ in tree.requests]
        rows, width = by_length(self._grow(chosen, False)), max(len(tree.tokens) for tree in tried)
        width = 0 if self._frequencies else min(width, self.base.positions)
        plain = self._sums(self._passes(rows, 1, lambda tree: len(tree.tokens)), len(chosen))
        padded = self._sums(self._passes(rows, 1, width=width), len(chosen))
        try:
            shared = self._sums(self._passes(by_length(self._grow(chosen, True)), 1), len(chosen))
        except Exception as error:  # a model can refuse a mask in any way
            if is_out_of_memory(error):
                raise
            return False
        tolerance = NOISE * np.abs(padded - plain).max() + ROUNDING * np.abs(plain).max()
        return bool(np.abs(shared - plain).max() <= tolerance)

    def _sums(self, passes: Sequence[Pass], requests: int) -> npt.NDArray[np.float64]:
        """Return the base's log-likelihoods of requests, (requests,)."""
        sums: npt.NDArray[np.float64] = np.zeros((1, requests))
        greedy = np.ones((1, requests), bool)
        for part in passes:
            self._add(part, None, None, 1, sums, greedy)
        return sums.reshape(-1)


def _carrying(carrier: Carrier | None, pack: Pack | None) -> AbstractContextManager[object]:
    """Return the context in which the model has a pack's adapters; the base alone has none."""
    return nullcontext() if carrier is None else carrier.carrying(pack)


def by_length(trees: Sequence[Tree]) -> list[Tree]:
    """Return trees, the longest first."""
    return sorted(trees, key=lambda tree: -len(tree.tokens))
