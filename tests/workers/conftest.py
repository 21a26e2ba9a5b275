"""Clusters, Dask's own commands and a batch system, for the tests of workers.

Dask is imported by the files of tests only. It would give its loggers handlers of their own if it were imported here,
before pytest captures logs, and a cluster that silences them would silence pytest's too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.dask_commands import dask_commands

if TYPE_CHECKING:
    from partune.workers.cluster import Cluster
    from tests.support.batch_system import System


def open_ports() -> set[int]:
    """The ports at which this process and those below it listen."""
    here = psutil.Process()
    everybody = [here, *here.children(recursive=True)]
    return {each.laddr.port for one in everybody for each in one.net_connections() if each.status == "LISTEN"}


@pytest.fixture(scope="module")
def others() -> set[int]:
    """The ports that were open before the cluster came, of servers that other files of tests share."""
    return open_ports()


@pytest.fixture(scope="module")
def two(others: set[int]) -> Iterator[Cluster]:
    """One cluster for the tests of a file that leave it alive."""
    from partune.workers import local

    with local.local(2) as workers:
        yield workers


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `dask` commands, and ends them with the test."""
    with dask_commands() as start:
        yield start


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Where every look asks the batch system, and the clock is `later`'s to move."""
    from partune.workers import certificates, jobs
    from tests.support.batch_system import SCRIPTS, System

    for name in ("jobs", "taken", "bin"):
        (tmp_path / name).mkdir()
    found = System(tmp_path)
    for name, text in SCRIPTS.items():
        found.script(name, text)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PLAYED", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "ASK", 0.0)
    monkeypatch.setattr(jobs, "LOOK", 3600.0)
    certificates.write_certificates(tmp_path / "tls")
    return found
