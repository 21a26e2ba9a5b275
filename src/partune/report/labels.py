"""Describe the labels that models give to rows: macro-F1, confusions, and a label given to almost all rows.

All numbers are for the held-out items, which no optimiser saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from partune.record.record import Record
from partune.report.plain_data import Summary
from partune.report.verdict_items import verdict_items
from partune.runtime import rounding
from partune.trial import Trial
from partune.trial.names import ROWS, ItemSet, ResultName

WINS = 0.9  # a model gives one label whatever is asked if it gives it to this share of the rows with other labels
WIDEST = 20  # the largest number of labels whose confusions are shown as a table
CALLED = {"base": "The untouched base", "defaults": "The adapter with the defaults", "winner": "The winner"}
PAIRS = 10  # the number of confusions that are listed if there are more than WIDEST labels


def labels_of(record: Record, judged: Trial | None) -> Summary | None:
    """Return how base, defaults and winner label the held-out rows; None if the rows have no labels.

    Args:
        record: The record of the study.
        judged: The run that scored the winner on the held-out items; None if there is none yet.

    Returns:
        "names" are the labels; "models" maps base, baselines and winner to their "macro_f1" (the mean over the labels
        that occur in the rows), to "confusion" (counts with a row per true label and a column per given label), and to
        "always" (the label that the model gives to almost all rows, with its share among the rows' own labels; None if
        there is none).
    """
    names = record.loaded.get("scoring", {}).get("labels")
    if names is None:
        return None
    models = {model: _labelled(items, names) for model, items in verdict_items(record, judged).items()}
    return {"names": list(names), "models": models}


def _labelled(items: Mapping[str, np.ndarray[Any, Any]], names: list[str]) -> Summary:
    """Return macro-F1, confusions and the label given to almost all rows, from one model's per-item results."""
    from sklearn.metrics import confusion_matrix, f1_score

    gold, likelihoods = (items[str(ResultName(ItemSet.VERDICT, ROWS, what))] for what in ("gold", "loglikelihood"))
    given = likelihoods.argmax(axis=1)
    shares = np.bincount(given, minlength=len(names)) / len(given)
    most = int(shares.argmax())
    own, others = float((gold == most).mean()), given[gold != most]
    return {
        # The mean is over the labels that occur in the rows. By default, it would include labels that only the model
        # gives, and the means of base, defaults and winner would be over different labels.
        "macro_f1": float(f1_score(gold, given, labels=np.unique(gold), average="macro", zero_division=0.0)),
        "confusion": confusion_matrix(gold, given, labels=range(len(names))).tolist(),
        "always": {"label": names[most], "given": float(shares[most]), "own": own}
        if len(others) and shares[most] >= WINS and (others == most).mean() >= WINS
        else None,
    }


def label_notes(labels: Summary | None) -> list[str]:
    """Return sentences on the macro-F1 of base, defaults and winner, and on those that give one label to almost all.

    Args:
        labels: What `labels_of` returned.
    """
    if labels is None or not labels["models"]:
        return []
    scores = ", ".join(f"{name} {rounding.number(model['macro_f1'], 3)}" for name, model in labels["models"].items())
    rows = np.array(next(iter(labels["models"].values()))["confusion"]).sum(axis=1)
    most = labels["names"][int(rows.argmax())]
    count, total = int((rows > 0).sum()), len(labels["names"])
    over = f"{total} labels on" if count == total else f"the {count} of {total} labels that occur in"
    notes = [
        f'Macro-F1 over {over} the held-out items: {scores}. The label "{most}" '
        f"for every row would be right for {rounding.percent(rows.max() / rows.sum())} of them."
    ]
    for name, model in labels["models"].items():
        if (always := model["always"]) is not None:
            called = CALLED.get(name, f"The adapter of the baseline {name}")
            notes.append(
                f'{called} gives the label "{always["label"]}" to {rounding.percent(always["given"])} of the rows, '
                f"whatever is asked; {rounding.percent(always['own'])} of the rows have it."
            )
    return notes


def confusions(labels: Summary | None) -> tuple[list[str], list[list[str]]] | None:
    """Return headings and rows of a table of the confusions of the winner, or of the defaults before there is a winner.

    With many labels, the table lists the most frequent confusions.

    Args:
        labels: What `labels_of` returned.
    """
    if labels is None or not labels["models"]:
        return None
    models = list(labels["models"])  # the base first, then the baselines in their order
    name = next(name for name in ("winner", *models[1:2], "base") if name in models)
    counts, names = np.array(labels["models"][name]["confusion"]), labels["names"]
    if len(names) <= WIDEST:
        cells = [[str(count) if count else "" for count in row] for row in counts]
        rows = [[label, *row] for label, row in zip(names, cells, strict=True)]
        return [f"label (columns: given by the {name})", *names], rows
    wrong = counts * (1 - np.eye(len(names), dtype=int))
    order = [np.unravel_index(flat, wrong.shape) for flat in np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]]
    listed = [[names[i], names[j], str(wrong[i, j])] for i, j in order if wrong[i, j]]
    return ["label", f"given by the {name}", "rows"], listed
