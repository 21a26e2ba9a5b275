"""Define a section of a report (a table with notes), and write sections as Markdown or to a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from partune.report.markdown import escaped
from partune.report.terminal import WIDTH
from partune.runtime.markdown import plain

if TYPE_CHECKING:
    from rich.console import Console


class Section(NamedTuple):
    """A table with a title and notes.

    Attributes:
        title: The title of the section.
        headers: The headings of the columns.
        rows: The cells of each row. A section without rows has only notes.
        notes: The sentences below the table.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def marked(section: Section) -> list[str]:
    """Return the lines of a section as Markdown."""
    rows = [escaped(section.headers, section.rows)] if section.rows else []
    return [f"## {section.title}", "", *rows, *(f"{plain(note)}\n" for note in section.notes)]


def tell(listed: Sequence[Section], console: Console | None = None) -> None:
    """Print sections to a console.

    Args:
        listed: The sections, in their order.
        console: The console to print to; standard output by default.
    """
    from rich.box import SIMPLE_HEAD

    from partune.runtime.console import Console, table, text

    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    for section in listed:
        console.print(text(section.title, "bold"))
        if section.rows:
            shown = table(section.headers, box=SIMPLE_HEAD)
            for column in shown.columns:
                column.overflow = "fold"
            for row in section.rows:
                shown.add_row(*map(text, row))
            console.print(shown)
        for note in section.notes:
            console.print(text(note))
        console.print()
