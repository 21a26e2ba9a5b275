"""Bring chats, OpenAI's messages or ShareGPT's conversations, to one form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from partune import config
from partune.errors import UserError
from partune.finetune.rows.values import (
    NULL_ADVICE,
    BadRowError,
    Message,
    Places,
    Row,
    has_value,
    require,
    shown,
    unbroken,
    value_of,
    without_nulls,
)

# Fields of a message that say whether it is trained on: OpenAI's and Mistral's, axolotl's, ms-swift's.
TRAIN_FIELDS = ("weight", "train", "loss")
FOREIGN_ROLES = {  # roles by their names in other formats, in lower case
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "ai", "assistant"), "assistant"),
}
SHAREGPT_ROLES = {  # roles of ShareGPT's turns, in lower case
    **FOREIGN_ROLES,
    **dict.fromkeys(("prompter", "customer"), "user"),
    **dict.fromkeys(("chatgpt", "bing", "bard", "chatbot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "function_response", "observation"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}


def plain_chat(row: Row, names: Mapping[str, str]) -> Row:
    """Return a chat in the common form: its messages, the template's arguments, and the answers not to train on.

    Args:
        row: The row as it was read.
        names: Maps the format's name of a field to the name of its column.

    Raises:
        BadRowError: The row is wrong.
    """
    require(row, names, "messages")
    return _chat({field: row[name] for field, name in names.items() if name in row}, names)


def plain_sharegpt(row: Row, names: Mapping[str, str]) -> Row:
    """Return a chat of ShareGPT's turns in the common form.

    Args:
        row: The row as it was read.
        names: Maps the format's name of a field to the name of its column.

    Raises:
        BadRowError: The row is wrong.
    """
    require(row, names, "messages")
    fields = {field: row[name] for field, name in names.items() if name in row}
    name = names["messages"]
    turns = parse_json(fields["messages"])
    if not isinstance(turns, (list, tuple)):
        raise BadRowError(_no_list(name, turns))
    fields["messages"] = [_turn(turn, number) for number, turn in enumerate(turns, 1)]
    tools = parse_json(fields.get("tools"))
    if isinstance(tools, list) and all(isinstance(tool, dict) and "function" not in tool for tool in tools):
        fields["tools"] = [{"type": "function", "function": tool} for tool in tools]  # LLaMA-Factory's form
    return _chat(fields, names)


def prompted_chat(row: Row, names: Mapping[str, str], answer: str) -> Row:
    """Return the chat of a prompt and an answer; only the answer is trained on.

    Args:
        row: The row as it was read.
        names: Maps the format's name of a field to the name of its column.
        answer: The field that holds the answer: completion or chosen.

    Raises:
        BadRowError: The row is wrong.
    """
    require(row, names, answer)
    prompt, reply = parse_json(value_of(row, names, "prompt")), parse_json(row[names[answer]])
    if not isinstance(reply, (list, tuple)):
        raise BadRowError(f'"{names[answer]}" must be a list of messages as in other rows, got {shown(reply)}')
    if isinstance(prompt, str):
        before = [{"role": "user", "content": prompt}]
        if reply and isinstance(reply[0], dict) and reply[0].get("role") in ("user", "system"):
            before = []  # the answer holds the whole chat
    elif prompt is None or isinstance(prompt, (list, tuple)):
        before = list(prompt or ())
    else:
        raise BadRowError(f'"{names["prompt"]}" must be a list of messages as in other rows, got {shown(prompt)}')
    fields: Row = {"messages": [*before, *reply]}
    if tools := value_of(row, names, "tools"):
        fields["tools"] = tools
    plain = _chat(fields, {"messages": names[answer]})
    known = len(before) or _common(reply, parse_json(value_of(row, names, "rejected")))
    earlier = {i for i, message in enumerate(plain["messages"][:known]) if message["role"] == "assistant"}
    return {**plain, "untrained": plain["untrained"] | earlier}


def _common(chosen: Any, rejected: Any) -> int:
    """Return the number of messages with which both answers begin: the prompt, if it is not given on its own."""
    if not isinstance(rejected, (list, tuple)):
        return max(0, len(chosen) - 1)
    alike = (one == other for one, other in zip(chosen, rejected, strict=False))
    return min(next((i for i, same in enumerate(alike) if not same), len(rejected)), max(0, len(chosen) - 1))


def _turn(turn: Any, number: int) -> Any:
    """Return a turn of ShareGPT as a message of OpenAI."""
    if not isinstance(turn, dict):
        return turn  # `_message` will refuse it
    role = turn.get("from", turn.get("role"))
    named = "value" if "value" in turn or "content" not in turn else "content"
    value = turn.get(named)
    if not isinstance(role, str):
        raise BadRowError(f'turn {number} has no text "from": {shown(turn)}')
    others = {name: inner for name, inner in turn.items() if name not in ("from", "role", "value", "content")}
    translated = SHAREGPT_ROLES.get(role.strip().lower())
    if translated is None:
        raise BadRowError(f'turn {number} is from "{role}", not one of {", ".join(SHAREGPT_ROLES)}')
    if named not in turn:
        raise BadRowError(f'turn {number} has no "value": {shown(turn)}')
    if value is None:
        raise BadRowError(f'"{named}" of turn {number} is null: {NULL_ADVICE}')
    if translated != "call":
        if not isinstance(value, str) and not (isinstance(value, (list, tuple)) and value):
            raise BadRowError(f'turn {number} has no text "{named}": {shown(turn)}')
        return {**others, "role": translated, "content": value}
    calls = parse_json(value)
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        raise BadRowError(f"turn {number} is a function call: it must be JSON with name and arguments")
    functions = [{"type": "function", "function": call} for call in calls]
    return {**others, "role": "assistant", "content": None, "tool_calls": functions}


def parse_json(value: Any) -> Any:
    """Parse JSON text, which tables use for messages; return anything else unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
    return value


