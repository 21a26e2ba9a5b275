"""Items and validation rows that stand in the training rows: what is found, what is not, and which rows are named."""

from __future__ import annotations

import random
from typing import Any

import pytest

from partune.finetune.contamination import RUN, SHORTEST, USUAL, Item, Seen, TrainingTexts, item_of
from partune.finetune.words import words

QUESTION = "Which part of the old pump fails first in winter?"  # ten words
LONG = " ".join(f"w{i}" for i in range(40))


def alpaca(instruction: str, input: str = "", output: str = "yes", **more: Any) -> dict[str, Any]:
    return {"instruction": instruction, "input": input, "output": output, "system": "", "history": [], **more}


def find(items: list[Item], *rows: dict[str, Any], form: str = "alpaca", whole: bool = False) -> Seen:
    return TrainingTexts(list(enumerate(rows, 1)), form).find("task", items, whole)


@pytest.mark.parametrize(
    "asked",
    [
        QUESTION,
        QUESTION.upper(),
        "  which part of\tthe old\n\npump fails -- first -- in winter",
        "Which part of the old pump fails first, in winter???",
    ],
)
def test_case_spaces_and_punctuation_do_not_hide_a_question(asked: str) -> None:
    found = find([Item("Question: " + asked + "\nAnswer:", (asked,))], alpaca("Why?"), alpaca(QUESTION))
    assert (found.items, found.same, found.alike) == (1, 1, 0)
    assert found.rows == ((2, "Question: " + asked + "\nAnswer:"),)


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("alpaca", alpaca("Answer the question.", QUESTION)),
        ("completion", {"prompt": QUESTION, "completion": " no"}),
        ("text", {"text": QUESTION}),
        (
            "chat",
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Hello."},
                    {"role": "assistant", "content": None, "tool_calls": [{}]},
                    {"role": "user", "content": QUESTION},
                    {"role": "assistant", "content": "The belt."},
                ],
                "untrained": [],
            },
        ),
    ],
)
def test_a_question_is_found_in_rows_of_each_form(form: str, row: dict[str, Any]) -> None:
    assert find([Item("Q: " + QUESTION, (QUESTION,))], row, form=form).same == 1
    assert find([Item("Q: another", ("another",))], row, form=form).rows == ()


def test_short_texts_within_prompts_tell_nothing_and_whole_prompts_do() -> None:
    short = " ".join(["why"] * (SHORTEST - 1))
    assert find([Item("the rest " + short, (short,))], alpaca(short)).same == 0
    assert find([Item("the rest " + short + " so", (short + " so",))], alpaca(short + " so")).same == 1
    assert find([Item("Why?", ())], alpaca("why")).same == 1
    assert find([Item("", ("",)), Item("?!", ("...",))], alpaca("", ""), alpaca("!")).same == 0


def test_rows_of_one_instruction_are_compared_by_their_whole_prompts() -> None:
    shared = "Say which of the eight steps of the work is at fault in the report."
    rows = [alpaca(shared, f"report {i}") for i in range(3)]
    other, same = (item_of(alpaca(shared, text), "alpaca") for text in ("report 9", "Report 2."))
    found = find([other, same], *rows, whole=True)
    assert (found.same, [number for number, _ in found.rows if number == 3]) == (1, [3])


@pytest.mark.parametrize(("length", "count"), [(RUN - 1, 0), (RUN, 1), (RUN + 5, 1)])
def test_a_run_of_words_is_found_wherever_it_stands(length: int, count: int) -> None:
    shared = " ".join(LONG.split()[7 : 7 + length])
    for row in (
        alpaca(f"a b {shared} c"),
        alpaca("why", "so", f"x {shared}, y"),
        alpaca("why", history=[["q", shared]]),
    ):
        found = find([Item(f"one two {shared} three")], alpaca("other"), row)
        assert (found.same, found.alike) == (0, count)
        assert [number for number, _ in found.rows] == [2] * count
        assert all(text in shared and len(text.split()) == RUN for _, text in found.rows)


