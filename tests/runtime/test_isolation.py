"""The process is left as it was found."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

from partune.errors import UserError
from partune.runtime.isolation import own_generators, quiet

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


@pytest.mark.parametrize(
    "text",
    [
        "Found missing adapter keys while loading the checkpoint: ['a.lora_A.weight'].",
        "Some weights of X were not initialized from the model checkpoint at y and are newly initialized: ['z']",
        "Already found a `peft_config` attribute in the model.",
        "You passed `quantization_config` but the model you're loading already has a `quantization_config` attribute.",
    ],
)
def test_a_warning_that_voids_the_result_is_an_error(text: str) -> None:
    for say in (lambda: warnings.warn(text, stacklevel=1), lambda: logging.getLogger("transformers.a").warning(text)):
        with pytest.raises(UserError) as caught, quiet():
            say()
        assert str(caught.value) == f"what was loaded cannot be used: {text}"


def test_a_warning_that_matters_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    text = f"This will lead to incorrect tokenization ({random.random()})."
    for _ in range(2):
        with quiet():
            logging.getLogger("transformers.tokens").warning(text)
            logging.getLogger("lm_eval.tasks").warning("of no account")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("partune")] == [text]


@pytest.mark.slow
def test_our_own_warnings_pass_and_threads_do_not_mix(capfd: pytest.CaptureFixture[str]) -> None:
    """Two threads within at once, the first in leaves first: the terminal is its own again after the last."""
    inside, leave, stdout = threading.Event(), threading.Event(), sys.stdout

    def other() -> None:
        with quiet():
            inside.set()
            leave.wait(10)
            warnings.warn("incorrect, says the other thread", stacklevel=1)

    thread = threading.Thread(target=other)
    with quiet():
        thread.start()
        assert inside.wait(10)
    assert sys.stdout is not stdout
    leave.set()
    thread.join()
    assert sys.stdout is stdout
    code = (
        "import logging; from partune.runtime.isolation import quiet\n"
        "with quiet(): logging.getLogger('partune.runtime.disk').warning('the disk is full')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stderr == "the disk is full\n"
    capfd.readouterr()
