"""Say how rows differ that have other columns than the rest, in their file or in another one."""

from __future__ import annotations

from collections.abc import Sequence

from partune import config
from partune.errors import UserError
from partune.finetune.rows.columns import Layout, find_columns
from partune.finetune.rows.values import MissingFieldError, Places, Row, keys

# Formats whose rows are brought to one form, and so can be rewritten with the same names.
FAMILIES: tuple[set[Layout], ...] = (
    {"alpaca", "qa", "label"},
    {"chat", "sharegpt"},
    {"completion", "preference"},
    {"text"},
)


def difference(data: config.Data, rows: Sequence[Row], number: int, problem: MissingFieldError, places: Places) -> str:
    """Return the message on a row that lacks a field: if it has other columns than the rows with the field, both.

    Args:
        data: Section `data` of a study.
        rows: The rows as they were read.
        number: The number of the row, from 1.
        problem: What the row lacks.
        places: Where the rows come from.
    """
    row = rows[number - 1]
    having = [other for other, candidate in enumerate(rows, 1) if problem.column in candidate]
    if not having or set(row) <= set(rows[having[0] - 1]):
        return f"{places.of(number)}: {problem}"
    # Name the rows of the rarer kind first: they are the ones to correct.
    pair = (having[0], number) if 2 * len(having) < len(rows) else (number, having[0])
    one, other = (rows[each - 1] for each in pair)
    families = {_family(data, one), _family(data, other)}
    in_files = places.file(pair[0]) != places.file(pair[1])
    if len(families) > 1 and (None not in families or not set(one) & set(other)):
        remedy = "name files of one format" if in_files else "write the others to a file of their own"
        advice = f"a study reads rows of one format, so {remedy}"
    elif in_files:
        advice = (
            "rewrite each file with the usual names (`partune data FILE --write NEW.jsonl`, with `--columns` if its "
            "names are others), and name the new files"
        )
    else:
        advice = "give all rows the same columns"
    where = places.of(pair[1]) if in_files else f"row {pair[1]}"
    return f"{places.of(pair[0])}, has {keys(one)}, but {where}, has {keys(other)}: {advice}"


def _family(data: config.Data, row: Row) -> int | None:
    """Return the index of the family of a row's format by its own columns; None if they do not tell the format."""
    try:
        layout = find_columns(data, [row]).layout
    except UserError:
        return None
    return next(index for index, family in enumerate(FAMILIES) if layout in family)
