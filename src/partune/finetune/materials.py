"""Load the base models, training examples and scorer that all trials of a study share, once per process."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from partune import config
from partune.errors import UserError
from partune.runtime.devices import DEVICES_EACH
from partune.runtime.threads import torch_threads
from partune.trial.contents import Content, Contents, check, versions

if TYPE_CHECKING:
    from partune.finetune.data import Examples
    from partune.finetune.model import Base
    from partune.finetune.scoring.held_out import HeldOut
    from partune.finetune.scoring.scores import Scorer

SMALL = 20_000_000  # a model with fewer parameters gains nothing from several threads: they only wait for each other

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """The data that is in memory after a study is prepared.

    Attributes:
        rows: All rows of the data, tokenised at full length.
        examples: Those of the rows that are trained on.
        held: The validation rows; None if tasks score the trials.
        scorer: The scorer, with the items and requests of all tasks.
    """

    rows: Examples
    examples: Examples
    held: HeldOut | None
    scorer: Scorer


class Materials:
    """The base models, training examples and scorer of a study.

    Args:
        study: The study's settings.
        load_base: The engine's function that loads the base model in a precision (fp32, bf16, fp16).

    Attributes:
        lock: A lock to hold while using a base model.
        in_worker: Whether this process is a worker that got the study from another process.
    """

    def __init__(self, study: config.StudyConfig, load_base: Callable[[str], Base]) -> None:
        self.study = study
        self.lock = threading.RLock()
        self.in_worker = False
        self._load_base = load_base
        # Guards the loaded objects. It is never held while a base model trains or scores, so that a new trial can be
        # submitted meanwhile. A thread that holds `lock` may acquire `_loading`, but not the other way round.
        self._loading = threading.RLock()
        self._bases: dict[str, Base] = {}
        self._cuts: dict[tuple[int, str], Examples] = {}
        self._loaded: Loaded | None = None
        self._seen: Mapping[str, Any] | None = None
        self._contents: Contents | None = None
        self._expected: Contents = {}  # the inputs with which the study began
        self._compared: Contents | None = None  # the value of `_expected` at the last comparison

    @property
    def model(self) -> config.Model:
        """The study's section `model`."""
        return cast(config.Model, self.study.model)

    @property
    def data(self) -> config.Data:
        """The study's section `data`."""
        return cast(config.Data, self.study.data)

    @property
    def validation(self) -> config.Validation:
        """The study's section `validation`."""
        return cast(config.Validation, self.study.validation)

    @property
    def loaded(self) -> Loaded:
        """The examples and the scorer that `prepare` loaded."""
        if self._loaded is None:
            raise RuntimeError("nothing is loaded yet: call prepare() first")
        return self._loaded

    @property
    def scorer(self) -> Scorer:
        """The scorer that `prepare` loaded."""
        return self.loaded.scorer

    # ----- loading

    def prepare(self) -> None:
        """Load the base model, tokenise the data and build the tasks' requests, once; raise UserError if that fails."""
        with self._loading:  # other threads wait until everything is loaded, including imported modules
            if self._loaded is None:
                self._loaded = self._load()
            if self._expected and self._compared != self._expected:
                self._compare()

    def _load(self) -> Loaded:
        from partune.finetune.data import find_files, tokenise
        from partune.finetune.model import (
            check_exists,
            check_vocabulary,
            find_device,
            find_dtype,
            load_tokenizer,
            quantization,
        )
        from partune.finetune.rows.files import read
        from partune.finetune.scoring.base import tokens_of
        from partune.finetune.scoring.definitions import check_file
        from partune.finetune.scoring.held_out import HeldOut, validation_data
        from partune.finetune.scoring.scores import Scorer
        from partune.runtime.isolation import own_generators

        # Checks of names and files come first, because a large base model takes minutes to load.
        study, dtype = self.study, self.study.training.dtype
        check_exists(self.model)
        device = find_device(study.run.device)
        quantization(self.model, device, find_dtype(dtype, device))
        find_files(self.data)
        if (file := validation_data(study)) is not None:
            find_files(file)
        for name in (*self.validation.tasks, *study.test.tasks):
            check_file(name)
        import torch

        with own_generators(torch.device("cpu")):
            tokenizer = load_tokenizer(self.model)
            source = read(self.data)
            rows = tokenise(self.data, tokenizer, source)
            held = HeldOut.of(rows, study, tokenizer, source)
            base = self.base(dtype)
            validation = None if held is None else held.task(self.data, self.validation, base)
            scorer = Scorer(base, self.validation, study.test, study.search.seed, validation)
            check_vocabulary(base, "the data", int(rows.tokens.max()))
            for part in scorer.parts:
                tokens = (token for request in part.requests for token in tokens_of(request))
                check_vocabulary(base, f"the task {part.task.name}", max(tokens, default=0))
        return Loaded(rows, rows if held is None else held.trained, held, scorer)

    def cuts(self, base: Base, searched: Sequence[int] = ()) -> dict[str, Any]:
        """Return the record's entries on the length to which training examples are cut.

        Args:
            base: The base model that reads the examples.
            searched: The smallest and the largest `max_length` of the space; empty if it is not searched.
        """
        from partune.finetune.data import cut_entries

        counts = {
            str(length): self.examples(base, length, self.data.loss_on).truncated for length in sorted({*searched})
        }
        entries = cut_entries(self.data.max_length, base.positions)
        return {**entries, "truncated_by_length": counts} if counts else dict(entries)

    @property
    def held_out(self) -> Mapping[str, Any]:
        """The record's entries on the validation rows; empty if there are none."""
        from partune.finetune.data import cut_entries
        from partune.finetune.scoring.held_out import readable, validation_data
        from partune.finetune.scoring.validation_rows import ValidationRows

        held = self.loaded.held
        if held is None:
            return {}
        scored = self.scorer.tasks[0]
        assert isinstance(scored, ValidationRows)
        length = cut_entries(self.data.max_length, readable(self.base(self.study.training.dtype)))
        counts = {
            "validation_cut": scored.examples.truncated,
            "validation_untrainable": scored.examples.untrainable,
            "validation_answerless": scored.examples.answerless,
        }
        lost = {name: count for name, count in counts.items() if count}
        if (file := validation_data(self.study)) is None:
            return {**held.described, **lost, **({"validation_cut_at": length["cut_at"]} if lost else {})}
        entry = {"name": ", ".join(Path(path).name for path in file.paths), **scored.examples.summary}
        entry |= length if lost else {}
        return {
            **held.described,
            **lost,
            "validation_file": {**entry, **({"other_answers": True} if held.other_answers else {})},
        }

    @property
    def seen(self) -> Mapping[str, Any]:
        """The record's entry on items of tasks that also occur in the training rows; empty if none does."""
        from partune.finetune.contamination import Item, TrainingTexts
        from partune.finetune.rows.files import read
        from partune.finetune.rows.forms import normalise
        from partune.finetune.scoring.harness_task import HarnessTask

        tasks = [task for task in self.scorer.tasks if isinstance(task, HarnessTask)]
        with self._loading:
            if self._seen is None and tasks:
                # Read again: rows kept since `prepare` would fill the memory of each worker, and only one is asked.
                source = read(self.data)
                rows = normalise(self.data, source.rows, source.places)
                texts = TrainingTexts(rows.rows, rows.form)
                seen = [texts.find(task.name, [Item(*pair) for pair in task.texts()]) for task in tasks]
                found = [entry.recorded for entry in seen if entry.rows]
                self._seen = {"seen": found} if found else {}
            return self._seen or {}

    def precision(self, dtype: str) -> str:
        """Return the precision (fp32, bf16 or fp16) that a value of the setting `dtype` means on the study's device."""
        from partune.finetune.model import find_device, find_dtype

        return find_dtype(dtype, find_device(self.study.run.device))

    def base(self, dtype: str) -> Base:
        """Return the base model in the precision that `dtype` means (see `precision`); load it at the first call."""
        kind = self.precision(dtype)
        with self._loading:
            if kind not in self._bases:
                self._bases[kind] = self._load_base(kind)
            return self._bases[kind]

    @contextmanager
    def lent(self, dtype: str) -> Iterator[Base]:
        """Yield the base model to one caller at a time, with a suitable number of CPU threads for torch."""
        with self.lock:
            base = self.base(dtype)
            with torch_threads(suitable_threads(base, self.study.run.threads)):
                yield base

    def examples(self, base: Base, max_length: int, loss_on: Literal["answer", "all"]) -> Examples:
        """Return the examples cut to a length, or to the longest that the base model can read if that is shorter.

        Args:
            base: The base model that will read the examples.
            max_length: The number of tokens to which examples are cut.
            loss_on: Which tokens the loss includes.

        Raises:
            UserError: No example has a token to train on.
        """
        key = (min(max_length, base.positions), loss_on)
        with self._loading:
            if key not in self._cuts:
                cut = self.loaded.examples.cut(*key)
                if not len(cut):
                    raise UserError(f"{self.data.path}: no example has a token to train on within max_length {key[0]}")
                self._cuts[key] = cut
            return self._cuts[key]

    def release(self) -> None:
        """Release everything that is loaded."""
        with self.lock, self._loading:
            self._bases.clear()
            self._cuts.clear()
            self._loaded = self._contents = self._compared = self._seen = None

    # ----- the contents of the study's inputs

    def contents(self) -> Contents:
        """Return digests of the model's files, the tokenizer, the training rows and the scored items."""
        self.prepare()
        with self._loading:
            if self._contents is None:
                self._contents = self._digest()
            return self._contents

    def expect(self, contents: Contents) -> None:
        """Set the contents with which the study began. `prepare` raises UserError if it loads other contents."""
        self._expected = contents

    @property
    def expected(self) -> Contents:
        """The contents with which the study began, as far as they are known."""
        return self._expected

    def _compare(self) -> None:
        """Raise UserError if this process loaded other contents than those with which the study began."""
        where = f"on {socket.gethostname()}: " if self.in_worker else ""
        if self._contents is None:
            self._contents = self._digest()
        note = check(self._expected, {**self._contents, **versions()}, where)
        if note is not None and self.in_worker:  # in the study's own process, the study reports the note itself
            log.warning("%s", note)
        self._compared = self._expected

    def _digest(self) -> Contents:
        import torch

        from partune.finetune import digests
        from partune.finetune.chats import template_text
        from partune.finetune.model import load_tokenizer
        from partune.runtime.isolation import own_generators

        rows = self.loaded.rows
        with own_generators(torch.device("cpu")):
            tokenizer = load_tokenizer(self.model)
            dtype = self.base(self.study.training.dtype).dtype
            digested = {
                **digests.of_model(self.model),
                "the tokenizer": digests.of_tokenizer(tokenizer),
                "the base's precision": Content(dtype, dtype, decisive=False),
            }
            if rows.form == "chat":
                setting = self.data.chat_template
                template = tokenizer.chat_template if setting is None else template_text(setting)
                digested["the chat template"] = digests.of_template(template)
            digested["the training rows"] = digests.of_rows(rows)
            return {**digested, **digests.of_tasks(self.scorer.tasks)}


def load_resident(study: config.StudyConfig, dtype: str) -> Base:
    """Load a study's base model with its weights, on the study's device.

    Args:
        study: The study's settings.
        dtype: The precision: fp32, bf16 or fp16.

    Raises:
        UserError: The model cannot be loaded.
    """
    from partune.finetune.model import load

    run = study.run
    # In a worker of a batch system, this environment variable holds the number of the worker's GPUs.
    devices = max(run.devices_per_worker, int(os.environ.get(DEVICES_EACH, 1)))
    return load(cast(config.Model, study.model), dtype, run.device, run.compile, devices)


def suitable_threads(base: Base, asked: int | None) -> int | None:
    """Return the number of CPU threads to use for a base model; None means torch's default.

    Args:
        base: The base model.
        asked: The number that the user set; None to choose by the size of the base model.
    """
    return asked or (1 if base.model.num_parameters() < SMALL else None)
