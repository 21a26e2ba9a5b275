"""A trial's fine-tuning, as other tools need to be told it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from partune import config
from partune.finetune.data import SUFFIXES, template_text
from partune.finetune.training import count_steps, count_warmup
from partune.objectives.settings import DATA_SETTINGS
from partune.trial import Trial

SECTIONS = ("model", "data", "training")
HOMES = re.compile(r"^(/home/[^/]+|/Users/[^/]+|/root)(?=/|$)")


@dataclass(frozen=True)
class Chosen:
    """One trial of a fine-tuning study, with all that another tool needs to train it again.

    Attributes:
        model: The study's section, with the trial's settings laid over it.
        data: The same section of the data.
        training: The same section of the training.
        rows: The format of the data.
        examples: How many the trial trained on, which its own maximum length and loss decide.
        dtype: The precision of the base.
        targets: The names of the layers with an adapter, as PEFT takes them.
        seed: The seed of initialisation and dropout.
        order_seed: The seed of the data's order.
        here: The folder that relative paths in its files are meant from.
        covered: Where the layers with an adapter are, as the record has it.
        fields: The data's fields that were used, by the format's names for them.
        apart: How many answers were trained as the end of the chat so far, in examples of their own.
        dropout: Settings of the base's own dropout, which the study has off, by their names in its config.json.
    """

    model: config.Model
    data: config.Data
    training: config.Training
    rows: Literal["alpaca", "chat"]
    examples: int
    dtype: str
    targets: tuple[str, ...]
    seed: int
    order_seed: int
    here: Path
    covered: Mapping[str, Any] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    apart: int = 0
    dropout: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, header: Mapping[str, Any], loaded: Mapping[str, Any], trial: Trial, adapter: Path, here: Path
    ) -> Chosen:
        """Return a trial of a record.

        Args:
            header: The record's header.
            loaded: What the record says was loaded.
            trial: The trial.
            adapter: The folder of its adapter, in PEFT's format.
            here: The folder that relative paths in its files are meant from.
        """
        sections = header["objective"]
        data = {name: value for name, value in trial.config.items() if name in DATA_SETTINGS}
        training = {name: value for name, value in trial.config.items() if name not in DATA_SETTINGS}
        whole = config.validated(config.Training, sections["training"] | training)
        cost = {} if trial.observation is None else trial.observation.cost
        lora = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return cls(
            model=config.validated(config.Model, sections["model"]),
            data=config.validated(config.Data, _readable(sections["data"] | data, loaded.get("context"))),
            training=whole,
            rows=loaded["data"]["format"],
            examples=int(cost.get("examples", loaded["data"]["examples"])),
            dtype=loaded["dtype"] if whole.dtype == "auto" else whole.dtype,
            targets=tuple(lora["target_modules"]),
            seed=trial.seed if whole.seed is None or trial.order is not None else whole.seed,
            order_seed=header["seed"] if trial.order is None else trial.order,
            here=here,
            covered=loaded.get("adapted", {}).get(whole.targets),
            fields=loaded["data"].get("fields", {}),
            apart=loaded["data"].get("answers_apart", 0),
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
        """Examples per forward pass: the largest divisor of the batch that is no larger than the study's."""
        batch = self.training.batch_size
        most = min(batch, self.training.micro_batch_size or batch)
        return next(size for size in range(most, 0, -1) if batch % size == 0)

    @property
    def accumulation(self) -> int:
        """Forward passes per optimiser step."""
        return self.training.batch_size // self.micro_batch

    @property
    def alpha(self) -> int:
        """The adapters' scale times their rank, as a whole number: tools' command lines take no other."""
        return max(1, round(self.training.lora_alpha))

    @property
    def base(self) -> str:
        """The base model: its id, or the path of its folder."""
        return shown(self.model.path, self.here)

    @property
    def has_id(self) -> bool:
        """Whether the base is a Hugging Face id."""
        return is_id(self.model.path)

    @property
    def file(self) -> str | None:
        """The data's file; None for a data set id."""
        return shown(self.data.path, self.here) if is_file(self.data.path) else None

    @cached_property
    def template(self) -> str | None:
        """The chat template that the study was given in place of the tokenizer's; raises UserError if it is gone."""
        return None if self.data.chat_template is None else template_text(self.data.chat_template)

    @property
    def split(self) -> str:
        """The split, with the number of its first rows where not all are used."""
        name = "train" if self.file is not None else self.data.split
        return name if self.data.limit is None else f"{name}[:{self.data.limit}]"

    def differences(self) -> list[str]:
        """Return what is not as in the study in every tool that trains with the Trainer of transformers."""
        training = self.training
        sentences = [
            f"Initialisation, dropout and the data's order are drawn by other generators than the study's: with seed "
            f"{self.seed} they are fixed, not the same.",
        ]
        if self.warmup:
            sentences.append(
                "Warm-up begins at learning rate 0; the study's at the peak divided by the steps of warm-up."
            )
        if training.optimizer == "sgd" and training.momentum and training.weight_decay:
            sentences.append(
                "Weight decay of SGD is coupled (it passes through the momentum); the study's is decoupled."
            )
        if self.micro_batch != (training.micro_batch_size or training.batch_size):
            sentences.append(
                f"The study's micro-batches are of {training.micro_batch_size}, which does not divide the batch."
            )
        return sentences

    def name_of(self, field: str) -> str:
        """Return the data's name of a field of the format."""
        return self.fields.get(field, field)

    def unread(self, tool: str, *read: str) -> list[str]:
        """Return what to say of fields that the study used and a tool does not, and of answers trained apart.

        Args:
            tool: The tool's name.
            *read: The fields that it reads as the study does, beside those that every row has.
        """
        plain = ("instruction", "input", "output") if self.rows == "alpaca" else ("messages", "tool_calls")
        sentences = []
        if left := [name for mine, name in self.fields.items() if mine not in (*plain, *read)]:
            sentences.append(f"The study used the rows' {', '.join(left)}; {tool} does not, or not in this way.")
        if self.apart:
            sentences.append(
                f"Answers that the chat template writes otherwise once a chat goes on ({self.apart}) were trained as "
                f"the end of the chat so far in the study; {tool} trains whole chats."
            )
        return sentences

    @property
    def still(self) -> dict[str, float]:
        """Settings of the base that turn its own dropout off; tools cannot set those within a section."""
        return {name: 0.0 for name in self.dropout if "." not in name}

    def dropping(self, takes: bool) -> list[str]:
        """Return what to do about the base's own dropout.

        Args:
            takes: Whether the tool's file turns off what `still` names.
        """
        left = [name for name in self.dropout if not takes or name not in self.still]
        if not left:
            return []
        return [
            f"Set {', '.join(left)} to 0 in the base's config.json first: the study has the base's own dropout off."
        ]

    def command_line(self) -> list[str]:
        """Return what differs in every command that keeps adapters as precise as the base."""
        sentences = []
        if self.alpha != self.training.lora_alpha:
            whole = "this tool takes whole numbers only"
            sentences.append(f"lora_alpha is {self.training.lora_alpha:g} in the study; {whole}.")
        sentences += self.homes()
        if self.dtype != "fp32":
            sentences.append("LoRA's products are taken in the base's precision; the study's in fp32.")
        return sentences

    def homes(self) -> list[str]:
        """Return what to do about a path that begins at the home folder."""
        if any(path is not None and path.startswith("~") for path in (self.base, self.file)):
            return ["Write the home folder out in place of ~, which this tool does not expand."]
        return []


