"""Labels in the report: macro-F1, confusions, and a label that wins whatever is asked, against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from partune.report.labels import _labelled, confusions, label_notes
from partune.trial.names import ROWS

NAMES = ["billing", "login", "other"]


def items_of(gold: list[int], given: list[int], labels: int = 3) -> dict[str, Any]:
    """Per-item results in which the given label is the likeliest."""
    likelihoods = np.where(np.arange(labels) == np.array(given)[:, None], -1.0, -2.0)
    return {f"verdict/{ROWS}/gold": np.array(gold), f"verdict/{ROWS}/loglikelihood": likelihoods}


def test_macro_f1_and_confusions() -> None:
    gold, given = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2], [0, 0, 1, 1, 1, 2, 2, 0, 2, 2]
    found = _labelled(items_of(gold, given), NAMES)
    assert found["macro_f1"] == pytest.approx(f1_score(gold, given, average="macro"))
    assert found["confusion"] == [[2, 1, 0], [0, 2, 0], [1, 0, 4]]
    assert found["always"] is None
    labels = {"names": NAMES, "models": {"base": found, "winner": found}}
    (note,) = label_notes(labels)
    assert note.startswith("Macro-F1 over 3 labels on the held-out items: base 0.785, winner 0.785.")
    assert '"other" for every row would be right for 50% of them.' in note
    assert confusions(labels) == (
        ["label (columns: given by the winner)", *NAMES],
        [["billing", "2", "1", ""], ["login", "", "2", ""], ["other", "1", "", "4"]],
    )


def test_macro_f1_of_all_models_is_over_the_labels_that_occur() -> None:
    """No row has the label "other". F1 by hand, as twice the rows that are right / (rows with it + rows given it)."""
    gold = [0, 0, 0, 1, 1]
    perfect, worse = (_labelled(items_of(gold, given), NAMES) for given in (gold, [0, 0, 2, 1, 1]))
    other, never = (_labelled(items_of(gold, given), NAMES) for given in ([2] * 5, [0, 0, 1, 1, 2]))
    assert [model["macro_f1"] for model in (perfect, worse, other)] == [1.0, pytest.approx((4 / 5 + 4 / 4) / 2), 0.0]
    assert never["macro_f1"] == pytest.approx((4 / 5 + 2 / 4) / 2)
    (note,) = label_notes({"names": NAMES, "models": {"base": worse, "winner": perfect}})
    assert note.startswith("Macro-F1 over the 2 of 3 labels that occur in the held-out items: base 0.9, winner 1. ")


def test_a_label_that_wins_whatever_is_asked_is_said() -> None:
    always = _labelled(items_of([0, 1, 2, 0] * 5, [1] * 19 + [0]), NAMES)
    assert always["always"] == {"label": "login", "given": 0.95, "own": 0.25}
    notes = label_notes({"names": NAMES, "models": {"defaults": always}})
    assert notes[1] == (
        'The adapter with the defaults gives the label "login" to 95% of the rows, whatever is asked; 25% of the rows '
        "have it."
    )
    imbalanced = [1] * 19 + [0]
    assert _labelled(items_of(imbalanced, [1] * 20), NAMES)["always"] == {"label": "login", "given": 1.0, "own": 0.95}
    assert _labelled(items_of(imbalanced, imbalanced), NAMES)["always"] is None
    assert _labelled(items_of([1] * 20, [1] * 20), NAMES)["always"] is None  # there is nothing else to give


def test_many_labels_have_their_most_frequent_confusions_listed() -> None:
    names = [f"label {number}" for number in range(30)]
    gold = [*range(30), 3, 3, 3, 7]
    given = [*range(30), 4, 4, 5, 8]
    found = _labelled(items_of(gold, given, 30), names)
    headers, rows = confusions({"names": names, "models": {"winner": found}}) or ([], [])
    assert headers == ["label", "given by the winner", "rows"]
    assert rows == [["label 3", "label 4", "2"], ["label 3", "label 5", "1"], ["label 7", "label 8", "1"]]


def test_there_is_nothing_to_say_without_labels() -> None:
    assert (label_notes(None), confusions(None)) == ([], None)
    assert (label_notes({"names": NAMES, "models": {}}), confusions({"names": NAMES, "models": {}})) == ([], None)
