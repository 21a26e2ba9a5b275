"""Contexts that leave the process as they found it: libraries reseed global generators and talk on the terminal."""

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

# What a library only warns of, although nothing that comes after is worth anything: an error here.
VOIDING = re.compile(
    "missing adapter keys"
    "|were not initialized from the model checkpoint"
    "|newly initialized"
    "|already found a `peft_config`"
    "|already has a `quantization_config`"
    "|unknown quantization type"
)
# What may spoil a result: passed on to the user, once.
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
        device: Where torch computes; its generator is restored too.
        seed: What torch's generators for the CPU and the device start from within; None lets them go on.
    """
    import torch

    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            if seed is not None:
                # Not torch.manual_seed: it would seed all GPUs, of which only this one is restored.
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
    """Drop what the logger of a name says within the context; the terminal itself is left to other threads."""

    def drop(_: logging.LogRecord) -> bool:
        return False

    # A filter, and not a level: several threads may be within, and each takes away no more than its own filter.
    logger = logging.getLogger(name)
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress bars, warnings or log lines of libraries within the context, but for what spoils a result.

    Warnings that match `TELLING` are logged, each once in a process; one that matches `VOIDING` is an error. Several
    threads may be within at once: each hears only the warnings that were raised in it.

    Raises:
        UserError: A library warned of something after which nothing it did can be used.
    """
    with _EARS.listening() as heard:
        yield
    for text in heard:
        if VOIDING.search(text.lower()):
            raise UserError(f"what was loaded cannot be used: {one_line(text)}")
        if text not in _TOLD:
            _TOLD.add(text)
            log.warning("%s", one_line(text))


_TOLD: set[str] = set()


class _Ears(logging.Handler):
    """Keeps what libraries say from the terminal as long as a thread listens, and what matters of it for that thread.

    The streams and loggers belong to the process, so they are silenced when the first thread begins to listen, and
    restored when the last one ends.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._mutex = threading.Lock()
        self._listeners: list[tuple[int, list[str]]] = []  # threads, and what they heard
        self._silence: ExitStack | None = None

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Keep libraries silent; give what this thread hears that matters, in its order."""
        listener: tuple[int, list[str]] = threading.get_ident(), []
        with self._mutex:
            if not self._listeners:
                self._silence = self._silenced()
            self._listeners.append(listener)
        try:
            yield listener[1]
        finally:
            with self._mutex:
                self._listeners = [other for other in self._listeners if other is not listener]
                if not self._listeners and self._silence is not None:
                    self._silence.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Hear what a library logs."""
        self._hear(record.getMessage())

    def _hear(self, written: str) -> None:
        text = COLOURS.sub("", written)
        if VOIDING.search(text.lower()) or TELLING.search(text.lower()):
            for thread, heard in self._listeners:
                if thread == threading.get_ident():
                    heard.append(text)

    def _silenced(self) -> ExitStack:
        """Redirect what goes to the terminal; closing the stack puts all back."""
        stack = ExitStack()
        # "always": by default Python shows a warning once per place, and the second thread would not hear it.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: self._hear(str(message))
        ours = logging.getLogger("partune")
        if not ours.hasHandlers():  # the handler of last resort would write into the redirected stream
            handler = logging.StreamHandler(sys.stderr)
            ours.addHandler(handler)
            stack.callback(ours.removeHandler, handler)
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(redirect_stdout(io.StringIO()))
        for name in TALKATIVE:
            logger = logging.getLogger(name)
            for attribute in ("handlers", "propagate"):
                stack.callback(setattr, logger, attribute, getattr(logger, attribute))
            stack.callback(logger.setLevel, logger.level)
            logger.handlers, logger.propagate = [self], False
            logger.setLevel(logging.WARNING)
        return stack


_EARS = _Ears()
