"""Print how training data are read, for `partune data`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from partune.report.data_notes import row_notes
from partune.report.words import several

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from partune import config
    from partune.finetune.inspection import Inspection

TRAINED = "bold green"  # the style of text that is trained on
OPEN, CLOSE = "[[", "]]"  # its marks where there are no colours


def show(data: config.Data, model: config.Model | None, count: int, console: Console | None = None) -> None:
    """Print the format of data, the first rows, the lengths, and what is repeated, empty, cut or not used.

    Args:
        data: Section `data` of a study.
        model: The base model, whose tokenizer counts the tokens; None to show the rows without it.
        count: The number of rows to show.
        console: The console to print to; standard output by default.

    Raises:
        UserError: The data or the tokenizer cannot be read.
    """
    from partune.finetune.inspection import inspect
    from partune.finetune.model import load_tokenizer
    from partune.runtime.console import Console

    found = inspect(data, None if model is None else load_tokenizer(model), count)
    console = console or Console(soft_wrap=True)
    for line in _page(found, data, colours=console.is_terminal and not console.no_color):
        console.print(line)


def _page(found: Inspection, data: config.Data, colours: bool) -> Iterator[Text]:
    from partune.runtime.console import text

    fields = ", ".join(found.summary["fields"].values())
    yield text(f"{several(found.rows, 'row')}, read as {found.summary['layout']} (columns: {fields})")
    for note in row_notes(found.summary):
        yield text(note)
    if found.empty:
        yield text(f"{several(found.empty, 'row')} without any text: left out of the training.")
    if found.same_rows:
        yield text(f"{_repeating(found.same_rows)} an earlier row.")
    if found.same_prompts:
        yield text(f"{_repeating(found.same_prompts)} the prompt of an earlier row, with another answer.")
    if found.lengths:
        shortest, median, most, nearly, longest = found.lengths
        yield text(
            f"Tokens per example: {shortest} to {longest}, half have at most {median}, 90 % at most {most}, "
            f"99 % at most {nearly}."
        )
        cut = f"{several(found.cut, 'example')} {'is' if found.cut == 1 else 'are'}" if found.cut else "No example is"
        yield text(f"{cut} cut at max_length {data.max_length}.")
        if lost := found.summary["untrainable"]:
            yield text(f"{several(lost, 'example')} without a token to train on within it: left out.")
    if found.texts:
        how = "in colour" if colours else f"between {OPEN} and {CLOSE}"
        yield text(f"\nAs the model reads the first of them; what is trained on is {how}:")
        for parts in found.texts:
            yield text("-" * 40)
            yield _marked(parts, colours)
    elif found.first and not found.lengths:
        yield text("\nThe first rows in the form in which they are trained on (with --model, as the model reads them):")
        for row in found.first:
            yield text(json.dumps(row, ensure_ascii=False))


def _repeating(count: int) -> str:
    return f"{several(count, 'row')} {'repeats' if count == 1 else 'repeat'}"


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
