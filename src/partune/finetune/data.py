"""Instruction data: rows from files, their prompts, and the tokens and masks that training reads.

Prompts are Stanford Alpaca's as LitGPT writes them (a line break ends "### Response:"), or a chat template. A prompt
and its answer are encoded apart, so that an answer's tokens are exactly the answer and the end of sequence. Nothing
here needs torch.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from partune import config
from partune.errors import UserError
from partune.finetune.isolation import one_line, quiet
from partune.finetune.model import near

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
Message = dict[str, Any]
# Tokens of an example, and which of them are the answer.
Encoded = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]

IGNORED = -100
CHUNK = 1000
SUFFIXES = (".json", ".jsonl", ".ndjson")

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


# ----- rows


def read_rows(data: config.Data) -> list[Row]:
    """The rows of a file or of a data set's split, in order; raises UserError that names the file, and a bad line."""
    path = find_file(data)
    rows = _read_dataset(data) if path is None else _read_file(path)
    if not rows:
        raise UserError(f"{data.path} has no rows")
    return rows[: data.limit]


def find_file(data: config.Data) -> Path | None:
    """The file that the data's path means, None for a data set id; raises UserError where it is not there."""
    path = Path(data.path).expanduser()
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if path.is_file():
        if plain.suffix not in SUFFIXES:
            raise UserError(f"{data.path}: instruction data is a .json or .jsonl file (either .gz), or a data set id")
        return path
    if not path.is_dir() and (plain.suffix in SUFFIXES or path.is_absolute() or data.path.startswith((".", "~"))):
        raise UserError(f"no data file {data.path}{near(path)}")
    return None


def _read_file(path: Path) -> list[Row]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start}") from None
    if text.lstrip().startswith("["):
        return list(_parse(text, str(path)))
    # Only "\n" ends a line of JSON lines: str.splitlines would also cut at characters that JSON admits within a text.
    return [_parse(line, f"{path}, line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is no valid JSON: {error}") from None


def _read_dataset(data: config.Data) -> list[Row]:
    import datasets

    with quiet():
        try:
            split = datasets.load_dataset(data.path, split=data.split)
        except Exception as error:
            raise UserError(f"no data file {data.path}, and no such data set: {one_line(error)}") from None
        return [dict(row) for row in split]


def find_format(data: config.Data, rows: Sequence[Row]) -> Literal["alpaca", "chat"]:
    """The rows' format, checked row by row; raises UserError that names the first bad row and what it lacks."""
    form = data.format
    if form == "auto":
        first = rows[0] if isinstance(rows[0], dict) else {}
        if "messages" not in first and "instruction" not in first:
            raise UserError(
                f"{data.path}, row 1: neither Alpaca (instruction, output) nor chat (messages); it has {_keys(rows[0])}"
            )
        form = "chat" if "messages" in first else "alpaca"
    check = _check_chat if form == "chat" else _check_alpaca
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{data.path}, row {number}: a row is a mapping, got {type(row).__name__}")
        if problem := check(row):
            raise UserError(f"{data.path}, row {number}: {problem}")
    return form


def _check_alpaca(row: Row) -> str | None:
    for name in ("instruction", "output"):
        if name not in row:
            return f'"{name}" is missing; it has {_keys(row)}'
    for name in ("instruction", "input", "output"):
        if not isinstance(row.get(name) or "", str):
            return f'"{name}" must be text, got {row[name]!r:.50}'
    return None


def _check_chat(row: Row) -> str | None:
    if "messages" not in row:
        return f'"messages" is missing; it has {_keys(row)}'
    if not isinstance(row["messages"], list):
        return f'"messages" must be a list, got {row["messages"]!r:.50}'
    for place, message in enumerate(row["messages"], 1):
        for name in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(name), str):
                return f'message {place} has no text "{name}": {message!r:.50}'
    return None


def _keys(row: Any) -> str:
    return ", ".join(map(str, row)) if isinstance(row, dict) and row else "nothing"


# ----- prompts


def alpaca_prompt(row: Row) -> str:
    """The text before the answer."""
    template = PROMPT_WITH_INPUT if row.get("input") else PROMPT
    return template.format(instruction=row["instruction"] or "", input=row.get("input") or "")


def template_text(given: str) -> str:
    """A chat template, read from its file where that is what is given; raises UserError where there is none."""
    if len(given) >= 1000 or "{" in given:
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except OSError:
        raise UserError(f"no chat template file {given}{near(Path(given))}") from None


@dataclass(frozen=True)
class Chat:
    """A tokenizer with the template that writes its chats."""

    tokenizer: PreTrainedTokenizerBase
    template: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, given: str | None) -> Chat:
        """given: a template, or a file of one; without it the tokenizer's own. Raises UserError where there is none."""
        template = template_text(given) if given is not None else tokenizer.chat_template
        if not isinstance(template, str):
            raise UserError("the model's tokenizer has no chat template: give one with chat_template (--chat-template)")
        if not tokenizer.is_fast:
            raise UserError("chat rows need a fast tokenizer (one with character offsets), and the model's is not")
        return cls(tokenizer, template)

    def encode(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        """Tokens of a chat, and which of them are answers; raises ValueError where the template cannot tell."""
        if GENERATION.search(self.template):
            marked = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, return_dict=True, return_assistant_tokens_mask=True
            )
            return list(marked["input_ids"]), [bool(mark) for mark in marked["assistant_masks"]]
        text = self._render(messages)
        answers = list(self._answers(messages, text))
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        inside = [any(start <= a and b <= end for start, end in answers) for a, b in encoded["offset_mapping"]]
        return list(encoded["input_ids"]), inside

    def _answers(self, messages: list[Message], text: str) -> Iterator[tuple[int, int]]:
        """Where the answers lie in the chat's text, by prefix difference, less white space after them."""
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._render(messages[:place], add_generation_prompt=True)
                upto = self._render(messages[: place + 1])
                if not (upto.startswith(before) and text.startswith(upto)):
                    raise ValueError(
                        "it renders a chat's beginning differently by itself; mark answers with {% generation %}"
                    )
                yield len(before), max(len(before), len(upto.rstrip()))

    def _render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        if not messages and not add_generation_prompt:
            return ""
        return str(
            self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )


