"""Find the scored items that also occur in the training rows: a score on these measures memory.

Texts are compared by their words, without case, spaces and punctuation. An item is the same as a row if both ask the
same: the item's prompt, or one of its texts of at least SHORTEST words, equals the row's prompt or one of the row's
texts. An item is like a row if both contain the same RUN consecutive words, a rule of GPT-3 (Brown et al. 2020,
appendix C: 13 words, no texts of fewer than 8 words).

Phrases of a template are left out. For GPT-3, any run of words in more than 10 training texts was such a phrase,
because these texts came from the web. Training rows may repeat an item on purpose, and such an item is learned best.
So a run is a phrase of a template if more than USUAL different items contain it, or if more than half of the items (at
least two) and more than USUAL rows do. Validation rows share instructions with the training rows, so for them a run
in more than USUAL rows is left out too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from partune.finetune.rows.values import Row
from partune.finetune.words import words

SHORTEST, RUN, USUAL = 8, 13, 10

Words = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """The texts that identify an item.

    Attributes:
        prompt: What the model is asked.
        texts: Other texts that say what is asked, such as the question within the prompt.
        rest: Texts that do not say what is asked, such as the answer. Only runs of words are compared in them.
    """

    prompt: str
    texts: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """How many items of a task, or how many validation rows, also occur in the training rows.

    Attributes:
        what: The name of the task, or "validation rows".
        items: The number of items.
        same: The number of items that ask the same as a training row.
        alike: The number of other items that share a run of words with a training row.
        rows: For each such item, the number of the first matching training row, and the item's prompt (`same`) or the
            shared words (`alike`). The items counted in `same` come first.
    """

    what: str
    items: int
    same: int
    alike: int
    rows: tuple[tuple[int, str], ...] = ()

    @property
    def recorded(self) -> dict[str, Any]:
        """The entry for a study's record, which has the numbers of at most three rows."""
        numbers = list(dict.fromkeys(number for number, _ in self.rows))[:3]
        return {"what": self.what, "items": self.items, "same": self.same, "alike": self.alike, "rows": numbers}


class TrainingTexts:
    """The texts of training rows, in which items are looked up.

    Args:
        rows: The rows with their numbers.
        form: The form of the rows.
    """

    def __init__(self, rows: Sequence[tuple[int, Row]], form: str) -> None:
        self._rows = [(number, item_of(row, form)) for number, row in rows]
        self._prompts: dict[Words, int] = {}
        self._texts: dict[Words, int] = {}
        for number, item in self._rows:
            if prompt := words(item.prompt):
                self._prompts.setdefault(prompt, number)
            for text in map(words, item.texts):
                if len(text) >= SHORTEST:
                    self._texts.setdefault(text, number)

    def find(self, what: str, items: Sequence[Item], whole: bool = False) -> Seen:
        """Return how many items occur in the training rows.

        Args:
            what: The name of the items.
            items: The items.
            whole: Whether items are the same as rows only if their whole prompts are equal. Rows of the same form may
                share an instruction, so only the whole prompt says what is asked.
        """
        same = {i: number for i, item in enumerate(items) if (number := self._same(item, whole)) is not None}
        alike = {i: shared for i, shared in sorted(self._alike(items, whole).items()) if i not in same}
        rows = [(number, items[i].prompt) for i, number in same.items()]
        rows += [(number, " ".join(run)) for number, run in alike.values()]
        return Seen(what, len(items), len(same), len(alike), tuple(rows))

    def _same(self, item: Item, whole: bool) -> int | None:
        """Return the number of the first row that asks the same as an item; None if no row does."""
        prompt = words(item.prompt)
        if whole:
            return self._prompts.get(prompt)
        keys = [prompt, *(text for text in map(words, item.texts) if len(text) >= SHORTEST)]
        found = [known[key] for key in keys for known in (self._prompts, self._texts) if key in known]
        return min(found, default=None)

    def _alike(self, items: Sequence[Item], whole: bool) -> dict[int, tuple[int, Words]]:
        """Return, for each item that shares a run of words with rows, the number of the first such row and the run."""
        owners: dict[Words, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            for run in set(_runs(item)):
                owners[run].append(i)
        prompts = [words(item.prompt) for item in items]  # equal items count once: a repeated item is no template
        different = {run: len({prompts[i] for i in found}) for run, found in owners.items()}
        owners = {run: found for run, found in owners.items() if different[run] <= USUAL}
        if not owners:
            return {}
        first, counts = dict[Words, int](), Counter[Words]()
        for number, item in self._rows:
            for run in {run for run in _runs(item) if run in owners}:
                first.setdefault(run, number)
                counts[run] += 1
        half = len(set(prompts)) / 2
        alike: dict[int, tuple[int, Words]] = {}
        for run, number in first.items():
            if counts[run] > USUAL and (whole or different[run] > max(1, half)):
                continue
            for i in owners[run]:
                alike[i] = min((number, run), alike.get(i, (number, run)))
        return alike


def item_of(row: Row, form: str) -> Item:
    """Return the texts that identify a row.

    Args:
        row: The row.
        form: The form of the row.
    """
    match form:
        case "alpaca":
            asked = (row["instruction"] or "", row.get("input") or "")
            earlier = tuple(text for turn in row.get("history") or () for text in turn)
            return Item(" ".join(asked), asked, (row["output"], row.get("system") or "", *earlier))
        case "completion":
            return Item(row["prompt"], (row["prompt"],), (row["completion"],))
        case "chat":
            turns = [(message["role"], str(message.get("content") or "")) for message in row["messages"]]
            first = next((i for i, (role, _) in enumerate(turns) if role == "assistant"), len(turns))
            questions = tuple(content for role, content in turns if role == "user")
            return Item(" ".join(content for _, content in turns[:first]), questions, tuple(text for _, text in turns))
    return Item(row["text"], (row["text"],))


def _runs(item: Item) -> Iterator[Words]:
    """Yield all runs of RUN words in the texts of an item."""
    for text in {item.prompt, *item.texts, *item.rest}:
        found = words(text)
        for start in range(len(found) - RUN + 1):
            yield found[start : start + RUN]
