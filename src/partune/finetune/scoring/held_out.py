"""Decide which rows of the data are validation rows, and how they are scored: by losses, labels or answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partune import config
from partune.errors import UserError
from partune.finetune.data import Examples, tokenise
from partune.finetune.rows.files import Source, read
from partune.finetune.scoring.row_answers import Function, RowAnswers
from partune.finetune.scoring.row_labels import METRICS, Labels, RowLabels, evident_labels, require_labels
from partune.finetune.scoring.row_losses import RowLosses
from partune.finetune.scoring.validation_rows import ValidationRows, held_out, twins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from partune.finetune.model import Base


@dataclass(frozen=True)
class HeldOut:
    """The rows of a study without a task.

    Attributes:
        trained: The training rows, at full length.
        validation: The validation rows, at full length.
        labels: The labels of the validation rows; None if these are not scored by their labels.
        function: The user's function that scores generated answers; None if there is none.
        other_answers: Whether the training rows have labels, but the validation rows are from a file with other
            answers.
        own_file: Whether the validation rows are from a file of their own.
    """

    trained: Examples
    validation: Examples
    labels: Labels | None
    own_file: bool
    function: Function | None = None
    other_answers: bool = False

    @classmethod
    def of(
        cls, rows: Examples, study: config.StudyConfig, tokenizer: PreTrainedTokenizerBase, source: Source
    ) -> HeldOut | None:
        """Hold out rows of the data, or read the file of validation rows; return None if tasks score the trials.

        Args:
            rows: All rows of the data, at full length.
            study: The study's settings.
            tokenizer: The base model's tokenizer.
            source: The rows of the data, as they were read.

        Raises:
            UserError: The file of validation rows cannot be read, the metric needs labels and there are none, or the
                metric names a function that does not exist.
        """
        data, validation = study.data, study.validation
        assert data is not None
        assert validation is not None
        if validation.tasks:
            return None
        file, metric = validation_data(study), validation.metric
        scored = source if file is None else read(file)
        function = Function.of(metric, scored.rows) if metric is not None and ":" in metric else None
        labels = None
        if validation.metric in METRICS:
            labels = require_labels(data.path, validation.metric, rows)
        elif validation.metric is None:
            labels = evident_labels(rows, tokenizer)
        if file is None:
            share = min(validation.split, (validation.limit or len(rows)) / len(rows))
            kinds = None if labels is None else labels.of_rows
            trained, chosen = held_out(rows, share, study.search.seed, kinds)
            held = None if labels is None else labels.select(chosen)
            return cls(rows.select(trained), rows.select(chosen), held, False, function)
        own = tokenise(file, tokenizer, scored)
        found = None if labels is None else labels.among(own)
        if found is None and validation.metric in METRICS:
            raise UserError(
                f"{file.path}: metric {validation.metric} needs rows with the labels of {data.path}, but this file has "
                "other answers; use `--metric loss`, or correct the file"
            )
        return cls(rows, own, found, True, function, labels is not None and found is None)

    @property
    def described(self) -> dict[str, int]:
        """The record's entries on the validation rows.

        If they are taken from the data, this is their number. If they have their own file, it is the number of rows
        that are training rows too, and the number of other rows with the prompt of a training row.
        """
        if not self.own_file:
            return {"validation_rows": len(set(self.validation.numbers))}
        same, prompts = twins(self.validation, self.trained)
        counts = {"validation_twins": same, "validation_prompts": prompts - same}
        return {name: count for name, count in counts.items() if count}

    def task(self, data: config.Data, validation: config.Validation, base: Base) -> ValidationRows:
        """Return the validation rows as a task.

        Args:
            data: Section `data` of a study.
            validation: Section `validation` of a study.
            base: The base model. Its tokenizer decodes labels and answers.

        Raises:
            UserError: The metric needs generated answers, and a row has no prompt.
        """
        if validation.rows_generate:
            return RowAnswers(
                self.validation, base, validation.generation, str(validation.metric), self.function, self.own_file
            )
        if self.labels is None:
            # Training cuts the end of a row that is longer than the context. Scoring would cut its beginning.
            cut = self.validation.cut(min(data.max_length, readable(base)), data.loss_on)
            return RowLosses(cut, self.own_file)
        return RowLabels(self.validation, self.labels, self.labels.named(base.tokenizer), self.own_file)


def readable(base: Base) -> int:
    """Return the number of tokens of a validation row that a base model reads when it is scored by its loss."""
    return min(base.positions, base.context)


def validation_data(study: config.StudyConfig) -> config.Data | None:
    """Return the section `data` of the file with validation rows; None if there is no such file."""
    assert study.data is not None
    assert study.validation is not None
    path = study.validation.data
    changes = {"path": path, "limit": study.validation.limit}
    return None if path is None else study.data.model_copy(update=changes)
