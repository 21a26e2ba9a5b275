"""Threads of the CPU: so many within, as many as before afterwards."""

from __future__ import annotations

import pytest
import torch

from partune.runtime.threads import torch_threads


def test_the_number_of_before_comes_back_after_an_error_too() -> None:
    before = torch.get_num_threads()
    seen = []

    @torch_threads(before + 2)
    def fail() -> None:
        seen.append(torch.get_num_threads())
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [before + 2]
    assert torch.get_num_threads() == before
    with torch_threads(None):
        assert torch.get_num_threads() == before
