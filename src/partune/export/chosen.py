"""Describe the fine-tuning of one trial, so that a recipe (a file for another tool) can repeat it."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from partune import config
from partune.finetune.data import is_file_name, template_text
from partune.finetune.training import count_steps, count_warmup
from partune.objectives.settings import DATA_SETTINGS
from partune.trial import Trial

# The fields of each form that every tool reads.
PLAIN = {
    "alpaca": ("instruction", "input", "output"),
    "chat": ("messages", "tool_calls"),
    "completion": ("prompt", "completion"),
    "text": ("text",),
}
SECTIONS = ("model", "data", "training")
CONVERTED = "rows.jsonl"  # the file that `partune data --write` writes if a tool would misread the original data
DOLLYS = {"input": "context", "output": "response"}  # Dolly's names for Alpaca's fields, which recipes can rename
HOMES = re.compile(r"^(/home/[^/]+|/Users/[^/]+|/root)(?=/|$)")


@dataclass(frozen=True)
class Chosen:
    """One trial of a fine-tuning study, with everything that another tool needs to train it again.

    Attributes:
        model: Section `model` of the study.
        data: Section `data` of the study, with the trial's values.
        training: Section `training` of the study, with the trial's values.
        rows: The form in which the rows are trained on.
        examples: The number of examples that the trial was trained on. It depends on the data's `max_length` and
            `loss_on`, which may be searched.
        dtype: The precision of the base model.
        targets: The names of the layers with an adapter, in PEFT's form.
        seed: The seed of initialisation and dropout.
        order_seed: The seed of the order of the data.
        here: The folder of the recipes. Relative paths in a recipe start from this folder.
        covered: A description of where the layers with an adapter are; None if the record has none.
        fields: The fields of the rows that the study used. The key is the field's standard name in the format; the
            value is its name in the data.
        separate_answers: The number of answers in chats that were each trained in a separate example, at its end.
        held_out: The number of rows of the data that were validation rows, and so not trained on.
        layout: The format in which the rows are written; empty in records of older versions, which read only Alpaca's
            and OpenAI's formats.
        dropout: The base model's own dropout, which the study turns off. The key is the name of a setting in the
            model's config.json; the value is the setting's value.
    """

    model: config.Model
    data: config.Data
    training: config.Training
    rows: Literal["alpaca", "chat", "completion", "text"]
    examples: int
    dtype: str
    targets: tuple[str, ...]
    seed: int
    order_seed: int
    here: Path
    covered: Mapping[str, Any] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    separate_answers: int = 0
    held_out: int = 0
    layout: str = ""
    dropout: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, header: Mapping[str, Any], loaded: Mapping[str, Any], trial: Trial, adapter: Path, here: Path
    ) -> Chosen:
        """Describe a trial on record.

        Args:
            header: The header of the study's record.
            loaded: The record's summary of what was loaded.
            trial: The trial.
            adapter: The folder of the trial's adapter, in PEFT's format.
            here: The folder of the recipes. Relative paths in a recipe start from this folder.
        """
        sections = header["objective"]
        searched_data = {name: value for name, value in trial.config.items() if name in DATA_SETTINGS}
        searched_training = {name: value for name, value in trial.config.items() if name not in DATA_SETTINGS}
        training = config.validated(config.Training, sections["training"] | searched_training)
        cost = {} if trial.observation is None else trial.observation.cost
        lora = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return cls(
            model=config.validated(config.Model, sections["model"]),
            data=config.validated(config.Data, _within(loaded.get("context"), sections["data"] | searched_data)),
            training=training,
            rows=loaded["data"]["format"],
            examples=int(cost.get("examples", loaded["data"]["examples"])),
            dtype=loaded["dtype"] if training.dtype == "auto" else training.dtype,
            targets=tuple(lora["target_modules"]),
            seed=trial.seed if training.seed is None or trial.order is not None else training.seed,
            order_seed=header["seed"] if trial.order is None else trial.order,
            here=here,
            covered=loaded.get("adapted", {}).get(training.targets),
            fields=_fields(loaded["data"]),
            separate_answers=loaded["data"].get("answers_apart", 0),
            held_out=loaded["data"].get("validation_rows", 0),
            layout=loaded["data"].get("layout", ""),
            dropout=loaded.get("dropout", {}),
        )

    @cached_property
    def steps(self) -> int:
        """The number of optimiser steps."""
        return count_steps(self.examples, self.training)

    @cached_property
    def warmup(self) -> int:
        """The number of warm-up steps."""
        return count_warmup(self.steps, self.training)

    @cached_property
    def micro_batch(self) -> int:
        """Examples per forward pass: the largest divisor of the batch size that is at most the study's micro-batch."""
        batch = self.training.batch_size
        most = min(batch, self.training.micro_batch_size or batch)
        return next(size for size in range(most, 0, -1) if batch % size == 0)

    @property
    def accumulation(self) -> int:
        """Forward passes per optimiser step."""
        return self.training.batch_size // self.micro_batch

    @property
    def alpha(self) -> int:
        """lora_alpha rounded to an integer of at least 1, because every recipe's tool but TRL needs that."""
        return max(1, round(self.training.lora_alpha))

    @property
    def base(self) -> str:
        """The base model: its id, or the path of its folder."""
        return shown(self.model.path, self.here)

    @property
    def has_id(self) -> bool:
        """Whether the base model is named by a Hugging Face id."""
        return is_id(self.model.path)

    @cached_property
    def converted(self) -> bool:
        """Whether the recipes read rows that `partune data --write` has brought to a plain form.

        Other tools read CSV in their own way, know fewer formats, or take other names for columns.
        """
        data = self.data
        path = Path(data.paths[0])
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        readable = plain.suffix in (".json", ".jsonl", ".ndjson") or (is_id(data.path) and not is_file_name(data.path))
        usual = all(name in (field, DOLLYS.get(field)) for field, name in self.fields.items())
        return not (
            readable and usual and len(data.paths) == 1 and data.columns is None and self.layout in ("", self.rows)
        )

    @property
    def file(self) -> str | None:
        """The path of the data file; None if the data are named by a Hugging Face id."""
        if self.converted:
            return CONVERTED
        return shown(self.data.path, self.here) if is_file(self.data.path) else None

    def preparation(self) -> list[str]:
        """Return lines with the command that writes the data for a tool; none if the tool reads them as they are."""
        if not self.converted:
            return []
        data = self.data
        options = {
            "--format": None if data.format == "auto" else data.format,
            "--columns": ",".join(f"{field}={column}" for field, column in (data.columns or {}).items()) or None,
            "--data-config": data.config,
            "--data-split": None if data.split == "train" else data.split,
            "--data-limit": None if data.limit is None else str(data.limit),
        }
        given = [part for name, value in options.items() if value is not None for part in (name, value)]
        paths = ",".join(shown(path, self.here) for path in data.paths)
        command = shlex.join(["partune", "data", paths, *given, "--write", CONVERTED])
        # A line break in a name would end the comment that contains the command.
        printable = "".join(part if part.isprintable() else f"\\u{ord(part):04x}" for part in command)
        about = f"First write the study's rows, in a form that this tool reads, to {CONVERTED} beside this file:"
        return [about, "", f"    {printable}", ""]

    @cached_property
    def template(self) -> str | None:
        """The chat template that the study used instead of the tokenizer's; raises UserError if its file is gone."""
        return None if self.data.chat_template is None else template_text(self.data.chat_template)

    @property
    def split(self) -> str:
        """The split of the data, with a slice such as "[:100]" if only the first rows are used."""
        if self.converted:
            return "train"
        name = "train" if self.file is not None else self.data.split
        return name if self.data.limit is None else f"{name}[:{self.data.limit}]"

    @property
    def limit(self) -> int | None:
        """The number of rows to use, from the beginning; None for all."""
        return None if self.converted else self.data.limit

    def differences(self) -> list[str]:
        """Return the differences from the study that come with the Trainer of transformers, which most tools use."""
        training = self.training
        sentences = [
            f"The seed {self.seed} does not give the study's initialisation, dropout and order of the data, because "
            "this tool uses other random generators.",
        ]
        if self.warmup:
            sentences.append(
                "Warm-up starts at learning rate 0; in the study it starts at the peak divided by the number of "
                "warm-up steps."
            )
        if training.optimizer == "sgd" and training.momentum and training.weight_decay:
            sentences.append(
                "Weight decay of SGD is coupled (it passes through the momentum); in the study it is decoupled."
            )
        if self.micro_batch != (training.micro_batch_size or training.batch_size):
            sentences.append(
                f"The micro-batches have {self.micro_batch} examples; in the study they have "
                f"{training.micro_batch_size}, which does not divide the batch."
            )
        return sentences

    def name_of(self, field: str) -> str:
        """Return the name that a field has in the data that a recipe reads.

        Args:
            field: The standard name of the field in the format.
        """
        return self.names.get(field, field)

    @property
    def names(self) -> Mapping[str, str]:
        """The fields that the study used, with their names in the data that a recipe reads."""
        if not self.converted:
            return self.fields
        made = (
            ("prompt", "completion", "chosen") if self.rows == "chat" else ()
        )  # columns from which messages were built
        return {field: field for field in self.fields if field not in made}

    def unused_data(self, tool: str, *read: str) -> list[str]:
        """Describe which data the study used and a tool ignores or uses differently.

        Args:
            tool: The name of the tool.
            *read: The optional fields that the tool uses in the same way as the study.
        """
        sentences = []
        plain = PLAIN[self.rows]
        if left := [name for standard, name in self.names.items() if standard not in (*plain, *read)]:
            sentences.append(
                f"The study used the rows' fields {', '.join(left)}; {tool} ignores them or uses them differently."
            )
        if self.held_out:
            sentences.append(
                f"The study held out {self.held_out} rows of the data to score its trials; {tool} trains on them too."
            )
        if self.separate_answers:
            sentences.append(
                f"The chat template writes some answers ({self.separate_answers}) differently if another message "
                "follows. The study trained each of them in a separate example that ends with the answer; "
                f"{tool} does not."
            )
        return sentences

    @property
    def dropout_off(self) -> dict[str, float]:
        """Settings that turn the base model's own dropout off. Nested settings are left out: tools cannot set them."""
        return {name: 0.0 for name in self.dropout if "." not in name}

    def dropout_advice(self, takes: bool) -> list[str]:
        """Return what the user must do to turn the base model's own dropout off.

        Args:
            takes: Whether the recipe contains the settings `dropout_off`, which the user then need not change.
        """
        left = [name for name in self.dropout if not takes or name not in self.dropout_off]
        if not left:
            return []
        return [
            f"First set {', '.join(left)} to 0 in the base model's config.json, because the study turned the base "
            "model's own dropout off."
        ]

    def shared_differences(self) -> list[str]:
        """Return the differences that axolotl and LLaMA-Factory share, besides those that `differences` returns."""
        sentences = []
        if self.alpha != self.training.lora_alpha:
            sentences.append(
                f"lora_alpha is {self.training.lora_alpha:g} in the study and {self.alpha} here, because this tool "
                "accepts integers only."
            )
        sentences += self.home_advice()
        if self.dtype != "fp32":
            sentences.append(
                "LoRA's matrix products are computed in the base model's precision; in the study, in fp32."
            )
        return sentences

    def home_advice(self) -> list[str]:
        """Return what the user must do about a path that begins with ~."""
        if any(path is not None and path.startswith("~") for path in (self.base, self.file)):
            return ["Replace ~ by the path of the home folder, because this tool does not expand it."]
        return []


