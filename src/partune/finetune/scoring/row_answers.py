"""Score models by the answers that they generate to the prompts of validation rows.

A row's reference is its answer: of a conversation, the last one. The metrics, each one number per row, are

    exact_match   1 if the answer is the reference, apart from spaces around both, otherwise 0
    f1            the F-measure of the words that answer and reference share (ROUGE-1)
    rougeL        the F-measure of their longest common subsequence of words (ROUGE-L; Lin 2004)
    a function    what the user's own function returns; higher must be better

Words are runs of letters and digits; case does not count. This is the tokenizer of Google's rouge-score, extended to
letters of all scripts.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from partune import config
from partune.errors import UserError
from partune.finetune.data import Examples, Row
from partune.finetune.rows.files import read
from partune.finetune.scoring.base import (
    Answer,
    Arrays,
    Floats,
    Ints,
    Prompt,
    UndefinedScoreError,
    weighted_mean,
)
from partune.finetune.scoring.decoding import GenerationSettings
from partune.finetune.scoring.row_losses import stretches
from partune.finetune.scoring.validation_rows import ValidationRows
from partune.runtime.failures import one_line
from partune.runtime.plugins import load_named
from partune.trial.contents import Content, digest
from partune.trial.names import TEXTS

if TYPE_CHECKING:
    from partune.finetune.model import Base

ROOM = 1.25  # how much longer an answer may be than the longest reference
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Function:
    """A user's function that scores answers.

    Attributes:
        name: The function's name, package.module:function.
        function: The function. It takes a row and the answer to it, or, if its first parameter is called `rows`, all
            rows and all answers at once. It returns a number per row.
        rows: The rows of the data by their numbers, as they stand in the file.
    """

    name: str
    function: Callable[..., Any]
    rows: Mapping[int, Row]

    @classmethod
    def of(cls, name: str, data: config.Data) -> Function:
        """Load a function, and read the rows that it will be given.

        Args:
            name: The function's name, package.module:function.
            data: The section `data` of the validation rows.

        Raises:
            UserError: There is no such function, or it does not take a row and an answer.
        """
        function = load_named(name, "metric")
        try:
            inspect.signature(function).bind({}, "")
        except TypeError:
            raise UserError(f"metric {name} must be a function of two arguments, a row and an answer") from None
        except ValueError:  # a function of C has no signature
            pass
        return cls(name, function, dict(enumerate(read(data).rows, 1)))

    @property
    def takes_all(self) -> bool:
        """Whether the function takes all rows at once."""
        try:
            return next(iter(inspect.signature(self.function).parameters)) == "rows"
        except ValueError:
            return False

    @property
    def source(self) -> str:
        """The text of the function's code; empty if it cannot be read."""
        try:
            return inspect.getsource(self.function)
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
        rows = [self.rows[int(number)] for number in numbers]
        if self.takes_all:
            found = self._called(f"the {len(rows)} rows", rows, list(answers))
            try:
                values = list(found)
            except TypeError:
                raise UndefinedScoreError(
                    f"metric {self.name} must return a number per row, got {found!r:.50}"
                ) from None
            if len(values) != len(rows):
                raise UndefinedScoreError(f"metric {self.name} returned {len(values)} numbers for {len(rows)} rows")
        else:
            pairs = zip(numbers, rows, answers, strict=True)
            values = [self._called(f"row {number}", row, answer) for number, row, answer in pairs]
        return np.array([self._number(value, number) for value, number in zip(values, numbers, strict=True)])

    def _called(self, what: str, *arguments: Any) -> Any:
        try:
            return self.function(*arguments)
        except Exception as error:  # the user's code may raise anything
            fault = f"{type(error).__name__}: {one_line(error)}"
            raise UndefinedScoreError(f"metric {self.name} fails for {what} ({fault})") from error

    def _number(self, value: Any, number: int) -> float:
        try:
            known = float(value)
        except (TypeError, ValueError):
            known = math.nan
        if not math.isfinite(known):
            raise UndefinedScoreError(f"metric {self.name} returned {value!r:.50} for row {number}, not a number")
        return known


