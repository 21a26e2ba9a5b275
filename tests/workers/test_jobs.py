"""The jobs of a batch system that is played: what is submitted, cancelled and submitted again, look by look.

dask-jobqueue is the real one, the batch system that of `tests.support.batch_system`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from partune import config
from partune.errors import UserError
from partune.workers import certificates
from partune.workers import jobs as module
from partune.workers.batch import make_batch
from partune.workers.jobs import Jobs
from tests.support.batch_system import RECIPES, SCRIPTS, System


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == module.__name__]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds go by."""
    clock, ahead = module.time.monotonic, [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock() + ahead[0])
    return lambda seconds: ahead.append(ahead.pop() + seconds)


@pytest.fixture
def started(system: System) -> Iterator[Callable[..., Jobs]]:
    """Gives the jobs of a file's settings, entered; `played` is their dask-jobqueue cluster."""
    open_ones: list[Any] = []

    def start(**settings: Any) -> Jobs:
        form = {"system": "slurm", "maximum": 4, "job": {"interface": "lo"}} | settings
        batch = config.validated(config.Batch, form)
        made = make_batch(batch, certificates.read_certificates(system.folder / "tls"), system.folder)
        open_ones.append(made)
        jobs = Jobs(made, system, batch)
        jobs.__enter__()
        open_ones.append(jobs)
        return jobs

    yield start
    for each in reversed(open_ones):
        each.__exit__(None, None, None)
    (system.folder / "down").unlink(missing_ok=True)


def bereft(system: System, started: Callable[..., Jobs]) -> Jobs:
    """One job, whose worker has been there and is gone."""
    jobs = started(maximum=1)
    system.there["SLURMCluster-0"] = 1
    jobs.check()
    system.there.clear()
    return jobs


def test_a_job_that_ended_is_followed_by_another_which_may_wait_as_long_as_it_has_to(
    system: System, started: Callable[..., Jobs], later: Callable[[float], None]
) -> None:
    jobs = bereft(system, started)
    system.turn(1, "TIMEOUT")
    jobs.check()
    assert system.states == {"1": "TIMEOUT", "2": "PENDING"}
    for _ in range(3):
        later(1000.0)
        jobs.check()
    assert system.states == {"1": "TIMEOUT", "2": "PENDING"}


def test_no_two_jobs_have_one_name(system: System, started: Callable[..., Jobs]) -> None:
    """Dask refuses a worker whose name another bears, who may only be on its way out."""
    jobs = started(maximum=2)
    system.need = 2
    jobs.check()
    names = set()
    for number in (2, 3, 4):
        names |= set(jobs._jobs.worker_spec)
        system.turn(number, "CANCELLED")
        jobs.check()
    assert names == {f"SLURMCluster-{number}" for number in range(4)}


@pytest.mark.slow
@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED"])
def test_a_job_that_waits_to_run_once_more_is_left_in_the_queue(
    state: str, system: System, started: Callable[..., Jobs], later: Callable[[float], None]
) -> None:
    jobs = bereft(system, started)
    system.turn(1, state)
    later(1000.0)
    jobs.check()
    assert system.states == {"1": state}


def test_a_running_job_without_its_workers_is_ended_after_a_while(
    system: System, started: Callable[..., Jobs], later: Callable[[float], None]
) -> None:
    jobs = started(maximum=1)
    system.turn(1, "RUNNING")
    later(1000.0)
    jobs.check()
    assert system.states == {"1": "RUNNING"}  # its first worker may be slow to come
    system.there["SLURMCluster-0"] = 1
    jobs.check()
    system.there.clear()
    later(module.GONE - 10)
    jobs.check()
    assert system.states == {"1": "RUNNING"}
    later(20.0)
    jobs.check()
    assert system.states == {"1": "CANCELLED", "2": "PENDING"}
    assert not jobs._seen


def test_jobs_that_end_before_a_worker_comes_are_given_up_and_named(
    system: System, started: Callable[..., Jobs]
) -> None:
    jobs = started(maximum=1)
    for number, state in ((1, "FAILED"), (2, "COMPLETED"), (3, "OUT_OF_MEMORY")):
        assert system.failure is None
        system.turn(number, state)
        jobs.check()
    assert str(system.failure) == "jobs 1, 2, 3 ended before a worker came: read their output"
    jobs.check()
    assert len(system.states) == 3


def test_a_job_that_nobody_lists_any_more_has_ended(system: System, started: Callable[..., Jobs]) -> None:
    jobs = started(maximum=1)
    (system.folder / "jobs" / "1").unlink()
    jobs.check()
    assert system.states == {"2": "PENDING"}


