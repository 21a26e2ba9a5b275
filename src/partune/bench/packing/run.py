"""`partune bench packing`: time the same trials in several baselines and in packs, and write the table.

A contender is a baseline or a size of pack. Each repetition runs every contender once, and every other repetition runs
them in the reverse order. So if the machine becomes faster or slower, all contenders are affected alike. A ratio of
times compares two contenders in the same repetition.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from partune.bench.meter import machine, versions
from partune.bench.options import Packing, repeated_by
from partune.bench.packing.contenders import Contender, OutOfMemoryError, Packed, Shipped, Tuned, processes
from partune.bench.packing.table import Line, rows, write
from partune.bench.packing.workload import Workload, make
from partune.errors import UserError
from partune.finetune.materials import suitable_threads
from partune.record.record import Record
from partune.runtime.failures import is_out_of_memory, one_line
from partune.runtime.limits import require_threads
from partune.runtime.paths import make_folder
from partune.runtime.threads import torch_threads

PROCESSES, TUNED, LITGPT = "process per trial", "PEFT, tuned", "LitGPT as shipped"


def bench(options: Packing, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Time the same trials in packs and without packs, in turn, and write the tables after every repetition.

    Args:
        options: The model, its trials, the packs and the baselines.
        tell: Called with a line before a contender runs.

    Returns:
        The folder that holds the tables.

    Raises:
        UserError: An option is not valid, or the folder exists already.
    """
    check(options)
    out = Path(options.out)
    tell(f"making the base model, its training data and items: {options.model}")
    with tempfile.TemporaryDirectory(prefix="partune-bench-") as folder:
        work = make(Path(folder), options)
        with torch_threads(suitable_threads(work.base, options.threads)):
            lines, contenders = entered(options, work, tell)
            head = heading(options, work)
            make_folder(out, new=True)  # only now, so that a set-up that fails leaves no folder behind
            for repetition in range(options.repetitions):
                for name in turns(lines, repetition):
                    tell(f"repetition {repetition + 1} of {options.repetitions}: {name}")
                    with noted(lines[name]):
                        lines[name].runs.append(contenders[name](work))
                # Written after every repetition, so that a long benchmark leaves a table if it is interrupted.
                write(out, head, rows(lines.values(), work.device))
    return out


def check(options: Packing) -> None:
    """Raise UserError if an option cannot work, before anything is loaded."""
    if os.path.lexists(out := Path(options.out)):
        raise UserError(f"{options.out} exists already: choose another folder with `--out`")
    Record.check(out)
    require_threads(options.threads)
    for K in options.packs:
        if K % options.configurations and options.configurations % K:
            raise UserError(
                "`--packs` must be multiples or divisors of `--configurations`, so that packs run the same trials as "
                f"the baselines; got {K} and {options.configurations}"
            )
    if options.litgpt is not None and shutil.which(options.litgpt) is None:
        raise UserError(f"there is no command {options.litgpt}: set `--litgpt` to the path of LitGPT's command")


def entered(
    options: Packing, work: Workload, tell: Callable[[str], object]
) -> tuple[dict[str, Line], dict[str, Contender]]:
    """Return the lines of the table, in order, and the contenders, tuned and warmed up.

    The keys of both are the names of contenders. A contender that cannot run has a line with a note, but is not among
    the contenders.

    Args:
        options: The options of the benchmark.
        work: The workload.
        tell: Called with a line of text before a contender is warmed up.
    """
    lines, contenders = dict[str, Line](), dict[str, Contender]()

    def enter(line: Line, find: Callable[[], Contender]) -> None:
        tell(f"warming up: {line.name}")
        lines[line.name] = line
        with noted(line):
            contenders[line.name] = find()

    def packed(K: int) -> Contender:
        return Packed.warm(work, K).run

    def tuned() -> Contender:
        contender = Tuned.find(work)
        lines[TUNED].detail = contender.sizes
        return contender.run

    if (command := options.litgpt) is None:
        lines[LITGPT] = Line(LITGPT, baseline=True, note="not installed")
    else:
        enter(Line(LITGPT, baseline=True), lambda: Shipped.convert(work, command).run)
    if "subprocess" not in options.without:
        enter(Line(PROCESSES, baseline=True), lambda: processes)
    if "tuned" not in options.without:
        enter(Line(TUNED, baseline=True), tuned)
    for K in options.packs:
        enter(Line(f"pack of {K}"), partial(packed, K))
    return lines, contenders


def turns(lines: Mapping[str, Line], repetition: int) -> list[str]:
    """Return the names of the contenders that can still run, in the order in which a repetition runs them.

    Args:
        lines: The lines of the table; the key is the name of a contender.
        repetition: The repetition's number, from 0 on.
    """
    # Every other repetition is reversed, so that it is not always the same contender that runs on a warm machine.
    runnable = [name for name, line in lines.items() if not line.note]
    return runnable if repetition % 2 == 0 else runnable[::-1]


@contextmanager
def noted(line: Line) -> Iterator[None]:
    """Catch an exception inside the context, store it as the note of a line, and drop the measurements of that line.

    A UserError is not caught, as it stops the benchmark.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        out_of_memory = isinstance(error, OutOfMemoryError) or is_out_of_memory(error)
        line.note = "out of memory" if out_of_memory else f"failed: {one_line(error)}"
        line.runs.clear()


def heading(options: Packing, work: Workload) -> list[str]:
    """Return the lines above the table: command, machine, versions, workload.

    Args:
        options: The options of the benchmark.
        work: The workload.
    """
    import torch

    kind = "CPU time" if work.device == "cpu" else "wall time"
    return [
        f"command: `{repeated_by('packing', options)}`",
        f"machine: {machine(work.base.device, torch.get_num_threads())}",
        f"versions: {versions()}",
        f"workload: {options.model}, {work.summary}",
        f"numbers: seconds of {kind} per trial, medians of {options.repetitions} repetitions; "
        "ratios: time of the baseline over time of this line in the same repetition, median (least..most)",
    ]