def test_phrases_of_a_template_are_no_shared_run() -> None:
    rows = [alpaca(f"{LONG} {i}") for i in range(USUAL + 1)]
    assert find([Item(f"{LONG} item{i}") for i in range(USUAL)], *rows[:1]).alike == USUAL
    assert find([Item(f"{LONG} item{i}") for i in range(USUAL + 1)], *rows[:1]).alike == 0
    # A task of few items cannot have a phrase in many of them; one in most of them and in many rows is one too.
    few = [Item(f"{LONG} a"), Item(f"{LONG} b"), Item("c")]
    assert find(few, *rows[:USUAL]).alike == 2
    assert find(few, *rows).alike == 0
    assert find([*few, Item("d")], *rows).alike == 2


@pytest.mark.parametrize("times", [1, USUAL, USUAL + 1, 500])
def test_an_item_that_many_rows_repeat_is_found(times: int) -> None:
    others = [Item(f"question {i} on something else") for i in range(20)]
    rows = [alpaca("why"), *(alpaca(f"Case {i}. {LONG} Answer.") for i in range(times))]
    found = find([*others, Item(f"Question: {LONG} which")], *rows)
    assert (found.same, found.alike, found.rows[0][0]) == (0, 1, 2)
    assert find([Item(f"Question: {LONG} which")], *rows).alike == 1
    again = [Item(f"Question: {LONG} which")] * (USUAL + 1)  # an item that the task repeats is no phrase of a template
    assert find([*others, *again], *rows).alike == USUAL + 1


def test_instructions_that_rows_share_are_no_shared_run() -> None:
    rows = [alpaca(LONG, f"case {i}") for i in range(USUAL + 1)]
    item = [item_of(alpaca(LONG, "another case"), "alpaca"), item_of(alpaca("else"), "alpaca")]
    assert find(item, *rows, whole=True).alike == 0
    assert find(item, *rows[:USUAL], whole=True).alike == 1


def test_findings_agree_with_a_plain_search() -> None:
    """Random texts over few words: each pair of item and row is compared by strings."""
    rng = random.Random(0)
    letters = "abcdef"
    for _ in range(20):
        rows = [" ".join(rng.choices(letters, k=rng.randint(1, 24))) for _ in range(6)]
        asked = [
            rng.choice(rows) if rng.random() < 0.3 else " ".join(rng.choices(letters, k=rng.randint(1, 24)))
            for _ in range(6)
        ]
        asked += [f"z {text} z" for text in rows[:2]]
        same = {text for text in asked if text in rows}
        runs = {
            text
            for text in asked
            if any(
                f" {' '.join(text.split()[i : i + RUN])} " in f" {row} "
                for i in range(len(text.split()) - RUN + 1)
                for row in rows
            )
        }
        found = find([Item(text) for text in asked], *[alpaca(text) for text in rows])
        assert found.same == sum(text in same for text in asked)
        assert found.alike == sum(text in runs - same for text in asked)


@pytest.mark.parametrize("text", ["日本語の長い質問です", "naïve Größe", "Ω 42 — µ", "a" * 10_000, "1 2 3"])
def test_other_scripts_and_odd_texts_are_compared(text: str) -> None:
    assert find([Item(text)], alpaca(text.upper())).same == 1
    assert find([Item(text)], alpaca("no")).same == 0


def test_words_fold_case() -> None:
    assert words("STRASSE, straße") == ("strasse", "strasse")


def test_at_most_three_rows_are_recorded() -> None:
    rows = [alpaca(f"number {i} asks") for i in range(5)]
    found = find([Item(f"number {i} asks") for i in range(5)], *rows)
    assert found.recorded == {"what": "task", "items": 5, "same": 5, "alike": 0, "rows": [1, 2, 3]}


def test_a_shared_passage_is_found_in_scripts_without_spaces() -> None:
    passage = "下列哪一种泵最适合输送含有大量固体颗粒的高粘度浆料"
    other = "完全不同的内容，与上面的文字没有任何共同之处，只是长度相近而已"
    rows = TrainingTexts([(7, {"text": f"请回答以下考试题目：{passage}，并说明理由。"})], "text")
    found = rows.find("exam", [Item(f"问题：{passage}？"), Item(other)])
    assert (found.same, found.alike, found.rows[0][0]) == (0, 1, 7)
