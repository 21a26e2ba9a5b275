"""What is said of two models: each sentence from a test, and what the tests leave out."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest

from partune.report.model_verdict import SHOWN, sentence, show, small_print, summarise, table
from partune.report.plain_data import Summary, as_json
from partune.runtime.console import Console
from partune.trial.names import ROWS
from partune.verdict.models.answers import Question, answers
from partune.verdict.models.compare import Model, ModelVerdict
from partune.verdict.models.pairing import Measure, Paired


def judged(
    *tasks: tuple[int, int, int], margin: float | None = None, runs: tuple[int, int] = (1, 1), higher: bool = True
) -> Summary:
    """A verdict on tasks with so many items won, lost and equal; each run has the same scores."""
    questions = []
    for number, (won, lost, equal) in enumerate(tasks):
        sides = [
            np.tile(np.repeat(kinds, [won, lost, equal]).astype(float), (count, 1))
            for kinds, count in zip(([1, 0, 1], [0, 1, 1]), runs, strict=True)
        ]
        if not higher:
            sides = [side - 1 for side in sides]
        documents = tuple(f"{number} {item}" for item in range(won + lost + equal))
        paired = Paired(f"t{number}", Measure("acc", "none", higher), documents, np.ones(len(documents)), *sides)
        questions.append(Question(paired.task, "task", [paired], [1.0]))
    return summarise(ModelVerdict(Model((), "one"), Model((), None), tuple(answers(questions, margin)), ("A note.",)))


@pytest.mark.parametrize(
    ("task", "margin", "relation", "beginning"),
    [
        ((30, 5, 65), None, "better", "A is BETTER than B on t0: acc gain +0.250 ± 0.054, 95 % interval +0."),
        ((5, 30, 65), None, "worse", "A is WORSE than B on t0: acc gain -0.250 ± 0.054, 95 % interval -0."),
        ((7, 5, 88), None, "open", "A is NOT SHOWN to be better or worse than B on t0: acc gain +0.020 ± 0.035, 95 %"),
        ((7, 5, 488), 0.05, "no worse", "A is NO WORSE than B on t0, WITHIN THE MARGIN OF 0.05 (p < 0.001 for the ma"),
        ((7, 5, 88), 0.01, "open", "A is NOT SHOWN to be better or worse than B on t0, nor to be no worse within the"),
        ((5, 30, 3965), 0.05, "worse", "A is WORSE than B on t0, but within the margin of 0.05 (p < 0.001 for the ma"),
        ((30, 5, 65), 0.01, "better", "A is BETTER than B on t0: acc gain +0.250 ± 0.054, 95 % interval +0."),
    ],
)
def test_a_sentence_says_what_was_shown(
    task: tuple[int, int, int], margin: float | None, relation: str, beginning: str
) -> None:
    (answer,) = judged(task, margin=margin)["answers"]
    assert answer["relation"] == relation
    assert answer["sentence"].replace("\u00a0", " ").startswith(beginning)
    assert answer["sentence"] == sentence(answer, margin)


def test_the_small_print_names_tests_and_what_they_leave_out() -> None:
    alone = small_print(judged((30, 5, 65)))
    assert alone[0].startswith("Tests, two-sided: McNemar's exact test. An answer needs p ≤ 0.05; what is not shown")
    assert alone[-1].startswith("This is about two models, not two recipes: training with another seed")
    assert len(alone) == 2
    several = small_print(judged((30, 5, 65), (3, 5, 65), margin=0.01))
    assert several[1] == (
        "Tests of the margin, one-sided: Gaffke's test of the items' differences. Their hypothesis is that A is worse "
        "by 0.01 or more."
    )
    assert several[2].startswith("All p-values except those under p are corrected after Holm for 2 answers")
    seeds = small_print(judged((30, 5, 65), runs=(3, 2)))
    assert seeds[-1] == "The error includes 3 runs of A and 2 runs of B, as runs that differ in their seed."
    assert "Behrens-Fisher test over runs and items, and sign flips, and Gaffke's test" in seeds[0]
    one = small_print(judged((30, 5, 65), runs=(1, 2)))
    assert one[-1].endswith(
        " as runs that differ in their seed. A is one model, so the error does not include its seed."
    )


def test_what_items_cannot_show_is_said() -> None:
    (few,) = [line for line in small_print(judged((5, 0, 0))) if "cannot" in line]
    assert few == "t0: 5 items cannot show a difference, whatever the scores, because p is at least 0.063."
    assert not [line for line in small_print(judged((6, 0, 0))) if "cannot" in line]
    assert [line for line in small_print(judged((6, 0, 0), (6, 0, 0))) if "cannot" in line]
    assert "t0: A and B have the same score on every item." in small_print(judged((0, 0, 9)))


def test_a_lower_score_may_be_better() -> None:
    verdict = judged((30, 5, 65), higher=False)
    assert "acc (lower is better) gain +0.25" in verdict["answers"][0]["sentence"]
    assert verdict["answers"][0]["scores"] == pytest.approx([0.05, 0.3])
    assert table(verdict).rows[0][1] == "acc (lower is better)"


@pytest.mark.parametrize("options", [{}, {"margin": 0.01}])
def test_the_table_has_a_row_per_answer(options: dict[str, Any]) -> None:
    verdict = judged((30, 5, 65), (1, 2, 3), **options)
    section = table(verdict)
    assert [len(row) for row in section.rows] == [len(section.headers)] * 2
    assert [row[-1] for row in section.rows] == [SHOWN["better"], SHOWN["open"]]
    assert section.notes[-1] == "A note."


def test_all_numbers_are_json_and_all_is_printed() -> None:
    verdict = judged((1, 2, 3), margin=0.01)
    assert json.loads(as_json(verdict)) == verdict
    stream = io.StringIO()
    show(verdict, Console(stream))
    printed = stream.getvalue()
    assert printed.startswith("A  (one)\nB \n\nA is NOT SHOWN")
    for note in small_print(verdict):
        assert note in printed


@pytest.mark.parametrize(
    ("metric", "task", "perplexities"),
    [("loss per word", "t", (9, 3)), ("loss", ROWS, (9, 3)), ("loss", "t", None), ("bits per byte", "t", None)],
)
def test_losses_come_with_perplexities(metric: str, task: str, perplexities: tuple[int, int] | None) -> None:
    sides = [np.full((1, 30), -math.log(value)) for value in (9, 3)]
    paired = Paired(task, Measure(metric, "none", False), tuple(map(str, range(30))), np.ones(30), *sides)
    found = answers([Question("wiki", "task", [paired], [1.0])], None)
    verdict = summarise(ModelVerdict(Model((), None), Model((), None), tuple(found)))
    assert verdict["answers"][0]["perplexities"] == (None if perplexities is None else pytest.approx([9, 3]))
    line = "wiki: the perplexity, exp(loss), is 9 for A and 3 for B."
    assert (line in small_print(verdict)) == (perplexities is not None)
