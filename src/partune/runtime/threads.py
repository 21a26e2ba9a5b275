"""How many threads of the CPU torch and BLAS compute on.

Small tensors want one: on a busy machine several only wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Limit torch to a number of CPU threads within the context; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit NumPy's and SciPy's linear algebra to one thread within the context."""
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> Any:
    """Return the BLAS libraries of NumPy and SciPy; finding them takes milliseconds, so it is done once."""
    import scipy.linalg
    from threadpoolctl import ThreadpoolController

    assert scipy.linalg  # the controller knows the libraries that are loaded, and SciPy's is another than NumPy's
    return ThreadpoolController()
