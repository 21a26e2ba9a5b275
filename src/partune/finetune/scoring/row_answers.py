"""Score models by the answers that they generate to the prompts of validation rows.

A row's reference is its answer; in a conversation, the last answer that is trained on. Each metric is one number per
row:

    exact_match   1 if the answer is the reference, without the white space around both, otherwise 0
    f1            the F-measure of the words that answer and reference share (ROUGE-1)
    rougeL        the F-measure of their longest common subsequence of words (ROUGE-L; Lin 2004)
    a function    what the user's own function returns; higher must be better

Words are runs of letters and digits of any script; case is ignored. In scripts without spaces, each character is a
word. In English, these are the words of Google's rouge-score, which ignores all letters but English ones.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from partune.errors import UserError, reason, shown
from partune.finetune.data import Examples, Row
from partune.finetune.scoring.base import (
    Answer,
    Arrays,
    Floats,
    Ints,
    Prompt,
    UndefinedScoreError,
    weighted_mean,
)
from partune.finetune.scoring.decoding import GenerationSettings, end_tokens
from partune.finetune.scoring.row_losses import stretches
from partune.finetune.scoring.validation_rows import ValidationRows
from partune.finetune.templates import SPECIAL_TOKENS
from partune.finetune.words import words
from partune.runtime.failures import OF_USERS
from partune.runtime.plugins import load_named
from partune.trial.contents import Content, digest
from partune.trial.names import TEXTS
from partune.trial.trial import number as as_number

if TYPE_CHECKING:
    from partune.finetune.model import Base

ROOM = 1.25  # the token limit of answers, relative to the longest reference
MARK = 16  # the largest number of tokens of the text with which a chat template ends an answer
ROUGE = {"f1": "rouge1", "rougeL": "rougeL"}


@dataclass(frozen=True)
class Function:
    """A user's function that scores answers.

    Attributes:
        name: The function's name, package.module:function.
        function: The function. It takes a row and the answer to it, or, if its first parameter is called `rows`, all
            rows and all answers at once. It returns a number per row.
        rows: The rows by number, as read from the file.
    """

    name: str
    function: Callable[..., Any]
    rows: Mapping[int, Row]

    @classmethod
    def of(cls, name: str, rows: Sequence[Row]) -> Function:
        """Load a function.

        Args:
            name: The function's name, package.module:function.
            rows: The validation rows, as read from the file.

        Raises:
            UserError: There is no such function, or it does not take a row and an answer.
        """
        function = load_named(name, "metric")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise UserError(f"metric {name} is an async function; it must be an ordinary one, which returns a number")
        try:
            inspect.signature(function).bind({}, "")
        except TypeError:
            raise UserError(f"metric {name} must be a function of two arguments, a row and an answer") from None
        except ValueError:  # a C function may have no signature
            pass
        return cls(name, function, dict(enumerate(rows, 1)))

    @property
    def takes_all(self) -> bool:
        """Whether the function takes all rows at once."""
        try:
            return next(iter(inspect.signature(self.function).parameters)) == "rows"
        except ValueError:
            return False

    @property
    def source(self) -> str:
        """The code of the function's module, because it may call other functions there; empty if it cannot be read."""
        try:
            return inspect.getsource(inspect.getmodule(self.function) or self.function)
        except (OSError, TypeError):
            return ""

    def values(self, numbers: Ints, answers: Sequence[str]) -> Floats:
        """Return the function's value for each answer, (n,).

        Args:
            numbers: (n,), the numbers of the rows.
            answers: The answers to these rows.

        Raises:
            UndefinedScoreError: The function fails, or does not return a finite number for each row.
        """
        rows = [copy.deepcopy(self.rows[int(number)]) for number in numbers]  # the function may change its row
        if self.takes_all:
            what = f"the {len(rows)} rows"
            found = self._called(what, self.function, rows, list(answers))
            if not isinstance(found, Iterable) or isinstance(found, (Mapping, Set, str, bytes)):
                raise UndefinedScoreError(f"metric {self.name} must return a number per row, got {shown(found, 50)}")
            values = self._called(what, list, found)  # a generator runs only now
            if len(values) != len(rows):
                raise UndefinedScoreError(
                    f"metric {self.name} returned {len(values)} numbers for {len(rows)} rows: it must return one each"
                )
        else:
            pairs = zip(numbers, rows, answers, strict=True)
            values = [self._called(f"row {number}", self.function, row, answer) for number, row, answer in pairs]
        return np.array([self._number(value, number) for value, number in zip(values, numbers, strict=True)])

    def _called(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the user's, or a part of one; raise UndefinedScoreError if it fails."""
        try:
            return function(*arguments)
        except OF_USERS as error:
            raise UndefinedScoreError(f"metric {self.name} fails for {what} ({reason(error)})") from error

    def _number(self, value: Any, number: int) -> float:
        try:
            known = as_number(value, "its value")
        except ValueError:
            known = math.nan
        if not math.isfinite(known):
            fault = f"{shown(value, 50)} for row {number}, not a finite number"
            raise UndefinedScoreError(f"metric {self.name} returned {fault}")
        return known


class RowAnswers(ValidationRows):
    """The answers that models generate to the prompts of validation rows.

    Args:
        examples: The rows at full length.
        base: The base model, whose tokenizer decodes the answers.
        changes: Generation settings that the user gave, by the names of the harness's `generation_kwargs`.
        metric: The metric: one of `config.ANSWER_METRICS`, or the name of the function.
        function: The user's function that scores answers; None if there is none.
        own_file: Whether the rows come from their own file, not from the training data.

    Raises:
        UserError: A row has no prompt, or the answers do not fit into the model's context.
    """

    def __init__(
        self,
        examples: Examples,
        base: Base,
        changes: Mapping[str, Any],
        metric: str = "exact_match",
        function: Function | None = None,
        own_file: bool = False,
    ) -> None:
        kept = _answered(examples)
        lost = len(set(examples.numbers.tolist())) - len(kept)
        chosen = dataclasses.replace(examples.select(kept), untrainable=examples.untrainable + lost)
        super().__init__(chosen, own_file)
        self.function, self._metric = function, metric if function is None else function.name
        rows = [chosen.example(i) for i in range(len(chosen))]
        spans = [stretches(trained)[-1] for _, trained in rows]
        for i, (start, _) in enumerate(spans):
            if start == 0:
                raise UserError(f"{self.label(i)} has no prompt to generate an answer to; use `--metric loss`")
        answers = [tokens[start:stop].tolist() for (tokens, _), (start, stop) in zip(rows, spans, strict=True)]
        decode, end = base.tokenizer.decode, end_mark(base, answers)
        texts = (str(decode(answer, skip_special_tokens=True)) for answer in answers)
        self.references = [(text.partition(end)[0] if end else text).strip() for text in texts]
        most = min(math.ceil(ROOM * max(map(len, answers))), base.context // 2)
        until = [*changes.get("until", ()), *([end] if end else [])]
        settings = GenerationSettings.of({"max_gen_toks": most, **changes, "until": until})
        settings.room(base.context)
        self.requests = tuple(
            Prompt(str(decode(prompt)), tuple(prompt), settings)
            for prompt in (tokens[:start].tolist() for (tokens, _), (start, _) in zip(rows, spans, strict=True))
        )

    def span(self, item: int) -> slice:
        """Return the slice of a row's request in `requests`."""
        return slice(item, item + 1)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Exact match, and the metric that was asked for. No others are computed, because ROUGE is slow."""
        return tuple(dict.fromkeys(["exact_match", self._metric]))

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """The metric that was asked for."""
        return (self._metric,)

    def described(self, metric: str) -> Mapping[str, Any]:
        """Return the entry with the token limit of answers."""
        prompt = self.requests[0]
        assert isinstance(prompt, Prompt)
        return {"max_new_tokens": prompt.settings.max_new_tokens}

    def sample(self, item: int) -> tuple[str, str]:
        """Return the prompt and the reference of a row."""
        prompt = self.requests[item]
        assert isinstance(prompt, Prompt)
        return prompt.text, self.references[item]

    def weights(self, indices: Ints, metric: str) -> Floats:
        """Return equal weights, (n,)."""
        return np.full(len(indices), 1 / len(indices))

    def values(self, indices: Ints, answers: Sequence[Answer]) -> tuple[dict[str, Floats], Arrays]:
        """Return each row's metrics, and the answers, (n, 1)."""
        texts = [str(answer).strip() for answer in answers]
        pairs = [(self.references[i], text) for i, text in zip(indices, texts, strict=True)]
        values = {"exact_match": np.array([float(reference == text) for reference, text in pairs])}
        if self.function is not None:
            values[self.function.name] = self.function.values(self.identifiers(indices), texts)
        elif self._metric in ROUGE:
            from rouge_score.rouge_scorer import RougeScorer

            name = ROUGE[self._metric]
            scorer = RougeScorer([name], tokenizer=_Words())
            values[self._metric] = np.array([float(scorer.score(*pair)[name].fmeasure) for pair in pairs])
        return values, {TEXTS: np.array(texts, np.str_).reshape(-1, 1)}

    def aggregate(self, indices: Ints, values: Floats, metric: str) -> tuple[float, float]:
        """Return the mean of some rows and its standard error."""
        return weighted_mean(values, self.weights(indices, metric))

    def recorded(self, indices: Ints) -> Arrays:
        """Return the reference of each row, under the name "reference"."""
        return {"reference": np.array([self.references[i] for i in indices], np.str_)}

    @property
    def content(self) -> Content | None:
        """The digest of the rows, unless they are from the training data, and of the user's function and its rows."""
        parts: list[Any] = [self.examples.digest] if self.own_file else []
        if self.function is not None:
            parts += [self.function.source, *(repr(self.function.rows[int(n)]) for n in self.examples.numbers)]
        what = f"{len(self)} rows" if self.function is None else f"{len(self)} rows, and metric {self.function.name}"
        return Content(digest(*parts), what) if parts else None


def _answered(examples: Examples) -> Ints:
    """Return, for each row with trained answers, the index of its last example with one; ascending."""
    last = {}
    for i, number in enumerate(examples.numbers.tolist()):
        if examples.example(i)[1].any():
            last[number] = i
    return np.array(sorted(last.values()), np.int64)


def end_mark(base: Base, answers: Sequence[Sequence[int]]) -> str:
    """Return the text with which a chat template ends each answer; empty if answers end with an end token.

    A model trained on such answers ends its own answers with this text, which may not be the model's end of sequence:
    for base models of Qwen2.5 that is <|endoftext|>, but ChatML ends a message with <|im_end|>.

    Args:
        base: The base model.
        answers: The tokens of the answers.
    """
    if any(answer[-1] in end_tokens(base) for answer in answers):
        return ""
    tails = [list(answer[-MARK:]) for answer in answers]
    common = 0
    while common < min(map(len, tails)) and len({tail[-common - 1] for tail in tails}) == 1:
        common += 1
    text = str(base.tokenizer.decode(tails[0][len(tails[0]) - common :]))
    marks = {*base.tokenizer.all_special_tokens, *(mark for named in SPECIAL_TOKENS.values() for mark in named)}
    found = [(text.index(mark), -len(mark), mark) for mark in marks if mark and mark in text]
    return min(found)[2] if found else ""


class _Words:
    """A tokenizer for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text in lower case."""
        return list(words(text))
