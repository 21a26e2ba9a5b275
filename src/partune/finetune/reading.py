"""Summarise how the rows of a study were read: which fields are used, what is empty, and what is left out.

Each function returns a dictionary, which becomes a part of the entry on the data in the study's record. A "form" is one
of the four forms that rows are brought to: instructions (Alpaca), chats, prompts with completions, and texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from partune import config
from partune.finetune.chats import Written
from partune.finetune.rows.files import Source
from partune.finetune.rows.forms import Format, Rows
from partune.finetune.rows.values import Message, Row
from partune.finetune.templates import SPECIAL_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = {"alpaca": "output", "completion": "completion", "text": "text"}  # the field that is trained on
SYSTEM = ("system", "developer")  # messages in these roles instruct the model and are not turns of the chat


def is_empty(row: Row, form: Format) -> bool:
    """Return whether a row has no text at all, so that it is left out of training.

    Args:
        row: The row, with the fields of the form.
        form: The form.
    """
    if form == "alpaca":
        return not any(row[field].strip() for field in ("instruction", "input", "output")) and not row["history"]
    if form != "chat":
        return not any(text.strip() for text in row.values())
    return not any((message.get("content") or "").strip() or message.get("tool_calls") for message in row["messages"])


def reading_of(rows: Rows, source: Source) -> dict[str, Any]:
    """Return everything about the reading of rows that can be known without a tokenizer.

    Args:
        rows: The rows in their form.
        source: The rows as they were read.
    """
    nonempty = [(number, row) for number, row in rows.rows if not is_empty(row, rows.form)]
    if rows.form != "chat":
        return {**source_reading(rows, source), **text_reading(rows, nonempty)}
    return {**source_reading(rows, source), **_reading(rows.names, rows.unused), **_chat_counts(nonempty)}


def source_reading(rows: Rows, source: Source) -> dict[str, Any]:
    """Return the record's entries on the format and the files of the rows.

    Empty entries are left out, and so is the number of files if there is only one.

    Args:
        rows: The rows in their form.
        source: The rows as they were read.
    """
    entries = {
        "layout": rows.layout,
        "files": source.files if source.files > 1 else 0,
        "unread": list(source.unread),
        "separators": list(source.separators),
        "rejected": rows.rejected,
        "same_as_rejected": rows.same_as_rejected,
    }
    return {name: entry for name, entry in entries.items() if entry}


def text_reading(rows: Rows, nonempty: list[tuple[int, Row]]) -> dict[str, Any]:
    """Return the record's entries on the fields of rows that are not chats, and on those that are empty.

    Args:
        rows: The rows in their form.
        nonempty: The rows with some text, and their numbers.
    """
    used = {field: name for field, name in rows.names.items() if any(row.get(field) for _, row in nonempty)}
    counts = {
        "empty_answers": sum(not row[ANSWER[rows.form]].strip() for _, row in nonempty),
        "empty_prompts": sum(_has_empty_prompt(row, rows.form) for _, row in nonempty),
    }
    return _reading(used, rows.unused) | {name: count for name, count in counts.items() if count}


def _has_empty_prompt(row: Row, form: Format) -> bool:
    if form == "alpaca":
        return not row["instruction"].strip() and not row["input"].strip()
    return form == "completion" and not row["prompt"].strip()


def chat_reading(rows: Rows, nonempty: list[tuple[int, Row]], written: list[Written]) -> dict[str, Any]:
    """Return the record's entries on the fields of chats, on what is empty, and on what the template changes.

    Args:
        rows: The rows in their form.
        nonempty: The chats with some text, and their numbers.
        written: Each of these chats as the template writes it.
    """
    used: set[str] = set()
    unused = {number: set(names) for number, names in rows.unused.items()}
    for (number, row), chat in zip(nonempty, written, strict=True):
        fields = {name for message in row["messages"] for name in message} - {"role", "content"}
        fields |= {name for name in rows.names if name in row}
        fields |= {"weight"} if row["untrained"] and rows.layout in ("chat", "sharegpt") else set()
        used |= fields - chat.unused
        if chat.unused:
            unused.setdefault(number, set()).update(chat.unused)
    # If the messages were made from a prompt and an answer, the data have no column of messages, so that the columns
    # they were made from count as used.
    used |= {name for name in ("prompt", "completion", "chosen") if name in rows.names}
    counts = {
        "cut_by_template": sum(chat.cut for chat in written),
        "endless_answers": sum(chat.endless for chat in written),
        "answers_apart": sum(len(chat.examples) for chat in written) - len(written),
    }
    return {
        **_reading({name: rows.names.get(name, name) for name in sorted(used)}, unused),
        **_chat_counts(nonempty),
        **{name: count for name, count in counts.items() if count},
    }


def _chat_counts(nonempty: list[tuple[int, Row]]) -> dict[str, int]:
    """Return what is unusual in chats, without the counts that are zero."""
    roles = [[message["role"] for message in row["messages"]] for _, row in nonempty]
    silent = Counter(message["role"] for _, row in nonempty for message in row["messages"] if _is_silent(message))
    counts = {
        "empty_answers": silent["assistant"],
        "empty_prompts": silent["user"],
        "untrained": sum(len(row["untrained"]) for _, row in nonempty),
        "unanswered": sum("assistant" not in chat for chat in roles),
        "answers_first": sum([role for role in chat if role not in SYSTEM][:1] == ["assistant"] for chat in roles),
    }
    return {name: count for name, count in counts.items() if count}


def _is_silent(message: Message) -> bool:
    return not (message.get("content") or "").strip() and not message.get("tool_calls")


def split_marks(data: config.Data, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """Return the record's entry on the special tokens that the template uses and the tokenizer lacks, if there are any.

    Only templates that partune knows by name are checked. A tokenizer that lacks <|im_start|>, for example, splits it
    into several tokens, like any other text.

    Args:
        data: Section `data` of a study.
        tokenizer: The base model's tokenizer.
    """
    marks = SPECIAL_TOKENS.get((data.chat_template or "").lower(), ())
    split = [mark for mark in marks if len(tokenizer(mark, add_special_tokens=False)["input_ids"]) > 1]
    return {"split_marks": split} if split else {}


def unknown_tokens(tokens: npt.NDArray[np.int32], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the record's entry with the number of unknown tokens; an empty dictionary if there are none.

    Args:
        tokens: (N,), the tokens of all examples.
        tokenizer: The base model's tokenizer.
    """
    unknown = tokenizer.unk_token_id
    # In some tokenizers the unknown token also begins or ends texts, so counting it would tell nothing.
    count = 0 if unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id) else int((tokens == unknown).sum())
    return {"unknown_tokens": count} if count else {}


def _reading(used: Mapping[str, str], unused: Mapping[int, Collection[str]]) -> dict[str, Any]:
    """Return the record's entry on the fields of the rows, without the counts that are zero.

    Args:
        used: The fields that are used. Maps the format's name of a field to the name in the data.
        unused: Maps the number of a row to its fields that have a value and are not used.
    """
    names = Counter(name for fields in unused.values() for name in fields)
    counts = {"unused": dict(sorted(names.items())), "rows_with_unused": len(unused)}
    return {"fields": dict(used)} | {name: value for name, value in counts.items() if value}