def _within(context: int | None, data: dict[str, Any]) -> dict[str, Any]:
    """Return section `data` with max_length at most the base model's context, to which the study cut rows."""
    longest = data.get("max_length", config.Data.model_fields["max_length"].default)
    return data if context is None else data | {"max_length": min(longest, context)}


def _fields(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of the rows that a study used, and `weight` if some answers in chats are not trained on.

    Rows written by `partune data --write` mark such an answer with weight 0, whatever their original format.
    """
    return {**data.get("fields", {}), **({"weight": "weight"} if data.get("untrained") else {})}


def is_id(path: str) -> bool:
    """Return whether a model's path on record is a Hugging Face id; a record keeps folders as absolute paths."""
    return not Path(path).is_absolute() and not path.startswith((".", "~")) and path.count("/") <= 1


def is_file(path: str) -> bool:
    """Return whether the path of the data is the path of a file; otherwise it is a data set's id."""
    return Path(path).is_absolute() or is_file_name(path)


def name_of(path: str) -> str:
    """Return the last part of a local path; return a Hub id or any other relative name unchanged."""
    where = Path(path)
    return where.name if where.is_absolute() or path.startswith(("~", ".")) else path


def shown(path: str, here: Path) -> str:
    """Return a path in a form that is safe to publish.

    Args:
        path: The path, or an id, which is returned unchanged.
        here: The folder of the file that will contain the path. If the path and this folder are both in the
            working directory, the result is relative to this folder. Otherwise it is absolute, with ~ for a home
            folder.
    """
    expanded, working = Path(path).expanduser(), Path.cwd()
    if not expanded.is_absolute():
        return path
    if expanded.is_relative_to(working) and here.absolute().is_relative_to(working):
        up = here.absolute().relative_to(working).parts
        return Path(*[".."] * len(up), expanded.relative_to(working)).as_posix()
    return tilde(expanded.as_posix())


def tilde(path: str) -> str:
    """Return an absolute path with ~ in place of a home folder, whether it is this user's or another's."""
    where, home = Path(path), Path.home()
    if home != Path(home.anchor) and where.is_relative_to(home):
        return (Path("~") / where.relative_to(home)).as_posix()
    return HOMES.sub("~", path, count=1)


def number(value: float) -> int | float:
    """Return a number as an integer if it has an integer value."""
    return int(value) if math.isfinite(value) and value == int(value) else value
