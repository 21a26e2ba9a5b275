"""Commands, run in this process as a shell would run them."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

from partune.cli import main
from tests.support.waiting import PATIENCE

BRANIN = ("tune", "--objective", "branin", "--algorithm", "soo", "--budget", "9", "--name", "b")


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command and return its exit status, output and errors."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(arguments)
    return status, output.getvalue(), errors.getvalue()


def branin(*flags: str) -> tuple[int, str, str]:
    """Begin a study of a function, runs/b, with more flags."""
    return run(*BRANIN, *flags)


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a new interpreter has loaded after some code."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=PATIENCE)
    return {name.partition(".")[0] for name in done.stdout.splitlines()}
