"""Measure wall time, CPU time and peak memory, and describe the machine and the installed versions."""

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

NOTHING = "-"  # the table cell for a value that was not measured
PACKAGES = ("torch", "transformers", "peft", "lm-eval", "partune")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # proc(5)


@dataclass(frozen=True)
class Cost:
    """The time that some work took.

    Attributes:
        wall: The wall time, in seconds.
        cpu: The CPU time, in seconds: user and system time, summed over all threads.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.cpu - other.cpu)

    def on(self, device: str) -> float:
        """Return the seconds to compare: CPU time on a CPU, wall time on any other device."""
        # On a CPU, wall time would include the time in which other processes run.
        return self.cpu if device == "cpu" else self.wall


class Stopwatch:
    """A stopwatch for wall time and CPU time, which waits for a GPU to finish its work before each reading.

    Args:
        device: The device that computes.
        children: Whether to count the CPU time of child processes that have ended, instead of the CPU time of this
            process.
    """

    def __init__(self, device: torch.device, children: bool = False) -> None:
        self.device, self.children = device, children
        self._last = self._read()

    def lap(self) -> Cost:
        """Return the time since the last lap, or since the stopwatch was made if this is the first lap."""
        before, self._last = self._last, self._read()
        return self._last - before

    def _read(self) -> Cost:
        import torch

        # GPU kernels run asynchronously. Without this wait, their time would be counted in a later lap.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        times = os.times()
        used = times.children_user + times.children_system if self.children else time.process_time()
        return Cost(time.perf_counter(), used)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the peak memory since the context began, in bytes, or nan if it is not known.

    On CUDA, the peak is the memory that torch allocated. On a CPU, it is the resident set of this process, which
    includes the base model, the libraries, and memory that the allocator has kept from earlier work.
    """
    import torch

    gc.collect()  # otherwise, objects that earlier work left in reference cycles would be counted
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: float(torch.cuda.max_memory_allocated(device))
    elif os.access(RESET, os.W_OK):
        RESET.write_text("5")  # resets the recorded peak to the present resident set
        yield resident_peak
    else:
        yield lambda: float("nan")


def resident_peak() -> float:
    """Return the largest resident set of this process since the last reset, in bytes (Linux only)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024.0 * int(line.split()[1])


def machine(device: torch.device, threads: int) -> str:
    """Return a description of the hardware as text.

    Args:
        device: The device that computes.
        threads: The number of CPU threads that compute.
    """
    import torch

    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = f"{os.cpu_count()} cores of {_processor()}, {gibibytes:.0f} GiB, {threads} thread{'s' * (threads > 1)}"
    return f"{torch.cuda.get_device_name(device)}; {cpu}" if device.type == "cuda" else cpu


def versions(packages: Sequence[str] = PACKAGES) -> str:
    """Return the versions of Python and of some packages as text.

    Args:
        packages: The names of the packages. The default is the packages that affect the speed of `bench packing`.
    """
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
    """Return a table cell: a value with three significant digits, or NOTHING if the value is not finite."""
    return rounding.number(value, 3) if math.isfinite(value) else NOTHING
