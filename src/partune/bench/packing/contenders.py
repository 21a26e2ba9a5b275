"""The contenders of `partune bench packing`: the different ways to run the same trials.

Each contender trains the adapters, saves them, scores them, and measures what these steps cost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from partune import trial as trials
from partune.bench.meter import Cost, Stopwatch, peak_memory
from partune.bench.packing.workload import METRIC, SeededTraining, Workload
from partune.finetune.adapter import save
from partune.finetune.model import DTYPES, Base
from partune.finetune.packed.adapters import carrier
from partune.finetune.packed.head import Head
from partune.finetune.packed.likelihoods import PackedLikelihoods
from partune.finetune.packed.residents import Job, Residents, Slot
from partune.finetune.scoring.harness import LogLikelihoods, harness_model
from partune.finetune.training import accumulate, batches, lora_config, schedule
from partune.objectives.finetune import JUDGED, FineTune
from partune.runtime.failures import is_out_of_memory
from partune.runtime.isolation import own_generators, quiet
from partune.trial.names import ItemSet, ResultName

if TYPE_CHECKING:
    from peft import PeftModel

    from partune.finetune.litgpt.engine import LitGPTEngine

SCRIPT = Path(__file__).with_name("script.py")
SCORE_BATCH = 64  # scoring batch of the script and of LitGPT; partune's default
PROBES = 2  # how often each batch size is timed to find the fastest one; the smallest time counts
BRIEF = 3  # optimiser steps of the short trainings that time batch sizes and warm up packs
SCORE_BATCHES = (4, 16, 64, 256)  # the scoring batches to choose from
SEARCHED = ("lora_r", "lora_alpha", "lora_dropout", "learning_rate", "weight_decay")


@dataclass
class Measurement:
    """The costs and results of running some trials.

    Attributes:
        setup: The cost of starting processes, of loading, and of attaching and saving adapters.
        train: The cost of training.
        score: The cost of scoring.
        tokens: The number of tokens read in training, without padding.
        peak: The peak memory, in bytes; nan if it was not measured.
        losses: The loss of each step of each trial, in the order of `Workload.trials`.
        scores: The score of each trial.
    """

    setup: Cost = field(default_factory=Cost)
    train: Cost = field(default_factory=Cost)
    score: Cost = field(default_factory=Cost)
    tokens: int = 0
    peak: float = float("nan")
    losses: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def trials(self) -> int:
        """The number of trials that were run."""
        return len(self.scores)

    @property
    def whole(self) -> Cost:
        """The total cost."""
        return self.setup + self.train + self.score


Contender = Callable[[Workload], Measurement]


class OutOfMemoryError(RuntimeError):
    """A process ran out of memory."""


@dataclass(frozen=True)
class Shipped:
    """LitGPT as shipped: its commands `finetune_lora` and `evaluate`, each in a process of its own.

    CPU time is measured in LitGPT's processes only. The base model is converted to LitGPT's format before
    the clock starts, because this happens only once for all trials. LitGPT trains on all rows, in its own order, with
    its own schedule and without gradient clipping.

    Attributes:
        tuner: The fine-tuning objective, which turns a trial into an assignment for the engine.
        engine: The engine that runs LitGPT's commands.
        checkpoint: The folder of the converted base model.
    """

    tuner: FineTune
    engine: LitGPTEngine
    checkpoint: Path

    @classmethod
    def convert(cls, work: Workload, command: str) -> Shipped:
        """Convert the base model to LitGPT's format and return the contender.

        Args:
            work: The workload.
            command: LitGPT's command.
        """
        from partune.finetune.litgpt.engine import LitGPTEngine

        device, threads = str(work.base.device), torch.get_num_threads()
        tuner = FineTune(
            work.model_path,
            work.data_file,
            str(work.task_file),
            validation={"metric": METRIC, "batch_size": SCORE_BATCH},
            training={**work.configurations[0].model_dump(exclude={"optimizer", "momentum"}), "dtype": work.base.dtype},
            run={"engine": "litgpt", "litgpt": command, "device": device, "threads": threads},
            scratch=work.folder / "litgpt",
        )
        engine = cast(LitGPTEngine, tuner.engine)
        return cls(tuner, engine, engine.checkpoint())

    def run(self, work: Workload) -> Measurement:
        """Run the trials one by one, each in two processes: one trains and one scores."""
        run = Measurement()
        for trial in work.trials(len(work.configurations)):
            with tempfile.TemporaryDirectory(dir=work.folder) as folder:
                settings = trial.settings.model_dump(include=set(SEARCHED))
                watch = Stopwatch(work.base.device, children=True)
                assignment = self.tuner.assign(trials.Trial(0, settings, seed=trial.seed), parts=JUDGED)
                final = self.engine.train(assignment, self.checkpoint, Path(folder))
                run.train += watch.lap()
                scores = self.engine.score(final, assignment.parts, Path(folder))
                run.score += watch.lap()
            names = [str(ResultName(items, work.part.task.name, METRIC)) for items in (ItemSet.SEARCH, ItemSet.VERDICT)]
            items = [scores.items[name] for name in names]
            run.scores.append(float(np.concatenate(items).mean()))
            run.tokens += work.tokens(trial)
        return run


# ----- a process per trial


def processes(work: Workload) -> Measurement:
    """Run the trials one by one, each in a new Python process that runs SCRIPT with PEFT and lm-eval."""
    run = Measurement(peak=0.0)
    for trial in work.trials(len(work.configurations)):
        with tempfile.TemporaryDirectory(dir=work.folder) as folder:
            specification, answer = Path(folder) / "specification.json", Path(folder) / "result.json"
            specification.write_text(json.dumps(specified(work, trial, Path(folder))), encoding="utf-8")
            total = in_process([sys.executable, str(SCRIPT), str(specification)])
            result = json.loads(answer.read_text(encoding="utf-8"))
        train, score = Cost(*result["train"]), Cost(*result["score_costs"])
        run.setup += total - train - score
        run.train += train
        run.score += score
        run.tokens += work.tokens(trial)
        run.peak = max(run.peak, result["peak"])
        run.losses.append(result["losses"])
        run.scores.append(result["score"])
    return run


def specified(work: Workload, trial: SeededTraining, folder: Path) -> dict[str, object]:
    """Return what SCRIPT reads: the specification of a trial.

    Args:
        work: The workload.
        trial: The trial.
        folder: The folder that the script writes to.
    """
    settings = trial.settings
    lora = lora_config(work.base, settings.targets)(settings)
    return {
        "model": work.model_path,
        "data": str(work.data_file),
        "task": str(work.task_file),
        "adapter": str(folder / "adapter"),
        "result": str(folder / "result.json"),
        "device": str(work.base.device),
        "dtype": DTYPES[work.base.dtype],
        "threads": torch.get_num_threads(),
        "seed": trial.seed,
        "order": work.order(trial),
        "lora": {
            "r": lora.r,
            "lora_alpha": lora.lora_alpha,
            "lora_dropout": lora.lora_dropout,
            "target_modules": sorted(lora.target_modules),
            "task_type": "CAUSAL_LM",
        },
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "score_batch_size": SCORE_BATCH,
    }


def in_process(command: Sequence[str]) -> Cost:
    """Run a command as a child process and return its cost.

    Args:
        command: The command and its arguments.

    Raises:
        OutOfMemoryError: The process ran out of memory.
        RuntimeError: The process failed for another reason. The message is the last line of its error output.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        # wait4 returns the usage of this child alone. RUSAGE_CHILDREN would sum over all children that have ended.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if process.returncode != 0:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            cause = lines[-1] if lines else f"ended with status {process.returncode}"
            # When memory runs out, Linux kills a process with SIGKILL, which is status -9.
            out_of_memory = is_out_of_memory(RuntimeError(cause)) or process.returncode == -9
            raise OutOfMemoryError(cause) if out_of_memory else RuntimeError(cause)
    return Cost(wall, usage.ru_utime + usage.ru_stime)