# ----- tokens


@dataclass(frozen=True)
class Examples:
    """Tokenised examples, one after another in flat arrays.

    tokens: (N,) ids; trained: (N,), which tokens the loss is on; starts: (n + 1,), where each begins and ends.
    rows, empty, truncated, untrainable: rows read, those that held nothing, were cut, had no token to train on left.
    form: of the rows.
    """

    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    rows: int
    empty: int = 0
    truncated: int = 0
    untrainable: int = 0
    form: Literal["alpaca", "chat"] = "alpaca"

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.starts)

    @cached_property
    def trained_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example that the loss is on, (n,)."""
        return np.add.reduceat(self.trained.astype(np.int64), self.starts[:-1])

    def example(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Tokens and mask of one example, each (T,)."""
        place = slice(self.starts[i], self.starts[i + 1])
        return self.tokens[place], self.trained[place]

    def cut(self, max_length: int, loss_on: Literal["answer", "all"]) -> Examples:
        """The examples at most `max_length` tokens long, with the mask of `loss_on`; none without a trained token.

        An example's first token is never trained on: nothing precedes it.
        """
        owner = np.repeat(np.arange(len(self)), self.lengths)
        position = np.arange(len(self.tokens)) - self.starts[owner]
        kept = position < max_length
        trained = (self.trained | (loss_on == "all")) & kept & (position > 0)
        useful = np.bincount(owner[trained], minlength=len(self)) > 0
        kept &= useful[owner]
        lengths = np.minimum(self.lengths, max_length)
        return Examples(
            tokens=self.tokens[kept],
            trained=trained[kept],
            starts=np.concatenate([[0], np.cumsum(lengths[useful])]),
            rows=self.rows,
            empty=self.empty,
            truncated=int((self.lengths > max_length).sum()),
            untrainable=int((~useful).sum()),
            form=self.form,
        )

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
        """Ids, attention mask and labels of some examples, each (b, T), padded on the right to the longest.

        Padding is masked (attention 0, label IGNORED) and has id 0: no trained token ever stands for it.
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
    def summary(self) -> dict[str, int | str]:
        """The rows' format and the counts by name, for the record."""
        return {
            "format": self.form,
            "rows": self.rows,
            "examples": len(self),
            "tokens": len(self.tokens),
            "empty": self.empty,
            "truncated": self.truncated,
            "untrainable": self.untrainable,
        }


def tokenise(data: config.Data, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """All examples of a study's data, whole, with the answers' mask; `Examples.cut` makes what a trial trains on."""
    rows = read_rows(data)
    form = find_format(data, rows)
    full = [(number, row) for number, row in enumerate(rows, 1) if not _is_empty(row, form)]
    if not full:
        raise UserError(f"{data.path}: all {len(rows)} rows are empty")
    with quiet():
        if form == "alpaca":
            pairs = list(_encode_alpaca([row for _, row in full], tokenizer))
        else:
            pairs = list(_encode_chats(data, full, Chat.of(tokenizer, data.chat_template)))
    return Examples(
        tokens=np.concatenate([tokens for tokens, _ in pairs]),
        trained=np.concatenate([answer for _, answer in pairs]),
        starts=np.cumsum([0, *(len(tokens) for tokens, _ in pairs)], dtype=np.int64),
        rows=len(rows),
        empty=len(rows) - len(full),
        form=form,
    )


def _is_empty(row: Row, form: Literal["alpaca", "chat"]) -> bool:
    if form == "alpaca":
        return not (row["instruction"] or "").strip() and not (row["output"] or "").strip()
    return not any(message["content"].strip() for message in row["messages"])


def _encode_alpaca(rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    """Chunk by chunk, since lists of ids take many times the memory of arrays."""
    eos = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        prompts = tokenizer([alpaca_prompt(row) for row in chunk])["input_ids"]
        answers = tokenizer([row["output"] or "" for row in chunk], add_special_tokens=False)["input_ids"]
        for prompt, answer in zip(prompts, answers, strict=True):
            if eos and prompt[-1:] == eos:  # a tokenizer that ends every text
                del prompt[-1]
            tokens = np.array(prompt + answer + eos, np.int32)
            yield tokens, np.arange(len(tokens)) >= len(prompt)


def _encode_chats(data: config.Data, rows: list[tuple[int, Row]], chat: Chat) -> Iterator[Encoded]:
    for number, row in rows:
        try:
            tokens, answer = chat.encode(row["messages"])
        except Exception as error:  # a template raises what it likes
            raise UserError(f"{data.path}, row {number}: the chat template fails: {one_line(error)}") from None
        yield np.array(tokens, np.int32), np.array(answer, np.bool_)
