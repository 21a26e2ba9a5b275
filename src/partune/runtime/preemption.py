"""Save running work when this process has to end soon, so that the work can be resumed elsewhere.

Batch systems send SIGTERM some seconds before they kill a process. The handler of the signal calls `notify`. Work that
can be saved runs within `saving_on_notice` and checks `noticed` now and then. `wait_until_saved` waits for such work.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_notice = threading.Event()
_changed = threading.Condition()  # guards _saving, and is notified when it decreases
_saving = 0  # the number of `saving_on_notice` contexts that have not ended


class PreemptedError(BaseException):
    """An evaluation was interrupted because its process has to end. If it is run again, it resumes from what it saved.

    Like `asyncio.CancelledError`, this is not an Exception. Code that treats any Exception as the result of a trial
    must not catch it.
    """


def notify() -> None:
    """Note that this process has to end. This cannot be undone."""
    _notice.set()


def noticed() -> bool:
    """Return whether this process has to end."""
    return _notice.is_set()


@contextmanager
def saving_on_notice() -> Iterator[None]:
    """Make `wait_until_saved` wait for the code in the context, which saves its work when `noticed` returns True."""
    global _saving
    with _changed:
        _saving += 1
    try:
        yield
    finally:
        with _changed:
            _saving -= 1
            _changed.notify_all()


def wait_until_saved(timeout: float) -> bool:
    """Wait until all `saving_on_notice` contexts have ended, at most `timeout` seconds; return whether they have."""
    with _changed:
        return _changed.wait_for(lambda: _saving == 0, timeout)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C within the context, so that a driver saves running work and leaves no workers behind.

    SIGHUP, which a driver gets when its terminal closes, is treated the same, unless it is ignored (nohup).
    """
    # Python allows signal handlers to be set in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL else [])]
    before = [(number, signal.signal(number, signal.default_int_handler)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
