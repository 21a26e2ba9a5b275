"""Contexts that leave the process as they found it: libraries reseed global generators and talk on the terminal.

And what errors say: in one line, and whether they mean that memory ran out.
"""

from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

TALKATIVE = ("transformers", "peft", "datasets", "lm_eval", "lm-eval", "huggingface_hub", "httpx", "fsspec", "filelock")


@contextmanager
def own_generators(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Python's, numpy's and torch's global generators afterwards are what they were before.

    seed: torch's generators for the CPU and `device` start from it within; None lets them go on.
    """
    import torch

    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
                for index in cuda:
                    with torch.cuda.device(index):
                        torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, warnings or log lines of libraries; exceptions pass."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(redirect_stdout(io.StringIO()))
        for name in TALKATIVE:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield


def one_line(error: BaseException) -> str:
    """What an error says, in one line that fits a terminal."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


MEMORY = ("allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY)
