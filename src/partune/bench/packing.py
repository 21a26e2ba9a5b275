"""`partune bench packing`: baselines and packs side by side, on the same trials, in one run.

Each repetition runs every contender once, forwards and backwards in turn, so that what drifts on the machine meets all
alike; ratios are taken within a repetition.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partune import config
from partune.bench import table
from partune.bench.contenders import Contender, LitGPT, OutOfMemoryError, Packed, Run, Subprocess, Tuned
from partune.bench.meter import machine, versions
from partune.bench.options import Packing
from partune.bench.workload import Workload, make
from partune.errors import UserError
from partune.finetune.engine import is_out_of_memory
from partune.finetune.head import Head
from partune.finetune.isolation import one_line
from partune.finetune.likelihoods import PackedLikelihoods
from partune.objectives.finetune import SMALL
from partune.threads import threads


@dataclass
class Entry:
    """A contender's line: its runs, one a repetition, or why it has none."""

    name: str
    baseline: bool
    runs: list[Run] = field(default_factory=list)
    note: str = ""


def bench(options: Packing, tell: Callable[[str], None] = lambda text: None) -> Path:
    """Runs the benchmark and writes its tables, anew after each repetition; returns their folder. Raises UserError.

    tell: is told what runs, a line each.
    """
    check(options)
    out = Path(options.out)
    with tempfile.TemporaryDirectory(prefix="partune-bench-") as folder, prepared(options, Path(folder), tell) as work:
        entries, contenders = entered(options, work, tell)
        head = heading(options, work, contenders)
        out.mkdir(parents=True)
        for repetition in range(options.repetitions):
            repeat(work, entries, contenders, repetition, lambda text: tell(f"{text} of {options.repetitions}"))
            table.write(out, head, table.rows(entries.values(), work.device))
    return out


def check(options: Packing) -> None:
    """Raises UserError for what cannot work, before anything loads."""
    if Path(options.out).exists():
        raise UserError(f"{options.out} exists already: give another folder with --out")
    for K in options.packs:
        if K % options.configurations and options.configurations % K:
            raise UserError(
                f"a pack is a multiple or a divisor of the configurations, got {K} and {options.configurations}: "
                "its trials would be others than the baselines'"
            )
    if options.litgpt is not None and shutil.which(options.litgpt) is None:
        raise UserError(f"no command {options.litgpt}: --litgpt is the path of LitGPT's command")


@contextmanager
def prepared(options: Packing, folder: Path, tell: Callable[[str], None]) -> Iterator[Workload]:
    """The work, on the threads that suit its base."""
    tell(f"making the base, data and items of {options.model}")
    training = config.Training(
        batch_size=options.batch, steps=options.steps, warmup_steps=0, schedule="constant", dtype=options.dtype
    )
    work = make(
        folder,
        options.model,
        options.length,
        training,
        options.items,
        options.configurations,
        options.seed,
        options.device,
    )
    with threads(options.threads or (1 if work.base.model.num_parameters() < SMALL else None)):
        yield work


def entered(
    options: Packing, work: Workload, tell: Callable[[str], None]
) -> tuple[dict[str, Entry], dict[str, Contender]]:
    """The lines of the table in their order, and who fills them; the baselines are tuned and all are warm."""
    entries, contenders = dict[str, Entry](), dict[str, Contender]()

    def enter(contender: Contender, baseline: bool) -> None:
        tell(f"warming up: {contender.name}")
        entries[contender.name] = entry = Entry(contender.name, baseline)
        with noted(entry):
            contender.warm(work)
        if not entry.note:
            contenders[contender.name] = contender

    if options.litgpt is None:
        entries[LitGPT.name] = Entry(LitGPT.name, True, note="not installed")
    else:
        enter(LitGPT(options.litgpt), True)
    if "subprocess" not in options.without:
        enter(Subprocess(), True)
    if "tuned" not in options.without:
        tell("finding the tuned baseline's sizes")
        entries[Tuned.name] = entry = Entry(Tuned.name, True)
        with noted(entry):
            enter(Tuned.find(work), True)
    head = Head(work.base)
    for K in options.packs:
        enter(Packed(K, head, PackedLikelihoods(work.base, head)), False)
    return entries, contenders


def repeat(
    work: Workload,
    entries: dict[str, Entry],
    contenders: dict[str, Contender],
    repetition: int,
    tell: Callable[[str], None],
) -> None:
    """Runs every contender that is still able to, once."""
    able = [name for name in contenders if not entries[name].note]
    for name in able if repetition % 2 == 0 else reversed(able):
        tell(f"{name}: repetition {repetition + 1}")
        with noted(entries[name]):
            entries[name].runs.append(contenders[name].run(work))


@contextmanager
def noted(entry: Entry) -> Iterator[None]:
    """What goes wrong within is the entry's note, in place of its numbers, and the benchmark goes on."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        short = isinstance(error, OutOfMemoryError) or is_out_of_memory(error)
        entry.note = "out of memory" if short else f"failed: {one_line(error)}"
        entry.runs.clear()


def heading(options: Packing, work: Workload, contenders: dict[str, Contender]) -> list[str]:
    """What stands above the table: command, machine, versions, workload."""
    import torch

    head = [
        f"command: {command(options)}",
        f"machine: {machine(work.base.device, torch.get_num_threads())}",
        f"versions: {versions()}",
        f"workload: {options.model}, {work.summary}",
    ]
    tuned = contenders.get(Tuned.name)
    if isinstance(tuned, Tuned):
        head.append(f"tuned: micro-batch {tuned.micro}, scoring batch {tuned.score_batch}, the fastest of a few")
    kind = "CPU time" if work.device == "cpu" else "time"
    head.append(
        f"numbers: seconds of {kind} a trial, medians of {options.repetitions} repetitions; "
        "ratios: the baseline's over this line's in the same repetition, median (least..most)"
    )
    return head


def command(options: Packing) -> str:
    """The command that repeats this run."""
    given: dict[str, Any] = options.model_dump(exclude_defaults=True, exclude={"out"})
    flags = [f"--{name} {_text(value)}" for name, value in given.items()]
    return " ".join(["partune bench packing", *flags])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
