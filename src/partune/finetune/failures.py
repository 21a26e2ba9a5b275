"""Say in one line why a trial failed."""

from __future__ import annotations


class TrialError(Exception):
    """A failure whose message is shown without the class name, because the message says everything."""


def cause(error: Exception) -> str:
    """Return in one line why a trial failed. If memory ran out, also free the cache of the CUDA device."""
    import torch

    from partune.runtime.failures import is_out_of_memory, one_line

    if isinstance(error, TrialError):
        return str(error)
    text = one_line(error)
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the cached blocks may have the wrong sizes for the next trial
        return f"out of memory: {text}"
    return f"{type(error).__name__}: {text}"