class RowAnswers(ValidationRows):
    """The answers that models generate to the prompts of validation rows.

    Args:
        examples: The rows at full length.
        base: The base model, whose tokenizer knows the texts of answers.
        changes: Settings of the generation, by the names of the harness's `generation_kwargs`.
        function: The user's function that scores answers; None if there is none.
        apart: Whether the rows are from a file of their own, instead of from the training data.

    Raises:
        UserError: A row has no prompt, or the answers do not fit into the model's context.
    """

    def __init__(
        self,
        examples: Examples,
        base: Base,
        changes: Mapping[str, Any],
        function: Function | None = None,
        apart: bool = False,
    ) -> None:
        super().__init__(examples, apart)
        self.function = function
        rows = [examples.example(i) for i in range(len(examples))]
        spans = [stretches(trained)[-1] if trained.any() else (0, 0) for _, trained in rows]
        for i, (start, _) in enumerate(spans):
            if start == 0:
                raise UserError(f"{self.label(i)} has no prompt to generate an answer to; use `--metric loss`")
        answers = [tokens[start:stop] for (tokens, _), (start, stop) in zip(rows, spans, strict=True)]
        decode = base.tokenizer.decode
        self.references = [str(decode(answer.tolist(), skip_special_tokens=True)).strip() for answer in answers]
        most = min(math.ceil(ROOM * max(map(len, answers))), base.context // 2)
        settings = GenerationSettings.of({"max_gen_toks": most, **changes})
        settings.room(base.context)
        self.requests = tuple(
            Prompt(str(decode(prompt)), tuple(prompt), settings)
            for prompt in (tokens[:start].tolist() for (tokens, _), (start, _) in zip(rows, spans, strict=True))
        )

    def span(self, item: int) -> slice:
        """Return where a row's request is in `requests`."""
        return slice(item, item + 1)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of generated answers, and the user's function if there is one."""
        return config.ANSWER_METRICS if self.function is None else (*config.ANSWER_METRICS, self.function.name)

    @property
    def usual(self) -> tuple[str, ...]:
        """The metrics of generated answers."""
        return config.ANSWER_METRICS

    def described(self, metric: str) -> Mapping[str, Any]:
        """Return the entry with the number of tokens of an answer."""
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
        """Return the values of each row, and the answers, (n, 1)."""
        from lm_eval.api.metrics import exact_match_hf_evaluate
        from rouge_score.rouge_scorer import RougeScorer

        texts = [str(answer).strip() for answer in answers]
        references = [self.references[i] for i in indices]
        scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=_Words())
        rouge = [scorer.score(reference, text) for reference, text in zip(references, texts, strict=True)]
        values = {
            "exact_match": np.array(
                [
                    float(exact_match_hf_evaluate(predictions=[text], references=[reference])["exact_match"])
                    for text, reference in zip(texts, references, strict=True)
                ]
            ),
            "f1": np.array([float(found["rouge1"].fmeasure) for found in rouge]),
            "rougeL": np.array([float(found["rougeL"].fmeasure) for found in rouge]),
        }
        if self.function is not None:
            values[self.function.name] = self.function.values(self.identifiers(indices), texts)
        return values, {TEXTS: np.array(texts, np.str_).reshape(-1, 1)}

    def aggregate(self, indices: Ints, values: Floats, metric: str) -> tuple[float, float]:
        """Return the mean of some rows and its standard error."""
        return weighted_mean(values, self.weights(indices, metric))

    def recorded(self, indices: Ints) -> Arrays:
        """Return the reference of each row, under the name "reference"."""
        return {"reference": np.array([self.references[i] for i in indices], np.str_)}

    @property
    def content(self) -> Content | None:
        """The digest of the rows, unless they are from the training data, and of the user's function."""
        parts = [self.examples.digest if self.apart else "", "" if self.function is None else self.function.source]
        return Content(digest(*parts), f"{len(self)} rows") if any(parts) else None


class _Words:
    """A tokenizer for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text in lower case."""
        return WORD.findall(text.lower())
