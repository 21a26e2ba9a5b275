"""Rich's console, given texts that are not ours: nothing in them is markup, and nothing in them moves the cursor."""

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
        file: The stream; standard output as it is now, where none is given.
        lenient: Whether it goes silent where the stream cannot be written: for a log, which must end no study.
        soft_wrap: Whether lines are left as long as they are.
    """

    def __init__(self, file: TextIO | None = None, lenient: bool = False, soft_wrap: bool = False) -> None:
        stream = Stream(file or sys.stdout, lenient, styled=True)
        super().__init__(file=cast(TextIO, stream), markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)


def log(file: TextIO | None = None) -> Console:
    """Return a console for what happens: a line stays a line where nobody watches."""
    stream = file or sys.stdout
    return Console(stream, lenient=True, soft_wrap=not stream.isatty())


def text(content: object, style: str = "") -> Text:
    """Return a text that Rich shows as it is."""
    return Text(visible(content), style=style)


def line(*parts: str | tuple[str, str]) -> Text:
    """Return a line of texts, and of (text, style)."""
    return Text.assemble(*(text(part) if isinstance(part, str) else text(*part) for part in parts))


def table(headers: Iterable[object], **options: Any) -> Table:
    """Return a table without rows; options: of Rich's."""
    return Table(*(Column(text(header)) for header in headers), pad_edge=False, header_style="bold", **options)


def bar(on: console.Console) -> Progress:
    """Return a bar with the number of what is done, a description and the time, drawn on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    described = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), described, TimeElapsedColumn())
    return Progress(*columns, console=on, transient=True)
