"""The black box: a configuration in; fine-tuned, scored, an observation out."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from partune import config
from partune.config import unused
from partune.errors import UserError, suggestion
from partune.objectives.base import Anchored
from partune.runtime.devices import DEVICES_EACH
from partune.runtime.extras import require_finetune
from partune.runtime.limits import require_threads
from partune.runtime.threads import threads
from partune.space import Choice, Float, Hyperparameter, Int, Space
from partune.trial import Config, Observation, Status, Trial, Value
from partune.trial.contents import Content, Contents, check, versions
from partune.trial.names import ItemSet, Rung
from partune.trial.rungs import Judge, rung_steps

if TYPE_CHECKING:
    from partune.finetune.data import Examples
    from partune.finetune.model import Base
    from partune.finetune.packed.engine import Engine, Outcome
    from partune.finetune.scoring.scores import Scorer, Scores
    from partune.finetune.scoring.tasks import PackAnswers

SEARCH = frozenset({ItemSet.SEARCH})
JUDGED = frozenset({ItemSet.SEARCH, ItemSet.VERDICT})
ALL = JUDGED | {ItemSet.TEST}

FIELD_DEFAULTS, DATA_SETTINGS = config.DEFAULTS, config.DATA_SETTINGS
UNEVEN = frozenset({"steps", "epochs", "batch_size", *DATA_SETTINGS})  # searched, trials end at different times
SETTINGS = (*config.Training.model_fields, *DATA_SETTINGS)

log = logging.getLogger(__name__)

ZERO_STEPS = 3
_REVIVING = threading.Lock()
SMALL = 20_000_000  # parameters below which several threads only wait for each other

# Largest difference of a log-likelihood x between two computations of one model: (absolute, relative to |x|).
TOLERANCE = {"fp32": (1e-4, 1e-5), "bf16": (0.1, 0.02), "fp16": (0.02, 0.005)}


class FineTune(Anchored):
    """Fine-tunes with LoRA on one resident base model and scores with lm-evaluation-harness.

    >>> FineTune(model="meta-llama/Llama-3.2-1B", data="alpaca_data.json", task="hellaswag", test="mmlu")

    model, data, test, training and run are sections of a study's file, mappings of their keys, or the one text that
    they are mostly about; `task` is one or more validation tasks, `validation` the rest of their section. Nothing is
    loaded before it is needed. Raises UserError.

    With the packed engine (run.engine, the default) `evaluate` is made to be called from as many threads as there are
    `slots`: each hands its trial to the resident engine, which trains and scores them together. With PEFT's, trials run
    one after the other.
    """

    def __init__(
        self,
        model: str | Path | config.Model | Mapping[str, Any],
        data: str | Path | config.Data | Mapping[str, Any],
        task: str | Path | Sequence[str] | None = None,
        *,
        validation: config.Validation | Mapping[str, Any] | None = None,
        test: str | Path | Sequence[str] | config.Test | Mapping[str, Any] | None = None,
        training: config.Training | Mapping[str, Any] | None = None,
        run: config.Run | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        require_finetune()
        sections = {
            "model": _plain(model),
            "data": _plain(data),
            "validation": {**(_plain(validation) or {}), **({} if task is None else {"tasks": _listed(task)})} or None,
            "test": _plain(test) if isinstance(test, (config.Test, Mapping)) else {"tasks": _listed(test or ())},
            "training": _plain(training) or {},
            "run": _plain(run) or {},
            "search": {"seed": seed},
        }
        self.config = config.parse({"objective": "finetune", **sections})
        self._searched: frozenset[str] = frozenset(FIELD_DEFAULTS)
        self._targets: tuple[str, ...] = (self.config.training.targets,)  # all that a trial may have
        self._lock = threading.RLock()  # held by whoever uses a base
        self._loading = threading.RLock()  # guards what is loaded, and is never held while a base works
        self._bases: dict[str, tuple[Base, PackAnswers]] = {}
        self._engines: dict[str, Engine] = {}
        self._pack: int | None = self.config.run.pack if isinstance(self.config.run.pack, int) else None
        self._cuts: dict[tuple[int, str], Examples] = {}
        self._expected: Contents = {}  # what the study stands on
        self._compared: Contents | None = None  # what this process was compared with
        self._key = uuid.uuid4().hex  # what other processes have loaded for this very objective
        self._abroad = False  # whether this is another process's objective

    @classmethod
    def of(cls, study: config.StudyConfig, **own: Any) -> Self:
        """The objective of a study's file; own: further arguments of a class derived from this one."""
        if study.model is None or study.data is None or study.validation is None:
            raise UserError("fine-tuning needs model, data and validation")
        return cls(
            study.model,
            study.data,
            validation=study.validation,
            test=study.test,
            training=study.training,
            run=study.run,
            seed=study.search.seed,
            **own,
        )

    def __repr__(self) -> str:
        return f"FineTune(model={self.model.path!r}, data={self.data.path!r}, task={list(self.validation.tasks)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """The settings alone: another process loads for itself, once, however often it is handed the same settings.

        Without the storage's URL, which may hold a password.
        """
        settings = self.config.model_dump_json(exclude={"run": {"storage"}})
        return resident, (type(self), settings, self._own, self._key), self._learnt

    def __setstate__(self, learnt: dict[str, Any]) -> None:
        self.__dict__.update(learnt)

    @property
    def _own(self) -> tuple[tuple[str, Any], ...]:
        """Further arguments of a class derived from this one."""
        return ()

    @property
    def _learnt(self) -> dict[str, Any]:
        """What a study found out since: what is searched, which targets that means, contents, the size of a pack."""
        known = {"_searched": self._searched, "_targets": self._targets, "_expected": self._expected}
        return known | ({} if self._pack is None else {"_pack": self._pack})

    @property
    def model(self) -> config.Model:
        return cast(config.Model, self.config.model)

    @property
    def data(self) -> config.Data:
        return cast(config.Data, self.config.data)

    @property
    def validation(self) -> config.Validation:
        return cast(config.Validation, self.config.validation)

    @property
    def training(self) -> config.Training:
        return self.config.training

    @property
    def identity(self) -> dict[str, Any]:
        """The sections that decide what a trial scores; where it runs does not."""
        sections: dict[str, Any] = self.config.model_dump(
            mode="json",
            include={"model", "data", "training", "validation", "test"},
            exclude={"validation": {"trust_task_code"}},
        )
        return sections

    @property
    def contents(self) -> Contents:
        """The model's files, the tokenizer, the rows as they are trained on, and the items as they are scored."""
        self.prepare()
        return self._contents

    def expect(self, contents: Contents) -> None:
        self._expected = contents

    @property
    def packed(self) -> bool:
        return self.config.run.engine == "packed"

    @property
    def slots(self) -> int:
        """The size of a pack: as configured, as on record, or measured on the spot."""
        if not self.packed:
            return 1
        if self._pack is None:
            self._pack = self._measure_pack()
        return self._pack

    @property
    def stoppable(self) -> bool:
        return self.packed

    @property
    def even(self) -> bool:
        """Whether all trials take the same steps of the same size."""
        return not self._searched & UNEVEN

    def recall(self, loaded: Mapping[str, Any]) -> None:
        """A resumed study goes on with the pack size that it began with."""
        if self._pack is None:
            self._pack = loaded.get("pack")

    def interrupt(self) -> None:
        for engine in self._engines.values():
            engine.drop()

    @property
    def defaults(self) -> dict[str, Value]:
        """The field's defaults as a configuration; a setting that the user gave and does not search stays."""
        kept = self.training.model_fields_set - self._searched
        fields = config.Training.model_fields
        own = self.training.model_dump()
        return {name: own[name] if name in kept else fields[name].default for name in FIELD_DEFAULTS}

    # ----- before any training

    def fixed(self, searched: Space) -> dict[str, Value]:
        values = config.given(self.training, self.data)
        return {name: values[name] for name in searched.names if name in values}

    def vet(self, searched: Space) -> None:
        unused.refuse(self.config, searched.names)

    def declare(self, searched: Space | Iterable[str]) -> None:
        names = searched.names if isinstance(searched, Space) else tuple(searched)
        for name in names:
            if name not in SETTINGS:
                raise UserError(f'the space has "{name}", which is no training setting{suggestion(name, SETTINGS)}')
        self._searched = frozenset(names)
        parameter = searched.hyperparameters.get("targets") if isinstance(searched, Space) else None
        options = parameter.options if isinstance(parameter, Choice) else (self.training.targets,)
        self._targets = tuple(str(option) for option in options)

    def check(self, searched: Space | Iterable[str] = ()) -> None:
        """Raises UserError for what could not work later: names and bounds of the space, model, data, targets, tasks.

        Loads all of these.
        """
        require_threads(self.config.run.threads)
        self.declare(searched)
        parameters: Mapping[str, Hyperparameter | None]
        parameters = searched.hyperparameters if isinstance(searched, Space) else dict.fromkeys(searched)
        lengths = {(self.data.max_length, self.data.loss_on)}
        for name, parameter in parameters.items():
            for value in _ends(parameter):
                _, max_length, loss_on = self.settings({name: value})
                lengths.add((max_length, loss_on))
        self.prepare()
        from partune.finetune.packed.adapters import find_sites
        from partune.finetune.targets import check_accepted

        base, _ = self._base(self.training.dtype)
        for targets in self._targets:
            if self.packed:
                find_sites(base, targets)
            check_accepted(base.model, targets)
        for max_length, loss_on in lengths:
            self._cut(base, max_length, loss_on)

    def prepare(self) -> None:
        """Loads the base model, tokenises the data and builds the tasks' requests, once; raises UserError."""
        with self._loading:  # whole, imports included: others wait for it
            if "_scorer" not in vars(self):
                self._load()
            if self._expected and self._compared != self._expected:
                self._compare()

    def _compare(self) -> None:
        """Refuse to go on where this process loaded something else than the study stands on."""
        where = f"on {socket.gethostname()}: " if self._abroad else ""
        note = check(self._expected, {**self._contents, **versions()}, where)
        if note is not None and self._abroad:  # of its own process a study tells itself
            log.warning("%s", note)
        self._compared = self._expected

    def _load(self) -> None:
        from partune.finetune.data import find_file
        from partune.finetune.model import check_exists, check_vocabulary, find_device, find_dtype, quantization
        from partune.finetune.scoring.definitions import check_file
        from partune.runtime.isolation import own_generators

        check_exists(self.model)
        device = find_device(self.config.run.device)
        quantization(self.model, device, find_dtype(self.training.dtype, device))
        find_file(self.data)
        for name in (*self.validation.tasks, *self.config.test.tasks):
            check_file(name)
        import torch

        with own_generators(torch.device("cpu")):
            largest = int(self._examples.tokens.max())
            parts = self._scorer.parts
            base, _ = self._base(self.training.dtype)
            check_vocabulary(base, "the data", largest)
            for part in parts:
                tokens = (token for _, *texts in part.requests for text in texts for token in text)
                check_vocabulary(base, f"the task {part.task.name}", max(tokens, default=0))

    def settings(self, configuration: Config) -> tuple[config.Training, int, Literal["answer", "all"]]:
        """How a configuration trains: training section, maximum length, what the loss is on. Raises UserError."""
        for name in configuration:
            if name not in SETTINGS:
                raise UserError(f'"{name}" is no training setting{suggestion(name, SETTINGS)}')
        training = {name: value for name, value in configuration.items() if name not in DATA_SETTINGS}
        data = {name: value for name, value in configuration.items() if name in DATA_SETTINGS}
        plain = self.config.model_dump(exclude={"training", "data"})
        whole = config.parse(
            plain | {"training": self.training.model_dump() | training, "data": self.data.model_dump() | data}
        )
        return whole.training, cast(config.Data, whole.data).max_length, cast(config.Data, whole.data).loss_on

    def seeds(self, trial: Trial, training: config.Training) -> tuple[int, int]:
        """Return the seed of initialisation and dropout, and that of the data's order.

        A run with fresh seeds has its own of both, whatever seed is configured: it would be a copy.
        """
        if trial.order is not None:
            return trial.seed, trial.order
        return trial.seed if training.seed is None else training.seed, self.config.search.seed

    # ----- what a trial pays for

    def evaluate(self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH) -> Observation:
        """Trains a configuration and scores it; what goes wrong in the trial alone is a failed observation.

        adapter: a folder to save the adapter in.
        parts: of the items that are scored, "search", "verdict" and "test"; the search items always are.
        """
        if self.packed:
            return self._evaluate_packed(trial, adapter, parts)
        training, max_length, loss_on = self.settings(trial.config)
        seeds = self.seeds(trial, training)
        cost = {"seconds": 0.0}
        started = time.perf_counter()
        self.prepare()
        try:
            from partune.finetune import adapter as adapters
            from partune.finetune.training import trained

            with self._resident(training.dtype) as (base, answer):
                started = time.perf_counter()
                examples = self._cut(base, max_length, loss_on)
                cost["examples"] = float(len(examples))
                with trained(base, examples, training, *seeds) as tuned:
                    cost |= {"train_seconds": time.perf_counter() - started, "tokens": float(tuned.tokens)}
                    scored = time.perf_counter()
                    scores = self._scorer.score_one(answer, self._parts(parts))
                    cost["score_seconds"] = time.perf_counter() - scored
                    if adapter is not None:
                        adapters.save(tuned.model, Path(adapter))
        except UserError:
            raise
        except Exception as error:
            cost["seconds"] = time.perf_counter() - started
            return Observation.failure(_cause(error), cost)
        cost["seconds"] = time.perf_counter() - started
        return _observation(scores, cost, trial.fidelity)

    def evaluate_judged(
        self, trial: Trial, adapter: Path | None, judge: Judge, parts: Collection[str] = SEARCH
    ) -> Observation:
        return self._evaluate_packed(trial, adapter, parts, judge)

    def _evaluate_packed(
        self, trial: Trial, adapter: Path | None, parts: Collection[str], judge: Judge | None = None
    ) -> Observation:
        """Hands the trial to the resident engine and waits for it."""
        training, max_length, loss_on = self.settings(trial.config)
        self.prepare()
        from partune.finetune.packed.residents import Job
        from partune.finetune.training import count_steps

        base, _ = self._base(training.dtype)
        examples, engine = self._cut(base, max_length, loss_on), self._engines[base.dtype]
        engine.width = self.slots
        seed, order_seed = self.seeds(trial, training)
        job = Job(
            training,
            examples,
            seed=seed,
            order_seed=order_seed,
            parts=self._parts(parts),
            adapter=None if adapter is None else Path(adapter),
            rungs=() if judge is None else rung_steps(count_steps(len(examples), training)),
            judge=judge,
        )
        return self._observed(engine.submit(job).result(), trial, len(examples))

    def _observed(self, outcome: Outcome, trial: Trial, examples: int) -> Observation:
        """What an engine answered, as an observation. A trial's seconds are its share of its packs' time.

        examples: how many the trial's own settings leave of the data.
        """
        cost = {
            "seconds": outcome.train_seconds + outcome.score_seconds,
            "train_seconds": outcome.train_seconds,
            "score_seconds": outcome.score_seconds,
            "tokens": float(outcome.tokens),
            "examples": float(examples),
        }
        if isinstance(outcome.scores, UserError):
            raise outcome.scores
        if isinstance(outcome.scores, Exception):
            return Observation.failure(_cause(outcome.scores), cost)
        rungs = {str(Rung(rung)): score for rung, score in enumerate(outcome.rungs)}
        if outcome.stopped is not None:
            scores = {"score": outcome.rungs[-1], **rungs}
            return Observation(scores, status=Status.STOPPED, cost=cost, fidelity=outcome.stopped)
        found = _observation(outcome.scores, cost, trial.fidelity)
        return dataclasses.replace(found, scores={**found.scores, **rungs})

    def score_base(self, parts: Collection[str] = ALL) -> Observation:
        """Scores the untouched base."""
        self.prepare()
        with self._resident(self.training.dtype) as (_, answer):
            return self._untrained(answer, parts)

    def score_zero(self, trial: Trial) -> Observation:
        """Trains with learning rate 0 for a few steps, and scores the search items: the base's, if nothing is wrong."""
        config = {**trial.config, "learning_rate": 0.0, "steps": ZERO_STEPS}
        return self.evaluate(dataclasses.replace(trial, config=config))

    def score_defaults(self, trial: Trial, adapter: Path) -> Observation:
        """Trains the field's defaults, keeps their adapter and scores all parts."""
        return self.evaluate(trial, adapter, ALL)

    def score_fresh(self, trial: Trial, adapter: Path) -> Observation:
        """Train a trial with its own seed and order, keep its adapter, score search and verdict items."""
        return self.evaluate(trial, adapter, JUDGED)

    def score_winner(self, trial: Trial, adapter: Path) -> Observation:
        """Scores all parts of a trial by its kept adapter, or trains it again where that is gone."""
        if not adapter.is_dir():
            return self.evaluate(trial, adapter, ALL)
        training, _, _ = self.settings(trial.config)
        return self._score_kept(training, adapter) if self.packed else self.score_adapter(adapter, ALL, training.dtype)

    def _score_kept(self, training: config.Training, adapter: Path) -> Observation:
        """Scores an adapter that a pack left, in a pack: the very products that every trial is scored with."""
        from partune.finetune.packed.adapters import carrier

        self.prepare()
        with self._resident(training.dtype) as (base, _), carrier(base, training.targets) as carrying:
            pack, answers = carrying.loaded([(training, carrying.read(adapter))]), self._engines[base.dtype].likelihoods
            return self._untrained(lambda name, requests: answers.answers(name, requests, carrying, pack), ALL)

    def score_adapter(self, path: str | Path, parts: Collection[str] = SEARCH, dtype: str | None = None) -> Observation:
        """Scores a saved adapter; raises UserError where it is none, or not one of this base."""
        from partune.finetune import adapter as adapters

        adapters.check(Path(path))
        self.prepare()
        resident = self._resident(dtype or self.training.dtype)
        with resident as (base, answer), adapters.loaded(base, Path(path)):
            return self._untrained(answer, parts)

    def reload(self, trial: Trial, adapter: Path, scored: Observation) -> Observation | None:
        """Load a kept adapter through PEFT, and let the harness score a handful of search items once more.

        The answers have to be those that are on record, within TOLERANCE, whatever engine and passes they came from.
        """
        self.prepare()
        training, _, _ = self.settings(trial.config)
        with self._resident(training.dtype) as (base, _):
            return self._reload(base, adapter, scored)

    def _reload(self, base: Base, adapter: Path, scored: Observation) -> Observation:
        from partune.finetune import adapter as adapters
        from partune.finetune.scoring.harness import harness_model
        from partune.runtime.isolation import one_line

        try:
            with adapters.loaded(base, adapter) as adapted:
                reason = adapters.unlike(adapted, adapter)
                found = self._scorer.handful(harness_model(base, self.validation.batch_size))
        except Exception as error:  # whatever it is, others will meet it as well
            return Observation.failure(one_line(error))
        recorded = {name: scored.items[name] for name in found if name in scored.items}
        expected = {name: rows[: len(found[name]), : found[name].shape[1]] for name, rows in recorded.items()}
        count = sum(map(len, found.values()))
        before, after = (dataclasses.replace(scored, items=items) for items in (expected, found))
        reason = reason or _difference(before, after, base.dtype)
        return Observation.failure(reason) if reason else Observation({"score": 1.0, "items": count})

    def _untrained(self, answer: PackAnswers, parts: Collection[str]) -> Observation:
        """Scores the model that is there; what fails here would fail in every trial, and is the user's to mend."""
        from partune.finetune.scoring.scores import UndefinedScoreError

        started = time.perf_counter()
        try:
            scores = self._scorer.score_one(answer, self._parts(parts))
        except UndefinedScoreError as error:
            raise UserError(str(error)) from error
        except Exception as error:
            batch = "" if self.packed else f"batch_size {self.validation.batch_size}, "
            sizes = f"{batch}dtype {self.training.dtype}"
            raise UserError(f"the model cannot be scored ({sizes}): {_cause(error)}") from error
        seconds = time.perf_counter() - started
        cost = {"seconds": seconds, "train_seconds": 0.0, "score_seconds": seconds, "tokens": 0.0}
        return _observation(scores, cost)

    def disagreement(self, base: Observation, zero: Observation) -> str | None:
        """Why the untouched base and learning rate 0 are not the same model, or None where they are.

        They have to agree on every item of both: log-likelihoods within TOLERANCE of the base's precision, so that a
        choice can differ only where two choices nearly tie.
        """
        from partune.finetune.model import find_device, find_dtype

        return _difference(base, zero, find_dtype(self.training.dtype, find_device(self.config.run.device)))

    @property
    def summary(self) -> dict[str, Any]:
        """What was loaded, for the record: counts of the data, items and metric, device and precision."""
        from partune.finetune.model import dropouts

        self.prepare()
        from partune.finetune.targets import coverage
        from partune.finetune.training import count_steps, count_warmup

        base, _ = self._base(self.training.dtype)
        examples = self._cut(base, self.data.max_length, self.data.loss_on)
        steps = count_steps(len(examples), self.training)
        rows = str(examples.summary["format"])
        loaded = unused.Loaded(steps, count_warmup(steps, self.training), rows, base.device.type == "cpu")
        notes = [*unused.notes(self.config, self._searched, loaded), *base.notes]
        return {
            **({"notes": notes} if notes else {}),
            "device": str(base.device),
            "dtype": base.dtype,
            **({"pack": self.slots} if self.packed else {}),
            "data": examples.summary,
            **({} if base.positions == 2**31 else {"context": base.positions}),
            "adapted": {targets: coverage(base.model, targets) for targets in self._targets},
            "scoring": {**self._scorer.summary, "chat_template": False},
            **({"dropout": off} if (off := dropouts(base.model.config)) else {}),
        }

    # ----- resident parts

    @cached_property
    def _examples(self) -> Examples:
        from partune.finetune.data import tokenise
        from partune.finetune.model import load_tokenizer

        return tokenise(self.data, load_tokenizer(self.model))

    @cached_property
    def _contents(self) -> Contents:
        import torch

        from partune.runtime.isolation import own_generators

        with own_generators(torch.device("cpu")):
            return self._digested()

    def _digested(self) -> Contents:
        """Compute what it stands on."""
        from partune.finetune import digests
        from partune.finetune.chats import template_text
        from partune.finetune.model import load_tokenizer

        tokenizer = load_tokenizer(self.model)
        dtype = self._base(self.training.dtype)[0].dtype
        found = {
            **digests.of_model(self.model),
            "the tokenizer": digests.of_tokenizer(tokenizer),
            "the base's precision": Content(dtype, dtype, decisive=False),
        }
        if self._examples.form == "chat":
            given = self.data.chat_template
            template = tokenizer.chat_template if given is None else template_text(given)
            found["the chat template"] = digests.of_template(template)
        found["the training rows"] = digests.of_rows(self._examples)
        return {**found, **digests.of_tasks(self._scorer.tasks)}

    @cached_property
    def _scorer(self) -> Scorer:
        from partune.finetune.scoring.scores import Scorer

        base, _ = self._base(self.training.dtype)
        return Scorer(base, self.validation, self.config.test, self.config.search.seed)

    @contextmanager
    def _resident(self, dtype: str) -> Iterator[tuple[Base, PackAnswers]]:
        """The base and what scores its requests, for one caller at a time, on the threads that suit the base."""
        with self._lock:
            base, answer = self._base(dtype)
            with threads(self._threads(base)):
                yield base, answer

    def _threads(self, base: Base) -> int | None:
        """The CPU threads that suit a base; None for torch's default."""
        return self.config.run.threads or (1 if base.model.num_parameters() < SMALL else None)

    def _base(self, dtype: str) -> tuple[Base, PackAnswers]:
        """The resident base in a precision, and what scores its requests."""
        from partune.finetune.model import find_device, find_dtype, load
        from partune.finetune.scoring.harness import harness_model

        kind = find_dtype(dtype, find_device(self.config.run.device))
        with self._loading:
            if kind not in self._bases:
                run = self.config.run
                devices = max(run.devices_per_worker, int(os.environ.get(DEVICES_EACH, 1)))
                base = load(self.model, kind, run.device, run.compile, devices)
                if self.packed:
                    self._bases[kind] = base, self._pack_answers(base)
                else:
                    loglikelihoods = harness_model(base, self.validation.batch_size)
                    self._bases[kind] = base, lambda name, requests: [loglikelihoods(requests)]
            return self._bases[kind]

    def _pack_answers(self, base: Base) -> PackAnswers:
        """Makes the base's engine; the answers are those of the base alone, or of what was put in its place."""
        from partune.finetune.packed.engine import Engine
        from partune.finetune.packed.head import Head
        from partune.finetune.packed.likelihoods import PackedLikelihoods

        likelihoods = PackedLikelihoods(base, Head(base))
        self._engines[base.dtype] = Engine(
            base, lambda: self._scorer, likelihoods, lend=lambda: self._lock, cpu_threads=self._threads(base)
        )
        return likelihoods.answers

    def _measure_pack(self) -> int:
        """The pack that pays, by a probe of the field's defaults on this base, data and device."""
        from partune.finetune.packed.capacity import choose
        from partune.runtime.isolation import is_out_of_memory, own_generators

        self.prepare()
        training, max_length, loss_on = self.settings(self.defaults)
        with self._resident(training.dtype) as (base, _), own_generators(base.device):
            examples = self._cut(base, max_length, loss_on)
            try:
                return choose(base, self._engines[base.dtype].head, training, examples)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                sizes = f"batch_size {training.batch_size}, max_length {max_length}, dtype {base.dtype}"
                raise UserError(f"one trial does not fit on {base.device} ({sizes}): {_cause(error)}") from error

    def _cut(self, base: Base, max_length: int, loss_on: Literal["answer", "all"]) -> Examples:
        """The examples as a setting wants them, no longer than the base can read."""
        key = (min(max_length, base.positions), loss_on)
        with self._loading:
            if key not in self._cuts:
                cut = self._examples.cut(*key)
                if not len(cut):
                    raise UserError(f"{self.data.path}: no example has a token to train on within max_length {key[0]}")
                self._cuts[key] = cut
            return self._cuts[key]

    def _parts(self, parts: Collection[str]) -> frozenset[str]:
        return frozenset(parts) | SEARCH | ({ItemSet.TEST} if self.config.test.every_trial else frozenset())


