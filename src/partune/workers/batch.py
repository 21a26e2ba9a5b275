"""Run workers as jobs of a batch system: SLURM, OAR, PBS, LSF, HTCondor or SGE."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed import Client, Scheduler, Security

from partune import config
from partune.errors import UserError
from partune.runtime.devices import DEVICES_EACH
from partune.runtime.limits import require_connections
from partune.runtime.network import LOOPBACK
from partune.runtime.preemption import terminated_as_interrupted
from partune.workers.certificates import temporary_certificates
from partune.workers.cluster import CORES_EACH, MEMORY_EACH, Cluster
from partune.workers.jobs import Jobs, cluster_class
from partune.workers.process import (
    PREFIX,
    PRELOAD,
    PRELOAD_NANNY,
    SCRATCH,
    THREADS,
    WITHOUT_PAGES,
    WORKERS_EACH,
    PagelessScheduler,
    scratch,
)

SYSTEMS = {
    "slurm": "SLURMCluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "sge": "SGECluster",
}


@contextlib.contextmanager
def batch(file: Path, time_limit: float | None = None) -> Iterator[Cluster]:
    """Provide workers that a batch system starts and stops. Their number stays within the limits of the settings.

    The Dask scheduler runs in this process and uses TLS. Until the context ends, the TLS key is on a file system that
    the jobs share, in a folder that only this user can read.

    Args:
        file: A YAML file with the settings of a `config.Batch`.
        time_limit: The number of seconds that a task may take on its worker; None for no limit.

    Raises:
        UserError: The settings are invalid, or jobs cannot be submitted from this machine.
    """
    settings = config.validated(config.Batch, config.load(file))
    require_connections(settings.maximum)
    command = _system(settings).job_cls.submit_command.split()[0]
    if shutil.which(command) is None:
        raise UserError(f"{command} is not installed here: start partune on a machine that can submit jobs")
    shared = settings.job.get("shared_temp_directory")
    folder = Path.cwd() if shared is None else Path(os.path.expandvars(shared)).expanduser()
    with (
        terminated_as_interrupted(),
        temporary_certificates(folder) as security,
        scratch() as files,
        make_batch(settings, security, files) as jobs,
        Cluster(lambda: Client(jobs, set_as_default=False), time_limit) as cluster,
        Jobs(jobs, cluster, settings),
    ):
        yield cluster


def _system(settings: config.Batch) -> Any:
    """Return dask-jobqueue's class for a batch system."""
    # The library's import makes SIGINT end the process without a KeyboardInterrupt, so the old handler is restored.
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ValueError:  # "signal only works in main thread": only the main thread can import the library first
        raise UserError("workers of a batch system can be started from the main thread only") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)
    return getattr(dask_jobqueue, SYSTEMS[settings.system])


def make_batch(settings: config.Batch, security: Security, folder: Path) -> Any:
    """Return a dask-jobqueue cluster without jobs yet.

    A job requests cores and memory. The number of trials that a worker runs at once does not depend on its cores, and
    only the batch system limits its memory.

    Args:
        settings: The settings in the user's file.
        security: Dask's settings for TLS.
        folder: The folder for the files of Dask's scheduler.

    Raises:
        UserError: dask-jobqueue refuses the settings.
    """
    kind = cluster_class(_system(settings), THREADS, settings.system)
    workers, job = settings.workers_per_job, dict(settings.job)
    job.pop("shared_temp_directory", None)
    if not isinstance(options := job.pop("scheduler_options", {}), dict):
        raise UserError(f"{settings.system}: job: scheduler_options must be a mapping, got {options!r}")
    pages = options.get("dashboard") or "dashboard_address" in options  # whether the file asks for Dask's dashboard
    local = {"dashboard_address": f"{LOOPBACK}:0", "local_directory": str(folder)}
    # HTCondor keeps a job's commands in its submit file, where it would read $(...) as one of its own macros.
    make_scratch = [] if settings.system == "htcondor" else [f"export {SCRATCH}=$(mktemp -d -t {PREFIX}XXXXXXXX)"]
    # partune relies on these settings, so the file must not change them.
    fixed = {
        "processes": workers,
        "protocol": "tls://",
        "security": security,
        "worker_extra_args": [*PRELOAD, *PRELOAD_NANNY, *WITHOUT_PAGES, *job.pop("worker_extra_args", [])],
        "job_script_prologue": [
            f"export {WORKERS_EACH}={workers} {DEVICES_EACH}={settings.devices_per_worker}",
            *make_scratch,
            *settings.prologue,
        ],
        "scheduler_options": {"dashboard": False, **local, **options},
        "scheduler_cls": Scheduler if pages else PagelessScheduler,
        "silence_logs": "critical",
        "job_cls": kind.job_cls,
        "n_workers": 0,
        "asynchronous": False,
    }
    defaults = {
        "cores": CORES_EACH * workers,
        "memory": f"{MEMORY_EACH * workers} GiB",
        **({"memory_per_core_property_name": "not_applicable"} if settings.system == "oar" else {}),
        # Without exec, SIGTERM would end the shell around Python at once, and with it the job, before trials are saved.
        **({} if settings.system == "htcondor" else {"python": f"exec {sys.executable}"}),
    }
    if clash := sorted(fixed.keys() & job.keys()) or sorted({"protocol", "security"} & options.keys()):
        raise UserError(f"{settings.system}: job: {clash[0]} is set by partune: leave it out of the file")
    try:
        return kind(**defaults | job | fixed)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        text = str(error).partition(". Very likely this unexpected")[0].replace("Got unexpected", "unexpected")
        raise UserError(f"{settings.system}: {' '.join(text.split())}") from None
