"""What errors of libraries say."""

from __future__ import annotations

import pytest
import torch

from partune.runtime.failures import LONGEST, is_out_of_memory, one_line


def test_errors_become_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert len(one_line(ValueError("x" * 1000))) == 300


def test_a_long_error_is_cut() -> None:
    text = one_line("x" * 1000)
    assert len(text) == LONGEST
    assert text.endswith("...")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),  # no library says it so
    ],
)
def test_memory_that_ran_out_is_told_from_other_failures(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
