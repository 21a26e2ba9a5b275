"""Print texts of any origin with Rich, so that nothing in them acts as markup or moves the cursor."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich import console
from rich.table import Column, Table
from rich.text import Text

from partune.runtime.terminal import Stream, visible

if TYPE_CHECKING:
    from rich.progress import Progress


class Console(console.Console):
    """A console on a standard stream.

    Args:
        file: The stream to write to; by default the current standard output.
        lenient: Whether to drop all further output after a failed write. A log does so, as it must not end a study.
        soft_wrap: Whether to leave long lines unbroken.
    """

    def __init__(self, file: TextIO | None = None, lenient: bool = False, soft_wrap: bool = False) -> None:
        stream = Stream(file or sys.stdout, lenient, styled=True)
        super().__init__(file=cast(TextIO, stream), markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)


def log_console(file: TextIO | None = None) -> Console:
    """Return a console for a log. If its stream is not a terminal, long lines are not broken."""
    stream = file or sys.stdout
    return Console(stream, lenient=True, soft_wrap=not stream.isatty())


def text(content: object, style: str = "") -> Text:
    """Return a text that Rich shows unchanged.

    Args:
        content: The object whose `str` is shown, with control characters written out.
        style: The name of a Rich style.
    """
    return Text(visible(content), style=style)


def line(*parts: str | tuple[str, str]) -> Text:
    """Return a line that joins its parts, each a text or a pair of a text and a style."""
    return Text.assemble(*(text(part) if isinstance(part, str) else text(*part) for part in parts))


def table(headers: Iterable[object], **options: Any) -> Table:
    """Return a table without rows.

    Args:
        headers: The headers of the columns.
        **options: Options of Rich's `Table`.
    """
    return Table(*(Column(text(header)) for header in headers), pad_edge=False, header_style="bold", **options)


def progress_bar(on: console.Console) -> Progress:
    """Return a progress bar with the number of finished steps, a description and the elapsed time."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    described = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), described, TimeElapsedColumn())
    return Progress(*columns, console=on, transient=True)
