"""Rows of instruction data: read from files, checked, and brought to the one form of their kind.

Nothing that means something is lost on the way: a field is used, or it is counted, or its row is refused by number.
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
OTHER_NAMES = {"input": "context", "output": "response"}  # Dolly's names of Alpaca's fields
CHAT = ("messages", "tools", "functions", "system", "chat_template_kwargs")
TRAIN_FIELDS = ("weight", "train", "loss")  # of a message: OpenAI's and Mistral's, axolotl's, ms-swift's
FOREIGN_ROLES = {  # what other formats call the roles, in small letters
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "ai", "assistant"), "assistant"),
}
NULL_ADVICE = 'write its text ("" where there is none), or leave the row out'
BROKEN = re.compile("[\ud800-\udfff\0]")  # halves of surrogate pairs, and the character that ends texts in C


# ----- files


def read_rows(data: config.Data) -> list[Row]:
    """Return the rows of a file or of a data set's split, in order.

    Raises:
        UserError: naming the file, and a bad line by its number.
    """
    path = find_file(data)
    rows = _read_dataset(data) if path is None else _read_file(path)
    if not rows:
        raise UserError(f"{data.path} has no rows")
    return rows[: data.limit]


def find_file(data: config.Data) -> Path | None:
    """Return the file that the data's path means, None for a data set id; raise UserError where it is not there."""
    path = Path(data.path).expanduser()
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if path.is_file():
        if plain.suffix not in SUFFIXES:
            raise UserError(f"{data.path}: instruction data is a .json or .jsonl file (either .gz), or a data set id")
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
    # Only "\n" ends a line of JSON lines: str.splitlines would also cut at characters that JSON admits within a text.
    lines = ((number, line.strip("\ufeff")) for number, line in enumerate(text.split("\n"), 1))
    try:
        return [_parse(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    except UserError:
        if (whole := _one_mapping(text)) is not None:
            raise UserError(
                f"{path} is one mapping, not rows{_list_within(whole)}: write a row a line, or a list of rows"
            ) from None
        raise


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind a byte order mark.
        start = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        line = raw.count(b"\n", 0, start) + 1
        wide = " (it begins like UTF-16: save it as UTF-8)" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UserError(f"{path}, line {line}, is not UTF-8: byte {start} of the file{wide}") from None


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise UserError(f"{where} is no valid JSON: {error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise UserError(f"{where} nests too deeply to be read") from None
    except ValueError as error:  # a key that is given twice, a whole number of thousands of digits
        raise UserError(f"{where} is no valid JSON: {one_line(error)}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's mapping; a key given twice is an error, not the last of them."""
    mapping = dict(pairs)  # json keeps the last of equal keys in silence, and an answer with it
    if len(mapping) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f'the key "{twice}" is given twice')
    return mapping


def _one_mapping(text: str) -> dict[str, Any] | None:
    """Return the mapping that a file of several lines is, None where it is something else."""
    if "\n" not in text.strip():
        return None
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _list_within(mapping: Mapping[str, Any]) -> str:
    """Return words on the list of rows that a mapping holds, none where it holds none."""
    for name, value in mapping.items():
        are_rows = isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value)
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


# ----- one form of a kind


@dataclass(frozen=True)
class Rows:
    """Rows of one format.

    Attributes:
        form: The format.
        rows: The number of each row, from 1, and its fields: Alpaca's by Alpaca's names; a chat's messages, what else
            goes to its template, and the places of answers that are not to be trained on (`untrained`).
        names: Which of the data's fields is which of the format's, for the fields that are there.
        unused: By a row's number, its fields that hold something and mean nothing here.
    """

    form: Format
    rows: list[tuple[int, Row]]
    names: Mapping[str, str]
    unused: Mapping[int, list[str]]


def normalise(data: config.Data, rows: Sequence[Row]) -> Rows:
    """Check rows and bring them to the one form of their format.

    Args:
        data: Section `data` of a study.
        rows: As they were read.

    Raises:
        UserError: A row is wrong; names the first one and what is wrong with it.
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
            known = _alpaca(row, names) if form == "alpaca" else _chat(row)
        except _BadRowError as problem:
            raise UserError(f"{data.path}, row {number}: {problem}") from None
        if left := [str(name) for name in row if name not in names.values() and _holds(row[name])]:
            unused[number] = left
        plain.append((number, known))
    if form == "chat":
        _check_roles(data, plain)
    return Rows(form, plain, names, unused)


class _BadRowError(Exception):
    """A row that cannot be read; says what is wrong with it."""


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
    """Return the names in the data of the format's fields; Dolly's stand for Alpaca's where no row has Alpaca's."""
    present = {name for row in rows for name, value in row.items() if _holds(value)}
    if form == "chat":
        return {name: name for name in CHAT if name in present}
    pairs = {name: name if name in present else OTHER_NAMES.get(name, name) for name in ALPACA}
    return {mine: theirs for mine, theirs in pairs.items() if theirs in present}


def _holds(value: Any) -> bool:
    """Return whether a field holds something: data sets fill what a row lacks with nulls and empty lists."""
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not value)


def _alpaca(row: Row, names: Mapping[str, str]) -> Row:
    for mine in ("instruction", "output"):
        if names.get(mine, mine) not in row:
            raise _BadRowError(f'"{names.get(mine, mine)}" is missing; it has {_keys(row)}')
    plain: Row = {}
    for mine in ("instruction", "input", "output", "system"):
        theirs = names.get(mine, mine)
        value = row.get(theirs)
        if value is not None and not isinstance(value, str):
            raise _BadRowError(f'"{theirs}" must be text, got {_shown(value)}')
        # An empty answer is one that somebody wrote; null may as well be an answer that was lost.
        if mine == "output" and value is None and any(_holds(row.get(names.get(name, name))) for name in ALPACA):
            raise _BadRowError(f'"{theirs}" is null: {NULL_ADVICE}')
        plain[mine] = _unbroken(value or "", theirs)
    plain["history"] = [tuple(_unbroken(text, "history") for text in pair) for pair in _history(row.get("history"))]
    return plain


def _history(value: Any) -> list[Any]:
    """Return the turns before a row's own, pairs of what the user and the assistant said (LLaMA-Factory's form)."""
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
    trained = [_is_trained(message, number) for number, message in enumerate(messages, 1)]
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise _BadRowError(f'"system" must be text, got {_shown(system)}')
    if system:
        if messages and messages[0]["role"] == "system":
            raise _BadRowError('"system" stands beside "messages" that begin with a system message: keep one of them')
        # Templates write a system message where it stands first among the messages, and know no field beside them.
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
    """Return the tools of a chat as a template takes them; `functions` are OpenAI's older form of them."""
    name = "tools" if _holds(row.get("tools")) else "functions"
    if name == "tools" and _holds(row.get("functions")):
        raise _BadRowError('"tools" and "functions" stand side by side: keep one of them')
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
    """Return a message without its nulls, its content one text."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _BadRowError(f'message {number} has no text "role": {_shown(message)}')
    plain: Message = _without_nulls(message)
    content = message.get("content")
    calls = [message.get(name) for name in ("tool_calls", "function_call")] if plain["role"] == "assistant" else []
    if isinstance(content, (list, tuple)) and content:
        plain["content"] = "".join(_text_of(part, number) for part in content)
    elif content is None and any(map(_holds, calls)):
        pass  # an answer that is its calls
    elif content is None and "content" in message:
        raise _BadRowError(f'"content" of message {number} is null: {NULL_ADVICE}')
    elif not isinstance(content, str):
        raise _BadRowError(f'message {number} has no text "content": {_shown(message)}')
    if isinstance(plain.get("tool_calls"), list):
        plain["tool_calls"] = [_call(call) for call in plain["tool_calls"]]
    _unbroken(plain, f"message {number}")
    return plain


def _is_trained(message: Message, number: int) -> bool:
    """Return whether a message may be trained on, by its own word, which is taken out of an answer."""
    trained = True
    if message["role"] == "assistant":
        for name in TRAIN_FIELDS:
            value = message.pop(name, 1)
            if not isinstance(value, (int, float)) or value not in (0, 1):
                raise _BadRowError(
                    f"message {number} has {name} {_shown(value)}: it is 1 (trained on) or 0 (not trained on)"
                )
            trained &= bool(value)
    return trained


def _text_of(part: Any, number: int) -> str:
    """Return the text of one part of a content (OpenAI's form)."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "text" and part.get("text", "") is None:
        raise _BadRowError(f'"text" of a part of message {number} is null: {NULL_ADVICE}')
    shown = f'a part of the type "{kind}"' if isinstance(kind, str) else f"the part {_shown(part)}"
    raise _BadRowError(f"message {number} has {shown}: only text is trained on")


def _call(call: Any) -> Any:
    """Return a tool call with its arguments as a mapping, the form that chat templates are written for."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def _without_nulls(value: Any) -> Any:
    """Return a value without the keys that hold null: data sets give every row the keys of all of them."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _check_roles(data: config.Data, rows: Iterable[tuple[int, Row]]) -> None:
    """Raise UserError for roles of other formats, whose answers would not be found."""
    # ShareGPT's "gpt", for one: a template writes such a message, and nothing of it would ever be trained on.
    answered = False
    for number, row in rows:
        roles = list(dict.fromkeys(message["role"] for message in row["messages"]))
        foreign = [role for role in roles if FOREIGN_ROLES.get(role.lower(), role) != role]
        answered |= "assistant" in roles
        if foreign and "assistant" not in roles:
            raise UserError(
                f"{data.path}, row {number}: no message has the role assistant; it has {', '.join(roles)} "
                f"({_stands(foreign)})"
            )
        if foreign:
            raise UserError(f'{data.path}, row {number}: a message has the role "{foreign[0]}" ({_stands(foreign)})')
    if not answered:
        known = {message["role"] for _, row in rows for message in row["messages"]}
        if known:
            raise UserError(
                f"{data.path}: no message has the role assistant, so there is no answer to train on; "
                f"the roles are {', '.join(sorted(known))}"
            )


def _stands(foreign: Iterable[str]) -> str:
    return ", ".join(f'"{role}" is "{FOREIGN_ROLES[role.lower()]}" here' for role in foreign)


# ----- what messages say


def _unbroken(value: Any, name: str) -> Any:
    """Return a value whose texts hold no broken character; raise _BadRowError for one that does."""
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
    """Return a value's beginning, however deep or long it is."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxlong = 4, 60, 60
    return f"{brief.repr(value):.60}"
