"""Provide contexts that restore what libraries change in the process: global generators, logging and streams."""

from __future__ import annotations

import io
import logging
import random
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import numpy as np

from partune.errors import UserError
from partune.runtime.failures import one_line

if TYPE_CHECKING:
    import torch

TALKATIVE = (
    "transformers",
    "peft",
    "datasets",
    "lm_eval",
    "lm-eval",
    "accelerate",
    "bitsandbytes",
    "huggingface_hub",
    "httpx",
    "fsspec",
    "filelock",
)

# Warnings of libraries after which no result is valid. `quiet` turns them into an error.
VOIDING = re.compile(
    "missing adapter keys"
    "|were not initialized from the model checkpoint"
    "|newly initialized"
    "|already found a `peft_config`"
    "|already has a `quantization_config`"
    "|unknown quantization type"
)
# Warnings that may affect a result. `quiet` logs each of them once.
TELLING = re.compile(
    "incorrect|corrupted|unexpected (behaviou?r|results)|undefined behaviou?r"
    "|does not match|did not match any|unexpected keyword arguments .* ignored|unsupported layer type"
    "|`rope_parameters`'s|in `rope_parameters`|no rope parameters"
    "|different values, so we will not tie|model weights are not tied|model of type .* to instantiate"
    "|not properly dequantized|offloaded to the (cpu|disk)|consider using .* instead to enable"
    "|falling back to (tiktoken|raw)"
    "|references unknown task|using test_docs as fewshot_docs|prompt returns empty string"
)

COLOURS = re.compile(r"\x1b\[[0-9;]*m")

log = logging.getLogger(__name__)


@contextmanager
def own_generators(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restore Python's, numpy's and torch's global generators after the context.

    Args:
        device: The device on which torch computes. Its generator is restored too.
        seed: The seed of torch's generators for the CPU and the device in the context; None leaves them as they are.
    """
    import torch

    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            if seed is not None:
                # torch.manual_seed would seed all GPUs, but only this one is restored.
                torch.default_generator.manual_seed(seed)
                for index in cuda:
                    with torch.cuda.device(index):
                        torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def silenced_logger(name: str) -> Iterator[None]:
    """Drop the messages of one logger within the context, without touching the terminal, which others may use."""

    def drop(_: logging.LogRecord) -> bool:
        return False

    # Several threads may be in such contexts at once. Each context adds and removes a filter of its own. The logger's
    # level would be shared by all of them.
    logger = logging.getLogger(name)
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars, warnings and log lines of libraries within the context, except warnings that matter.

    A warning that matches `TELLING` is logged once per process. A warning that matches `VOIDING` becomes an error.
    Several threads may be in such contexts at once. Each sees only the warnings that were raised in it.

    Raises:
        UserError: A library gave a warning after which its result cannot be used.
    """
    with _SILENCER.listening() as collected:
        yield
    for text in collected:
        if VOIDING.search(text.lower()):
            raise UserError(f"what was loaded cannot be used: {one_line(text)}")
        if text not in _LOGGED:
            _LOGGED.add(text)
            log.warning("%s", one_line(text))


_LOGGED: set[str] = set()  # warnings that were logged in this process


class _Silencer(logging.Handler):
    """Silences libraries while any thread listens, and collects for each thread its own warnings, if they matter.

    Streams and loggers belong to the whole process. They are silenced when the first thread begins to listen, and
    restored when the last thread stops.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._mutex = threading.Lock()
        self._listeners: list[tuple[int, list[str]]] = []  # thread IDs, and the warnings of these threads
        self._silence: ExitStack | None = None

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Keep libraries silent, and yield a list that collects this thread's warnings that matter, in order."""
        listener: tuple[int, list[str]] = threading.get_ident(), []
        with self._mutex:
            if not self._listeners:
                self._silence = self._silence_libraries()
            self._listeners.append(listener)
        try:
            yield listener[1]
        finally:
            with self._mutex:
                self._listeners = [other for other in self._listeners if other is not listener]
                if not self._listeners and self._silence is not None:
                    self._silence.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Receive a log record of a library."""
        self._collect(record.getMessage())

    def _collect(self, message: str) -> None:
        text = COLOURS.sub("", message)
        if VOIDING.search(text.lower()) or TELLING.search(text.lower()):
            for thread, collected in self._listeners:
                if thread == threading.get_ident():
                    collected.append(text)

    def _silence_libraries(self) -> ExitStack:
        """Redirect all output of libraries, and return a stack whose closing restores it."""
        stack = ExitStack()
        # By default Python shows a warning once per line of code, so a second thread would miss it.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: self._collect(str(message))
        ours = logging.getLogger("partune")
        if not ours.hasHandlers():  # Python's last-resort handler would write to the redirected stream
            handler = logging.StreamHandler(sys.stderr)
            ours.addHandler(handler)
            stack.callback(ours.removeHandler, handler)
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(redirect_stdout(io.StringIO()))
        for name in TALKATIVE:
            logger = logging.getLogger(name)
            for attribute in ("handlers", "propagate"):
                stack.callback(setattr, logger, attribute, getattr(logger, attribute))
            logger.handlers, logger.propagate = [self], False
            if not logger.isEnabledFor(logging.WARNING):  # setting a level empties the caches of all loggers
                stack.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.WARNING)
        return stack


_SILENCER = _Silencer()
