"""Where trials run: the standard executor's face."""

from __future__ import annotations

import threading

import pytest

from partune.workers.base import Inline, in_process


def test_inline_runs_at_once_in_the_callers_thread() -> None:
    ran: list[int] = []
    future = Inline().submit(lambda: ran.append(threading.get_ident()))
    assert ran == [threading.get_ident()]
    assert future.done()


def test_inline_keeps_errors_but_lets_an_interrupt_through() -> None:
    def fail(error: type[BaseException]) -> None:
        raise error

    assert isinstance(Inline().submit(fail, ValueError).exception(), ValueError)
    with pytest.raises(KeyboardInterrupt):
        Inline().submit(fail, KeyboardInterrupt)


def test_several_workers_run_side_by_side() -> None:
    barrier = threading.Barrier(3, timeout=10)
    with in_process(3, 3) as executor:
        futures = [executor.submit(barrier.wait) for _ in range(3)]
        assert sorted(future.result() for future in futures) == [0, 1, 2]
