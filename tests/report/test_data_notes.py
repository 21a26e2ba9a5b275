"""What became of the data's rows is told where a study starts and in each form of its report."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from partune import Float, Int, Space, Study
from partune.cli.progress import Terminal
from partune.finetune.contamination import RUN, SHORTEST, USUAL
from partune.report import markdown, summary, terminal
from partune.report.data_notes import COMPARED, cut_notes, row_notes, seen_notes
from partune.report.facts import Facts
from partune.report.files import write
from tests.support.simulated import SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True))
COUNTS = {"rows": 20, "examples": 19, "tokens": 300, "empty": 0, "truncated": 0, "untrainable": 0}
CUT = {"empty": 1, "truncated": 3, "untrainable": 2, "cut_at": 256, "max_length": 512}
CUT_NOTES = (
    "1 row without any text is left out.",
    "3 training examples are cut at 256 tokens, the most that the base model reads (max_length is 512).",
    "2 training examples without a token to train on within 256 tokens are left out.",
)
NOTE = "12 rows have fields that are not used: [bold]tools, weight."


class OfRows(SimulatedTuning):
    @property
    def summary(self) -> Mapping[str, Any]:
        data = {**COUNTS, **CUT, "unused": {"[bold]tools": 12, "weight": 3}, "rows_with_unused": 12}
        scoring = {"metric": "acc", "items": {"search": 4}, "truncated": 5}
        return {"data": data, "scoring": scoring, "dtype": "fp32", "device": "cpu"}


def test_fields_that_are_not_used_and_rows_that_are_cut_are_told(tmp_path: Path) -> None:
    start, report = (Console(file=io.StringIO(), width=120, highlight=False, soft_wrap=True) for _ in range(2))
    study = Study(SPACE, OfRows(), "lhs", options={"size": 4}, directory=tmp_path / "s", watcher=Terminal(start)).run(4)
    terminal.show(summary.summarise(study.record), report)
    facts = Facts(study.record)
    told = [console.file.getvalue() for console in (start, report)]  # type: ignore[attr-defined]
    for text in (*told, write(facts).read_text(), markdown.markdown(facts).replace("\\", "")):
        for note in (NOTE, *CUT_NOTES, "5 texts of the scored items lose their beginning"):
            assert note in text


def test_each_count_has_its_sentence() -> None:
    counts = {"empty_answers": 2, "cut_by_template": 1, "endless_answers": 5, "answers_apart": 3, "unknown_tokens": 1}
    counts |= {"empty_prompts": 9, "same_as_rejected": 10, "unanswered": 11, "answers_first": 12}
    counts |= {"validation_twins": 4, "validation_prompts": 6, "validation_cut": 7, "validation_untrainable": 8}
    for name, count in counts.items():
        (note,) = row_notes({name: count})
        assert str(count) in note
        assert ("`partune data DATA --validation-data FILE`" in note) == (
            name in ("validation_twins", "validation_prompts")
        )
    assert len(row_notes(counts)) == 13
    assert sum("`partune data" in note for note in row_notes(counts)) == 1
    assert row_notes({**COUNTS, **dict.fromkeys(counts, 0)}) == []


def test_notes_on_validation_rows_name_their_file() -> None:
    file = {**COUNTS, **CUT, "name": "v.jsonl", "format": "chat", "empty_answers": 1, "other_answers": True}
    data = {**COUNTS, "format": "alpaca", "validation_file": file, "validation_cut": 3}
    assert row_notes(data) == [
        "v.jsonl: 1 answer is empty.",
        "v.jsonl: 1 row without any text is left out.",
        "v.jsonl: 3 validation rows are cut at 256 tokens, the most that the base model reads (max_length is 512).",
        "v.jsonl: 2 validation rows without a token to score within 256 tokens are left out.",
        "v.jsonl: These rows are chats, but the training rows are instructions with answers: the model is scored on "
        "another form of prompt than it is trained on.",
        "v.jsonl: Some answers are not among the training rows' labels, so these rows are not scored by labels.",
    ]


def test_the_limit_that_cuts_is_named() -> None:
    """Whether max_length cuts a row or the base model's context decides whether a larger max_length helps."""
    assert cut_notes({"truncated": 1, "cut_at": 1024, "max_length": 1024}) == [
        "1 training example is cut at max_length (1,024 tokens)."
    ]
    assert cut_notes({"truncated": 2}) == ["2 training examples are cut at max_length."]  # an older record
    data = {"truncated": 9, "cut_at": 256, "max_length": 512, "truncated_by_length": {"64": 40, "512": 9}}
    assert cut_notes(data) == [
        "max_length is searched. The number of training examples that are cut is 40 at 64 and 9 at 512 tokens."
    ]
    data = {"cut_at": 256, "max_length": 512, "validation_cut": 1, "validation_cut_at": 128}
    assert row_notes(data) == [
        "1 validation row is cut at 128 tokens, the most that the base model reads (max_length is 512)."
    ]


