"""The process is left as it was found."""

from __future__ import annotations

import logging
import random
import sys
import warnings

import numpy as np
import pytest
import torch

from partune.finetune.isolation import one_line, own_generators, quiet

CPU = torch.device("cpu")


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def seed_all() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)


@pytest.mark.parametrize("fails", [False, True])
def test_generators_go_on_as_if_nothing_had_happened(fails: bool) -> None:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        seed_all()
        expected = [draws(), draws()]
        seed_all()
        first = draws()
        try:
            with own_generators(CPU, seed=5):
                random.seed(0)
                draws()
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert fails
        assert [first, draws()] == expected
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def test_a_seed_starts_torchs_generator() -> None:
    found = []
    for _ in range(2):
        with own_generators(CPU, seed=5):
            found.append(float(torch.rand(())))
    assert found[0] == found[1] == float(torch.rand((), generator=torch.Generator().manual_seed(5)))


def test_libraries_are_silent_and_errors_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("transformers")
    level = logger.level

    @quiet()
    def talk() -> None:
        print("a line")
        print("a bar", file=sys.stderr)
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("transformers.anything").error("a log line")
        raise RuntimeError("heard")

    with pytest.raises(RuntimeError, match="heard"):
        talk()
    assert capfd.readouterr() == ("", "")
    assert logger.level == level
    print("on")
    assert capfd.readouterr().out == "on\n"


def test_errors_become_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert len(one_line(ValueError("x" * 1000))) == 300
