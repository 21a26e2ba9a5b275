"""Why a trial failed, in one line."""

from __future__ import annotations

import pytest
import torch

from partune.finetune.failures import TrialError, cause
from partune.finetune.litgpt.program import StepError
from partune.finetune.scoring.base import NotFiniteError
from partune.finetune.training import DivergedError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("no room"), "out of memory: no room"),
        (RuntimeError("CUDA out of memory. Tried to allocate\n20 GiB"), "out of memory: CUDA out of memory. Tried to"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero"),
        (DivergedError(3), "loss diverged at step 3"),
        (StepError("litgpt evaluate ended with exit code 3"), "litgpt evaluate ended with exit code 3"),
        (NotFiniteError("not finite"), "not finite"),
    ],
)
def test_a_cause_is_one_line_and_names_a_class_only_where_that_says_more(error: Exception, words: str) -> None:
    assert cause(error).startswith(words)
    assert "\n" not in cause(error)
    assert isinstance(error, TrialError) == (cause(error) == str(error))
