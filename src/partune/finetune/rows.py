"""Read rows of instruction data, check them, and bring them to one form for each format.

No field with a value is dropped silently. The field is used, or counted as unused, or a UserError names its row.
"""

from __future__ import annotations

import gzip
import json
import re
import reprlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from partune import config
from partune.errors import UserError
from partune.runtime.failures import one_line
from partune.runtime.isolation import quiet
from partune.runtime.paths import suggestion_beside

Row = dict[str, Any]
Message = dict[str, Any]
Format = Literal["alpaca", "chat"]

SUFFIXES = (".json", ".jsonl", ".ndjson")
ALPACA = ("instruction", "input", "output", "system", "history")
OTHER_NAMES = {"input": "context", "output": "response"}  # Dolly's names for Alpaca's fields
CHAT = ("messages", "tools", "functions", "system", "chat_template_kwargs")
# Fields of a message that say whether it is trained on: OpenAI's and Mistral's, axolotl's, ms-swift's.
TRAIN_FIELDS = ("weight", "train", "loss")
FOREIGN_ROLES = {  # roles by their names in other formats, in lower case
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "ai", "assistant"), "assistant"),
}
NULL_ADVICE = 'write its text ("" if there is none), or leave the row out'
BROKEN = re.compile("[\ud800-\udfff\0]")  # halves of surrogate pairs, and NUL


# ----- files


def read_rows(data: config.Data) -> list[Row]:
    """Return the rows of a file or of a data set's split, in order.

    Raises:
        UserError: The rows cannot be read. The message names the file and the number of the line.
    """
    path = find_file(data)
    rows = _read_dataset(data) if path is None else _read_file(path)
    if not rows:
        raise UserError(f"{data.path} has no rows")
    return rows[: data.limit]


def find_file(data: config.Data) -> Path | None:
    """Return the file of the data, or None for a data set id; raise UserError if the file does not exist."""
    path = Path(data.path).expanduser()
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if path.is_file():
        if plain.suffix not in SUFFIXES:
            raise UserError(f"{data.path}: instruction data is a .json or .jsonl file (also .gz), or a data set id")
        return path
    if not path.is_dir() and (plain.suffix in SUFFIXES or path.is_absolute() or data.path.startswith((".", "~"))):
        raise UserError(f"no data file {data.path}{suggestion_beside(path)}")
    return None


