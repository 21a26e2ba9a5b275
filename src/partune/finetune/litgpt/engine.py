"""The engine that runs each trial through LitGPT's commands: `litgpt finetune_lora`, then `litgpt evaluate`.

LitGPT's processes train, merge and score. Checks, settings, the split of items, metrics and the record are the same as
for the other engines. LitGPT needs another version of transformers than partune does. So partune does not import
LitGPT, but runs it as a program in another virtual environment. This engine was written for LitGPT 0.5.13.

To split the items, and for the paired test, partune needs the results of single items. `litgpt evaluate` writes these
to results.json: the log-likelihood of every choice, from lm-evaluation-harness. The command always scores all items of
a task. So every trial also spends time on the verdict items, but their scores do not leave this module before the
verdict.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from partune import config
from partune.errors import UserError
from partune.finetune.engines import ZERO_SETTINGS, Assignment, Engine, Outcome, Reloaded, Settings, score_untrained
from partune.finetune.failures import cause
from partune.finetune.litgpt.arguments import evaluate_arguments, find_switches, finetune_arguments, refuse
from partune.finetune.litgpt.checkpoints import convert, find_model_folder, keep_lora, load_outline
from partune.finetune.litgpt.files import (
    LORA,
    Answers,
    read_answers,
    read_data,
    require_own,
    workplace,
    write_data,
)
from partune.finetune.litgpt.program import Program, StepError, environment
from partune.finetune.materials import Materials, suitable_threads
from partune.finetune.model import Base, find_device, load, load_tokenizer
from partune.finetune.peft import reload
from partune.finetune.scoring.harness_task import HarnessTask
from partune.runtime.threads import torch_threads
from partune.trial import Value
from partune.trial.names import ItemSet

if TYPE_CHECKING:
    from partune.finetune.rows.values import Row
    from partune.finetune.scoring import base as scoring
    from partune.finetune.scoring.scores import Scores

Asked = tuple[Sequence[str], int | None, int | None]  # tasks, limit of documents, examples shown before a question


class LitGPTEngine(Engine):
    """Train, merge and score through LitGPT's command line, one process per step.

    In this process the base model has no weights, because only its names, shapes and tokenizer are needed. LitGPT's
    processes load the weights.

    Args:
        study: The study's settings.
        scratch: The folder for the converted base model, the data and the trials' logs. What it contains may be
            replaced. None makes a temporary folder, which `close` removes.
    """

    stoppable = False
    identity: Mapping[str, str] = {"engine": "litgpt"}
    # LitGPT refuses a warm-up that is as long as the training, and the user's may be longer than these few steps.
    zero_settings: Mapping[str, Value] = {**ZERO_SETTINGS, "warmup_steps": 1}

    def __init__(self, study: config.StudyConfig, scratch: Path | None = None) -> None:
        self.materials = Materials(study, self._load_base)
        self._scratch = scratch
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._data: Path | None = None  # the folder of the training rows in LitGPT's format, once written

    def _load_base(self, dtype: str) -> Base:
        model = self.materials.model
        tokenizer = load_tokenizer(model)
        return Base(load_outline(model), tokenizer, find_device(self.materials.study.run.device), dtype)

    @property
    def _base(self) -> Base:
        return self.materials.base(self.materials.study.training.dtype)

    def scratch(self) -> Path:
        """Return the scratch folder; make a temporary one at the first call if none was set."""
        if self._scratch is not None:
            return self._scratch
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="partune-litgpt-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)

    # ----- before any training

    def refuse(self) -> None:
        """Raise UserError for a model, data or tasks that LitGPT does not support, or if its command is missing."""
        model = self.materials.model
        for holds, reason in (
            (model.quantize == "none", "use a quantized base model (model.quantize)"),
            (not model.trust_remote_code, "run code that comes with a model (model.trust_remote_code)"),
            (bool(self.materials.validation.tasks), "score validation rows, only tasks (--task)"),
            (self.materials.validation.points == 0, "score at points of the training (--eval-points)"),
            (
                self.materials.data.format in ("auto", "alpaca", "qa", "label"),
                f"read {self.materials.data.format} rows, only Alpaca rows (data.format)",
            ),
        ):
            if not holds:
                raise UserError(f"with the engine litgpt, partune cannot {reason}")
        if self._scratch is not None:
            require_own(self._scratch)
        Program.find(self.materials.study.run.litgpt, {})
        for name in (*self.materials.validation.tasks, *self.materials.study.test.tasks):
            path = Path(name).expanduser()
            if "," in name:
                raise UserError(f"task {name}: LitGPT does not accept a comma in the name of a task")
            if path.is_file() and re.search(r"^group\s*:", path.read_text(encoding="utf-8"), re.MULTILINE):
                raise UserError(f"task {name} is the file of a group; LitGPT accepts files of single tasks only")

    def refuse_training(self, training: config.Training) -> None:
        """Raise UserError for training settings that LitGPT lacks or interprets differently."""
        refuse(training)

    def check(self, targets: Sequence[str], settings: Sequence[Settings]) -> None:
        """Raise UserError for targets, schedules or tasks that LitGPT cannot do, or if its command does not work."""
        for task in self.materials.scorer.tasks:
            if isinstance(task, HarnessTask) and any(item.queries for item in task.items):
                raise UserError(
                    f"task {task.name} is not multiple-choice, and engine litgpt scores only choices; use engine packed"
                )
        for names in targets:
            find_switches(self._base.model, names)
        for trial_settings in settings:
            # Whether settings are refused does not depend on the seeds, so any seeds will do.
            self.arguments(Assignment(0, trial_settings, 0, 0, frozenset()), Path(), Path(), Path())
        self._program.check()

    def capacity(self, typical: Callable[[], Settings], recorded: int | None) -> int:
        """Return 1: LitGPT trains one trial at a time."""
        return 1

    def describe(self, slots: int) -> Mapping[str, int | str]:
        """Return the engine's name."""
        return self.identity

    # ----- training and scoring

    def evaluate(self, assignment: Assignment) -> Outcome:
        """Train and score one trial, and keep its adapter in LitGPT's format and in PEFT's.

        If a step fails, or LitGPT has no schedule for the number of steps, the trial fails: the outcome holds the
        exception.
        """
        checkpoint = self.checkpoint()
        adapter = assignment.adapter
        cost = {"seconds": 0.0}
        began = time.perf_counter()
        try:
            with self._workplace(f"trial-{assignment.number}" if adapter is None else adapter.name) as folder:
                final = self.train(assignment, checkpoint, folder)
                scoring_began = time.perf_counter()
                cost["train_seconds"] = scoring_began - began
                scores = self.score(final, assignment.parts, folder)
                cost["score_seconds"] = time.perf_counter() - scoring_began
                if adapter is not None:
                    training = assignment.settings.training
                    keep_lora(final, adapter, self.materials.base(training.dtype).model, training)
        except Exception as error:
            cost["seconds"] = time.perf_counter() - began
            # A UserError would stop the study, but only the settings of this trial are at fault.
            return Outcome(StepError(str(error)) if isinstance(error, UserError) else error, cost)
        cost["seconds"] = time.perf_counter() - began
        return Outcome(scores, cost)

    def score_zero(self, assignment: Assignment) -> Outcome:
        """Train and score an assignment with learning rate 0; raise UserError if it fails, as trials would fail too."""
        outcome = self.evaluate(assignment)
        if isinstance(outcome.scores, Exception):
            raise UserError(f"LitGPT cannot fine-tune here: {cause(outcome.scores)}")
        return outcome

    def score_base(self, dtype: str, parts: frozenset[str]) -> Outcome:
        """Score the untouched base model through LitGPT."""
        return self._score_checkpoint(self.checkpoint(), parts, "base", dtype)

    def score_kept(self, training: config.Training, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Merge a saved LoRA adapter into the base model and score the result; raise UserError if that fails."""
        return self.score_adapter(training.dtype, adapter, parts)

    def score_adapter(self, dtype: str, adapter: Path, parts: frozenset[str]) -> Outcome:
        """Merge a saved LoRA adapter into the base model and score the result; raise UserError if that fails."""
        if not (adapter / LORA).is_file():
            raise UserError(f"{adapter} is not an adapter in LitGPT's format: it has no file {LORA}")
        checkpoint = self.checkpoint()
        with self._workplace(f"{adapter.name}-merged") as folder:
            shutil.copytree(adapter, folder / "final")
            arguments = [str(folder / "final"), "--pretrained_checkpoint_dir", str(checkpoint)]
            try:
                self._program.run("merge_lora", arguments, folder / "merge_lora.log")
            except StepError as error:
                raise UserError(f"{adapter} cannot be merged: {error}") from None
            return self._score_checkpoint(folder / "final", parts, f"{adapter.name}-scored", dtype)

    def _score_checkpoint(self, checkpoint: Path, parts: frozenset[str], name: str, dtype: str) -> Outcome:
        """Score a checkpoint without training it."""

        def score() -> Scores:
            with self._workplace(name) as folder:
                return self.score(checkpoint, parts, folder, dtype)

        return score_untrained(score)

    def reload(self, dtype: str, adapter: Path) -> Reloaded | None:
        """Load a saved adapter through PEFT, on a base model that is loaded with its weights for this call.

        Returns None if the adapter has no copy in PEFT's format.
        """
        if not (adapter / "adapter_config.json").is_file():
            return None
        self.materials.prepare()
        run = self.materials.study.run
        base = load(self.materials.model, dtype, run.device)
        with self.materials.lock, torch_threads(suitable_threads(base, run.threads)):
            return reload(base, self.materials.scorer, self.materials.validation.batch_size, adapter)

    def interrupt(self) -> None:
        """Do nothing: LitGPT's process is killed when the thread that waits for it is interrupted."""

    def close(self) -> None:
        """Release all that is loaded, and remove the temporary scratch folder, if there is one."""
        self.materials.release()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = self._data = None

    # ----- LitGPT's steps

    def _workplace(self, name: str) -> AbstractContextManager[Path]:
        return workplace(self.scratch() / "trials" / name)

    def checkpoint(self) -> Path:
        """Return the base model as a LitGPT checkpoint; convert it once, and raise UserError if that fails."""
        self.materials.prepare()
        model = self.materials.model
        with self.materials.lock:
            try:
                name = Path(model.path).expanduser().absolute().name
                log = self.scratch() / "convert_to_litgpt.log"
                return convert(self._program, self._model_folder, self.scratch() / "base" / name, name, log)
            except StepError as error:
                raise UserError(f"model {model.path} cannot be converted: {error}") from None

    def arguments(self, assignment: Assignment, checkpoint: Path, data: Path, out: Path) -> list[str]:
        """Return the arguments of `litgpt finetune_lora` for an assignment.

        Args:
            assignment: The settings and seeds of the training.
            checkpoint: The base model in LitGPT's format.
            data: The folder of the training rows.
            out: The output folder.

        Raises:
            UserError: LitGPT cannot train with these settings.
        """
        training, max_length, loss_on = assignment.settings
        base = self.materials.base(training.dtype)
        return finetune_arguments(
            checkpoint,
            data,
            out,
            len(self._rows),
            training,
            find_switches(base.model, training.targets),
            max_length=min(max_length, base.positions),
            loss_on=loss_on,
            dtype=base.dtype,
            seed=assignment.seed,
            order_seed=assignment.order_seed,
        )

    def train(self, assignment: Assignment, checkpoint: Path, folder: Path) -> Path:
        """Run `litgpt finetune_lora`.

        Args:
            assignment: The settings and seeds of the training.
            checkpoint: The base model in LitGPT's format.
            folder: An empty folder for the result and the log.

        Returns:
            The checkpoint with the adapter merged into it.

        Raises:
            StepError: The step failed.
        """
        if self._data is None:
            self._data = write_data(self._rows, self.scratch() / "data")
        arguments = self.arguments(assignment, checkpoint, self._data, folder / "out")
        self._program.run("finetune_lora", arguments, folder / "finetune_lora.log")
        return folder / "out" / "final"

    def score(self, checkpoint: Path, parts: frozenset[str], folder: Path, dtype: str | None = None) -> Scores:
        """Score a checkpoint with `litgpt evaluate`.

        Args:
            checkpoint: The model in LitGPT's format.
            parts: The names of the parts of the items to score.
            folder: The folder for the results and logs.
            dtype: The precision to score in; None means the study's precision.

        Raises:
            StepError: The step failed.
        """
        answers = self._evaluated(checkpoint, parts, folder, dtype)
        # The step above ran in another process and needs no lock. Scoring does: only one thread may render templates.
        with self.materials.lock:
            return self.materials.scorer.score(answers, parts)

    def _evaluated(self, checkpoint: Path, parts: frozenset[str], folder: Path, dtype: str | None) -> scoring.Answers:
        """Run `litgpt evaluate` once per group of tasks; return a function that looks up requests in its results."""
        validation, test = self.materials.validation, self.materials.study.test
        base = self._base if dtype is None else self.materials.base(dtype)
        asked: list[Asked] = [(validation.tasks, validation.limit, validation.fewshot)]
        if ItemSet.TEST in parts:
            asked.append((test.tasks, test.limit, None))
        answers: Answers = {}
        for number, ((where, limit, fewshot), names) in enumerate(_grouped(asked, folder).items(), 1):
            results = folder / f"results-{number}.json"
            arguments = evaluate_arguments(
                checkpoint,
                names,
                folder / "evaluate",
                results,
                batch_size=validation.batch_size,
                device=base.device.type,
                dtype=base.dtype,
                limit=limit,
                fewshot=fewshot,
            )
            self._program.run("evaluate", arguments, folder / f"evaluate-{number}.log", cwd=where)
            answers |= read_answers(results)

        def look_up(requests: Sequence[scoring.Request]) -> list[scoring.Answer]:
            asked = [request[0] for request in requests if isinstance(request, tuple)]
            missing = next((texts for texts in asked if texts not in answers), None)
            if missing is not None:
                raise StepError(f"litgpt evaluate did not score {missing[1]!r:.50} after {missing[0][-50:]!r}")
            return [answers[texts] for texts in asked]

        return look_up

    # ----- inputs of the steps, looked up once

    @cached_property
    def _program(self) -> Program:
        run, base = self.materials.study.run, self._base
        return Program.find(run.litgpt, environment(str(base.device), suitable_threads(base, run.threads)))

    @cached_property
    def _rows(self) -> list[Row]:
        return read_data(self.materials.data)

    @cached_property
    def _model_folder(self) -> Path:
        return find_model_folder(self.materials.model)


def _grouped(asked: Sequence[Asked], folder: Path) -> dict[tuple[Path, int | None, int | None], list[str]]:
    """Group tasks that one run of `litgpt evaluate` can score together.

    A task's YAML file names its data files relative to its own folder, so the command must run in that folder. For a
    task that comes with lm-evaluation-harness, it runs in `folder`.

    Returns:
        A mapping. A key is (working directory, limit of documents, number of examples shown before a question), and its
        value is the tasks to score with these.
    """
    groups: dict[tuple[Path, int | None, int | None], list[str]] = {}
    for names, limit, fewshot in asked:
        for name in names:
            path = Path(name).expanduser().absolute()
            where, argument = (path.parent, str(path)) if path.is_file() else (folder, name)
            groups.setdefault((where, limit, fewshot), []).append(argument)
    return groups
