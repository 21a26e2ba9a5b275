"""Show, side by side, what base, defaults and winner answer to the same held-out items."""

from __future__ import annotations

from partune.record.record import Record
from partune.report.plain_data import Summary
from partune.report.verdict_items import verdict_items
from partune.runtime import rounding
from partune.trial import Trial
from partune.trial.names import TEXTS, ItemSet, ResultName

WIDEST = 300  # the largest number of characters shown of a prompt or answer
CAPTION = (
    "The first held-out items in data order, not hand-picked. An item's score is in brackets. Long prompts show their "
    "end."
)


def answers_of(record: Record, judged: Trial | None) -> list[Summary]:
    """Return the answers of base, defaults and winner to the first held-out items; empty if no answers are generated.

    Args:
        record: The record of the study.
        judged: The run that scored the winner on the held-out items; None if there is none yet.

    Returns:
        For each item, "task", "item" (its number), "prompt", "right" (the right answer) and "models", which maps base,
        defaults and winner to their "answer" and its "value".
    """
    scoring = record.loaded.get("scoring", {})
    samples = scoring.get("samples", [])
    if not samples:
        return []
    items_of = verdict_items(record, judged)
    answers = []
    for sample in samples:
        models = {}
        metric = scoring.get("metrics", {}).get(sample["task"], scoring["metric"])
        names = [str(ResultName(ItemSet.VERDICT, sample["task"], what)) for what in ("doc_id", TEXTS, metric)]
        for model, items in items_of.items():
            if all(name in items for name in names):
                numbers, texts, values = (items[name] for name in names)
                row = numbers.tolist().index(sample["item"])
                models[model] = {"answer": str(texts[row][0]), "value": float(values[row])}
        answers.append({**sample, "models": models})
    return answers


def answer_table(answers: list[Summary]) -> tuple[list[str], list[list[str]]] | None:
    """Return headings and rows of a table of answers; None if there are none.

    The table has a column of tasks if the answers are to items of several tasks, because each task numbers its items.

    Args:
        answers: What `answers_of` returned.
    """
    models = list(dict.fromkeys(model for answer in answers for model in answer["models"]))
    if not models:
        return None
    several = len({answer["task"] for answer in answers}) > 1
    rows = []
    for answer in answers:
        cells = [answer["models"].get(model) for model in models]
        shown = [
            "" if cell is None else f"{_short(cell['answer'])} ({rounding.number(cell['value'], 3)})" for cell in cells
        ]
        item = [answer["task"]] * several + [str(answer["item"])]
        rows.append([*item, _short(answer["prompt"], end=True), _short(answer["right"]), *shown])
    return [*["task"] * several, "item", "prompt", "right answer", *models], rows


def _short(text: str, end: bool = False) -> str:
    """Return the beginning of a text, or its end, in one line; "(empty)" if it has no visible characters."""
    line = " ".join(text.split()) or "(empty)"
    if len(line) <= WIDEST:
        return line
    return f"... {line[-WIDEST:]}" if end else f"{line[:WIDEST]} ..."