def _read_file(path: Path) -> list[Row]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    text = _decode(raw, path)
    if text.lstrip().startswith("["):
        rows: list[Row] = list(_parse(text, str(path)))
        return rows
    # Only "\n" ends a line in this format. str.splitlines would also split at characters that JSON allows in a text.
    lines = ((number, line.strip("\ufeff")) for number, line in enumerate(text.split("\n"), 1))
    try:
        return [_parse(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    except UserError:
        if (mapping := _one_mapping(text)) is not None:
            raise UserError(
                f"{path} is one mapping, not rows{_list_within(mapping)}: write one row per line, or a list of rows"
            ) from None
        raise


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec does not count the three bytes of a byte order mark.
        start = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        line = raw.count(b"\n", 0, start) + 1
        wide = " (it begins like UTF-16: save it as UTF-8)" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UserError(f"{path}, line {line}, is not UTF-8: byte {start} of the file{wide}") from None


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise UserError(f"{source} is not valid JSON: {error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise UserError(f"{source} nests too deeply to be read") from None
    except ValueError as error:  # a duplicate key, or an integer of thousands of digits
        raise UserError(f"{source} is not valid JSON: {one_line(error)}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object as a mapping; raise ValueError for a duplicate key, because json would keep its last value."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f'the key "{twice}" is given twice')
    return mapping


def _one_mapping(text: str) -> dict[str, Any] | None:
    """Return the mapping that a text of several lines consists of, or None if the text is anything else."""
    if "\n" not in text.strip():
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _list_within(mapping: Mapping[str, Any]) -> str:
    """Return a hint at a list of rows within a mapping, or an empty text if there is no such list."""
    for name, value in mapping.items():
        are_rows = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
        if are_rows and name not in CHAT:
            return f' (its "{name}" is a list of {len(value)})'
    return ""


def _read_dataset(data: config.Data) -> list[Row]:
    import datasets

    with quiet():
        try:
            split = datasets.load_dataset(data.path, split=data.split)
        except Exception as error:
            raise UserError(f"no data file {data.path}, and no such data set: {one_line(error)}") from None
        return [dict(row) for row in split]


# ----- one form for each format


@dataclass(frozen=True)
class Rows:
    """Rows of one format.

    Attributes:
        form: The format.
        rows: The number of each row (from 1) and its fields. An Alpaca row has Alpaca's names. A chat has its messages,
            the template's other arguments, and the indices of messages that are not trained on (`untrained`).
        names: Maps the format's name of a field to the name that this field has in the data.
        unused: Maps the number of a row to the names of its fields that have a value and are not used.
    """

    form: Format
    rows: list[tuple[int, Row]]
    names: Mapping[str, str]
    unused: Mapping[int, list[str]]


def normalise(data: config.Data, rows: Sequence[Row]) -> Rows:
    """Check rows and bring them to the one form of their format.

    Args:
        data: Section `data` of a study.
        rows: The rows as they were read.

    Raises:
        UserError: A row is wrong. The message names the first such row and the fault.
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{data.path}, row {number}: a row is a mapping, got {type(row).__name__}")
    form = _format(data, rows[0])
    names = _names(form, rows)
    plain: list[tuple[int, Row]] = []
    unused: dict[int, list[str]] = {}
    for number, row in enumerate(rows, 1):
        try:
            fields = _alpaca(row, names) if form == "alpaca" else _chat(row)
        except _BadRowError as problem:
            raise UserError(f"{data.path}, row {number}: {problem}") from None
        if left := [str(name) for name in row if name not in names.values() and _has_value(row[name])]:
            unused[number] = left
        plain.append((number, fields))
    if form == "chat":
        _check_roles(data, plain)
    return Rows(form, plain, names, unused)


class _BadRowError(Exception):
    """A row is wrong; the message says what is wrong with it."""


def _format(data: config.Data, first: Row) -> Format:
    if data.format != "auto":
        return data.format
    if "messages" in first:
        return "chat"
    if "instruction" in first:
        return "alpaca"
    raise UserError(
        f"{data.path}, row 1: neither Alpaca (instruction, output) nor chat (messages); "
        f"it has {_keys(first)}{_list_within(first)}"
    )


def _names(form: Format, rows: Sequence[Row]) -> dict[str, str]:
    """Return `names` of `Rows`. A field may have Dolly's name if no row has a value under Alpaca's name."""
    present = {name for row in rows for name, value in row.items() if _has_value(value)}
    if form == "chat":
        return {name: name for name in CHAT if name in present}
    pairs = {field: field if field in present else OTHER_NAMES.get(field, field) for field in ALPACA}
    return {field: name for field, name in pairs.items() if name in present}


def _has_value(value: Any) -> bool:
    """Return whether a field has a value: data sets fill fields that a row lacks with nulls or empty lists."""
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not value)


def _alpaca(row: Row, names: Mapping[str, str]) -> Row:
    for field in ("instruction", "output"):
        if names.get(field, field) not in row:
            raise _BadRowError(f'"{names.get(field, field)}" is missing; it has {_keys(row)}')
    plain: Row = {}
    for field in ("instruction", "input", "output", "system"):
        name = names.get(field, field)
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise _BadRowError(f'"{name}" must be text, got {_shown(value)}')
        # Somebody wrote an empty answer on purpose, but null may be an answer that was lost.
        if field == "output" and value is None and any(_has_value(row.get(names.get(key, key))) for key in ALPACA):
            raise _BadRowError(f'"{name}" is null: {NULL_ADVICE}')
        plain[field] = _unbroken(value or "", name)
    plain["history"] = [tuple(_unbroken(text, "history") for text in pair) for pair in _history(row.get("history"))]
    return plain


def _history(value: Any) -> list[Any]:
    """Return the earlier turns of a row, as pairs of the user's and the assistant's text (LLaMA-Factory's form)."""
    if value is None:
        return []
    are_pairs = isinstance(value, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in value
    )
    if not are_pairs:
        raise _BadRowError(f'"history" must be a list of pairs of texts, [user, assistant], got {_shown(value)}')
    return list(value)


def _chat(row: Row) -> Row:
    if "messages" not in row:
        raise _BadRowError(f'"messages" is missing; it has {_keys(row)}')
    if not isinstance(row["messages"], (list, tuple)):
        raise _BadRowError(f'"messages" must be a list, got {_shown(row["messages"])}')
    messages = [_message(message, number) for number, message in enumerate(row["messages"], 1)]
    trained = [_take_train_mark(message, number) for number, message in enumerate(messages, 1)]
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise _BadRowError(f'"system" must be text, got {_shown(system)}')
    if system:
        if messages and messages[0]["role"] == "system":
            raise _BadRowError('it has "system", and "messages" begin with a system message too: keep one of them')
        # Templates expect the system prompt as the first message. They do not read a separate field.
        messages.insert(0, {"role": "system", "content": _unbroken(system, "system")})
        trained.insert(0, True)
    plain: Row = {"messages": messages, "untrained": {index for index, mark in enumerate(trained) if not mark}}
    if tools := _tools(row):
        plain["tools"] = _unbroken(tools, "tools")
    if settings := row.get("chat_template_kwargs"):
        if not isinstance(settings, dict):
            raise _BadRowError(f'"chat_template_kwargs" must be a mapping, got {_shown(settings)}')
        plain["chat_template_kwargs"] = {name: value for name, value in settings.items() if value is not None}
    return plain


def _tools(row: Row) -> list[dict[str, Any]]:
    """Return the tools of a chat in the form that templates take; `functions` is OpenAI's older field for them."""
    name = "tools" if _has_value(row.get("tools")) else "functions"
    if name == "tools" and _has_value(row.get("functions")):
        raise _BadRowError('it has both "tools" and "functions": keep one of them')
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except (ValueError, RecursionError):
            raise _BadRowError(f'"{name}" must be a list of mappings, or JSON of one, got {_shown(value)}') from None
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(tool, dict) for tool in value):
        raise _BadRowError(f'"{name}" must be a list of mappings, got {_shown(value)}')
    tools = [_without_nulls(tool) for tool in value]
    return tools if name == "tools" else [{"type": "function", "function": tool} for tool in tools]


def _message(message: Any, number: int) -> Message:
    """Return a message without its null fields and with its content as one text."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _BadRowError(f'message {number} has no text "role": {_shown(message)}')
    plain: Message = _without_nulls(message)
    content = message.get("content")
    calls = [message.get(name) for name in ("tool_calls", "function_call")] if plain["role"] == "assistant" else []
    if isinstance(content, (list, tuple)) and content:
        plain["content"] = "".join(_text_of(part, number) for part in content)
    elif content is None and any(map(_has_value, calls)):
        pass  # an answer that consists of calls only
    elif content is None and "content" in message:
        raise _BadRowError(f'"content" of message {number} is null: {NULL_ADVICE}')
    elif not isinstance(content, str):
        raise _BadRowError(f'message {number} has no text "content": {_shown(message)}')
    if isinstance(plain.get("tool_calls"), list):
        plain["tool_calls"] = [_call(call) for call in plain["tool_calls"]]
    _unbroken(plain, f"message {number}")
    return plain


def _take_train_mark(message: Message, number: int) -> bool:
    """Return whether a message may be trained on; if it is an answer, remove the fields that say so."""
    trained = True
    if message["role"] == "assistant":
        for name in TRAIN_FIELDS:
            value = message.pop(name, 1)
            if not isinstance(value, (int, float)) or value not in (0, 1):
                raise _BadRowError(
                    f"message {number} has {name} {_shown(value)}: it must be 1 (trained on) or 0 (not trained on)"
                )
            trained &= bool(value)
    return trained


def _text_of(part: Any, number: int) -> str:
    """Return the text of one part of a message's content (OpenAI's form)."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "text" and part.get("text", "") is None:
        raise _BadRowError(f'"text" of a part of message {number} is null: {NULL_ADVICE}')
    shown = f'a part of the type "{kind}"' if isinstance(kind, str) else f"the part {_shown(part)}"
    raise _BadRowError(f"message {number} has {shown}: only text is trained on")


def _call(call: Any) -> Any:
    """Return a tool call with its arguments as a mapping, the form that most chat templates expect."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def _without_nulls(value: Any) -> Any:
    """Return a value without null fields: data sets add the fields of all rows to every row."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _check_roles(data: config.Data, rows: Iterable[tuple[int, Row]]) -> None:
    """Raise UserError if a role has the name of another format (such as "gpt"), or if no message is an answer."""
    # A template would write the answers of, say, ShareGPT's role "gpt", but they would never be trained on.
    answered = False
    for number, row in rows:
        roles = list(dict.fromkeys(message["role"] for message in row["messages"]))
        foreign = [role for role in roles if FOREIGN_ROLES.get(role.lower(), role) != role]
        answered |= "assistant" in roles
        if foreign and "assistant" not in roles:
            raise UserError(
                f"{data.path}, row {number}: no message has the role assistant; it has {', '.join(roles)} "
                f"({_translations(foreign)})"
            )
        if foreign:
            raise UserError(
                f'{data.path}, row {number}: a message has the role "{foreign[0]}" ({_translations(foreign)})'
            )
    if not answered:
        known = {message["role"] for _, row in rows for message in row["messages"]}
        if known:
            raise UserError(
                f"{data.path}: no message has the role assistant, so there is no answer to train on; "
                f"the roles are {', '.join(sorted(known))}"
            )


def _translations(foreign: Iterable[str]) -> str:
    return ", ".join(f'"{role}" is "{FOREIGN_ROLES[role.lower()]}" here' for role in foreign)


# ----- broken characters, and values in error messages


def _unbroken(value: Any, name: str) -> Any:
    """Return a value as it is; raise _BadRowError if one of its texts has a broken character."""
    for text in _texts(value):
        if broken := BROKEN.search(text):
            kind = "NUL" if broken[0] == "\0" else "half of a surrogate pair"
            before = broken.start()
            raise _BadRowError(f'"{name}" has a broken character, {broken[0]!r} ({kind}), after {before} others')
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(name)
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _keys(row: Row) -> str:
    return ", ".join(map(str, row)) or "nothing"


def _shown(value: Any) -> str:
    """Return at most the first 60 characters of a value's representation."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxlong = 4, 60, 60
    return f"{brief.repr(value):.60}"
