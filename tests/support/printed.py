"""What a report prints in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from partune.report import terminal
from partune.report.plain_data import Summary


def printed(summary: Summary, width: int = 100) -> str:
    """Return the text of a study's report on a console of a width in columns."""
    console = Console(file=io.StringIO(), width=width, highlight=False, soft_wrap=True)
    terminal.show(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
