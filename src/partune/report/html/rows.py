"""Write a description of training data as one HTML file, for `partune data`, in the style of a study's report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from partune.demo import DIRECTORY
from partune.report.html.document import document, paragraph, table
from partune.report.row_sentences import file_notes, length_notes, names_of, reading_notes, scored_notes, shortened
from partune.report.words import several
from partune.runtime import rounding

if TYPE_CHECKING:
    from partune import config
    from partune.finetune.contamination import Seen
    from partune.finetune.inspection import Inspection

BARS = 20  # the largest number of bars in the histogram of lengths
MOST_SEEN = 50  # the largest number of rows per task that are shown because they are also scored
STEPS = (1, 2, 5)


def page(found: Inspection, data: config.Data, model: str | None, validation: config.Validation | None = None) -> str:
    """Return the text of the HTML file.

    Args:
        found: What is in the data.
        data: Section `data` of a study.
        model: The path or id of the base model; None if the rows were read without one.
        validation: Section `validation` with the file of validation rows; None if there is none.
    """
    sections = {"rows": ("What was read", "".join(map(paragraph, reading_notes(found))))}
    if found.lengths:
        text = "".join(map(paragraph, length_notes(found)))
        sections["lengths"] = ("Lengths", text + bars(found.counts, found.summary["cut_at"]))
    if found.validation is not None and validation is not None:
        notes = file_notes(found, found.validation, str(validation.data))
        sections["validation"] = ("Validation rows", "".join(map(paragraph, notes)))
    if found.seen:
        sections["scored"] = ("Training rows that are also scored", scored(found))
    if found.texts:
        title = f"The first {several(len(found.texts), 'example')}, as the model reads them"
        sections["examples"] = (title, examples(found.texts))
    elif found.first and not found.lengths:
        title = f"The first {several(len(found.first), 'row')}, in the form in which they are trained on"
        rows = "".join(f"<pre>{escape(json.dumps(row, ensure_ascii=False, indent=1))}</pre>" for row in found.first)
        sections["examples"] = (title, rows)
    name = names_of(data.path)
    if model == str(DIRECTORY / "model"):
        model = "the demo's model"
    with_model = "read without a model: no tokens are counted" if model is None else f"as {model} reads them"
    return document(
        f"{name}: training data",
        f"Training data {name}",
        f"{several(found.rows, 'row')}, {with_model}",
        sections,
        "Written by partune data. Nothing was trained.",
        {},
    )


def bars(counts: Mapping[int, int], cut_at: int) -> str:
    """Return a histogram of the numbers of tokens, which says in words how many examples are cut.

    Args:
        counts: The number of examples by their number of tokens.
        cut_at: The number of tokens to which examples are cut.
    """
    lowest, highest = min(counts), max(counts)
    # With a few very long examples in the range, all others would share one bar.
    end = min(highest, 2 * int(np.quantile(np.repeat(list(counts), list(counts.values())), 0.99)))
    width = bar_width(lowest, end)
    starts = list(range(lowest // width * width, end + 1, width))
    binned = dict.fromkeys(starts, 0)
    for tokens, count in counts.items():
        binned[min(tokens // width * width, starts[-1])] += count
    rows = []
    for start, count in binned.items():
        last = highest if start == starts[-1] else start + width - 1
        label = f"{start:,}" if last == start else f"{start:,} to {last:,}"
        cut = sum(each for tokens, each in counts.items() if start <= tokens <= last and tokens > cut_at)
        share = rounding.number(100 * count / max(binned.values()), 3)
        kind = " cut" if 0 < cut == count else ""
        fill = f'<div class="fill{kind}" style="width:{share}%"></div>' if count else ""
        beyond = f" ({'all' if cut == count else f'{cut:,}'} cut)" if cut else ""
        rows.append(
            f'<tr><th scope="row" class="n">{label}</th><td class="bar">{fill}</td><td>{count:,}{beyond}</td></tr>'
        )
    head = '<tr><th class="n">tokens</th><th></th><th>examples</th></tr>'
    return f'<table class="bars"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def bar_width(low: int, high: int) -> int:
    """Return the width of the bars: the smallest of 1, 2, 5, 10, 20, ... with which there are at most BARS.

    Args:
        low: The smallest value.
        high: The largest value.
    """
    for power in range(math.ceil(math.log10(high + 1)) + 1):
        for step in STEPS:
            width = int(step * 10**power)
            if high // width - low // width < BARS:
                return width
    return high + 1


def scored(found: Inspection) -> str:
    """Return the section of the validation rows and items that also occur among the rows."""
    notes = "".join(paragraph(note) for note, _ in scored_notes(found.seen))
    return notes + "".join(map(_seen, found.seen))


def _seen(entry: Seen) -> str:
    if not entry.rows:
        return ""
    shown = entry.rows[:MOST_SEEN]
    rows = [
        (number, "the same" if place < entry.same else "13 words", shortened(prompt))
        for place, (number, prompt) in enumerate(shown)
    ]
    more = len(entry.rows) - len(shown)
    left = paragraph(f"and {several(more, 'more item')}.", "soft") if more > 0 else ""
    return (
        f"<h3>{escape(entry.what)}</h3>{table(['training row', 'shares', 'item or words'], rows, numbers=(0,))}{left}"
    )


def examples(texts: Sequence[Sequence[tuple[str, bool]]]) -> str:
    """Return the texts of examples, with the parts that are trained on marked.

    Args:
        texts: For each example, the parts of its text, and whether each part is trained on.
    """
    legend = '<p>Text with <mark class="trained">this mark</mark> is trained on. The model only reads the rest.</p>'
    shown = "".join(f'<pre class="example">{"".join(map(_part, parts))}</pre>' for parts in texts)
    return legend + shown


def _part(part: tuple[str, bool]) -> str:
    text, trained = part
    return f'<mark class="trained">{escape(text)}</mark>' if trained else escape(text)
