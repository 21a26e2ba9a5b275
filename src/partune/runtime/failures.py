"""What errors of libraries say, in one line, and whether they mean that memory ran out."""

from __future__ import annotations

LONGEST = 300  # characters of what an error says

# CUDA's libraries need memory of their own, and say in a RuntimeError that there is none.
MEMORY = ("allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def one_line(error: object) -> str:
    """Return what an error or a warning says, in one line that fits a terminal."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the machine or of a GPU ran out."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY)
