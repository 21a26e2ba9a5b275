"""Chats as a template writes them, cut into the pieces that are trained on and those that are not.

An answer is what follows the prompt for it (the template's generation prompt), to the end of its turn. Templates write
an answer that is not the last one otherwise (reasoning is left out of earlier turns), so each answer is looked at as
the last of the chat so far, which is how a model will give it:

- written the same in the whole chat, it is trained there, all such answers in one example;
- written otherwise there, it is trained as the last of the chat so far, in an example of its own.

Where a template marks its answers with {% generation %}, its marks are followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from partune.errors import UserError
from partune.finetune.rows import Message, Row
from partune.runtime.paths import suggestion_beside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of a text: trained on with the answers, with prompts too (`loss_on: all`), or never.
Kind = Literal["answer", "prompt", "never"]
Piece = tuple[str, Kind]
Span = tuple[int, int, Kind]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
PROBES = ("\ue000", "\ue001")  # characters for private use: no answer begins with both


def template_text(given: str) -> str:
    """Return a chat template, read from its file where that is what is given; raise UserError where there is none."""
    if len(given) >= 1000 or "{" in given:
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"chat template file {given} is not UTF-8: byte {error.start}") from None
    except (OSError, RuntimeError, ValueError):
        raise UserError(f"no chat template file {given}{suggestion_beside(Path(given))}") from None


@dataclass(frozen=True)
class Written:
    """A chat as its template writes it.

    Attributes:
        examples: The pieces of each example.
        unused: Fields of its messages, or beside them, that do not change what is written.
        cut: Whether a message's content is written nowhere in full.
        endless: Whether nothing is trained on behind what the last answer says.
    """

    examples: list[list[Piece]]
    unused: frozenset[str] = frozenset()
    cut: bool = False
    endless: bool = False

    @property
    def texts(self) -> list[str]:
        """The whole text of each example."""
        return ["".join(text for text, _ in pieces) for pieces in self.examples]


@dataclass(frozen=True)
class Chat:
    """A tokenizer with the template that writes its chats.

    Attributes:
        tokenizer: The model's.
        template: In Jinja.
        parts: Whether the template reads contents as lists of parts.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    parts: bool = False

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, given: str | None) -> Chat:
        """Return a tokenizer with its template.

        Args:
            tokenizer: The model's.
            given: A template, or a file of one; None takes the tokenizer's own.

        Raises:
            UserError: There is no template.
        """
        template = template_text(given) if given is not None else tokenizer.chat_template
        if isinstance(template, dict):  # several, by name
            template = template.get("default")
        if not isinstance(template, str):
            raise UserError("the model's tokenizer has no chat template: give one with chat_template (--chat-template)")
        whole, in_parts = cls(tokenizer, template), cls(tokenizer, template, parts=True)
        return in_parts if not whole._shows_content() and in_parts._shows_content() else whole

    def _shows_content(self) -> bool:
        """Return whether a question's content is in what is written."""
        try:
            return PROBES[0] in self._render({"messages": [{"role": "user", "content": PROBES[0]}]})
        except Exception:  # a template raises what it likes, and will say it of a row
            return False

    # ----- the pieces of a chat

    def write(self, chat: Row) -> Written:
        """Write a chat.

        Args:
            chat: `messages`, and where it has them `tools`, `chat_template_kwargs` and `untrained`, the places of
                answers that are not trained on.

        Raises:
            ValueError: Where the template cannot tell the answers.
            Exception: Whatever the template raises.
        """
        chat = self._callable(chat)
        examples = self._examples(chat)
        texts = ["".join(text for text, _ in pieces) for pieces in examples]
        squeezed = "\n".join(_squeezed(text) for text in texts)
        unused = frozenset(name for name, without in _without_each(chat) if self._texts(without) == texts)
        cut = any(not _is_written(message, squeezed) for message in chat["messages"])
        return Written(examples, unused, cut, _is_endless(chat["messages"], examples))

    def _texts(self, chat: Row) -> list[str] | None:
        """Return the texts of a chat's examples; None where the template cannot write it."""
        try:
            return ["".join(text for text, _ in pieces) for pieces in self._examples(chat)]
        except Exception:
            return None

    def _examples(self, chat: Row) -> list[list[Piece]]:
        text = self._render(chat)
        # The template's own marks are exact; all else below is found by comparing texts, as templates are programs.
        if GENERATION.search(self.template):
            return [_pieces(text, self._marked(chat))]
        spans: list[Span] = []
        apart: list[list[Piece]] = []
        answers = [index for index, message in enumerate(chat["messages"]) if message["role"] == "assistant"]
        for index in answers:
            trained = index not in chat.get("untrained", ())
            so_far = {**chat, "messages": chat["messages"][: index + 1]}
            if self._attempt(so_far) is None and index < answers[-1]:
                spans.append((*self._within(chat, index, answers[-1], text), "answer" if trained else "never"))
                continue
            # What is trained has to be what the model will be asked for: the chat up to an answer, as a server writes
            # it, not how the template writes the same answer once more turns follow.
            upto, start, end = self._turn(chat, index)
            body = upto if text.startswith(upto) else self._without_close(upto)
            if text.startswith(body):
                end = max(start, min(end, len(body.rstrip())))
                spans.append((start, end, "answer" if trained else "never"))
            elif trained:
                apart.append(_pieces(upto, [(0, start, "never"), (start, end, "answer"), (end, len(upto), "never")]))
            else:
                spans.append((*self._difference(chat, index, text), "never"))
        if spans or not apart:
            return [_pieces(text, spans), *apart]
        # No example shows the whole chat: the last one stands for it where prompts are trained on too.
        return [*apart[:-1], [(part, "prompt" if kind == "never" else kind) for part, kind in apart[-1]]]

    def _within(self, chat: Row, index: int, last: int, text: str) -> tuple[int, int]:
        """Return where an answer lies in a chat's text, for a template that writes no chat that ends there.

        Some want a question in every chat. The answer's turn ends in what stands behind the last answer's own text.
        """
        upto, _, end = self._turn(chat, last)
        _, content_end = self._difference({**chat, "messages": chat["messages"][: last + 1]}, last, upto)
        close = self._without_close(upto[content_end:end]).rstrip()
        start, stop = self._difference(chat, index, text)
        if not text.startswith(close, stop):
            raise ValueError("it writes no chat that ends with its first answer; mark answers with {% generation %}")
        return start, stop + len(close)

    def _turn(self, chat: Row, index: int) -> tuple[str, int, int]:
        """Return the chat up to an answer, as one that ends there, and where the answer begins and ends in it."""
        messages = chat["messages"]
        so_far = {**chat, "messages": messages[: index + 1]}
        upto = self._render(so_far)
        end = len(upto.rstrip())
        before = self._attempt({**chat, "messages": messages[:index]}, prompt=True)
        if before is not None and upto.startswith(before):
            return upto, len(before), max(len(before), end)
        # The prompt for an answer is not how the answer begins: it begins where the two part, within what the template
        # writes between the chat before and the answer's own text.
        start, _ = self._difference(so_far, index, upto)
        earlier = self._attempt({**chat, "messages": messages[:index]})
        if before is not None and earlier is not None and upto.startswith(body := self._without_close(earlier)):
            shared = _shared(upto, before)
            start = min(start, shared) if shared >= len(body) else start
        return upto, start, max(start, end)

    def _difference(self, chat: Row, index: int, text: str) -> tuple[int, int]:
        """Return where a chat's text depends on what one answer says."""
        message = chat["messages"][index]
        answer = str(message.get("content", "")).lstrip()
        probe = next(
            text for text in PROBES if not answer.startswith(text)
        )  # an equal beginning would hide the difference
        other = [*chat["messages"][:index], {"role": message["role"], "content": probe}, *chat["messages"][index + 1 :]]
        altered = self._render({**chat, "messages": other})
        if probe not in altered:
            raise ValueError("it does not write what an answer says; mark answers with {% generation %}")
        start = _shared(text, altered)
        return start, len(text) - min(_shared(text[::-1], altered[::-1]), len(text) - start)

    def _without_close(self, text: str) -> str:
        """Return a chat's text without the end of sequence that some templates write after the last turn only."""
        eos = self.tokenizer.eos_token
        body = text.rstrip()
        return body.removesuffix(str(eos)) if eos and body.endswith(str(eos)) else text

    def _marked(self, chat: Row) -> list[Span]:
        """Return the spans that the template itself marks."""
        text, marks = self._rendered(chat, marked=True)
        never = [self._difference(chat, index, text) for index in sorted(chat.get("untrained", ()))]
        return [
            (start, end, "never" if any(start < b and a < end for a, b in never) else "answer") for start, end in marks
        ]

    # ----- the template

    def _callable(self, chat: Row) -> Row:
        """Return a chat with calls of tools in the form that the template can write.

        Most take a call's arguments as a mapping, some as JSON; some want a call's content to be null, some a text.
        """
        if not any(message.get("tool_calls") for message in chat["messages"]):
            return chat
        names = [name for message in chat["messages"] for name in _called(message)]
        forms = [
            _with_calls(chat, as_json, content) for as_json in (False, True) for content in ("keep", "text", "null")
        ]
        for form in forms:
            text = self._attempt(form)
            shown = text is not None and all(name in text for name in names)
            if shown and text != self._attempt(_without(form, "tool_calls")):
                return form
        if any(message.get("tool_calls") and not message.get("content") for message in chat["messages"]):
            raise ValueError(f"it does not write the calls of tools that are the answer ({', '.join(names)})")
        return chat

    def _attempt(self, chat: Row, prompt: bool = False) -> str | None:
        """Return a chat's text; None where the template does not write such a chat."""
        try:
            return self._render(chat, prompt)
        except Exception:  # a template raises what it likes
            return None

    def _render(self, chat: Row, prompt: bool = False) -> str:
        return self._rendered(chat, prompt)[0]

    def _rendered(self, chat: Row, prompt: bool = False, marked: bool = False) -> tuple[str, list[tuple[int, int]]]:
        """Return a chat's text, and where answers lie in it if those are marked.

        By the function behind `apply_chat_template`, which itself refuses the empty chat before a first answer and
        keeps the marks for itself.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, marks = render_jinja_template(
            conversations=[[_in_parts(message) for message in chat["messages"]] if self.parts else chat["messages"]],
            tools=chat.get("tools") or None,
            chat_template=self.template,
            return_assistant_tokens_mask=marked,
            add_generation_prompt=prompt,
            **{**self.tokenizer.special_tokens_map, **chat.get("chat_template_kwargs", {})},
        )
        return str(texts[0]), [(int(start), int(end)) for start, end in marks[0]] if marked else []


def _pieces(text: str, spans: Sequence[Span]) -> list[Piece]:
    """Cut a text at spans; what lies between them is prompt."""
    pieces: list[Piece] = []
    done = 0  # characters that are in a piece
    for start, end, kind in sorted(spans):
        start = max(start, done)
        pieces += [(text[done:start], "prompt"), (text[start:end], kind)]
        done = max(done, end)
    return [piece for piece in [*pieces, (text[done:], "prompt")] if piece[0]]


def _without_each(chat: Row) -> Iterator[tuple[str, Row]]:
    """Yield each field that may go unused, and the chat without it."""
    names = {name for message in chat["messages"] for name, value in message.items() if value not in ("", [], {})}
    for name in sorted(names - {"role", "content"}):
        yield name, _without(chat, name)
    for name in ("tools", "chat_template_kwargs"):
        if chat.get(name):
            yield name, {key: value for key, value in chat.items() if key != name}


def _without(chat: Row, name: str) -> Row:
    """Return a chat whose messages lack a field."""
    bare = [{key: value for key, value in message.items() if key != name} for message in chat["messages"]]
    return {**chat, "messages": bare}


def _is_written(message: Message, squeezed: str) -> bool:
    """Return whether a message's content is in a text, both without white space; a tool's may be there as JSON."""
    content = message.get("content") or ""
    forms = [content, json.dumps(content, ensure_ascii=False)[1:-1], json.dumps(content)[1:-1]]
    return any(_squeezed(form) in squeezed for form in forms)


def _is_endless(messages: Sequence[Message], examples: Sequence[Sequence[Piece]]) -> bool:
    """Return whether the last message is an answer whose end is not trained on: a model would not learn to stop."""
    answer = str(messages[-1].get("content") or "").rstrip() if messages else ""
    ends = [text.rstrip() for pieces in examples for text, kind in pieces if kind == "answer"]
    return bool(answer) and messages[-1]["role"] == "assistant" and any(end.endswith(answer) for end in ends)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))  # by halves: slices compare faster than a loop over characters
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return message if content is None else {**message, "content": [{"type": "text", "text": content}]}


def _called(message: Message) -> list[str]:
    """Return the names of the functions that a message calls."""
    calls = message.get("tool_calls")
    functions = (
        [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    return [str(function["name"]) for function in functions if isinstance(function, dict) and "name" in function]


def _with_calls(chat: Row, as_json: bool, content: Literal["keep", "text", "null"]) -> Row:
    """Return a chat with the arguments of calls as JSON or as mappings, and empty contents beside calls in one form."""

    def call(value: Any) -> Any:
        """Return a call with its arguments in the form that is wanted."""
        function = value.get("function") if isinstance(value, dict) else None
        if not as_json or not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
            return value
        return {**value, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}

    def form(message: Message) -> Message:
        """Return a message with its calls and content in the forms that are wanted."""
        if not message.get("tool_calls"):
            return message
        changed = {**message, "tool_calls": [call(value) for value in message["tool_calls"]]}
        if not message.get("content") and content != "keep":
            changed["content"] = "" if content == "text" else None
        return changed

    return {**chat, "messages": [form(message) for message in chat["messages"]]}
