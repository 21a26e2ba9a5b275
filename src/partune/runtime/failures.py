"""Show errors of libraries in one line, and tell whether memory ran out."""

from __future__ import annotations

LONGEST = 300  # characters of a message

# What the code of users may raise. SystemExit is no Exception, and would end a study without a word.
OF_USERS = (Exception, SystemExit)

# CUDA's libraries allocate memory themselves, and report a failure as a RuntimeError with one of these texts.
MEMORY = ("allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def one_line(error: object) -> str:
    """Return the message of an error or a warning in one line of limited length."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the machine or of a GPU ran out."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY)