def _observation(scores: Scores, cost: Mapping[str, float], fidelity: float = 1.0) -> Observation:
    if scores.score is None or not np.isfinite(scores.score):
        return Observation(status=Status.FAILED, error=f"the score is {scores.score}", cost=cost, fidelity=fidelity)
    stderr = scores.stderr if scores.stderr is not None and np.isfinite(scores.stderr) else None
    named = {"score": scores.score, **scores.named}
    return Observation(named, stderr, cost=cost, fidelity=fidelity, items=scores.items)


def _difference(base: Observation, zero: Observation, dtype: str) -> str | None:
    """Return where two models' answers differ by more than TOLERANCE allows in a precision; None where they do not."""
    absolute, relative = TOLERANCE[dtype]
    shared = sorted(name for name in base.items if name.endswith("/loglikelihood") and name in zero.items)
    if not shared:
        return zero.error or base.error or "no item was scored for both"
    for name in shared:
        expected, found = base.items[name], zero.items[name]
        if expected.shape != found.shape:
            return f"{name}: {expected.shape} log-likelihoods for the base, {found.shape} for learning rate 0"
        here = ~np.isnan(expected)
        excess = np.where(here, np.abs(expected - found) - absolute - relative * np.abs(expected), 0.0)
        excess = np.where(np.isnan(excess), np.inf, excess)
        if (excess > 0).any():
            row, column = np.unravel_index(int(excess.argmax()), excess.shape)
            wrong = int((excess > 0).any(axis=1).sum())
            return (
                f"{wrong} of {len(expected)} items of {name.rpartition('/')[0]} differ, most of all "
                f"log-likelihood {expected[row, column]:.6g} against {found[row, column]:.6g} ({dtype})"
            )
    return None


