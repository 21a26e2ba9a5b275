"""Rich's console, for texts that are not ours: nothing in them is markup, and nothing in them moves the cursor."""

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
        file: The stream; by default what standard output is at this moment.
        lenient: Whether to go silent when the stream cannot be written: for a log, which must end no study.
        soft_wrap: Whether to leave lines as long as they are.
    """

    def __init__(self, file: TextIO | None = None, lenient: bool = False, soft_wrap: bool = False) -> None:
        stream = Stream(file or sys.stdout, lenient, styled=True)
        super().__init__(file=cast(TextIO, stream), markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)


def log_console(file: TextIO | None = None) -> Console:
    """Return a console for a log of what happens; where it is no terminal, a line stays one line."""
    stream = file or sys.stdout
    return Console(stream, lenient=True, soft_wrap=not stream.isatty())


def text(content: object, style: str = "") -> Text:
    """Return a text that Rich shows as it is.

    Args:
        content: Shown as `str` has it, with its control characters written out.
        style: Rich's name of a style.
    """
    return Text(visible(content), style=style)


def line(*parts: str | tuple[str, str]) -> Text:
    """Return a line that is put together from texts, and from pairs of a text and a style."""
    return Text.assemble(*(text(part) if isinstance(part, str) else text(*part) for part in parts))


def table(headers: Iterable[object], **options: Any) -> Table:
    """Return a table without rows.

    Args:
        headers: The heads of its columns.
        **options: Of Rich's `Table`.
    """
    return Table(*(Column(text(header)) for header in headers), pad_edge=False, header_style="bold", **options)


def progress_bar(on: console.Console) -> Progress:
    """Return a bar on a console that shows how much is done, a description and the time."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    described = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), described, TimeElapsedColumn())
    return Progress(*columns, console=on, transient=True)
