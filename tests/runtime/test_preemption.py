"""Notice to go: what saves itself is waited for, and signals that end a driver are Ctrl-C to it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from partune.runtime.preemption import saving_on_notice, terminated_as_interrupted, wait_until_saved


def test_what_saves_itself_is_waited_for_as_long_as_allowed() -> None:
    saved = threading.Event()
    within = threading.Event()

    def save() -> None:
        with saving_on_notice():
            within.set()
            saved.wait()

    thread = threading.Thread(target=save)
    thread.start()
    within.wait()
    assert not wait_until_saved(0.01)
    saved.set()
    assert wait_until_saved(10.0)
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_interrupt_within(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminated_as_interrupted():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_alone() -> None:
    handlers = []

    def run() -> None:
        with terminated_as_interrupted():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
