"""Clocks and peak memory of this process and of the processes that it starts; the machine and versions in words."""

from __future__ import annotations

import gc
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from partune.runtime import rounding

if TYPE_CHECKING:
    import torch

NOTHING = "-"  # in tables, which scripts read too
PACKAGES = ("torch", "transformers", "peft", "lm-eval", "partune")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """What something took.

    Attributes:
        wall: Seconds by the clock on the wall.
        cpu: Seconds of the processor, user and system, of all threads.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.cpu - other.cpu)

    def on(self, device: str) -> float:
        """Return the seconds that count on a device: the processor's on a CPU, the wall's on any other."""
        # On a CPU other processes may take turns, which the clock on the wall would count too.
        return self.cpu if device == "cpu" else self.wall


class Stopwatch:
    """A watch that reads both clocks once the device has finished its work.

    Args:
        device: The device that computes.
        children: Whether to count the processor's time of processes that were started and have ended, instead of this
            process's.
    """

    def __init__(self, device: torch.device, children: bool = False) -> None:
        self.device, self.children = device, children
        self._last = self._read()

    def lap(self) -> Cost:
        """Return what passed since the last lap, or since the watch was made."""
        before, self._last = self._last, self._read()
        return self._last - before

    def _read(self) -> Cost:
        import torch

        # Kernels run asynchronously: without this, their time would be counted in a later lap.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        times = os.times()
        used = times.children_user + times.children_system if self.children else time.process_time()
        return Cost(time.perf_counter(), used)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the most bytes held since the context began; nan if the system does not tell.

    On CUDA it is what torch allocated. On a CPU it is this process's resident set, which includes the base, the
    libraries, and what earlier work left with the allocator.
    """
    import torch

    gc.collect()  # so that what earlier work left in reference cycles is not counted
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: float(torch.cuda.max_memory_allocated(device))
    elif os.access(RESET, os.W_OK):
        RESET.write_text("5")  # the peak is counted from here: proc(5)
        yield resident_peak
    else:
        yield lambda: float("nan")


def resident_peak() -> float:
    """Return the bytes of this process's largest resident set since the last reset (Linux)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024.0 * int(line.split()[1])


def machine(device: torch.device, threads: int) -> str:
    """Return the hardware in words.

    Args:
        device: The device that computes.
        threads: The CPU threads that do.
    """
    import torch

    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = f"{os.cpu_count()} cores of {_processor()}, {gibibytes:.0f} GiB, {threads} thread{'s' * (threads > 1)}"
    return f"{torch.cuda.get_device_name(device)}; {cpu}" if device.type == "cuda" else cpu


def versions(packages: Sequence[str] = PACKAGES) -> str:
    """Return the versions of Python and of packages; by default of those that decide the speed of a pack."""
    texts = [f"python {platform.python_version()}"]
    for name in packages:
        try:
            texts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            texts.append(f"{name} ?")
    return ", ".join(texts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def number(value: float) -> str:
    """Return a table's cell with three significant digits, NOTHING for what was not measured."""
    return rounding.number(value, 3) if math.isfinite(value) else NOTHING
