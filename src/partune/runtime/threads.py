"""How many threads of the CPU torch and BLAS compute on. Small tensors want one: on a busy machine several only wait
for each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many of torch's within, as many as before afterwards; None leaves their number as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread for NumPy's and SciPy's linear algebra within, as many as before afterwards."""
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> Any:
    """The BLAS libraries of NumPy and SciPy; finding them takes milliseconds, so it is done once."""
    import scipy.linalg
    from threadpoolctl import ThreadpoolController

    assert scipy.linalg  # loaded by now
    return ThreadpoolController()
