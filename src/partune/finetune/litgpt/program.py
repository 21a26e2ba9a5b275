"""Find LitGPT's command, run its steps as child processes, and report the end of a failed step's log."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partune.errors import UserError
from partune.finetune.failures import TrialError
from partune.finetune.litgpt.arguments import finetune_flags
from partune.runtime import extras

INSTALL = (
    "install it in its own virtual environment "
    f"(`python -m venv V; {extras.install_command('litgpt', 'V/bin/pip install')}`) and add `--litgpt V/bin/litgpt`"
)


class StepError(TrialError):
    """A step of LitGPT failed; the message names the step, the reason and the end of its log, in one line."""


@dataclass(frozen=True)
class Program:
    """LitGPT's command.

    Attributes:
        path: The absolute path of the command.
        environment: The environment variables of LitGPT's processes.
    """

    path: str
    environment: Mapping[str, str]

    @classmethod
    def find(cls, command: str, environment: Mapping[str, str]) -> Program:
        """Return the program with a name or path; raise UserError if it is not found.

        Args:
            command: The name or path of LitGPT's command.
            environment: The environment variables for its processes.
        """
        path = shutil.which(os.path.expanduser(command))
        if path is None:
            raise UserError(f'no LitGPT command "{command}": {INSTALL}')
        return cls(os.path.abspath(path), environment)

    def check(self) -> None:
        """Raise UserError if the program does not run, or lacks a flag that partune uses."""
        needed = {word for word in finetune_flags() if word.startswith("--") and not word.startswith("--data.")}
        with tempfile.TemporaryDirectory(prefix="partune-litgpt-") as folder:
            log = Path(folder) / "help.log"
            try:
                self.run("finetune_lora", ["--help"], log)
            except StepError as error:
                raise UserError(f"{self.path} does not run: {error}; {INSTALL}") from None
            known = set(re.findall(r"--[a-z][\w.]*", log.read_text(encoding="utf-8", errors="replace")))
        if missing := sorted(needed - known):
            raise UserError(f"`{self.path} finetune_lora` has no flag {missing[0]}, so it is not LitGPT 0.5; {INSTALL}")

    def run(self, step: str, arguments: Sequence[str], log: Path, cwd: Path | None = None) -> float:
        """Run one step and wait until it exits.

        If the wait is interrupted, the process and its children are killed.

        Args:
            step: LitGPT's subcommand.
            arguments: The arguments of the subcommand.
            log: The file for its output.
            cwd: The working directory; None means the folder of the log.

        Returns:
            The duration in seconds.

        Raises:
            StepError: The step cannot be started, or its exit code is not 0.
        """
        started = time.perf_counter()
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    [self.path, step, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd or log.parent,
                    env=dict(self.environment),
                    start_new_session=True,  # a new process group, so that `_kill` reaches the children too
                )
            except OSError as error:
                raise StepError(f"litgpt {step} cannot be started: {error.strerror}") from None
            try:
                status = process.wait()
            finally:
                _kill(process)
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
            output_end = tail(log)
            memory = "out of memory: " if status == -signal.SIGKILL or "out of memory" in output_end.lower() else ""
            raise StepError(f"{memory}litgpt {step} {how}: {output_end or 'it printed nothing'} (log: {log})")
        return time.perf_counter() - started


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, if it is still running."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log: Path, length: int = 300) -> str:
    r"""Return the last three lines of a log that are not empty, joined into one line.

    A progress bar overwrites its line with "\r"; only its last state is kept.

    Args:
        log: The file.
        length: The largest number of characters to return.
    """
    text = log.read_bytes().decode("utf-8", errors="replace")  # read_text would turn "\r" into a line break
    lines = [line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").split("\n")]
    joined = " ".join(" ".join(line.split()) for line in [line for line in lines if line][-3:])
    return joined if len(joined) <= length else f"...{joined[-length + 3 :]}"


def environment(device: str, threads: int | None) -> dict[str, str]:
    """Return the environment variables for LitGPT's processes.

    Args:
        device: The only torch device that the processes may see: cpu, cuda or, for example, cuda:1.
        threads: The number of CPU threads; None keeps torch's default.
    """
    # PYTHONPATH and PYTHONHOME could make LitGPT import partune's version of transformers, but LitGPT needs another.
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables["TOKENIZERS_PARALLELISM"] = "false"
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        # The index counts the devices visible to this process, but CUDA_VISIBLE_DEVICES counts those of the machine.
        visible = [name for name in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        index = int(device.removeprefix("cuda:"))
        variables["CUDA_VISIBLE_DEVICES"] = visible[index] if index < len(visible) else str(index)
    if threads is not None:
        variables["OMP_NUM_THREADS"] = variables["MKL_NUM_THREADS"] = str(threads)
    return variables