# ----- one trial after another on one base model in memory


@dataclass(frozen=True)
class Tuned:
    """PEFT in this process, tuned for speed, one trial at a time.

    The base model stays in memory, attention is SDPA, tokens and requests are cached, and AdamW is fused.

    Attributes:
        micro: The number of examples per forward pass in training.
        score_batch: The number of requests per forward pass in scoring. The harness sorts requests by length.
        loglikelihoods: The function that answers requests, through lm-evaluation-harness ("the harness").
    """

    micro: int
    score_batch: int
    loglikelihoods: LogLikelihoods

    @classmethod
    def find(cls, work: Workload) -> Tuned:
        """Return the contender with the fastest batch sizes for training and scoring, after timing a few of them."""
        batch = work.configurations[0].batch_size
        brief = SeededTraining(work.configurations[0].model_copy(update={"steps": BRIEF}), work.seed)
        base = work.base

        def train(micro: int) -> None:
            with peft_adapter(base, brief):
                fit(work, brief, micro)

        micro = fastest([batch >> i for i in range(4) if batch >> i], train, base.device)
        models = {size: harness_model(base, size) for size in SCORE_BATCHES}
        score = fastest(SCORE_BATCHES, lambda size: models[size](work.requests), base.device)
        return cls(micro, score, models[score])

    def run(self, work: Workload) -> Measurement:
        """Run the trials one by one on the base model in memory."""
        run, device = Measurement(), work.base.device
        with peak_memory(device) as peak, tempfile.TemporaryDirectory(dir=work.folder) as folder:
            for trial in work.trials(len(work.configurations)):
                watch = Stopwatch(device)
                with peft_adapter(work.base, trial) as model:
                    run.setup += watch.lap()
                    run.losses.append(fit(work, trial, self.micro))
                    run.train += watch.lap()
                    save(model, Path(folder) / "adapter")
                    run.setup += watch.lap()
                    run.scores.append(work.score(self.loglikelihoods(work.requests)))
                    run.score += watch.lap()
                run.tokens += work.tokens(trial)
            run.peak = peak()
        return run

    @property
    def sizes(self) -> str:
        """The chosen batch sizes, as text."""
        return f"micro-batch {self.micro}, scoring batch {self.score_batch}"


