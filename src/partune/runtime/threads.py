"""Set the number of CPU threads of torch and BLAS.

For small tensors one thread is best. On a busy machine, several threads would only wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Limit torch to a number of CPU threads within the context, or change nothing for None."""
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
    """Return the controller of the BLAS libraries, cached because finding the libraries takes milliseconds."""
    import scipy.linalg
    from threadpoolctl import ThreadpoolController

    assert scipy.linalg  # the controller knows only loaded libraries, and SciPy does not use NumPy's BLAS
    return ThreadpoolController()
