"""One thread a process, no network: set before any library is imported."""

from __future__ import annotations

import gc
import os
import signal
import sys

import hypothesis

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Containers often turn bytecode off. Without it every process of the suite, hundreds, would compile all sources again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell without job control begins commands in the background with SIGINT ignored, and nohup ignores SIGHUP. Children
# inherit both, and tests end children by these signals.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

pytest_plugins = [f"tests.support.{name}" for name in ("browser", "order", "postgres", "thorough", "times")]

# On a busy machine any example may take longer than Hypothesis' 200 ms, which says nothing about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def unsynced(descriptor: int) -> None:
    """Take the place of `os.fsync` in this process: no file of a test has to outlive the machine's power."""
    os.fstat(descriptor)


os.fsync = unsynced  # type: ignore[assignment]


def pytest_collection_finish() -> None:
    """Take what is imported by now out of every later collection of garbage: it is most of the heap, and stays."""
    gc.collect()
    gc.freeze()