def fastest(sizes: Sequence[int], call: Callable[[int], object], device: torch.device) -> int:
    """Return the batch size with which a call is fastest, among the sizes that fit in memory.

    Args:
        sizes: The batch sizes to try.
        call: The function to time, which takes a batch size.
        device: The device that computes.

    Raises:
        OutOfMemoryError: No size fits in memory.
    """
    seconds: dict[int, float] = {}
    for size in sizes:
        try:
            call(size)  # not timed, because the first call also chooses kernels and allocates memory
            costs = []
            for _ in range(PROBES):
                watch = Stopwatch(device)
                call(size)
                costs.append(watch.lap().on(device.type))
            seconds[size] = min(costs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
    if not seconds:
        raise OutOfMemoryError("no batch size fits in memory")
    return min(seconds, key=lambda size: seconds[size])


@contextmanager
def peft_adapter(base: Base, trial: SeededTraining) -> Iterator[PeftModel]:
    """Lend the base model with a new PEFT adapter, which has PEFT's own dropout; the base is unchanged afterwards.

    Args:
        base: The base model.
        trial: The trial, whose seed initialises the adapter.
    """
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    with base.lent() as model, own_generators(base.device, trial.seed):
        with quiet():
            adapted = get_peft_model(model, lora_config(base, trial.settings.targets)(trial.settings))
        # Only the adapter's layers enter training mode, so that any dropout in the base model itself stays off.
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                module.train()
        yield adapted


def fit(work: Workload, trial: SeededTraining, micro: int) -> list[float]:
    """Train the attached adapter with torch's AdamW, and return the loss of each step.

    Args:
        work: The workload.
        trial: The trial.
        micro: The number of examples per forward pass.
    """
    settings, base = trial.settings, work.base
    steps, warmup = settings.steps or 1, settings.warmup_steps or 0
    parameters = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=base.device.type != "mps"
    )
    scheduler = LambdaLR(optimiser, lambda step: schedule(step, steps, warmup, settings.schedule))
    losses = []
    for indices in batches(len(work.examples), settings.batch_size, steps, work.seed):
        losses.append(accumulate(base, work.examples, indices, micro))
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad()
    base.model.eval()
    return [float(loss) for loss in losses]  # converted only now, because reading a loss waits for the device


# ----- packs


@dataclass(frozen=True)
class Packed:
    """partune's packs: K trials trained and scored together on one base model.

    Attributes:
        K: The number of trials in a pack.
        head: The language-model head of the base model.
        likelihoods: The object that answers the requests for all adapters of a pack.
    """

    K: int
    head: Head
    likelihoods: PackedLikelihoods

    @classmethod
    def warm(cls, work: Workload, K: int) -> Packed:
        """Return the contender after a short run, so that later runs do not measure costs that arise once per process.

        Args:
            work: The workload.
            K: The number of trials in a pack.
        """
        head = Head(work.base)
        packed = cls(K, head, PackedLikelihoods(work.base, head))
        brief = tuple(configuration.model_copy(update={"steps": BRIEF}) for configuration in work.configurations)
        packed.run(replace(work, configurations=brief))
        return packed

    def run(self, work: Workload) -> Measurement:
        """Run the trials, K at a time."""
        run = Measurement()
        trials = work.trials(max(self.K, len(work.configurations)))
        with peak_memory(work.base.device) as peak, tempfile.TemporaryDirectory(dir=work.folder) as folder:
            for start in range(0, len(trials), self.K):
                self._pack(work, trials[start : start + self.K], Path(folder), run)
            run.peak = peak()
        return run

    def _pack(self, work: Workload, trials: Sequence[SeededTraining], folder: Path, run: Measurement) -> None:
        watch = Stopwatch(work.base.device)
        with carrier(work.base, work.targets) as carrying:
            residents = Residents(carrying, self.head)
            slots = [Slot(Job(trial.settings, work.examples, trial.seed, work.seed)) for trial in trials]
            residents.arrange([], slots)
            run.setup += watch.lap()
            train(residents)
            adapters = [(slot.job.settings, residents.weights(row)) for row, slot in enumerate(slots)]
            residents.arrange([])
            run.train += watch.lap()
            for settings, weights in adapters:
                carrying.save(settings, weights, folder / "adapter")
            run.setup += watch.lap()
            answers = self.likelihoods.answers("all", work.requests, carrying, carrying.loaded(adapters))
            run.scores += [work.score(answer) for answer in answers]
            run.score += watch.lap()
        run.tokens += sum(slot.tokens for slot in slots)
        run.losses += [slot.losses for slot in slots]


def train(residents: Residents) -> None:
    """Train a pack until all of its trials have ended; raise the error of a trial that failed."""
    while not all(slot.ended for slot in residents.slots):
        residents.step()
    for slot in residents.slots:
        if slot.error is not None:
            raise slot.error
