"""Print how training data are read, for `partune data`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from partune.errors import UserError
from partune.report.row_sentences import file_notes, length_notes, reading_notes, scored_notes, shortened
from partune.runtime.disk import write_whole
from partune.runtime.paths import as_path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from partune import config
    from partune.finetune.inspection import Inspection

TRAINED = "bold green"  # the style of text that is trained on
OPEN, CLOSE = "[[", "]]"  # marks around this text if the output has no colours
EXAMPLES = 3  # the number of rows shown of those that are also scored
ROWS_OF_PAGE = 20  # the smallest number of rows that a page shows


def show(
    data: config.Data,
    model: config.Model | None,
    count: int,
    console: Console | None = None,
    *,
    validation: config.Validation | None = None,
    test: config.Test | None = None,
    html: str | None = None,
) -> None:
    """Print the format of data, the first rows, the lengths, and what is repeated, empty, cut, not used or also scored.

    Args:
        data: Section `data` of a study.
        model: The base model, whose tokenizer counts the tokens; None to show the rows without it.
        count: The number of rows to show.
        console: The console to print to; standard output by default.
        validation: Section `validation`, with rows or tasks to look for in the data.
        test: Section `test`, with tasks to look for in the data.
        html: The path of the page to write; None for no page.

    Raises:
        UserError: The data, the tokenizer, the validation rows or a task cannot be read, or the page cannot be written.
    """
    from partune.finetune.inspection import inspect
    from partune.finetune.model import load_settings, load_tokenizer
    from partune.runtime.console import Console, text

    path = None if html is None else _new_page(html)
    tokenizer = None if model is None else load_tokenizer(model)
    settings = None if model is None else load_settings(model)
    found = inspect(data, tokenizer, max(count, ROWS_OF_PAGE) if path else count, validation, test, settings)
    console = console or Console(soft_wrap=True)
    for line in _page(found, validation, count, colours=console.is_terminal and not console.no_color):
        console.print(line)
    if path is not None:
        from partune.report.html.rows import page

        write_whole(path, page(found, data, None if model is None else model.path, validation))
        console.print(text(f"\nwrote {path}"))


def _new_page(name: str) -> Path:
    """Return the path of a page to write; raise UserError if it exists or its folder does not."""
    path = as_path(name)
    if os.path.lexists(path):
        raise UserError(f"{path} exists already and is never overwritten: choose another name with `--html`")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    return path


def _page(found: Inspection, validation: config.Validation | None, count: int, colours: bool) -> Iterator[Text]:
    from partune.runtime.console import text

    for note in (*reading_notes(found), *length_notes(found)):
        yield text(note)
    if found.validation is not None and validation is not None:
        for note in file_notes(found, found.validation, str(validation.data)):
            yield text(note)
    for note, rows in scored_notes(found.seen):
        yield text(note)
        for number, prompt in rows[:EXAMPLES]:
            yield text(f"  row {number}: {shortened(prompt)}")
    if found.texts and count:
        how = "in colour" if colours else f"between {OPEN} and {CLOSE}"
        yield text(f"\nAs the model reads the first of them; what is trained on is {how}:")
        for parts in found.texts[:count]:
            yield text("-" * 40)
            yield _marked(parts, colours)
    elif found.first and count and not found.lengths:
        yield text("\nThe first rows in the form in which they are trained on (with --model, as the model reads them):")
        for row in found.first[:count]:
            yield text(json.dumps(row, ensure_ascii=False))


def _marked(parts: Sequence[tuple[str, bool]], colours: bool) -> Text:
    """Return the text of an example with the parts that are trained on marked."""
    from partune.runtime.console import line

    pieces: list[str | tuple[str, str]] = []
    for part, trained in parts:
        if not trained:
            pieces.append(part)
        else:
            pieces.append((part, TRAINED) if colours else f"{OPEN}{part}{CLOSE}")
    return line(*pieces)
