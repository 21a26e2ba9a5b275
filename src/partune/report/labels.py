"""Describe the labels that models give to validation rows: macro-F1, confusions, and labels that win whatever is asked.

All numbers are of the held-out items, which no optimiser saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from partune.config import names_of
from partune.record.record import Record
from partune.report.plain_data import Summary
from partune.runtime import rounding
from partune.trial import Status, Trial
from partune.trial.names import ROWS, Baseline, ItemSet, ResultName, RunName
from partune.verdict.winner import further_baselines

WINS = 0.9  # a label given to this share of the rows, or more, is one that wins whatever is asked
WIDEST = 20  # the largest number of labels whose confusions are shown as a table
CALLED = {"base": "The untouched base", "defaults": "The adapter with the defaults", "winner": "The winner"}
PAIRS = 10  # the number of confusions that are listed if there are more labels


def labels_of(record: Record, judged: Trial | None) -> Summary | None:
    """Return how base, defaults and winner label the held-out rows; None if the rows have no labels.

    Args:
        record: The record of the study.
        judged: The run that scored the winner on the held-out items; None if there is none yet.

    Returns:
        "names" are the labels; "models" maps base, baselines and winner to "macro_f1", to "confusion" (counts with a
        row per true label and a column per given label), and to "always" (the label that the model gives to almost
        all rows, with its share among the rows' own labels; None if there is none).
    """
    names = record.loaded.get("scoring", {}).get("labels")
    if names is None:
        return None
    baselines: Mapping[RunName, Trial] = record.anchors()
    first = next(iter(names_of(record.header.get("objective", {}))), "defaults")
    runs = {"base": baselines.get(Baseline.BASE), first: baselines.get(Baseline.DEFAULTS)}
    runs |= {name.name: baselines[name] for name in further_baselines(baselines)}
    runs["winner"] = judged
    models = {}
    for model, run in runs.items():
        if run is not None and run.status is Status.DONE and (items := record.items("anchors", run.number)):
            models[model] = _labelled(items, names)
    return {"names": list(names), "models": models}


def _labelled(items: Mapping[str, np.ndarray[Any, Any]], names: list[str]) -> Summary:
    from sklearn.metrics import confusion_matrix, f1_score

    gold, likelihoods = (items[str(ResultName(ItemSet.VERDICT, ROWS, what))] for what in ("gold", "loglikelihood"))
    given = likelihoods.argmax(axis=1)
    shares = np.bincount(given, minlength=len(names)) / len(given)
    most = int(shares.argmax())
    own = float((gold == most).mean())
    return {
        "macro_f1": float(f1_score(gold, given, average="macro", zero_division=0.0)),
        "confusion": confusion_matrix(gold, given, labels=range(len(names))).tolist(),
        "always": {"label": names[most], "given": float(shares[most]), "own": own}
        if shares[most] >= WINS > own
        else None,
    }


def label_notes(labels: Summary | None) -> list[str]:
    """Return the macro-F1 of base, defaults and winner, and which of them gives one label whatever is asked.

    Args:
        labels: What `labels_of` returned.
    """
    if labels is None or not labels["models"]:
        return []
    scores = ", ".join(f"{name} {rounding.number(model['macro_f1'], 3)}" for name, model in labels["models"].items())
    rows = np.array(next(iter(labels["models"].values()))["confusion"]).sum(axis=1)
    most = labels["names"][int(rows.argmax())]
    notes = [
        f"Macro-F1 over {len(labels['names'])} labels on the held-out items: {scores}. The label "
        f'"{most}" for every row would be right for {rows.max() / rows.sum():.0%} of them.'
    ]
    for name, model in labels["models"].items():
        if (always := model["always"]) is not None:
            called = CALLED.get(name, f"The adapter of the baseline {name}")
            notes.append(
                f'{called} gives the label "{always["label"]}" to {always["given"]:.0%} of the rows, whatever is '
                f"asked; {always['own']:.0%} of the rows have it."
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
        return [f"label, and what the {name} gives", *names], rows
    wrong = counts * (1 - np.eye(len(names), dtype=int))
    order = [np.unravel_index(flat, wrong.shape) for flat in np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]]
    listed = [[names[i], names[j], str(wrong[i, j])] for i, j in order if wrong[i, j]]
    return ["label", f"given by the {name}", "rows"], listed
