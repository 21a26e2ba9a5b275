"""Write chats with a chat template, and cut the text into pieces that are trained on and pieces that are not.

An answer is the text between the template's generation prompt and the end of the turn. A model will always be asked for
the last answer of a chat. Some templates write an earlier answer differently from the last one (they leave reasoning
out of earlier turns). So each answer is written twice, in the whole chat and as the end of the chat so far:

- If both texts are the same, the answer is trained in the whole chat. All such answers share one example.
- If the texts differ, the answer is trained at the end of the chat so far, in a separate example.

If a template marks its answers with {% generation %}, its marks are used instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from partune.errors import UserError, suggestion
from partune.finetune.rows.values import Message, Row
from partune.finetune.templates import TEMPLATES
from partune.runtime.paths import suggestion_beside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Whether a piece of text is trained on: always ("answer"), only with `loss_on: all` ("prompt"), or never.
Kind = Literal["answer", "prompt", "never"]
Piece = tuple[str, Kind]
Span = tuple[int, int, Kind]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Private-use characters that replace an answer's content, to find it in the text. There are two, because the
# replacement must not begin like the answer.
PROBES = ("\ue000", "\ue001")


def template_text(template: str) -> str:
    """Return a chat template that is set as text, by name or as a file; raise UserError if there is none."""
    if len(template) >= 1000 or "{" in template:
        return template
    if template.lower() in TEMPLATES:
        return TEMPLATES[template.lower()]
    try:
        return Path(template).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"chat template file {template} is not UTF-8: byte {error.start}") from None
    except (OSError, RuntimeError, ValueError):
        hint = suggestion_beside(Path(template)) or suggestion(template, TEMPLATES)
        raise UserError(f"no chat template file {template}{hint}; the names are {', '.join(TEMPLATES)}") from None


@dataclass(frozen=True)
class Written:
    """The training examples that a template makes of a chat.

    Attributes:
        examples: The pieces of each example.
        unused: Names of fields of the chat or its messages that do not change the text.
        cut: Whether there is a message whose full content is in none of the examples.
        endless: Whether nothing after the last answer's content is trained on, so that a model would not learn to stop.
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
    """A tokenizer with a chat template.

    Attributes:
        tokenizer: The model's tokenizer.
        template: The template, in Jinja.
        parts: Whether the template expects the content of a message as a list of parts.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    parts: bool = False

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, setting: str | None) -> Chat:
        """Return a tokenizer with the template that a study uses.

        Args:
            tokenizer: The model's tokenizer.
            setting: A template, its name or the path of its file. None means the tokenizer's own template.

        Raises:
            UserError: There is no template.
        """
        template = template_text(setting) if setting is not None else tokenizer.chat_template
        if isinstance(template, dict):  # several templates by name
            template = template.get("default")
        if not isinstance(template, str):
            raise UserError(
                "the model's tokenizer has no chat template: set one with chat_template (--chat-template), which is "
                f"a file or one of {', '.join(TEMPLATES)}"
            )
        plain, in_parts = cls(tokenizer, template), cls(tokenizer, template, parts=True)
        return in_parts if not plain._shows_content() and in_parts._shows_content() else plain

    def _shows_content(self) -> bool:
        """Return whether the text of a chat contains the content of a user's message."""
        try:
            return PROBES[0] in self._render({"messages": [{"role": "user", "content": PROBES[0]}]})
        except Exception:  # templates raise exceptions of any type; a real row will raise the same one again
            return False

    # ----- the pieces of a chat

    def write(self, chat: Row) -> Written:
        """Write a chat, and cut it into training examples.

        Args:
            chat: `messages`, and optionally `tools`, `chat_template_kwargs` and `untrained` (the indices of the
                messages whose answers are not trained on).

        Raises:
            ValueError: The answers cannot be found in the text that the template writes.
            Exception: Any exception of the template itself.
        """
        chat = self._with_writable_calls(chat)
        examples = self._examples(chat)
        texts = ["".join(text for text, _ in pieces) for pieces in examples]
        squeezed = "\n".join(_squeezed(text) for text in texts)
        unused = frozenset(name for name, without in _without_each(chat) if self._texts(without) == texts)
        cut = any(not _is_written(message, squeezed) for message in chat["messages"])
        return Written(examples, unused, cut, _is_endless(chat["messages"], examples))

    def _texts(self, chat: Row) -> list[str] | None:
        """Return the texts of a chat's examples, or None if the template cannot write the chat."""
        try:
            return ["".join(text for text, _ in pieces) for pieces in self._examples(chat)]
        except Exception:
            return None

    def _examples(self, chat: Row) -> list[list[Piece]]:
        text = self._render(chat)
        # Marks in the template are exact. Without them, answers can be found only by comparing texts that it writes.
        if GENERATION.search(self.template):
            return [_pieces(text, self._marked_spans(chat))]
        spans: list[Span] = []
        separate: list[list[Piece]] = []
        answers = [index for index, message in enumerate(chat["messages"]) if message["role"] == "assistant"]
        for index in answers:
            trained = index not in chat.get("untrained", ())
            so_far = {**chat, "messages": chat["messages"][: index + 1]}
            if self._attempt(so_far) is None and index < answers[-1]:
                spans.append((*self._span_within(chat, index, answers[-1], text), "answer" if trained else "never"))
                continue
            # The model will be asked for an answer at the end of the chat so far. That text is trained on, not the one
            # that the template writes for the same answer once more turns follow.
            upto, start, end = self._turn(chat, index)
            body = upto if text.startswith(upto) else self._without_eos(upto)
            if text.startswith(body):
                end = max(start, min(end, len(body.rstrip())))
                spans.append((start, end, "answer" if trained else "never"))
            elif trained:
                separate.append(_pieces(upto, [(0, start, "never"), (start, end, "answer"), (end, len(upto), "never")]))
            else:
                spans.append((*self._content_span(chat, index, text), "never"))
        if spans or not separate:
            return [_pieces(text, spans), *separate]
        # No example holds the whole chat, so `loss_on: all` trains on the prompts of the last example instead.
        return [*separate[:-1], [(part, "prompt" if kind == "never" else kind) for part, kind in separate[-1]]]

    def _span_within(self, chat: Row, index: int, last: int, text: str) -> tuple[int, int]:
        """Return the span of an answer in a chat's text, for a template that cannot write the chat up to this answer.

        Some templates require a user's message in every chat. The text that closes the turn of the last answer tells
        where the turn of this answer ends.
        """
        upto, _, end = self._turn(chat, last)
        _, content_end = self._content_span({**chat, "messages": chat["messages"][: last + 1]}, last, upto)
        close = self._without_eos(upto[content_end:end]).rstrip()
        start, stop = self._content_span(chat, index, text)
        if not text.startswith(close, stop):
            raise ValueError(
                "it cannot write a chat that ends with an early answer; mark answers with {% generation %}"
            )
        return start, stop + len(close)

    def _turn(self, chat: Row, index: int) -> tuple[str, int, int]:
        """Return the text of the chat up to an answer, and the start and the end of the answer in that text."""
        messages = chat["messages"]
        so_far = {**chat, "messages": messages[: index + 1]}
        upto = self._render(so_far)
        end = len(upto.rstrip())
        before = self._attempt({**chat, "messages": messages[:index]}, prompt=True)
        if before is not None and upto.startswith(before):
            return upto, len(before), max(len(before), end)
        # The text does not begin with the generation prompt. The answer begins where the text and the prompt start to
        # differ. If they differ even before the end of the previous turn, the answer begins at its content.
        start, _ = self._content_span(so_far, index, upto)
        earlier = self._attempt({**chat, "messages": messages[:index]})
        if before is not None and earlier is not None and upto.startswith(body := self._without_eos(earlier)):
            common = _common_prefix(upto, before)
            start = min(start, common) if common >= len(body) else start
        return upto, start, max(start, end)

    def _content_span(self, chat: Row, index: int, text: str) -> tuple[int, int]:
        """Return the span of a chat's text that changes with the content of one answer."""
        message = chat["messages"][index]
        content = str(message.get("content", "")).lstrip()
        # A replacement with the same first character would hide where the texts begin to differ.
        probe = next(probe for probe in PROBES if not content.startswith(probe))
        other = [*chat["messages"][:index], {"role": message["role"], "content": probe}, *chat["messages"][index + 1 :]]
        altered = self._render({**chat, "messages": other})
        if probe not in altered:
            raise ValueError("it does not write the content of an answer; mark answers with {% generation %}")
        start = _common_prefix(text, altered)
        return start, len(text) - min(_common_prefix(text[::-1], altered[::-1]), len(text) - start)

    def _without_eos(self, text: str) -> str:
        """Return a chat's text without the end of sequence that some templates write after the last turn only."""
        eos = self.tokenizer.eos_token
        body = text.rstrip()
        return body.removesuffix(str(eos)) if eos and body.endswith(str(eos)) else text

    def _marked_spans(self, chat: Row) -> list[Span]:
        """Return the spans that the template itself marks."""
        text, marks = self._rendered(chat, marked=True)
        never = [self._content_span(chat, index, text) for index in sorted(chat.get("untrained", ()))]
        return [
            (start, end, "never" if any(start < b and a < end for a, b in never) else "answer") for start, end in marks
        ]

    # ----- the template

    def _with_writable_calls(self, chat: Row) -> Row:
        """Return a chat with its tool calls in a form that the template can write.

        Most templates take the arguments of a call as a mapping, some as JSON. If a message has calls and no content,
        some templates want null as its content and some want an empty text.
        """
        if not any(message.get("tool_calls") for message in chat["messages"]):
            return chat
        names = [name for message in chat["messages"] for name in _called_functions(message)]
        forms = [
            _with_calls(chat, as_json, content) for as_json in (False, True) for content in ("keep", "text", "null")
        ]
        for form in forms:
            text = self._attempt(form)
            shown = text is not None and all(name in text for name in names)
            if shown and text != self._attempt(_without(form, "tool_calls")):
                return form
        if any(message.get("tool_calls") and not message.get("content") for message in chat["messages"]):
            raise ValueError(
                f"it does not write the tool calls of an answer without content ({', '.join(names)}); "
                "use a template that does, in a Jinja file: `--chat-template FILE`"
            )
        return chat

    def _attempt(self, chat: Row, prompt: bool = False) -> str | None:
        """Return a chat's text, or None if the template cannot write the chat."""
        try:
            return self._render(chat, prompt)
        except Exception:  # templates raise exceptions of any type
            return None

    def _render(self, chat: Row, prompt: bool = False) -> str:
        return self._rendered(chat, prompt)[0]

    def _rendered(self, chat: Row, prompt: bool = False, marked: bool = False) -> tuple[str, list[tuple[int, int]]]:
        """Return a chat's text and, if `marked`, the spans of the answers that the template marks.

        This calls the function behind `apply_chat_template`, because that method refuses the empty chat before a first
        answer and does not return the spans.
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
    """Cut a text at spans. The text between the spans becomes prompt."""
    pieces: list[Piece] = []
    done = 0  # characters that are already in a piece
    for start, end, kind in sorted(spans):
        start = max(start, done)
        pieces += [(text[done:start], "prompt"), (text[start:end], kind)]
        done = max(done, end)
    return [piece for piece in [*pieces, (text[done:], "prompt")] if piece[0]]


def _without_each(chat: Row) -> Iterator[tuple[str, Row]]:
    """Yield the name of each optional field with a value, and the chat without this field."""
    names = {name for message in chat["messages"] for name, value in message.items() if value not in ("", [], {})}
    for name in sorted(names - {"role", "content"}):
        yield name, _without(chat, name)
    for name in ("tools", "chat_template_kwargs"):
        if chat.get(name):
            yield name, {key: value for key, value in chat.items() if key != name}


def _without(chat: Row, name: str) -> Row:
    """Return a chat without one field of its messages."""
    bare = [{key: value for key, value in message.items() if key != name} for message in chat["messages"]]
    return {**chat, "messages": bare}


def _is_written(message: Message, squeezed: str) -> bool:
    """Return whether a text contains a message's content, as it is or escaped as in JSON.

    White space does not count.

    Args:
        message: The message.
        squeezed: The text, from which all white space has been removed.
    """
    content = message.get("content") or ""
    forms = [content, json.dumps(content, ensure_ascii=False)[1:-1], json.dumps(content)[1:-1]]
    return any(_squeezed(form) in squeezed for form in forms)


def _is_endless(messages: Sequence[Message], examples: Sequence[Sequence[Piece]]) -> bool:
    """Return whether the last message is an answer, and nothing after its content is trained on."""
    content = str(messages[-1].get("content") or "").rstrip() if messages else ""
    trained = [text.rstrip() for pieces in examples for text, kind in pieces if kind == "answer"]
    return bool(content) and messages[-1]["role"] == "assistant" and any(text.endswith(content) for text in trained)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _common_prefix(one: str, other: str) -> int:
    """Return the length of the longest common prefix of two texts."""
    low, high = 0, min(len(one), len(other))  # bisection, because slices compare faster than single characters
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


def _called_functions(message: Message) -> list[str]:
    """Return the names of the functions that a message calls."""
    calls = message.get("tool_calls")
    functions = (
        [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    return [str(function["name"]) for function in functions if isinstance(function, dict) and "name" in function]


def _with_calls(chat: Row, as_json: bool, content: Literal["keep", "text", "null"]) -> Row:
    """Return a chat with all of its tool calls in one form.

    Args:
        chat: The chat.
        as_json: Whether to turn arguments that are mappings into JSON.
        content: What to do with the content of a message that has calls and no content: leave it ("keep"), or set it to
            "" ("text") or to None ("null").
    """

    def call(value: Any) -> Any:
        """Return a call with its arguments in the chosen form."""
        function = value.get("function") if isinstance(value, dict) else None
        if not as_json or not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
            return value
        return {**value, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}

    def form(message: Message) -> Message:
        """Return a message with its calls and its content in the chosen form."""
        if not message.get("tool_calls"):
            return message
        changed = {**message, "tool_calls": [call(value) for value in message["tool_calls"]]}
        if not message.get("content") and content != "keep":
            changed["content"] = "" if content == "text" else None
        return changed

    return {**chat, "messages": [form(message) for message in chat["messages"]]}
