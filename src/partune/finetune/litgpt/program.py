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
from partune.finetune.litgpt.arguments import finetune_flags
from partune.runtime import extras

INSTALL = (
    "install it in a virtual environment of its own "
    f"(python -m venv V; {extras.command('litgpt', 'V/bin/pip install')}) and give --litgpt V/bin/litgpt"
)


class StepError(Exception):
    """A step of LitGPT that failed; says which, how, and the end of its log, in one line."""


@dataclass(frozen=True)
class Program:
    """LitGPT's command. path: absolute; environment: what its processes see."""

    path: str
    environment: Mapping[str, str]

    @classmethod
    def find(cls, command: str, environment: Mapping[str, str]) -> Program:
        """The program of a name or path; raises UserError where there is none."""
        found = shutil.which(os.path.expanduser(command))
        if found is None:
            raise UserError(f'no LitGPT command "{command}": {INSTALL}')
        return cls(os.path.abspath(found), environment)

    def check(self) -> None:
        """Raises UserError where the program does not run, or lacks an argument that we give."""
        needed = {each for each in finetune_flags() if each.startswith("--") and not each.startswith("--data.")}
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
        """Runs one step to its end, its output in `log`; returns seconds. Raises StepError unless it exits with 0.

        Whatever ends the wait, an interrupt too, ends the process and those that it started.
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
                    start_new_session=True,
                )
            except OSError as error:
                raise StepError(f"litgpt {step} cannot be started: {error.strerror}") from None
            try:
                status = process.wait()
            finally:
                _end(process)
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
            said = tail(log)
            memory = "out of memory: " if status == -signal.SIGKILL or "out of memory" in said.lower() else ""
            raise StepError(f"{memory}litgpt {step} {how}: {said or 'it said nothing'} (log: {log})")
        return time.perf_counter() - started


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that still runs, and what it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log: Path, length: int = 300) -> str:
    """The end of a log in one line: its last lines with something in them, progress bars in their last state."""
    text = log.read_bytes().decode("utf-8", errors="replace")  # as it is: "\r" ends no line
    lines = [line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").split("\n")]
    joined = " ".join(" ".join(line.split()) for line in [line for line in lines if line][-3:])
    return joined if len(joined) <= length else f"...{joined[-length + 3 :]}"


def environment(device: str, threads: int | None) -> dict[str, str]:
    """What LitGPT's processes see: ours without Python's own settings, the device in sight, CPU threads as given.

    device: a torch device, cpu, cuda or cuda:1, which is all that they shall see.
    """
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    own["TOKENIZERS_PARALLELISM"] = "false"
    if device == "cpu":
        own["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        seen = [each for each in own.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        index = int(device.removeprefix("cuda:"))
        own["CUDA_VISIBLE_DEVICES"] = seen[index] if index < len(seen) else str(index)
    if threads is not None:
        own["OMP_NUM_THREADS"] = own["MKL_NUM_THREADS"] = str(threads)
    return own
