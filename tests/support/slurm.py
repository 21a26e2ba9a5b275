"""A SLURM of one node on this machine: munged, slurmctld and slurmd on loopback, for a test.

The node says that it has 64 cores and four GPUs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
DEVICES = ("null", "zero", "full", "random")  # that the node takes for its GPUs: only their numbers are of account
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=one NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=64 RealMemory=512000 Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs until the context ends; gives the folder of its files. Skips the test where SLURM is not installed."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"no SLURM on this machine: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("the SLURM of the tests is started by root")
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)  # short: a socket's path holds 107 characters
        folder.chmod(0o755)  # munged refuses a socket that others cannot reach
        configuration = _written(folder)
        monkeypatch.setenv("SLURM_CONF", str(configuration))
        for command in _daemons(folder):
            stack.enter_context(_running(command, folder))
        if not _idle(PATIENCE):
            logs = "".join(path.read_text(errors="replace")[-1000:] for path in sorted(folder.glob("*.log")))
            pytest.fail(f"SLURM is installed and does not start: {logs}")
        yield folder
        subprocess.run(["scancel", "--user=root"], check=False, timeout=PATIENCE)
        _until_empty(PATIENCE)


def jobs() -> list[str]:
    """The numbers of the jobs that wait, run or are ending."""
    listed = subprocess.run(
        ["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return listed.stdout.split()


def _written(folder: Path) -> Path:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    devices = "".join(f"NodeName=one Name=gpu File=/dev/{device}\n" for device in DEVICES)
    (folder / "gres.conf").write_text(devices)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, controller=_port(), daemon=_port()))
    return folder / "slurm.conf"


def _daemons(folder: Path) -> list[list[str]]:
    munge = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    return [
        ["munged", "--foreground", *(f"--{option}={folder / name}" for option, name in munge.items())],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-c", "-N", "one"],
    ]


@contextlib.contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    with open(folder / f"{command[0]}.output.log", "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _idle(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = subprocess.run(["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True, timeout=PATIENCE)
        if found.stdout.strip() == "idle":
            return True
        time.sleep(0.3)
    return False


def _until_empty(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while jobs() and time.monotonic() < deadline:
        time.sleep(0.3)


def _port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
