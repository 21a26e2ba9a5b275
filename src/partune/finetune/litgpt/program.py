"""LitGPT's program: its steps as processes, which end with us, and what their logs say."""

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
    "install it in a virtual environment of its own "
    f"(python -m venv V; {extras.install_command('litgpt', 'V/bin/pip install')}) and give --litgpt V/bin/litgpt"
)


class StepError(TrialError):
    """A step of LitGPT that failed; says which, how, and the end of its log, in one line."""


@dataclass(frozen=True)
class Program:
    """LitGPT's command.

    Attributes:
        path: Absolute.
        environment: What its processes see.
    """

    path: str
    environment: Mapping[str, str]

    @classmethod
    def find(cls, command: str, environment: Mapping[str, str]) -> Program:
        """Return the program of a name or path; raise UserError where there is none.

        Args:
            command: Name or path.
            environment: What its processes are to see.
        """
        path = shutil.which(os.path.expanduser(command))
        if path is None:
            raise UserError(f'no LitGPT command "{command}": {INSTALL}')
        return cls(os.path.abspath(path), environment)

    def check(self) -> None:
        """Raise UserError where the program does not run, or lacks an argument that we give."""
        needed = {flag for flag in finetune_flags() if flag.startswith("--") and not flag.startswith("--data.")}
        with tempfile.TemporaryDirectory(prefix="partune-litgpt-") as folder:
            log = Path(folder) / "help.log"
            try:
                self.run("finetune_lora", ["--help"], log)
            except StepError as error:
                raise UserError(f"{self.path} does not run: {error}; {INSTALL}") from None
            known = set(re.findall(r"--[a-z][\w.]*", log.read_text(encoding="utf-8", errors="replace")))
        if missing := sorted(needed - known):
            raise UserError(f"{self.path} finetune_lora has no {missing[0]}, so is not LitGPT 0.5; {INSTALL}")

    def run(self, step: str, arguments: Sequence[str], log: Path, cwd: Path | None = None) -> float:
        """Run one step to its end.

        Whatever ends the wait, an interrupt too, ends the process and those that it started.

        Args:
            step: LitGPT's subcommand.
            arguments: Of the step.
            log: File for its output.
            cwd: Where it runs; None takes the log's folder.

        Returns:
            Seconds.

        Raises:
            StepError: It cannot be started, or does not exit with 0.
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
                    start_new_session=True,  # a group of its own, so that `_end` reaches its children too
                )
            except OSError as error:
                raise StepError(f"litgpt {step} cannot be started: {error.strerror}") from None
            try:
                status = process.wait()
            finally:
                _end(process)
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
            log_end = tail(log)
            memory = "out of memory: " if status == -signal.SIGKILL or "out of memory" in log_end.lower() else ""
            raise StepError(f"{memory}litgpt {step} {how}: {log_end or 'it said nothing'} (log: {log})")
        return time.perf_counter() - started


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs, and what it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log: Path, length: int = 300) -> str:
    """Return the end of a log in one line: its last lines with something in them, progress bars in their last state.

    Args:
        log: The file.
        length: Characters at most.
    """
    text = log.read_bytes().decode("utf-8", errors="replace")  # as it is: "\r" ends no line
    lines = [line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").split("\n")]
    joined = " ".join(" ".join(line.split()) for line in [line for line in lines if line][-3:])
    return joined if len(joined) <= length else f"...{joined[-length + 3 :]}"


def environment(device: str, threads: int | None) -> dict[str, str]:
    """Return what LitGPT's processes see: our environment without Python's own settings, and the device in sight.

    Args:
        device: A torch device (cpu, cuda, cuda:1), which is all that they are to see.
        threads: CPU threads; None takes torch's default.
    """
    # Ours point Python at our packages, and LitGPT needs another transformers than we do.
    seen = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    seen["TOKENIZERS_PARALLELISM"] = "false"
    if device == "cpu":
        seen["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        # Our numbers count the devices that we are shown; the program counts from the machine's own again.
        shown = [name for name in seen.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        index = int(device.removeprefix("cuda:"))
        seen["CUDA_VISIBLE_DEVICES"] = shown[index] if index < len(shown) else str(index)
    if threads is not None:
        seen["OMP_NUM_THREADS"] = seen["MKL_NUM_THREADS"] = str(threads)
    return seen
