"""Notice that this process has to go: what can save itself does, and is handed back to go on elsewhere.

Batch systems send SIGTERM some seconds before they kill. Whoever receives it calls `notify`; whatever can save itself
works within `saving_on_notice` and looks at `noticed` now and then; `wait_until_saved` says when that is done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_notice = threading.Event()
_changed = threading.Condition()
_guarded = 0


class PreemptedError(BaseException):
    """An evaluation was broken off, through no fault of its own; started again, it goes on from what it has saved.

    Not an Exception, for the reason that `asyncio.CancelledError` is not: code that takes any error for the result of a
    trial must not take this one.
    """


def notify() -> None:
    """Give notice that this process has to go; there is no way back."""
    _notice.set()


def noticed() -> bool:
    """Return whether notice was given."""
    return _notice.is_set()


@contextmanager
def saving_on_notice() -> Iterator[None]:
    """Keep the process from ending within the context, in which something saves itself on notice."""
    global _guarded
    with _changed:
        _guarded += 1
    try:
        yield
    finally:
        with _changed:
            _guarded -= 1
            _changed.notify_all()


def wait_until_saved(timeout: float) -> bool:
    """Wait until nothing is guarded, for a number of seconds at most; return whether that is so."""
    with _changed:
        return _changed.wait_for(lambda: _guarded == 0, timeout)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C within the context, so that a driver saves what runs, and leaves no workers.

    So is SIGHUP, which a driver gets when its terminal closes, unless nohup holds it off.
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