def _readable(data: dict[str, Any], context: int | None) -> dict[str, Any]:
    """Return the section of the data, with no more tokens than the base can read: longer rows were cut there."""
    longest = data.get("max_length", config.Data.model_fields["max_length"].default)
    return data if context is None else data | {"max_length": min(longest, context)}


def is_id(path: str) -> bool:
    """Whether a model's path is a Hugging Face id: no folder of that name was there when the study began."""
    return not Path(path).is_absolute() and not path.startswith((".", "~")) and path.count("/") <= 1


def is_file(path: str) -> bool:
    """Return whether the data are a file, and no data set's id."""
    plain = Path(path.removesuffix(".gz"))
    return plain.is_absolute() or plain.suffix in SUFFIXES


def shown(path: str, here: Path) -> str:
    """Return a path that may leave this machine.

    Args:
        path: The path, or an id, which is returned as it is.
        here: The folder that it is meant from; the path is relative to it where both lie in the working folder.
    """
    expanded, working = Path(path).expanduser(), Path.cwd()
    if not expanded.is_absolute():
        return path
    if expanded.is_relative_to(working) and here.absolute().is_relative_to(working):
        up = here.absolute().relative_to(working).parts
        return Path(*[".."] * len(up), expanded.relative_to(working)).as_posix()
    return tilde(expanded.as_posix())


def tilde(path: str) -> str:
    """Return an absolute path with ~ for the home folder it lies in, whosever that is."""
    absolute, home = Path(path), Path.home()
    if home != Path(home.anchor) and absolute.is_relative_to(home):
        return (Path("~") / absolute.relative_to(home)).as_posix()
    return HOMES.sub("~", path, count=1)


def number(value: float) -> int | float:
    """Return a whole number as an integer."""
    return int(value) if math.isfinite(value) and value == int(value) else value
