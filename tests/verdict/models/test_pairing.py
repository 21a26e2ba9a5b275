"""Which items are pairs, what is compared on them, and what cannot be compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.verdict.models.pairing import Measure, NoMeanError, check_settings, choose, pair
from partune.verdict.models.samples import TaskSamples, read
from tests.support.harness_samples import Line, header, lines, write_run

ACC = Measure("acc", "none", True)


@pytest.fixture
def of(tmp_path: Path) -> Any:
    """Writes and reads a run of task t, whose results file has some more entries."""
    count = iter(range(100))

    def written(samples: list[Line], alone: bool = False, **more: Any) -> TaskSamples:
        data = {} if alone else header({"t": samples}) | more
        return read(write_run(tmp_path / str(next(count)), {"t": samples}, data)).tasks["t"]

    return written


def both(metric: str, other: str, values: list[Any], others: list[Any]) -> list[Line]:
    """Lines with two metrics."""
    return [
        first | {other: second[other], "metrics": [metric, other]}
        for first, second in zip(lines(values, metric), lines(others, other), strict=True)
    ]


# ----- what is compared


def test_the_metric_is_the_preferred_or_the_only_one(of: Any) -> None:
    assert choose([of(both("acc", "acc_norm", [1, 0], [0, 1]))]) == Measure("acc_norm", "none", True)
    assert choose([of(both("f1", "acc", [1, 0], [0, 1]))]) == ACC
    assert choose([of(lines([0.5, 1], "rouge"))]) == Measure("rouge", "none", True)
    two = of(both("rouge", "f1", [1, 0], [0, 1]))
    assert choose([two], "f1").metric == "f1"
    with pytest.raises(UserError, match=r"task t has several metrics: choose one with `--metric` \(rouge, f1\)"):
        choose([two])
    with pytest.raises(UserError, match="task t has no metric 'f2'; metrics that can be compared: rouge, f1"):
        choose([two], "f2")


def test_the_filter_is_the_only_one_or_none(of: Any) -> None:
    strict, loose = lines([1, 0], filter="strict"), lines([1, 1], filter="loose")
    assert choose([of(strict)], filter="other").filter == "strict"  # the filter of another task
    assert choose([of(strict + lines([1, 1]))]).filter == "none"
    assert choose([of(strict + loose)], filter="loose").filter == "loose"
    with pytest.raises(UserError, match=r"several filters: choose one with `--filter` \(strict, loose\)"):
        choose([of(strict + loose)])
    with pytest.raises(UserError, match="no filter 'lose'; did you mean \"loose\""):
        choose([of(strict + loose)], filter="lose")
    with pytest.raises(UserError, match="no filter in common: strict in"):
        choose([of(strict), of(loose)])


def test_the_direction_is_that_of_the_results_or_known(of: Any) -> None:
    lower = {"higher_is_better": {"t": {"ter": False}}}
    assert not choose([of(lines([1, 0], "ter"), **lower)]).higher
    with pytest.raises(UserError, match="says that a lower ter is better: leave out `--better`"):
        choose([of(lines([1, 0], "ter"), **lower)], higher=True)
    assert choose([of(lines([1, 0]), alone=True)]).higher
    with pytest.raises(UserError, match="not known whether a higher ter is better: say so with `--better`"):
        choose([of(lines([1, 0], "ter"), alone=True)])
    assert not choose([of(lines([1, 0], "ter"), alone=True)], higher=False).higher
    with pytest.raises(UserError, match="do not agree whether a higher ter is better"):
        choose([of(lines([1, 0], "ter"), **lower), of(lines([1, 0], "ter"))])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, math.nan, 0.0], "acc of doc_id 1 in .* is nan"),
        ([1.0, math.inf, 0.0], "acc of doc_id 1 in .* is inf"),
        ([1.0, "0.5", 0.0], "acc of doc_id 1 in .* is the text '0.5', not a number"),
        ([1.0, 10**400, 0.0], "acc of doc_id 1 in .* is 1000"),
    ],
)
def test_scores_that_are_no_numbers_are_refused(of: Any, values: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        choose([of(lines(values), alone=True)])
    assert not isinstance(caught.value, NoMeanError)
    assert str(caught.value).endswith("no metric of this task can be compared")


def test_truth_values_are_scores(of: Any) -> None:
    a, b = of(lines([True, False, True])), of(lines([1, 1, 0]))
    assert sorted(pair([a], [b], choose([a, b]))[0].a[0]) == [0, 1, 1]


def test_scores_that_are_no_means_are_refused(of: Any) -> None:
    for run in (
        of(lines([[-3.5, 2], [-4.5, 3]], "word_perplexity")),
        of(lines([["ref", "said"], ["ref", "said"]], "bleu")),
        of(lines([-3.5, -4.5], "perplexity"), alone=True),
        of(lines([999, 999], "bypass")),
        of(lines([-3.5, -4.5], "mine"), results={"t": {"mine,none": math.exp(4.0)}}),
        of(lines([None, None], "mine")),
    ):
        with pytest.raises(NoMeanError, match=r"not a mean over items.*; no metric of this task can be compared"):
            choose([run])
    with pytest.raises(UserError, match=r"bleu is not a mean over items.*; metrics that can be compared: acc"):
        choose([of(both("bleu", "acc", [["a", "b"], ["a", "c"]], [1, 0]))], "bleu")


def test_a_file_that_is_not_whole_is_refused(of: Any) -> None:
    run = of(lines([1, 0]), **{"n-samples": {"t": {"effective": 3}}})
    with pytest.raises(UserError, match=r"has only 2 of the 3 samples \(filter none\) that the results file counts"):
        choose([run])


# ----- how tasks were run


def test_other_questions_are_refused_and_other_circumstances_are_said(of: Any) -> None:
    one = of(lines([1, 0]))
    assert check_settings([one, of(lines([0, 1]))]) == []
    for more, message in (
        ({"versions": {"t": 2.0}}, "not the same in all runs: version 1.0 in .* and 2.0 in"),
        ({"n-shot": {"t": 5}}, "number of few-shot examples 0 in .* and 5 in"),
        ({"system_instruction_sha": "abc"}, "same system prompt"),
    ):
        with pytest.raises(UserError, match=message):
            check_settings([one, of(lines([0, 1]), **more)])
    for more, note in (
        ({"chat_template_sha": "abc"}, "The runs differ in the chat template."),
        ({"config": {"gen_kwargs": "temperature=1"}}, "The runs differ in the generation settings."),
        ({"lm_eval_version": "0.4.9"}, "The runs differ in the version of lm-evaluation-harness."),
    ):
        assert check_settings([one, of(lines([0, 1]), **more)]) == [note]
    odd = of(lines([0, 1]), chat_template_sha=[1], config=3, lm_eval_version={})
    assert len(check_settings([one, odd])) == 2
    assert "no results file with the same date" in check_settings([one, of(lines([0, 1]), alone=True)])[0]


# ----- pairs


def test_items_are_paired_by_their_documents_in_any_order(of: Any) -> None:
    rng = np.random.default_rng(0)
    scores, others = rng.integers(0, 2, (2, 40)).tolist()
    a, b = lines(scores), lines(others)
    plain, notes = pair([of(a)], [of(b)], ACC)
    assert notes == []
    assert sorted(zip(plain.a[0], plain.b[0], strict=True)) == sorted(zip(scores, others, strict=True))
    shuffled = [{**b[place], "doc_id": number} for number, place in enumerate(rng.permutation(40))]
    again, _ = pair([of(a[::-1])], [of(shuffled)], ACC)
    assert again.documents == plain.documents
    assert (again.a == plain.a).all()
    assert (again.b == plain.b).all()


def test_lower_scores_are_negated(of: Any) -> None:
    paired, _ = pair([of(lines([0.25, 0.5]))], [of(lines([1, 0.75]))], Measure("acc", "none", False))
    assert sorted(paired.a[0]) == [-0.5, -0.25]
    assert paired.bounded
    assert paired.span == 1.0
    wide, _ = pair([of(lines([2.0, 3.0]))], [of(lines([2.5, 1.0]))], ACC)
    assert not wide.bounded
    assert wide.span == 2.0


def test_items_of_one_side_are_counted(of: Any) -> None:
    a, b = of(lines([1] * 10)), of(lines([0] * 8, start=4))
    paired, notes = pair([a], [b], ACC)
    assert len(paired.documents) == 6
    assert [note.replace(str(run.path), "PATH") for note, run in zip(notes, (a, b), strict=True)] == [
        "t: 4 of the 10 items in PATH are left out, because they have no acc in some run.",
        "t: 2 of the 8 items in PATH are left out, because they have no acc in some run.",
    ]
    for other, said in ((lines([1, 1], start=20), "no item is"), (lines([1], start=9), "only one item is")):
        with pytest.raises(UserError, match=f"task t: {said} in all runs, by the hash of the document"):
            pair([a], [of(other)], ACC)


def test_copies_of_a_document_are_one_item_with_more_weight(of: Any) -> None:
    def with_copies(scores: list[float]) -> list[Line]:
        """The last two lines have the first one's document."""
        samples = lines(scores)
        return samples[:-2] + [{**samples[0], "doc_id": each["doc_id"], "acc": each["acc"]} for each in samples[-2:]]

    a, b = of(with_copies([1, 0, 1, 0, 1])), of(with_copies([0, 0, 0, 0, 0]))
    paired, notes = pair([a], [b], ACC)
    assert notes == ["t: documents that occur several times: 1. Each is one item, weighted by its number of copies."]
    assert sorted(paired.copies) == [1, 1, 3]
    assert paired.a[0][paired.copies == 3] == pytest.approx(2 / 3)
    fewer, notes = pair([a], [of(lines([0, 0, 0]))], ACC)
    assert len(fewer.documents) == 2
    assert "3 of the 5 items" in notes[0]


def test_other_targets_and_prompts_are_refused(of: Any) -> None:
    a, b = lines([1, 0, 1]), lines([1, 1, 0])
    b[1]["target_hash"] = "x"
    with pytest.raises(UserError, match=r"1 of 3 common items have another target in .* \(such as doc_id 1\)"):
        pair([of(a)], [of(b)], ACC)
    b = [each | {"prompt_hash": "x"} for each in lines([1, 1, 0])]
    with pytest.raises(UserError, match="3 of 3 common items have another prompt in"):
        pair([of(a)], [of(b)], ACC)
    with pytest.raises(UserError, match="another prompt"):
        pair([of(a), of(b)], [of(a)], ACC)
    assert len(pair([of(a)], [of(b, chat_template_sha="of another model")], ACC)[0].documents) == 3


def test_items_without_the_metric_are_left_out(of: Any) -> None:
    samples = lines([1, 0, 1, 1])
    del samples[2]["acc"]
    samples[2]["metrics"] = []
    paired, notes = pair([of(samples)], [of(lines([0, 0, 0, 0]))], ACC)
    assert len(paired.documents) == 3
    assert len(notes) == 2