def test_examples_without_an_answer_are_no_matter_of_length() -> None:
    assert cut_notes({"untrainable": 3, "answerless": 1, "cut_at": 64, "max_length": 64}) == [
        "1 training example without any token to train on is left out.",
        "2 training examples without a token to train on within 64 tokens are left out.",
    ]
    (note,) = cut_notes({"untrainable": 3, "answerless": 3, "cut_at": 64, "max_length": 64})
    assert "within" not in note


def test_what_files_and_columns_were_taken_for_is_told() -> None:
    counts = {"layout": "qa", "fields": {"instruction": "Question", "output": "Answer"}, "files": 2}
    assert row_notes({**counts, "separators": ["semicolons", "tabs"]}) == [
        "2 files were read.",
        "The columns are separated by semicolons or tabs.",
        "The rows are read as questions with answers (instruction is Question, output is Answer).",
    ]
    assert row_notes({"layout": "alpaca", "fields": {"instruction": "instruction", "output": "response"}}) == [
        "Of the columns, output is response."
    ]
    assert row_notes({"layout": "preference", "fields": {"prompt": "prompt"}, "rejected": 1}) == [
        "The rows are read as preferences.",
        "The chosen answers are trained on; the 1 rejected answer is not used.",
    ]
    assert row_notes({"unread": ["test.csv"]}) == [
        "1 data file of the folder is not read: test.csv (--data-split chooses the split)."
    ]
    labels = [f"l{i}" for i in range(9)]
    assert row_notes({"layout": "label", "labels": labels})[-1] == (
        "The answers are 9 labels: l0, l1, l2, l3, l4, l5, l6, l7 and others."
    )
    assert row_notes({"layout": "chat", "fields": {"messages": "messages"}}) == []


def test_items_that_stand_in_the_training_rows_are_told() -> None:
    entry = {"what": "arc", "items": 1172, "same": 0, "alike": 0, "rows": []}
    assert seen_notes(entry) == ["None of the 1,172 items of arc occurs in the training rows."]
    (one,) = seen_notes({**entry, "same": 1, "rows": [7]})
    assert one.startswith("1 of the 1,172 items of arc asks what a training row asks (row 7): scores on such items")
    same, alike = row_notes({"seen": [{**entry, "same": 20, "alike": 2, "rows": [1, 5, 9]}]})
    assert same.startswith("20 of the 1,172 items of arc ask what a training row asks (such as rows 1, 5, 9): ")
    assert alike == "2 more share 13 words in a row with a training row: check whether they ask the same."
    (alone,) = seen_notes({**entry, "what": "validation rows", "alike": 1, "rows": [4]})
    assert alone.startswith(
        "1 of the 1,172 validation rows shares 13 words in a row with a training row (row 4): check"
    )
    for number in (USUAL, SHORTEST, RUN):
        assert str(number) in COMPARED