def _chat(row: Row, names: Mapping[str, str]) -> Row:
    listed = parse_json(row["messages"])
    if not isinstance(listed, (list, tuple)):
        raise BadRowError(_no_list(names["messages"], listed))
    messages = [_message(message, number) for number, message in enumerate(listed, 1)]
    trained = [_take_train_mark(message, number) for number, message in enumerate(messages, 1)]
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise BadRowError(f'"system" must be text, got {shown(system)}')
    if system:
        if messages and messages[0]["role"] == "system":
            raise BadRowError('it has "system", and "messages" begin with a system message too: keep one of them')
        # Templates expect the system prompt as the first message. They do not read a separate field.
        messages.insert(0, {"role": "system", "content": unbroken(system, "system")})
        trained.insert(0, True)
    plain: Row = {"messages": messages, "untrained": {index for index, mark in enumerate(trained) if not mark}}
    if tools := _tools(row):
        plain["tools"] = unbroken(tools, "tools")
    if settings := row.get("chat_template_kwargs"):
        if not isinstance(settings, dict):
            raise BadRowError(f'"chat_template_kwargs" must be a mapping, got {shown(settings)}')
        plain["chat_template_kwargs"] = {name: value for name, value in settings.items() if value is not None}
    return plain


def _no_list(name: str, value: Any) -> str:
    is_written = isinstance(value, str) and value.lstrip()[:1] == "["
    hint = "; in a table, write messages as valid JSON" if is_written else ""
    return f'"{name}" must be a list, got {shown(value)}{hint}'


def _tools(row: Row) -> list[dict[str, Any]]:
    """Return the tools of a chat in the form that templates take; `functions` is OpenAI's older field for them."""
    name = "tools" if has_value(row.get("tools")) else "functions"
    if name == "tools" and has_value(row.get("functions")):
        raise BadRowError('it has both "tools" and "functions": keep one of them')
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except (ValueError, RecursionError):
            raise BadRowError(f'"{name}" must be a list of mappings, or JSON of one, got {shown(value)}') from None
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(tool, dict) for tool in value):
        raise BadRowError(f'"{name}" must be a list of mappings, got {shown(value)}')
    tools = [without_nulls(tool) for tool in value]
    return tools if name == "tools" else [{"type": "function", "function": tool} for tool in tools]


