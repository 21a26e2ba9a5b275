"""Notice that this process has to go: what can save itself does, and is handed back to go on elsewhere.

Batch systems send SIGTERM some seconds before they kill. Whoever receives it calls `notify`; whatever saves itself
works within `guarded` and looks at `noticed` now and then; `wait_for_guarded` says when that is done.
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

    No Exception, as `asyncio.CancelledError` is none: whoever takes errors for a trial's result shall not take this.
    """


def notify() -> None:
    """Gives notice, for good."""
    _notice.set()


def noticed() -> bool:
    return _notice.is_set()


@contextmanager
def guarded() -> Iterator[None]:
    """Within it is what saves itself on notice."""
    global _guarded
    with _changed:
        _guarded += 1
    try:
        yield
    finally:
        with _changed:
            _guarded -= 1
            _changed.notify_all()


def wait_for_guarded(timeout: float) -> bool:
    """Waits until nothing is guarded, some seconds at most; whether that is so."""
    with _changed:
        return _changed.wait_for(lambda: _guarded == 0, timeout)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C is, so that a driver saves what runs, and leaves no workers.

    So is SIGHUP, which a driver gets when its terminal closes, where nohup does not hold it off.
    """
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
