"""Turn instruction data into prompts, tokens and the masks that training reads.

Prompts come from a chat template, or have the form of Stanford Alpaca in LitGPT's version (with a line break after
"### Response:"). A prompt and its answer are encoded separately, so that the tokens of an answer are exactly the answer
and the end of sequence. Nothing here needs torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from partune import config
from partune.errors import UserError
from partune.finetune.chats import Chat, Piece, Written, template_text
from partune.finetune.model import ending
from partune.finetune.reading import chat_reading, is_empty, source_reading, split_marks, text_reading, unknown_tokens
from partune.finetune.rows.files import Source, find_files, is_file_name, read, read_rows
from partune.finetune.rows.forms import Format, normalise
from partune.finetune.rows.values import Places, Row
from partune.runtime.failures import one_line
from partune.runtime.isolation import quiet
from partune.trial.contents import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "IGNORED",
    "PROMPT",
    "PROMPT_WITH_INPUT",
    "Chat",
    "Examples",
    "Row",
    "alpaca_pieces",
    "alpaca_prompt",
    "continued",
    "cut_entries",
    "find_files",
    "is_file_name",
    "read_rows",
    "template_text",
    "tokenise",
]

# The tokens of an example, the mask of the tokens that are trained on, and the mask of those that never are.
Encoded = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]

IGNORED = -100
CHUNK = 1000

OPENING = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
OPENING_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
TURN = "### Instruction:\n{instruction}\n\n### Response:\n"
TURN_WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
PROMPT = OPENING + TURN
PROMPT_WITH_INPUT = OPENING_WITH_INPUT + TURN_WITH_INPUT


# ----- prompts


def alpaca_pieces(row: Row) -> list[tuple[str, str]]:
    """Return the turns of an Alpaca row, as pairs of the text before an answer and the answer.

    A system prompt replaces the opening sentence. Earlier turns (`history`) come first, and their answers are trained
    on too. Both fields are LLaMA-Factory's and are treated in the same way as there.
    """
    system = row.get("system")
    opening = f"{system}\n\n" if system else OPENING_WITH_INPUT if row.get("input") else OPENING
    turn = TURN_WITH_INPUT if row.get("input") else TURN
    turns = [(TURN.format(instruction=question), answer) for question, answer in row.get("history") or ()]
    turns.append((turn.format(instruction=row["instruction"] or "", input=row.get("input") or ""), row["output"]))
    return [(("\n\n" if number else opening) + prompt, answer) for number, (prompt, answer) in enumerate(turns)]


def alpaca_prompt(row: Row) -> str:
    """Return the text before the answer, for a row without earlier turns."""
    return alpaca_pieces({"output": "", **row})[-1][0]


# ----- tokens


@dataclass(frozen=True)
class Examples:
    """Tokenised examples, concatenated in flat arrays.

    Attributes:
        tokens: (N,), token ids.
        trained: (N,), whether the loss includes a token.
        starts: (n + 1,), the offset of each example's first token; the last entry is N.
        numbers: (n,), the number of the row that each example comes from. A chat row may give several examples.
        rows: The number of rows that were read.
        empty: The number of rows without any text.
        truncated: The number of examples that were cut.
        untrainable: The number of examples that were left out because they had no token to train on.
        answerless: The number of these that had no such token at full length either.
        form: The form in which the rows are trained on.
        never: (N,), whether the loss excludes a token even with `loss_on: all`; None if there is no such token.
        reading: Which fields of the rows were used and which were not, for the record.
    """

    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    rows: int
    empty: int = 0
    truncated: int = 0
    untrainable: int = 0
    answerless: int = 0
    form: Format = "alpaca"
    never: npt.NDArray[np.bool_] | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The number of tokens of each example, (n,)."""
        return np.diff(self.starts)

    @cached_property
    def trained_lengths(self) -> npt.NDArray[np.int64]:
        """The number of tokens of each example that the loss includes, (n,)."""
        return np.add.reduceat(self.trained.astype(np.int64), self.starts[:-1])

    @cached_property
    def digest(self) -> str:
        """Return a digest of the tokens, their masks and the offsets of the examples."""
        values = (getattr(self, attribute.name) for attribute in fields(self) if attribute.name != "numbers")
        return digest(*(np.ascontiguousarray(value).tobytes() for value in values if isinstance(value, np.ndarray)))

    def example(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Return the tokens and the `trained` mask of one example, each (T,)."""
        span = slice(self.starts[i], self.starts[i + 1])
        return self.tokens[span], self.trained[span]

    def cut(self, max_length: int, loss_on: Literal["answer", "all"]) -> Examples:
        """Return the examples cut to a length, with their masks; examples without a token to train on are left out.

        The first token of an example is never trained on, because no token predicts it.

        Args:
            max_length: The largest number of tokens of an example.
            loss_on: Which tokens the loss includes.
        """
        owner = np.repeat(np.arange(len(self)), self.lengths)
        position = np.arange(len(self.tokens)) - self.starts[owner]
        keep = position < max_length
        trained = (self.trained | (loss_on == "all")) & (position > 0)
        if self.never is not None:
            trained &= ~self.never
        has_answer = np.bincount(owner[trained], minlength=len(self)) > 0
        trained &= keep
        # An example without a trained token would take a place in a batch and train nothing.
        useful = np.bincount(owner[trained], minlength=len(self)) > 0
        keep &= useful[owner]
        lengths = np.minimum(self.lengths, max_length)
        return replace(
            self,
            tokens=self.tokens[keep],
            trained=trained[keep],
            never=None if self.never is None else self.never[keep],
            starts=np.concatenate([[0], np.cumsum(lengths[useful])]),
            numbers=self.numbers[useful],
            truncated=int((self.lengths > max_length).sum()),
            untrainable=int((~useful).sum()),
            answerless=int((~has_answer).sum()),
        )

    def select(self, indices: npt.NDArray[np.int64]) -> Examples:
        """Return some of the examples; `rows` becomes the number of rows that these come from.

        Args:
            indices: The indices of the examples, ascending.
        """
        chosen = np.isin(np.arange(len(self)), indices)
        keep = np.repeat(chosen, self.lengths)
        return replace(
            self,
            tokens=self.tokens[keep],
            trained=self.trained[keep],
            never=None if self.never is None else self.never[keep],
            starts=np.concatenate([[0], np.cumsum(self.lengths[chosen])]),
            numbers=self.numbers[chosen],
            rows=len(np.unique(self.numbers[chosen])),
        )

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
        """Return ids, attention mask and labels of some examples, each (b, T), padded on the right to the longest.

        Padding has attention 0 and the label IGNORED, so its id 0 has no effect.
        """
        longest = int(self.lengths[indices].max())
        ids = np.zeros((len(indices), longest), np.int64)
        attention = np.zeros_like(ids)
        labels = np.full_like(ids, IGNORED)
        for row, i in enumerate(indices):
            tokens, trained = self.example(int(i))
            ids[row, : len(tokens)] = tokens
            attention[row, : len(tokens)] = 1
            labels[row, : len(tokens)][trained] = tokens[trained]
        return ids, attention, labels

    @property
    def summary(self) -> dict[str, Any]:
        """Return the format of the rows, the counts and the use of the rows' fields, for the record."""
        return {
            "format": self.form,
            "rows": self.rows,
            "examples": len(self),
            "tokens": len(self.tokens),
            "empty": self.empty,
            "truncated": self.truncated,
            "untrainable": self.untrainable,
            **({"answerless": self.answerless} if self.answerless else {}),
            **self.reading,
        }


def cut_entries(max_length: int, context: int) -> dict[str, int]:
    """Return the record's entries on the length to which examples are cut, and on the setting.

    Args:
        max_length: The setting.
        context: The number of tokens that the model can read.
    """
    return {"cut_at": min(max_length, context), "max_length": max_length}


def tokenise(data: config.Data, tokenizer: PreTrainedTokenizerBase, source: Source | None = None) -> Examples:
    """Return all examples of a study's data at full length, with answers marked as trained.

    From these, `Examples.cut` makes the examples of a trial, with the trial's `max_length` and `loss_on`.

    Args:
        data: Section `data` of a study.
        tokenizer: The base model's tokenizer.
        source: The rows of the data, if they have been read; None reads them.

    Raises:
        UserError: A row cannot be read, or all rows are empty.
    """
    source = source or read(data)
    rows = normalise(data, source.rows, source.places)
    nonempty = [(number, row) for number, row in rows.rows if not is_empty(row, rows.form)]
    if not nonempty:
        raise UserError(f"{data.path}: all {len(rows.rows)} rows are empty")
    numbers = [number for number, _ in nonempty]
    with quiet():
        if rows.form == "chat":
            places = source.places or Places(data.path)
            written = list(_write_chats(places, nonempty, Chat.of(tokenizer, data.chat_template)))
            numbers = [number for number, chat in zip(numbers, written, strict=True) for _ in chat.examples]
            reading = chat_reading(rows, nonempty, written) | split_marks(data, tokenizer)
            encoded = list(_encode((pieces for chat in written for pieces in chat.examples), tokenizer, bounded=False))
        else:
            reading = text_reading(rows, nonempty)
            pieces = (_pieces(row, rows.form, str(tokenizer.eos_token or "")) for _, row in nonempty)
            encoded = list(_encode(pieces, tokenizer, bounded=True))
    tokens = np.concatenate([tokens for tokens, _, _ in encoded])
    return Examples(
        tokens=tokens,
        trained=np.concatenate([trained for _, trained, _ in encoded]),
        never=np.concatenate([never for _, _, never in encoded]),
        starts=np.cumsum([0, *(len(tokens) for tokens, _, _ in encoded)], dtype=np.int64),
        numbers=np.array(numbers, np.int64),
        rows=len(rows.rows),
        empty=len(rows.rows) - len(nonempty),
        form=rows.form,
        reading={**source_reading(rows, source), **reading, **unknown_tokens(tokens, tokenizer)},
    )


def _pieces(row: Row, form: Format, eos: str) -> list[Piece]:
    """Return the pieces of a row that is not a chat.

    If a completion or a text already ends with the text of EOS, EOS is not added again, as in TRL.
    """
    pieces: list[Piece] = []
    match form:
        case "text":
            pieces = [(row["text"].removesuffix(eos), "answer")]
        case "completion":
            pieces = [(row["prompt"], "prompt"), (row["completion"].removesuffix(eos), "answer")]
        case _:
            for prompt, answer in alpaca_pieces(row):
                pieces += [(prompt, "prompt"), (answer, "answer")]
    return pieces


def _write_chats(places: Places, rows: list[tuple[int, Row]], chat: Chat) -> Iterator[Written]:
    for number, row in rows:
        try:
            yield chat.write(row)
        except Exception as error:  # templates raise exceptions of any type
            raise UserError(f"{places.of(number)}: the chat template fails: {one_line(error)}") from None


def _encode(examples: Iterable[list[Piece]], tokenizer: PreTrainedTokenizerBase, bounded: bool) -> Iterator[Encoded]:
    """Yield the tokens and masks of examples, whose pieces are encoded separately.

    Examples are encoded in chunks, because lists of ids take many times the memory of arrays.

    Args:
        examples: The pieces of each example, with their kinds.
        tokenizer: The model's tokenizer.
        bounded: Whether to put the tokenizer's special tokens before the first piece, and the end of sequence after
            each answer. A chat template writes both itself.
    """
    eos = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    after = ending(tokenizer)
    for chunk in _chunks(examples):
        firsts = tokenizer([pieces[0][0] for pieces in chunk], add_special_tokens=bounded)["input_ids"]
        rest = [piece for pieces in chunk for piece in pieces[1:]]
        answers = iter(continued(tokenizer, [text for text, kind in rest if kind == "answer"], exact=True))
        others = iter(continued(tokenizer, [text for text, kind in rest if kind != "answer"]))
        for pieces, first in zip(chunk, firsts, strict=True):
            # Some tokenizers append an end-of-text token to every text, which must not separate prompt and answer.
            if bounded and after and first[-len(after) :] == after:
                del first[-len(after) :]
            encoded = [first, *(next(answers if kind == "answer" else others) for _, kind in pieces[1:])]
            ends = [eos if bounded and kind == "answer" else [] for _, kind in pieces]
            lengths = [len(ids) + len(end) for ids, end in zip(encoded, ends, strict=True)]
            tokens = [token for ids, end in zip(encoded, ends, strict=True) for token in (*ids, *end)]
            kinds = np.repeat([kind for _, kind in pieces], lengths)
            yield np.array(tokens, np.int32), kinds == "answer", kinds == "never"


def _chunks(examples: Iterable[list[Piece]]) -> Iterator[list[list[Piece]]]:
    remaining = iter(examples)
    while chunk := list(itertools.islice(remaining, CHUNK)):
        yield chunk


def continued(tokenizer: Any, texts: list[str], exact: bool = False) -> list[list[int]]:
    """Return the tokens of texts that continue other texts.

    Some tokenizers put a space before the first word of a text, which would be wrong for a continuation. With such a
    tokenizer, a text is encoded after an anchor (a single character), and the anchor's tokens are removed. If the
    anchor merges with the beginning of the text into one token, the next anchor is tried.

    Args:
        tokenizer: The model's tokenizer.
        texts: The texts, each encoded by itself.
        exact: Whether to avoid the spaces that the tokenizer puts after added tokens (such as special tokens) within a
            text too. This is for answers only. Prompts keep these spaces, because the tokenizer puts them into the
            prompt again when the model is asked.
    """
    tokens: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    # Decoding shows whether this one does. A tokenizer's settings do not show all ways in which it adds a space.
    letter = tokenizer("x", add_special_tokens=False)["input_ids"]
    if " " not in tokenizer.decode(letter + letter):
        return tokens
    if exact and (added := sorted(tokenizer.get_added_vocab(), key=len, reverse=True)):
        border = re.compile(f"({'|'.join(map(re.escape, added))})")
        parts = [[part for part in border.split(text) if part] for text in texts]
        encoded = iter(continued(tokenizer, [part for cut in parts for part in cut]))
        return [[token for _ in cut for token in next(encoded)] for cut in parts]
    remaining = list(range(len(texts)))
    for anchor in ("\n", ":", ";", "x"):
        before = tokenizer(anchor, add_special_tokens=False)["input_ids"]
        probe = tokenizer(anchor + "x", add_special_tokens=False)["input_ids"]
        if remaining and before and tokenizer.decode(probe) == tokenizer.decode(before) + "x":
            after_anchor = tokenizer([anchor + texts[i] for i in remaining], add_special_tokens=False)["input_ids"]
            anchored = dict(zip(remaining, after_anchor, strict=True))
            # The texts that merged with this anchor remain for the next one.
            remaining = [i for i in remaining if anchored[i][: len(before)] != before]
            for i in anchored.keys() - set(remaining):
                tokens[i] = anchored[i][len(before) :]
    return tokens
