"""The queue of a cluster, without processes: where tasks go, and what becomes of one whose worker died."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from partune.workers.queue import STRIKES, TRANSIT, Queue, Task, Worker


def queue(workers: int = 1, slots: int = 1, threads: int = 8, limit: float | None = None) -> Queue:
    made = Queue(limit)
    made.slots = slots
    for number in range(workers):
        made.join(f"tcp://{number}", threads, f"w{number}")
    return made


def submit(queue: Queue, count: int = 1) -> list[Task]:
    return [queue.submit(f"trial {number}", b"", Future()) for number in range(count)]


def sent(queue: Queue, now: float = 0.0) -> list[tuple[int, str]]:
    return [(task.number, worker.name) for task, worker in queue.assign(now)]


def holder(queue: Queue, task: Task) -> Worker:
    return next(worker for worker in queue.workers.values() if task in worker.tasks)


def test_tasks_go_to_the_emptiest_worker_in_their_order() -> None:
    two = queue(2, slots=2)
    submit(two, 6)
    assert sent(two) == [(1, "w0"), (2, "w1"), (3, "w0"), (4, "w1")]
    assert sent(two) == []


def test_a_worker_holds_no_more_than_its_threads() -> None:
    one = queue(slots=4, threads=3)
    submit(one, 5)
    assert len(sent(one)) == 3


def test_a_worker_that_comes_late_gets_what_waits() -> None:
    none = queue(0)
    submit(none, 1)
    assert sent(none) == []
    none.join("tcp://late", 1, "late")
    assert sent(none) == [(1, "late")]
    assert none.came("late")
    assert not none.came("never")


def test_what_ends_makes_room() -> None:
    one = queue()
    first, _ = submit(one, 2)
    assert sent(one) == [(1, "w0")]
    one.end(first, one.workers["tcp://0"])
    assert sent(one) == [(2, "w0")]


def test_all_tasks_of_a_worker_that_died_run_again_alone(caplog: pytest.LogCaptureFixture) -> None:
    one = queue(slots=3)
    tasks = submit(one, 3)
    assert len(sent(one)) == 3
    dead = one.workers["tcp://0"]
    assert [one.die(task, dead, 0.0) for task in tasks] == [None] * 3
    assert caplog.text.count("died. The task runs again, alone.") == 3
    assert [task.strikes for task in tasks] == [0, 0, 0]  # any of them may have been the cause
    assert one.names == set()
    for number in (1, 2):
        one.join(f"tcp://new{number}", 8, f"new{number}")
    submit(one, 1)
    assert sent(one) == [(1, "new1"), (2, "new2")]  # the third waits for a worker of its own, as does the new task


def test_a_task_that_runs_alone_waits_until_a_worker_is_empty_and_keeps_others_away() -> None:
    two = queue(2, slots=2)
    tasks = submit(two, 3)
    assert sent(two) == [(1, "w0"), (2, "w1"), (3, "w0")]
    assert two.die(tasks[1], two.workers["tcp://1"], 0.0) is None
    submit(two, 1)
    assert sent(two) == []  # the only worker is reserved for the one that runs alone
    for task in (tasks[0], tasks[2]):
        two.end(task, two.workers["tcp://0"])
    assert sent(two) == [(2, "w0")]
    assert sent(two) == []
    two.end(tasks[1], two.workers["tcp://0"])
    assert sent(two) == [(4, "w0")]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_task_that_dies_alone_again_and_again_is_given_up(slots: int) -> None:
    one = queue(0, slots)
    (task,) = submit(one)
    deaths = STRIKES if slots == 1 else STRIKES + 1  # with neighbours the first death is no strike
    for death in range(1, deaths + 1):
        worker = one.join(f"tcp://{death}", 8, f"w{death}")
        assert len(sent(one)) == 1
        error = one.die(task, worker, 0.0)
        assert (error is None) == (death < deaths)
    assert str(error) == f"its worker died {STRIKES} times while it ran no other task (killed, or out of memory?)"
    assert one.need(0) == 0


def test_over_the_time_limit_alone_once_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    one = queue(slots=2, limit=5.0)
    hung, neighbour = submit(one, 2)
    sent(one)
    first = one.workers["tcp://0"]
    one.note_overdue(hung.number)
    assert one.die(hung, first, 0.0) is None
    assert one.die(neighbour, first, 0.0) is None
    assert "The worker of trial 0 was ended at the time limit. The task runs again, alone." in caplog.text
    second = one.join("tcp://1", 8, "w1")
    assert sent(one) == [(1, "w1")]
    assert str(one.die(hung, second, 0.0)) == "no result within the time limit of 5 s"


def test_frozen_workers_are_those_that_hold_a_task_for_too_long() -> None:
    two = queue(2, limit=5.0)
    submit(two, 2)
    sent(two, now=10.0)
    early, late = two.workers.values()
    (task,) = early.tasks
    next(iter(late.tasks)).since = 20.0
    assert two.frozen(10.0) == []
    assert two.frozen(15.0) == [early]
    assert "the time limit" in str(two.die(task, early, 20.0))


def test_a_worker_that_was_told_to_go_is_not_held_against_its_task() -> None:
    one = queue()
    (task,) = submit(one)
    sent(one)
    worker = one.workers["tcp://0"]
    assert one.excuse(worker.address)
    assert not one.excuse(worker.address)  # no news
    assert not one.excuse("tcp://nobody")
    assert one.die(task, worker, 0.0) is None
    assert (task.strikes, task.alone) == (0, False)


def test_a_worker_that_hands_back_takes_no_more() -> None:
    two = queue(2)
    (task,) = submit(two)
    sent(two)
    two.hand_back(task, holder(two, task))
    assert sent(two) == [(1, "w1")]
    assert (task.strikes, task.alone) == (0, False)


def test_what_was_on_its_way_to_a_worker_that_has_gone_goes_elsewhere_after_a_while() -> None:
    two = queue(2)
    (task,) = submit(two)
    sent(two, now=100.0)
    task.handle = object()
    two.lose({"tcp://0"}, 100.0)
    two.lose((), 100.0 + TRANSIT)
    assert sent(two) == []  # the death of what it ran would be told within that time
    two.lose((), 100.1 + TRANSIT)
    assert task.handle is None  # what the old call may still bring does not count
    assert sent(two) == [(1, "w1")]
    assert task.strikes == 0


def test_a_result_that_was_lost_is_computed_again() -> None:
    one = queue()
    (task,) = submit(one)
    sent(one)
    one.repeat(task, one.workers["tcp://0"])
    assert sent(one) == [(1, "w0")]


def test_workers_without_tasks_can_be_dismissed_and_others_cannot() -> None:
    two = queue(2)
    submit(two)
    sent(two)
    assert not two.dismiss({"w0", "w1"})
    assert two.dismiss({"w1"})
    submit(two)
    assert sent(two) == []


def test_tasks_that_run_alone_need_a_worker_each() -> None:
    """What a batch system is asked for."""
    one = queue(slots=4)
    tasks = submit(one, 4)
    assert [one.need(0), one.need(9)] == [1, 3]
    sent(one)
    for task in tasks:
        one.die(task, one.workers.get("tcp://0", Worker("tcp://0", 8)), 0.0)
    assert [one.need(0), one.need(9)] == [4, 6]


def test_without_a_scheduler_all_tasks_wait_and_no_worker_is_known() -> None:
    two = queue(2)
    submit(two, 3)
    sent(two)
    two.lose({"tcp://1"}, 0.0)
    two.scatter()
    assert two.workers == {}
    two.join("tcp://new", 8, "new")
    two.slots = 8
    assert sorted(sent(two)) == [(1, "new"), (2, "new"), (3, "new")]


@pytest.mark.slow
def test_what_is_given_up_leaves_workers_with_room() -> None:
    one = queue()
    submit(one, 2)
    sent(one)
    assert [task.number for task in one.give_up()] == [2, 1]
    assert one.give_up() == []
    submit(one)
    assert sent(one) == [(3, "w0")]
    submit(one)
    assert [task.number for task in one.give_up_waiting()] == [4]
    assert len(one.workers["tcp://0"].tasks) == 1
