"""Show answers that base, defaults and winner generate to the same held-out items, side by side."""

from __future__ import annotations

from collections.abc import Mapping

from partune.record.record import Record
from partune.report.plain_data import Summary
from partune.runtime import rounding
from partune.trial import Status, Trial
from partune.trial.names import TEXTS, Baseline, ItemSet, ResultName, RunName

WIDEST = 300  # the number of characters of a prompt or answer that are shown
CAPTION = (
    "The first held-out items in the order of the data, so nobody has chosen them; the value in brackets is the item's "
    "score. Of a long prompt, the end is shown."
)


def answers_of(record: Record, judged: Trial | None) -> list[Summary]:
    """Return what base, defaults and winner answer to the first held-out items; an empty list if nothing is generated.

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
    baselines: Mapping[RunName, Trial] = record.anchors()
    runs = {"base": baselines.get(Baseline.BASE), "defaults": baselines.get(Baseline.DEFAULTS), "winner": judged}
    packed = {
        model: record.items("anchors", run.number)
        for model, run in runs.items()
        if run is not None and run.status is Status.DONE
    }
    found = []
    for sample in samples:
        models = {}
        metric = scoring.get("metrics", {}).get(sample["task"], scoring["metric"])
        names = [str(ResultName(ItemSet.VERDICT, sample["task"], what)) for what in ("doc_id", TEXTS, metric)]
        for model, items in packed.items():
            if all(name in items for name in names):
                numbers, texts, values = (items[name] for name in names)
                row = numbers.tolist().index(sample["item"])
                models[model] = {"answer": str(texts[row][0]), "value": float(values[row])}
        found.append({**sample, "models": models})
    return found


def answer_table(answers: list[Summary]) -> tuple[list[str], list[list[str]]] | None:
    """Return headings and rows of a table of answers; None if there are none.

    Args:
        answers: What `answers_of` returned.
    """
    models = list(dict.fromkeys(model for answer in answers for model in answer["models"]))
    if not models:
        return None
    rows = []
    for answer in answers:
        cells = [answer["models"].get(model) for model in models]
        shown = [
            "" if cell is None else f"{_short(cell['answer'])} ({rounding.number(cell['value'], 3)})" for cell in cells
        ]
        rows.append([str(answer["item"]), _short(answer["prompt"], end=True), _short(answer["right"]), *shown])
    return ["item", "prompt", "right answer", *models], rows


def _short(text: str, end: bool = False) -> str:
    """Return the beginning of a text, or its end, in one line."""
    line = " ".join(text.split())
    if len(line) <= WIDEST:
        return line
    return f"... {line[-WIDEST:]}" if end else f"{line[:WIDEST]} ..."
