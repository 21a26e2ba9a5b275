"""The command line, called in this process: each process of its own would load all libraries once more."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from partune.cli import main


def said(cwd: Path, *arguments: str, status: int = 0) -> str:
    """Return what a command prints, its messages included.

    Args:
        cwd: The folder it is called in.
        arguments: After `partune`.
        status: The exit status it has to have.
    """
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(output),
    ):
        found = main(arguments)
    assert found == status, output.getvalue()
    return output.getvalue()