def _message(message: Any, number: int) -> Message:
    """Return a message without its null fields and with its content as one text."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRowError(f'message {number} has no text "role": {shown(message)}')
    plain: Message = without_nulls(message)
    content = message.get("content")
    calls = [message.get(name) for name in ("tool_calls", "function_call")] if plain["role"] == "assistant" else []
    if isinstance(content, (list, tuple)) and content:
        plain["content"] = "".join(_text_of(part, number) for part in content)
    elif content is None and any(map(has_value, calls)):
        pass  # an answer that consists of calls only
    elif content is None and "content" in message:
        raise BadRowError(f'"content" of message {number} is null: {NULL_ADVICE}')
    elif not isinstance(content, str):
        raise BadRowError(f'message {number} has no text "content": {shown(message)}')
    if isinstance(plain.get("tool_calls"), list):
        plain["tool_calls"] = [_call(call) for call in plain["tool_calls"]]
    unbroken(plain, f"message {number}")
    return plain


def _take_train_mark(message: Message, number: int) -> bool:
    """Return whether a message may be trained on; remove the fields that say this from an answer."""
    if message["role"] != "assistant":
        return True
    marks = {name: message.pop(name) for name in TRAIN_FIELDS if name in message}
    for name, value in marks.items():
        if not isinstance(value, (int, float)) or value not in (0, 1):
            raise BadRowError(
                f"message {number} has {name} {shown(value)}: it must be 1 (trained on) or 0 (not trained on)"
            )
    if len(set(map(bool, marks.values()))) > 1:
        contradiction = ", ".join(f"{name} {value}" for name, value in marks.items())
        raise BadRowError(f"message {number} is both trained on and not trained on ({contradiction}): keep one of them")
    return all(marks.values())


def _text_of(part: Any, number: int) -> str:
    """Return the text of one part of a message's content (OpenAI's form)."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "text" and part.get("text", "") is None:
        raise BadRowError(f'"text" of a part of message {number} is null: {NULL_ADVICE}')
    described = f'a part of the type "{kind}"' if isinstance(kind, str) else f"the part {shown(part)}"
    raise BadRowError(f"message {number} has {described}: only text is trained on")


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


def check_roles(data: config.Data, rows: Sequence[tuple[int, Row]], places: Places) -> None:
    """Check that at least one message is an answer, and that no role has the name of another format (such as "gpt").

    Args:
        data: Section `data` of a study.
        rows: The number of each chat and the chat.
        places: Where the rows come from.

    Raises:
        UserError: A role is wrong. The message names the first such row.
    """
    # A template would write the answers of ShareGPT's role "gpt", but they would never be trained on.
    answered = False
    for number, row in rows:
        roles = list(dict.fromkeys(message["role"] for message in row["messages"]))
        foreign = [role for role in roles if FOREIGN_ROLES.get(role.lower(), role) != role]
        answered |= "assistant" in roles
        if foreign and "assistant" not in roles:
            raise UserError(
                f"{places.of(number)}: no message has the role assistant; the roles are {', '.join(roles)} "
                f"({_translations(foreign)})"
            )
        if foreign:
            raise UserError(f'{places.of(number)}: a message has the role "{foreign[0]}" ({_translations(foreign)})')
    if not answered:
        known = {message["role"] for _, row in rows for message in row["messages"]}
        if known:
            raise UserError(
                f"{data.path}: no message has the role assistant, so there is no answer to train on; "
                f"the roles are {', '.join(sorted(known))}"
            )


def _translations(foreign: Iterable[str]) -> str:
    return ", ".join(f'"{role}" is "{FOREIGN_ROLES[role.lower()]}" here' for role in foreign)
