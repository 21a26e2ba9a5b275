"""How many threads of the CPU torch computes on. Small tensors want one: on a busy machine several only wait for each
other (a surrogate's proposal took 0.2 s with one and 3 to 20 s with two, on two busy cores).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many within, as many as before afterwards; None leaves their number as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