@pytest.mark.slow
@pytest.mark.parametrize("state", ["CANCELLED", "NODE_FAIL", "PREEMPTED"])
def test_jobs_that_others_end_do_not_count_as_fruitless(
    state: str, system: System, started: Callable[..., Jobs]
) -> None:
    jobs = started(maximum=1)
    for number in range(1, 6):
        system.turn(number, state)
        jobs.check()
    assert system.failure is None
    assert system.states["6"] == "PENDING"


@pytest.mark.slow
def test_while_workers_are_there_fruitless_jobs_only_make_it_slower(
    system: System, started: Callable[..., Jobs], later: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A node on which every job fails at once takes one after the other."""
    jobs = started(maximum=2)
    system.there["SLURMCluster-0"] = 1
    system.need = 2
    for number in range(2, 5):
        jobs.check()
        system.turn(number, "FAILED")
    with caplog.at_level(logging.WARNING):
        jobs.check()
        jobs.check()
    assert said(caplog) == ["Jobs 2, 3, 4 ended before a worker came: read their output."]
    assert system.failure is None
    assert len(system.states) == 4
    later(module.AGAIN + 1)
    jobs.check()
    assert system.states["5"] == "PENDING"


def test_a_batch_system_that_does_not_answer_changes_nothing(
    system: System, started: Callable[..., Jobs], later: Callable[[float], None]
) -> None:
    jobs = bereft(system, started)
    down = system.put("down")
    later(1000.0)
    jobs.check()
    down.unlink()
    assert system.states == {"1": "PENDING"}


def test_the_batch_system_is_asked_only_while_a_job_has_no_worker(
    system: System, started: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASK", 3600.0)
    jobs = started(maximum=1)
    jobs._asked = -7200.0
    jobs.check()
    jobs.check()  # was asked a moment ago
    assert (system.folder / "questions").read_text().count("\n") == 1
    monkeypatch.setattr(module, "ASK", 0.0)
    system.there["SLURMCluster-0"] = 1
    jobs.check()
    assert (system.folder / "questions").read_text().count("\n") == 1
    assert f"--user={os.getuid()}" in (system.folder / "questions").read_text()


# ----- as many as there is work for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("need", "minimum", "maximum", "each", "jobs"),
    [
        (0, 1, 4, 1, 1),
        (0, 3, 4, 1, 3),
        (3, 1, 4, 1, 3),
        (9, 1, 4, 1, 4),
        (1, 1, 8, 4, 1),
        (5, 1, 8, 4, 2),
        (9, 1, 6, 4, 1),  # two would be eight workers
        (0, 5, 6, 4, 1),
    ],
)
def test_there_are_as_many_jobs_as_work_and_the_bounds_ask_for(
    need: int, minimum: int, maximum: int, each: int, jobs: int, system: System, started: Callable[..., Jobs]
) -> None:
    watched = started(minimum=minimum, maximum=maximum, workers_per_job=each)
    system.need = need
    watched.check()
    assert list(system.states.values()) == ["PENDING"] * jobs


def test_what_waits_longest_and_what_is_busy_stays(system: System, started: Callable[..., Jobs]) -> None:
    system.need = 4
    jobs = started()
    names = [f"SLURMCluster-{number}" for number in range(4)]
    system.there |= {names[0]: 0, names[1]: 1}
    for need, left in ((4, names), (3, names[:3]), (2, names[:2]), (1, names[1:2]), (0, names[1:2])):
        system.need = need
        jobs.check()
        assert list(jobs._jobs.worker_spec) == left
        assert {number for number, state in system.states.items() if state == "PENDING"} == set(system.numbers(jobs))
    assert system.leaving == {names[0]}


def test_a_job_ends_only_where_all_of_its_workers_have_nothing_to_do(
    system: System, started: Callable[..., Jobs]
) -> None:
    system.need = 4
    jobs = started(workers_per_job=2)
    for number in (0, 1):
        system.there |= {f"SLURMCluster-{number}-0": 0, f"SLURMCluster-{number}-1": 1}
    system.need = 0
    jobs.check()
    assert list(system.states.values()) == ["PENDING", "PENDING"]
    assert not system.leaving


def test_workers_that_are_lost_of_jobs_that_go_on_are_made_good(
    system: System, started: Callable[..., Jobs], later: Callable[[float], None]
) -> None:
    """Where a whole job's number of them is lost, and no sooner: there are never more than the most."""
    system.need = 8
    jobs = started(maximum=4, workers_per_job=2)
    system.there |= {f"SLURMCluster-{job}-{number}": 1 for job in (0, 1) for number in (0, 1)}
    jobs.check()
    del system.there["SLURMCluster-0-1"]
    later(module.GONE + 1)
    jobs.check()
    assert len(system.states) == 2
    del system.there["SLURMCluster-1-0"]
    jobs.check()
    assert len(system.states) == 2  # it may come back
    later(module.GONE + 1)
    jobs.check()
    assert len(system.states) == 3


# ----- submissions and cancellations that fail


def test_where_no_job_can_be_submitted_it_is_told_in_one_line(system: System, started: Callable[..., Jobs]) -> None:
    system.put("limit", "0")
    with pytest.raises(UserError) as caught:
        started(minimum=2)
    assert str(caught.value) == "slurm: sbatch: error: too many jobs for you"


def test_where_some_can_be_submitted_the_others_are_tried_again(
    system: System, started: Callable[..., Jobs], later: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    limit = system.put("limit", "1")
    jobs = started(minimum=3)
    assert len(system.states) == 1
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            jobs.check()
            later(module.AGAIN + 1)
    assert said(caplog) == ["A job could not be submitted: sbatch: error: too many jobs for you"]  # once
    assert len(system.states) == 1
    assert len(jobs._jobs.worker_spec) == 1
    limit.unlink()
    jobs.check()
    assert len(system.states) == 3


def test_submissions_that_fail_are_not_tried_at_every_look(
    system: System, started: Callable[..., Jobs], later: Callable[[float], None]
) -> None:
    jobs = started(maximum=2)
    system.need = 2
    system.put("limit", "0")
    calls = system.put("calls")
    for _ in range(3):
        jobs.check()
    assert calls.read_text() == "sbatch\n"


@pytest.mark.parametrize("how", ["mute", "missing"])
def test_a_submission_whose_job_nobody_knows_is_one_that_failed(
    how: str, system: System, started: Callable[..., Jobs], caplog: pytest.LogCaptureFixture
) -> None:
    jobs = started(maximum=2)
    system.need = 2
    if how == "mute":
        system.put("mute")
    else:
        jobs._jobs.job_cls.submit_command = "sbatch-has-gone"
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            jobs.check()
    (text,) = said(caplog)
    assert text.startswith("A job could not be submitted: ")
    assert "\n" not in text
    assert list(jobs._jobs.workers) == list(jobs._jobs.worker_spec) == ["SLURMCluster-0"]
    assert system.failure is None


def test_a_job_that_could_not_be_cancelled_is_cancelled_again(system: System, started: Callable[..., Jobs]) -> None:
    system.need = 2
    jobs = started()
    first, second = system.numbers(jobs)
    down = system.put("down")
    system.need = 1
    jobs.check()
    assert system.states == {first: "PENDING", second: "PENDING"}
    down.unlink()
    jobs.check()
    assert system.states == {first: "PENDING", second: "CANCELLED"}
    jobs.check()
    assert not jobs._ending


def test_a_job_whose_end_did_not_succeed_ends_at_the_next_look(
    system: System, started: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers take no more tasks: it must not stay."""
    system.need = 2
    jobs = started()
    first, second = system.numbers(jobs)
    system.there |= {"SLURMCluster-0": 1, "SLURMCluster-1": 0}
    retire = jobs._jobs.scheduler.handlers["retire_workers"]

    async def refuse(**_: Any) -> None:
        raise OSError("a moment")

    monkeypatch.setitem(jobs._jobs.scheduler.handlers, "retire_workers", refuse)
    system.need = 1
    with pytest.raises(OSError, match="a moment"):
        jobs.check()
    assert system.states == {first: "PENDING", second: "PENDING"}
    monkeypatch.setitem(jobs._jobs.scheduler.handlers, "retire_workers", retire)
    jobs.check()
    assert system.states == {first: "PENDING", second: "CANCELLED"}


# ----- a study's whole stay


# ----- other batch systems


def test_what_oar_says_of_its_jobs_is_understood(system: System) -> None:
    answer = json.dumps({"12": {"state": "Running", "queue": "default"}, "13": {"state": "Waiting"}})
    system.script("oarstat", f"echo '{answer}'")
    assert module.QUEUES["oar"](()) == {"12": "Running", "13": "Waiting"}
    system.script("oarstat", "")
    assert module.QUEUES["oar"](()) == {}


def test_what_oarsub_and_oardel_are_given(system: System, started: Callable[..., Jobs]) -> None:
    """The documentation's file as it stands."""
    for name, text in {"oarsub": 'printf "%s\\n" "$@" > "$PLAYED/given"; echo OAR_JOB_ID=42', "oardel": "true"}.items():
        system.script(name, text)
    system.script("oarstat", """echo '{"42": {"state": "Waiting"}}'""")
    form = yaml.safe_load(RECIPES["slurm-2"])
    jobs = started(**form)
    given = (system.folder / "given").read_text()
    options = "-n first -q default --project project42 -l /nodes=1/gpu=4,walltime=12:00:00 -p gpu_count=4"
    assert given.split()[:10] == options.split()
    assert "source /shared/me/study/.venv/bin/activate" in given
    assert f"exec {sys.executable} -m distributed.cli.dask_worker tls://" in given
    assert "PRIVATE KEY" not in given
    jobs.check()
    assert system.numbers(jobs) == ["42"]


def test_where_the_system_cannot_be_asked_a_job_has_ended_some_time_after_its_workers(
    system: System, started: Callable[..., Jobs], later: Callable[[float], None]
) -> None:
    jobs = started(system="pbs", maximum=1)
    later(1000.0)
    jobs.check()
    assert list(jobs._jobs.worker_spec) == ["PBSCluster-0"]
    system.there["PBSCluster-0"] = 0
    jobs.check()
    system.there.clear()
    later(module.GONE + 1)
    jobs.check()
    assert list(jobs._jobs.worker_spec) == ["PBSCluster-1"]


# ----- which job a system says it has taken

NOISE = "Sun Jul  7 03:08:22 2019 [INFO4] [euid=5534,pid=5818] auks_api: cred added\n"


@pytest.mark.parametrize(
    ("kind", "said", "job"),
    [
        ("slurm", f"{NOISE}Submitted batch job 4711\n", ("4711", "")),
        ("slurm", f"Submitted batch job 4711\n{NOISE}", ("4711", "")),
        ("slurm", f"{NOISE}Submitted batch job 4711 on cluster foo\n", ("4711", "foo")),
        ("slurm", f"Submitted batch job 17\n{NOISE}Submitted batch job 4711\n", ("4711", "")),  # a wrapper's own first
        ("slurm", f"{NOISE}4711\n", ("4711", "")),
        ("slurm", f"17 jobs of yours wait\n{NOISE}4711;foo\n\n", ("4711", "foo")),
        ("oar", f"[ADMISSION RULE 12] adds -t 2\n{NOISE}OAR_JOB_ID=4711\n", ("4711", "")),
        ("pbs", f"{NOISE}4711.pbs01.site.org\n", ("4711.pbs01.site.org", "")),
        ("pbs", f"{NOISE}4711\n", ("4711", "")),
        ("lsf", f"{NOISE}Job <4711> is submitted to default queue <normal2>.\n", ("4711", "")),
        ("htcondor", f"{NOISE}Submitting job(s).\n1 job(s) submitted to cluster 4711.\n", ("4711", "")),
        ("sge", f'{NOISE}Your job 4711 ("first-2") has been submitted\n', ("4711", "")),
        ("sge", f"{NOISE}4711\n", ("4711", "")),
    ],
)
def test_a_jobs_number_is_the_one_that_the_system_says(kind: str, said: str, job: tuple[str, str]) -> None:
    """Digits of a site's own lines are none; the first is of jupyterhub/batchspawner #148."""
    assert module.submitted(kind, said) == job


@pytest.mark.parametrize("kind", module.SENTENCES)
@pytest.mark.parametrize("said", ["", NOISE, "job 12 of 30 was refused\n", f"4711\n{NOISE}"])
def test_a_number_that_is_not_surely_the_jobs_is_none(kind: str, said: str) -> None:
    with pytest.raises(ValueError, match="did not print the number of the new job"):
        module.submitted(kind, said)


def test_what_is_cancelled_is_the_job_whatever_a_site_prints(system: System, started: Callable[..., Jobs]) -> None:
    system.script("sbatch", f"echo '{NOISE.strip()}'\n{SCRIPTS['sbatch']}")
    system.script("scancel", f'echo "$@" >> "$PLAYED/cancelled"\n{SCRIPTS["scancel"]}')
    for number in range(1, 8):  # jobs of the user's that are not ours
        (system.folder / "taken" / str(number)).mkdir()
        system.turn(number, "RUNNING")
    jobs = started(maximum=1)
    assert system.numbers(jobs) == ["8"]
    jobs._end(list(jobs._jobs.worker_spec))
    assert (system.folder / "cancelled").read_text() == "8\n"
    assert [state for number, state in system.states.items() if number != "8"] == ["RUNNING"] * 7


@pytest.mark.slow
def test_a_job_on_another_cluster_is_asked_for_and_cancelled_there(
    system: System, started: Callable[..., Jobs]
) -> None:
    system.script("sbatch", f'{SCRIPTS["sbatch"].rstrip()} on cluster foo"'.replace('$number" on', "$number on"))
    system.script("scancel", 'echo "$SLURM_CLUSTERS $@" >> "$PLAYED/cancelled"')
    jobs = started(maximum=1)
    jobs.check()
    assert "--clusters=foo" in (system.folder / "questions").read_text()
    jobs._end(list(jobs._jobs.worker_spec))
    assert (system.folder / "cancelled").read_text() == "foo 1\n"