def _cause(error: Exception) -> str:
    """Why a trial failed, in one line."""
    import torch

    from partune.finetune.scoring.scores import NotFiniteError
    from partune.finetune.training import DivergedError
    from partune.runtime.isolation import is_out_of_memory, one_line

    if isinstance(error, (DivergedError, NotFiniteError)):
        return str(error)
    text = one_line(error)
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return f"out of memory: {text}"
    return f"{type(error).__name__}: {text}"


def _ends(parameter: Hyperparameter | None) -> Sequence[Value]:
    """The values of a hyperparameter that have to be settings, for all between to be.

    One from within tells a real from an integer: the ends of a real may be whole numbers.
    """
    if isinstance(parameter, Choice):
        return parameter.options
    return (parameter.low, parameter.high, parameter.decode(0.381966)) if isinstance(parameter, (Float, Int)) else ()


def resident(kind: type[FineTune], settings: str, own: tuple[tuple[str, Any], ...], key: str) -> FineTune:
    """This process's objective of a study's settings (JSON); pickled objectives come back as this one.

    key: of the objective that was pickled. Another study may have the same settings, and other rows in the same file.
    """
    with _REVIVING:
        return _revived(kind, settings, own, key)


@lru_cache(maxsize=1)  # a base may fill the device
def _revived(kind: type[FineTune], settings: str, own: tuple[tuple[str, Any], ...], key: str) -> FineTune:
    found = kind.of(config.StudyConfig.model_validate_json(settings), **dict(own))
    found._key, found._abroad = key, True
    return found


def _plain(section: Any) -> Any:
    """A section as the mapping or text that it was made from; only what was set."""
    if isinstance(section, config.Section):
        return section.model_dump(exclude_unset=True)
    return str(section) if isinstance(section, Path) else section


def _listed(names: str | Path | Sequence[str]) -> list[str]:
    return [str(names)] if isinstance(names, (str, Path)) else [str(name) for name in names]
