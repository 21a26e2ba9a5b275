"""Why a trial failed, in one line."""

from __future__ import annotations


class TrialError(Exception):
    """A failure whose text says all that its reader needs: no class name has to stand before it."""


def cause(error: Exception) -> str:
    """Return in one line why a trial failed; free what a CUDA device caches where its memory ran out."""
    import torch

    from partune.runtime.failures import is_out_of_memory, one_line

    if isinstance(error, TrialError):
        return str(error)
    text = one_line(error)
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next trial may need blocks of other sizes than this one's
        return f"out of memory: {text}"
    return f"{type(error).__name__}: {text}"
