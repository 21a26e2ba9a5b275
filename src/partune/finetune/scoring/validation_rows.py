"""Hold out rows of the data as validation rows, on which trials are scored if no task is named.

Rows with the same prompt stay together: all are training rows, all are search items, or all are verdict items.
Otherwise, a model trained on one of them would know much about the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property

import numpy as np

from partune.errors import UserError
from partune.finetune.data import Examples
from partune.finetune.scoring.base import MIN_ITEMS, Ints, Task
from partune.trial.contents import Content
from partune.trial.names import ROWS


class ValidationRows(Task):
    """Rows that no trial is trained on, from the data or from their own file.

    Args:
        examples: The rows.
        own_file: Whether the rows come from their own file, not from the training data.
        kinds: (n,), the kind of each row, by which splits are stratified; by default all are of one kind.
    """

    def __init__(self, examples: Examples, own_file: bool = False, kinds: Ints | None = None) -> None:
        self.name = ROWS
        self.examples, self.own_file, self.kinds = examples, own_file, kinds

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def strata(self) -> tuple[str, ...]:
        """One stratum with all rows."""
        return (ROWS,)

    def stratum(self, item: int) -> int:
        """Return 0."""
        return 0

    def label(self, item: int) -> str:
        """Return the name of a row for messages."""
        return f"validation row {self.examples.numbers[item]}"

    def identifiers(self, indices: Ints) -> Ints:
        """Return the number of each row in its file, counted from 1, (n,)."""
        return self.examples.numbers[indices]

    def scorable(self, metric: str) -> list[int]:
        """Return the indices of all rows."""
        return list(range(len(self)))

    @cached_property
    def groups(self) -> Ints:
        """The number of the group of rows that stay together, for each row, (n,)."""
        return grouped(self.examples)

    def split(self, seed: int, verdict_share: float, metric: str) -> tuple[Ints, Ints]:
        """Split the rows into search items and verdict items; rows with the same prompt stay together."""
        verdict = drawn(self.groups, verdict_share, np.random.default_rng([seed, len(self), 1]), self.kinds)
        search = np.setdiff1d(np.arange(len(self)), verdict)
        if min(len(search), len(verdict)) < MIN_ITEMS:
            raise UserError(
                f"the validation rows are too few ({len(self)}): {len(search)} would score the search and "
                f"{len(verdict)} the verdict, and each needs at least {MIN_ITEMS}; use more rows, raise "
                "`--validation-split`, or name a file of validation rows (`--validation-data`)"
            )
        return search, verdict

    @property
    def content(self) -> Content | None:
        """The digest of the rows' tokens and masks; None if they are from the training data."""
        return Content(self.examples.digest, f"{len(self)} rows") if self.own_file else None


def held_out(examples: Examples, share: float, seed: int, kinds: Ints | None = None) -> tuple[Ints, Ints]:
    """Draw validation rows; return the indices of the examples to train on and of those to hold out, both ascending.

    Args:
        examples: All examples of the training data.
        share: The share of examples to hold out.
        seed: The seed of the study.
        kinds: (n,), the kind of each example, by which the draw is stratified; by default all are of one kind.
    """
    validation = drawn(grouped(examples), share, np.random.default_rng([seed, len(examples), 0]), kinds)
    return np.setdiff1d(np.arange(len(examples)), validation), validation


def grouped(examples: Examples) -> Ints:
    """Return the number of each example's group, (n,): examples of the same row or with the same prompt share a group.

    Texts without a prompt are grouped with their copies only. If more than half of the examples have the same prompt,
    the prompt says nothing about the answers, and all examples are grouped with their copies only.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    def groups(keys: Sequence[Hashable]) -> Ints:
        """Return the groups of examples that are of one row or have the same key."""
        numbers: dict[Hashable, int] = {}
        by_key = np.array([numbers.setdefault(key, len(numbers)) for key in keys]) + len(keys)
        nodes = np.concatenate([np.arange(len(keys)), np.arange(len(keys))])
        rows = np.unique(examples.numbers, return_inverse=True)[1] + len(keys) + len(numbers)
        size = len(keys) + len(numbers) + int(rows.max(initial=0)) + 1
        links = (np.ones(2 * len(keys)), (nodes, np.concatenate([by_key, rows])))
        labels = connected_components(coo_array(links, shape=(size, size)), directed=False)[1][: len(keys)]
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)

    found = groups(prompts(examples))
    return groups(whole_keys(examples)) if 2 * np.bincount(found, minlength=1).max() > len(examples) else found


def prompts(examples: Examples) -> list[bytes]:
    """Return a key of each example's prompt: the tokens before its first answer, or all tokens if there are none."""
    texts = (examples.example(i) for i in range(len(examples)))
    return [(tokens[: int(trained.argmax())] if trained.argmax() else tokens).tobytes() for tokens, trained in texts]


def whole_keys(examples: Examples) -> list[bytes]:
    """Return a key of each example's tokens."""
    return [examples.example(i)[0].tobytes() for i in range(len(examples))]


def twins(validation: Examples, trained: Examples) -> tuple[int, int]:
    """Return how many validation examples are training examples too, and how many have a training example's prompt.

    Args:
        validation: The validation rows, at full length.
        trained: The training rows, at full length.
    """
    known = set(whole_keys(trained)), set(prompts(trained))
    same = sum(key in known[0] for key in whole_keys(validation))
    return same, sum(key in known[1] for key in prompts(validation))


def drawn(groups: Ints, share: float, rng: np.random.Generator, kinds: Ints | None = None) -> Ints:
    """Draw whole groups at random until they have a share of the members; return the members' indices, ascending.

    The groups are visited in a random order, kind by kind. A group is drawn if the members drawn so far are fewer
    than the share of all members visited, this group included, by at least half of the group. So the total is off by at
    most half of the largest group, and each kind has about its share.

    Args:
        groups: (n,), the number of each member's group.
        share: The share of members to draw.
        rng: The source of the order.
        kinds: (n,), the kind of each member. A group has the kind of its first member. By default, there is one kind.
    """
    _, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    order = rng.permutation(len(sizes))
    if kinds is not None:
        order = order[np.argsort(kinds[first][order], kind="stable")]
    chosen, seen, taken = [], 0, 0
    for group in order:
        seen += sizes[group]
        if taken + sizes[group] / 2 <= share * seen:
            chosen.append(group)
            taken += sizes[group]
    return np.flatnonzero(np.isin(groups, chosen))
