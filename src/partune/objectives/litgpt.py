"""The black box of the 2025 study: each trial through LitGPT's command line, `finetune_lora` and then `evaluate`.

It is `FineTune` with other hands: the same checks, settings, split of the items, metrics, anchors and record, while
training, merging and scoring are LitGPT's own processes. Per-item results, which the split and the paired test need,
come from `litgpt evaluate` too: its results.json has the harness's log-likelihood of every choice. It always scores
a whole task, so a trial also pays for the verdict items; of these nothing leaves this module before the verdict.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from partune import config
from partune.config import unused
from partune.errors import UserError
from partune.objectives.finetune import ALL, SEARCH, SMALL, ZERO_STEPS, FineTune, _cause, _observation
from partune.runtime.threads import threads
from partune.space import Space
from partune.trial import Config, Observation, Status, Trial

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from partune.finetune.data import Row
    from partune.finetune.litgpt.files import Answers
    from partune.finetune.litgpt.program import Program
    from partune.finetune.model import Base
    from partune.finetune.scoring.scores import Scores
    from partune.finetune.scoring.tasks import Answer, LogLikelihoods, PackAnswers, Request


class LitGPT(FineTune):
    """Fine-tunes and scores through LitGPT's command line; arguments as of FineTune, `run` with the command's place.

    >>> LitGPT(model="checkpoints/llama", data="alpaca_data.json", task="hellaswag", run={"litgpt": "V/bin/litgpt"})

    scratch: folder of the converted base, the data and the trials' logs; by default a temporary one. What is
    there may be replaced. Raises UserError.
    """

    def __init__(self, *arguments: Any, scratch: str | Path | None = None, **sections: Any) -> None:
        super().__init__(*arguments, **sections)
        self._scratch = None if scratch is None else Path(scratch).absolute()

    def __repr__(self) -> str:
        return f"LitGPT(model={self.model.path!r}, data={self.data.path!r}, task={list(self.validation.tasks)!r})"

    @property
    def _own(self) -> tuple[tuple[str, Any], ...]:
        return (("scratch", self._scratch),)

    @property
    def packed(self) -> bool:
        return False

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "engine": "litgpt"}

    @property
    def summary(self) -> dict[str, Any]:
        return {**super().summary, "engine": "litgpt"}

    @cached_property
    def scratch(self) -> Path:
        """Where the converted base, the data and the trials' logs lie."""
        return self._scratch or Path(tempfile.mkdtemp(prefix="partune-litgpt-"))

    # ----- before any training

    def vet(self, searched: Space) -> None:
        # In Python the class says which engine it is, whatever `run` says.
        run = self.config.run.model_copy(update={"engine": "litgpt"})
        unused.refuse(self.config.model_copy(update={"run": run}), searched.names)

    def check(self, searched: Space | Iterable[str] = ()) -> None:
        """As FineTune's, and raises UserError for what LitGPT cannot do, or where its command does not work."""
        run, model = self.config.run, self.model
        for holds, reason in (
            (run.stop == "none", "stop a trial early (run.stop)"),
            (model.quantize == "none", "be trusted with a quantized base here (model.quantize)"),
            (not model.trust_remote_code, "run a model's own code (model.trust_remote_code)"),
            (self.data.format != "chat", "read chat rows: Alpaca rows only (data.format)"),
        ):
            if not holds:
                raise UserError(f"LitGPT cannot {reason}")
        from partune.finetune.litgpt.arguments import find_switches
        from partune.finetune.litgpt.files import require_own
        from partune.finetune.litgpt.program import Program

        if self._scratch is not None:
            require_own(self._scratch)
        Program.find(run.litgpt, {})
        self.settings(self.defaults)
        self._check_tasks()
        super().check(searched)
        base, _ = self._base(self.training.dtype)
        targets = [self.training.targets]
        if isinstance(searched, Space) and "targets" in searched.hyperparameters:
            targets = list(getattr(searched.hyperparameters["targets"], "options", targets))
        for each in targets:
            find_switches(base.model, str(each))
        for configuration in ({}, self.defaults):
            self.arguments(Trial(0, configuration), Path(), Path(), Path())
        self._program.check()

    def settings(self, configuration: Config) -> tuple[config.Training, int, Literal["answer", "all"]]:
        from partune.finetune.litgpt.arguments import refuse

        found = super().settings(configuration)
        refuse(found[0])
        return found

    def _check_tasks(self) -> None:
        for name in (*self.validation.tasks, *self.config.test.tasks):
            path = Path(name).expanduser()
            if "," in name:
                raise UserError(f"task {name}: LitGPT cuts the names of tasks at commas")
            if path.is_file() and re.search(r"^group\s*:", path.read_text(encoding="utf-8"), re.MULTILINE):
                raise UserError(f"task {name} is a file of a group: LitGPT takes files of single tasks only")

    # ----- what a trial pays for

    def evaluate(self, trial: Trial, adapter: Path | None = None, parts: Collection[str] = SEARCH) -> Observation:
        """As FineTune's; `adapter` gets the weights in LitGPT's format and in PEFT's.

        A step that fails is a failed trial.
        """
        from partune.finetune.litgpt.checkpoints import keep_lora

        training, _, _ = self.settings(trial.config)
        checkpoint = self.checkpoint()
        cost = {"seconds": 0.0}
        started = time.perf_counter()
        try:
            with self._workplace(f"trial-{trial.number}" if adapter is None else adapter.name) as folder:
                final = self.train(trial, checkpoint, folder)
                scored = time.perf_counter()
                cost["train_seconds"] = scored - started
                scores = self.score(final, parts, folder)
                cost["score_seconds"] = time.perf_counter() - scored
                if adapter is not None:
                    keep_lora(final, Path(adapter), self._base(training.dtype)[0].model, training)
        except Exception as error:
            cost["seconds"] = time.perf_counter() - started
            return Observation.failure(_reason(error), cost)
        cost["seconds"] = time.perf_counter() - started
        return _observation(scores, cost, trial.fidelity)

    def score_base(self, parts: Collection[str] = ALL) -> Observation:
        """Scores the untouched base, through LitGPT as well."""
        return self._score_checkpoint(self.checkpoint(), parts, "base")

    def score_zero(self, trial: Trial) -> Observation:
        """As FineTune's; where the very path of the trials does not work, that is the user's to mend."""
        short = {"learning_rate": 0.0, "steps": ZERO_STEPS, "warmup_steps": 1}
        found = self.evaluate(dataclasses.replace(trial, config={**trial.config, **short}))
        if found.status is Status.FAILED:
            raise UserError(f"LitGPT cannot fine-tune here: {found.error}")
        return found

    def score_adapter(self, path: str | Path, parts: Collection[str] = SEARCH, dtype: str | None = None) -> Observation:
        """Merges kept LoRA weights into the base and scores them; raises UserError where that fails."""
        from partune.finetune.litgpt.files import LORA
        from partune.finetune.litgpt.program import StepError

        path = Path(path)
        if not (path / LORA).is_file():
            raise UserError(f"{path} is no adapter of LitGPT: it has no {LORA}")
        checkpoint = self.checkpoint()
        with self._workplace(f"{path.name}-merged") as folder:
            shutil.copytree(path, folder / "final")
            arguments = [str(folder / "final"), "--pretrained_checkpoint_dir", str(checkpoint)]
            try:
                self._program.run("merge_lora", arguments, folder / "merge_lora.log")
            except StepError as error:
                raise UserError(f"{path} cannot be merged: {error}") from None
            return self._score_checkpoint(folder / "final", parts, f"{path.name}-scored", dtype)

    def reload(self, trial: Trial, adapter: Path, scored: Observation) -> Observation | None:
        """As FineTune's, on a base that is loaded for it; None where the adapter has LitGPT's form alone."""
        from partune.finetune.model import load

        if not (adapter / "adapter_config.json").is_file():
            return None
        self.prepare()
        training, _, _ = self.settings(trial.config)
        base = load(self.model, training.dtype, self.config.run.device)
        with self._lock, threads(self._threads(base)):
            return self._reload(base, adapter, scored)

    def _score_checkpoint(
        self, checkpoint: Path, parts: Collection[str], name: str, dtype: str | None = None
    ) -> Observation:
        """Scores a checkpoint as it is; what fails here would fail in every trial."""
        started = time.perf_counter()
        try:
            with self._workplace(name) as folder:
                scores = self.score(checkpoint, parts, folder, dtype)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the model cannot be scored: {_reason(error)}") from error
        seconds = time.perf_counter() - started
        return _observation(scores, {"seconds": seconds, "train_seconds": 0.0, "score_seconds": seconds})

    # ----- LitGPT's steps

    def _workplace(self, name: str) -> AbstractContextManager[Path]:
        from partune.finetune.litgpt.files import workplace

        return workplace(self.scratch / "trials" / name)

    def checkpoint(self) -> Path:
        """The base as a LitGPT checkpoint, converted once; raises UserError."""
        from partune.finetune.litgpt.checkpoints import convert
        from partune.finetune.litgpt.program import StepError

        self.prepare()
        with self._lock:
            try:
                name = Path(self.model.path).expanduser().absolute().name
                log = self.scratch / "convert_to_litgpt.log"
                return convert(self._program, self._model_folder, self.scratch / "base" / name, name, log)
            except StepError as error:
                raise UserError(f"model {self.model.path} cannot be converted: {error}") from None

    def arguments(self, trial: Trial, checkpoint: Path, data: Path, out: Path) -> list[str]:
        """Arguments of `litgpt finetune_lora` for a trial; raises UserError where LitGPT cannot train so."""
        from partune.finetune.litgpt.arguments import find_switches, finetune_arguments

        training, max_length, loss_on = self.settings(trial.config)
        seed, order_seed = self.seeds(trial, training)
        base, _ = self._base(training.dtype)
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
            seed=seed,
            order_seed=order_seed,
        )

    def train(self, trial: Trial, checkpoint: Path, folder: Path) -> Path:
        """Runs `finetune_lora` with its log in `folder`; returns the checkpoint with the adapter merged into it.

        Raises StepError.
        """
        arguments = self.arguments(trial, checkpoint, self._data_folder, folder / "out")
        self._program.run("finetune_lora", arguments, folder / "finetune_lora.log")
        return folder / "out" / "final"

    def score(self, checkpoint: Path, parts: Collection[str], folder: Path, dtype: str | None = None) -> Scores:
        """Runs `evaluate` on a checkpoint, its results and logs in `folder`. Raises StepError."""
        answer = self._answer(checkpoint, parts, folder, dtype)
        with self._lock:
            return self._scorer.score(answer, self._parts(parts))

    def _answer(
        self, checkpoint: Path, parts: Collection[str], folder: Path, dtype: str | None = None
    ) -> LogLikelihoods:
        """Runs `litgpt evaluate`, once for each folder and limit of tasks; answers requests from what it wrote.

        A task's own data files are found in its YAML file's folder, which is where the step runs.
        """
        from partune.finetune.litgpt.arguments import HARNESS_DTYPE
        from partune.finetune.litgpt.files import read_answers
        from partune.finetune.litgpt.program import StepError

        base, _ = self._base(dtype or self.training.dtype)
        wanted = self._parts(parts)
        validation, test = self.validation, self.config.test
        groups: dict[tuple[Path, int | None, int | None], list[str]] = {}
        asked: list[tuple[Sequence[str], int | None, int | None]] = [
            (validation.tasks, validation.limit, validation.fewshot)
        ]
        if "test" in wanted:
            asked.append((test.tasks, test.limit, None))
        for names, limit, fewshot in asked:
            for name in names:
                path = Path(name).expanduser().absolute()
                where, given = (path.parent, str(path)) if path.is_file() else (folder, name)
                groups.setdefault((where, limit, fewshot), []).append(given)
        answers: Answers = {}
        for number, ((where, limit, fewshot), names) in enumerate(groups.items(), 1):
            result = folder / f"results-{number}.json"
            values = {
                "tasks": ",".join(names),
                "out_dir": folder / "evaluate",
                "save_filepath": result,
                "batch_size": validation.batch_size,
                "device": base.device.type,
                "dtype": HARNESS_DTYPE[base.dtype],
                "limit": limit,
                "num_fewshot": fewshot,
            }
            given_values = {name: value for name, value in values.items() if value is not None}
            flags = [str(part) for name, value in given_values.items() for part in (f"--{name}", value)]
            self._program.run("evaluate", [str(checkpoint), *flags], folder / f"evaluate-{number}.log", cwd=where)
            answers |= read_answers(result)

        def loglikelihoods(requests: Sequence[Request]) -> list[Answer]:
            missing = next((texts for texts, _, _ in requests if texts not in answers), None)
            if missing is not None:
                raise StepError(f"litgpt evaluate did not score {missing[1]!r:.50} after {missing[0][-50:]!r}")
            return [answers[texts] for texts, _, _ in requests]

        return loglikelihoods

    # ----- resident parts

    @cached_property
    def _program(self) -> Program:
        from partune.finetune.litgpt.program import Program, environment

        base, _ = self._base(self.training.dtype)
        small = base.model.num_parameters() < SMALL
        threads = self.config.run.threads or (1 if small else None)
        return Program.find(self.config.run.litgpt, environment(str(base.device), threads))

    @cached_property
    def _rows(self) -> list[Row]:
        """The rows that hold something, as `tokenise` has them; raises UserError for others than Alpaca's."""
        from partune.finetune.rows import normalise, read_rows

        rows = normalise(self.data, read_rows(self.data))
        if rows.form != "alpaca":
            raise UserError(f"{self.data.path}: LitGPT's JSON data are Alpaca rows (instruction, input, output)")
        for number, row in rows.rows:
            if more := [name for name in ("system", "history") if row[name]]:
                raise UserError(
                    f"{self.data.path}, row {number}: LitGPT's JSON data have no place for {' and '.join(more)}: "
                    "take the packed engine, or rows without"
                )
        return [row for _, row in rows.rows if row["instruction"].strip() or row["output"].strip()]

    @cached_property
    def _data_folder(self) -> Path:
        from partune.finetune.litgpt.files import write_data

        return write_data(self._rows, self.scratch / "data")

    @cached_property
    def _model_folder(self) -> Path:
        """The model's folder; an id's is Hugging Face's cache, filled where it has to be."""
        path = Path(self.model.path).expanduser()
        if path.is_dir():
            return path.absolute()
        from huggingface_hub import snapshot_download

        from partune.runtime.isolation import one_line

        wanted = ["*.json", "*.model", "*.safetensors", *([] if self.model.safetensors else ["*.bin"])]
        try:
            return Path(snapshot_download(self.model.path, revision=self.model.revision, allow_patterns=wanted))
        except (OSError, ValueError) as error:
            raise UserError(f"model {self.model.path} cannot be fetched: {one_line(error)}") from None

    def _base(self, dtype: str) -> tuple[Base, PackAnswers]:
        """The model without its weights: what names, shapes and tokens need. LitGPT's processes hold the weights."""
        from partune.finetune.model import Base, find_device, find_dtype, load_tokenizer

        device = find_device(self.config.run.device)
        kind = find_dtype(dtype, device)
        if kind not in self._bases:
            tokenizer = load_tokenizer(self.model)
            self._bases[kind] = Base(self._outline(), tokenizer, device, kind), _unanswered
        return self._bases[kind]

    def _outline(self) -> PreTrainedModel:
        """Return the model without its weights; what LitGPT has converted already, it has checked itself."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from partune.finetune.litgpt.files import WEIGHTS
        from partune.finetune.model import outline
        from partune.runtime.isolation import one_line, quiet

        if not (Path(self.model.path).expanduser() / WEIGHTS).is_file():
            return outline(self.model)
        with quiet(), torch.device("meta"):
            try:
                settings = AutoConfig.from_pretrained(self.model.path, revision=self.model.revision)
                model: PreTrainedModel = AutoModelForCausalLM.from_config(settings)
            except (OSError, ValueError, ImportError) as error:
                raise UserError(f"model {self.model.path} cannot be read: {one_line(error)}") from None
        return model.eval()


def _unanswered(name: str, requests: Sequence[Request]) -> list[list[Answer]]:
    raise RuntimeError("a model without weights was asked for log-likelihoods")


def _reason(error: Exception) -> str:
    """Why a trial failed, in one line."""
    from partune.finetune.litgpt.program import StepError

    return str(error) if isinstance(error, (StepError, UserError)) else _cause(error)
