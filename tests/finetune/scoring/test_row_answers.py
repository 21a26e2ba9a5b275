"""Generated answers to validation rows: their metrics by rouge-score, users' functions, and both engines."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from partune import config
from partune.errors import UserError
from partune.finetune.data import Examples, tokenise
from partune.finetune.model import Base
from partune.finetune.scoring.base import Prompt, UndefinedScoreError
from partune.finetune.scoring.row_answers import Function, RowAnswers, end_mark
from partune.trial import Status, Trial
from partune.trial.names import ROWS
from tests.support.tiny import make_rows, make_tokenizer, write_jsonl

ALL = np.arange(4)


@pytest.fixture
def examples(base: Base, tmp_path: Path) -> Examples:
    rows = [
        {"prompt": f"{n}: ", "completion": text} for n, text in enumerate(["the pump", "Oil, oil!", "x", "ölig Öl"])
    ]
    return tokenise(config.Data(path=str(write_jsonl(tmp_path / "pairs.jsonl", rows))), base.tokenizer)


def test_metrics_by_their_definitions(base: Base, examples: Examples) -> None:
    answers = [" the pump\n", "oil water oil", "", "ÖL"]
    found = {metric: RowAnswers(examples, base, {}, metric) for metric in config.ANSWER_METRICS}
    values = {metric: rows.values(ALL, answers)[0] for metric, rows in found.items()}
    assert all(scored["exact_match"].tolist() == [1.0, 0.0, 0.0, 0.0] for scored in values.values())
    plain = RougeScorer(["rouge1", "rougeL"])
    for i, answer in enumerate(["the pump", "oil water oil"]):  # in ASCII, the words are those of rouge-score
        expected = plain.score(found["f1"].references[i], answer)
        assert values["f1"]["f1"][i] == expected["rouge1"].fmeasure
        assert values["rougeL"]["rougeL"][i] == expected["rougeL"].fmeasure
    assert values["f1"]["f1"][2:].tolist() == [0.0, pytest.approx(2 / 3)]
    assert found["f1"].values(ALL, answers)[1]["answer"].tolist() == [["the pump"], ["oil water oil"], [""], ["ÖL"]]
    assert found["f1"].recorded(ALL)["reference"].tolist() == ["the pump", "Oil, oil!", "x", "ölig Öl"]
    assert [found[metric].metrics for metric in config.ANSWER_METRICS] == [
        ("exact_match",),
        ("exact_match", "f1"),
        ("exact_match", "rougeL"),
    ]


def chats(base: Base, path: Path, template: str, *rows: list[dict[str, Any]]) -> Examples:
    data = config.Data(path=str(write_jsonl(path, [{"messages": row} for row in rows])), chat_template=template)
    return tokenise(data, base.tokenizer)


def said(*texts: str, weight: int = 1) -> list[dict[str, Any]]:
    return [
        {"role": "assistant" if i % 2 else "user", "content": text, **({"weight": weight} if i % 2 else {})}
        for i, text in enumerate(texts)
    ]


def test_answers_end_where_training_ends_them(base: Base, tmp_path: Path) -> None:
    """With the mark of the chat template, which the model's tokenizer may know as a token or not at all."""
    written = chats(
        base, tmp_path / "a.jsonl", "chatml", said("why?", "the pump."), said("what?", "red.", "and?", "oil.")
    )
    rows = RowAnswers(written, base, {"until": ["!"]})
    assert rows.references == ["the pump.", "oil."]
    for prompt in rows.requests:
        assert isinstance(prompt, Prompt)
        assert prompt.settings.until == ("!", "<|im_end|>")
        assert prompt.text.endswith("<|im_start|>assistant\n")
    own = dataclasses.replace(base, tokenizer=make_tokenizer())
    own.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    known = chats(own, tmp_path / "b.jsonl", "chatml", said("why?", "the pump."), said("what?", "oil."))
    assert RowAnswers(known, own, {}).references == ["the pump.", "oil."]
    assert end_mark(own, [known.example(i)[0].tolist() for i in range(2)]) == "<|im_end|>"
    assert end_mark(base, [[5, 6, 1], [7, 1]]) == ""  # the end of sequence


def test_rows_without_a_trained_answer_are_left_out_and_counted(base: Base, tmp_path: Path) -> None:
    untrained = said("why?", "the pump", weight=0)
    written = chats(base, tmp_path / "a.jsonl", "chatml", untrained, said("what?", "oil"), said("which?", "red"))
    rows = RowAnswers(written, base, {})
    assert rows.references == ["oil", "red"]
    assert rows.examples.numbers.tolist() == [2, 3]
    assert rows.examples.untrainable == 1


def test_the_digest_covers_what_a_function_reads(base: Base, examples: Examples) -> None:
    def made(rows: dict[int, Any], score: Callable[..., Any] = max) -> str:
        content = RowAnswers(examples, base, {}, "mine:f", Function("mine:f", score, rows)).content
        assert content is not None
        return content.digest

    rows = {n: {"prompt": f"{n - 1}: ", "tests": n} for n in range(1, 5)}
    assert made(rows) == made(dict(rows))
    assert made(rows) != made({**rows, 3: {"prompt": "2: ", "tests": 0}})
    assert made(rows) != made(rows, tokenise)
    assert RowAnswers(examples, base, {}).content is None
    assert RowAnswers(examples, base, {}, own_file=True).content is not None


def test_a_prompt_is_all_before_the_last_answer(base: Base, examples: Examples) -> None:
    rows = RowAnswers(examples, base, {"until": ["!"], "temperature": 0.7})
    for i in range(len(examples)):
        tokens, trained = examples.example(i)
        (prompt,) = rows.requests[rows.span(i)]
        assert isinstance(prompt, Prompt)
        assert prompt.tokens == tuple(tokens[: int(trained.argmax())])
        assert (prompt.settings.until, prompt.settings.temperature) == (("!",), 0.7)
    longest = int(max(trained.sum() for _, trained in map(examples.example, range(4))))
    assert prompt.settings.max_new_tokens == -(-longest * 5 // 4)
    answers = examples.trained.copy()
    answers[:] = True
    text = dataclasses.replace(examples, trained=answers)
    with pytest.raises(UserError, match="validation row 1 has no prompt to generate an answer to; use `--metric loss`"):
        RowAnswers(text, base, {})
    with pytest.raises(UserError, match="max_new_tokens must be less than the 192 tokens"):
        RowAnswers(examples, base, {"max_gen_toks": 192})


def function(found: Callable[..., Any]) -> Function:
    return Function("mine:score", found, {n: {"id": n} for n in range(1, 5)})


def test_a_function_is_given_rows_and_answers() -> None:
    numbers = np.array([2, 4])
    each = function(lambda row, answer: row["id"] + len(answer))
    assert each.values(numbers, ["ab", ""]).tolist() == [4.0, 4.0]

    def together(rows: list[Any], answers: list[str]) -> list[float]:
        return [row["id"] - len(answer) for row, answer in zip(rows, answers, strict=True)]

    assert function(together).values(numbers, ["ab", ""]).tolist() == [0.0, 4.0]
    assert function(lambda row, answer: answer == "ab").values(numbers, ["ab", ""]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda row, answer: 1 / 0, r"metric mine:score fails for row 2 \(ZeroDivisionError: division by zero\)"),
        (lambda row, answer: None, "metric mine:score returned None for row 2, not a finite number"),
        (lambda row, answer: float("nan"), "metric mine:score returned nan for row 2, not a finite number"),
        (lambda row, answer: float("inf"), "metric mine:score returned inf for row 2"),
        (lambda row, answer: "good", "metric mine:score returned 'good' for row 2"),
        (lambda rows, answers: [1.0], "metric mine:score returned 1 numbers for 2 rows: it must return one each"),
        (lambda rows, answers: 1.0, "metric mine:score must return a number per row, got 1.0"),
        (lambda rows, answers: {}["x"], r"metric mine:score fails for the 2 rows \(KeyError"),
        (lambda row, answer: sys.exit("enough"), r"fails for row 2 \(SystemExit: sys.exit\(enough\) was called, which"),
        (lambda row, answer: "0.5", "metric mine:score returned '0.5' for row 2"),
        (lambda row, answer: torch.ones(2), r"metric mine:score returned tensor\(\[1., 1.\]\) for row 2"),
        (lambda row, answer: np.ones(2), r"metric mine:score returned array\(\[1., 1.\]\) for row 2"),
        (lambda row, answer: 10**400, "metric mine:score returned 1000"),
        (lambda row, answer: {"score": 1}, "metric mine:score returned {'score': 1} for row 2"),
        (lambda row, answer: (1.0 for _ in "a"), "metric mine:score returned <generator object"),
        (
            lambda rows, answers: {2: 0.1, 4: 0.2},
            "metric mine:score must return a number per row, got {2: 0.1, 4:",
        ),
        (lambda rows, answers: {0.1, 0.2}, "metric mine:score must return a number per row, got {0."),
        (lambda rows, answers: (1 / (2 - n) for n in (1, 2)), r"fails for the 2 rows \(ZeroDivisionError"),
    ],
)
def test_a_faulty_function_is_one_clear_line(found: Callable[..., Any], message: str) -> None:
    with pytest.raises(UndefinedScoreError, match=message):
        function(found).values(np.array([2, 4]), ["ab", ""])


def test_numbers_of_any_kind_are_numbers() -> None:
    for value in (True, 1, np.float32(1), np.array([1.0]), torch.tensor(1.0), Fraction(1)):
        assert function(lambda row, answer, value=value: value).values(np.array([2]), [""]).tolist() == [1.0]
    assert function(lambda rows, answers: (1 for _ in rows)).values(np.array([2, 4]), ["", ""]).tolist() == [1.0, 1.0]


def test_a_function_that_changes_its_row_changes_nothing_else() -> None:
    found = function(lambda row, answer: row.pop("id"))
    for _ in range(2):
        assert found.values(np.array([2, 4]), ["", ""]).tolist() == [2.0, 4.0]


def test_a_function_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(3)
    (tmp_path / "judge_of_answers.py").write_text(
        "def good(row, answer):\n    return len(row['output'])\n\nwrong = 3\nasync def late(row, answer): return 1\n"
    )
    monkeypatch.chdir(tmp_path)
    found = Function.of("judge_of_answers:good", rows)
    assert found.values(np.array([1, 3]), ["", ""]).tolist() == [len(rows[i]["output"]) for i in (0, 2)]
    assert "def good" in found.source
    for name, message in (
        ("judge_of_answers:bad", "cannot load the metric judge_of_answers:bad"),
        ("nowhere_at_all:good", "cannot load the metric nowhere_at_all:good"),
        ("judge_of_answers:wrong", "must be a function of two arguments, a row and an answer"),
        ("judge_of_answers:late", "metric judge_of_answers:late is an async function; it must be an ordinary one"),
        ("os:getcwd", "must be a function of two arguments, a row and an answer"),
    ):
        with pytest.raises(UserError, match=message):
            Function.of(name, rows)


@pytest.mark.slow
def test_engines_generate_the_same_answers(make: Any, tmp_path: Path) -> None:
    """And a model that was trained with learning rate 0, or loaded from disk, gives them too."""
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(12, seed=5))
    found = {}
    for engine in ("packed", "peft"):
        validation = {"data": str(path), "metric": "f1", "max_new_tokens": 8, "temperature": 0.8}
        tuner = make(task=None, validation=validation, run={"engine": engine})
        trial = Trial(0, {"learning_rate": 0.05})
        adapter = tmp_path / engine
        found[engine] = tuner.evaluate(trial, adapter, {"search", "verdict"})
        assert found[engine].status is Status.DONE, found[engine].error
        assert tuner.disagreement(tuner.score_base(), tuner.score_zero(Trial(0, tuner.defaults))) is None
        assert tuner.disagreement(tuner.score_base(), found[engine]) is not None
        assert tuner.reload(trial, adapter, found[engine]).error is None
        assert tuner.summary["scoring"]["max_new_tokens"] == 8
    for part in ("search", "verdict"):
        for what in ("answer", "f1", "exact_match", "reference"):
            name = f"{part}/{ROWS}/{what}"
            assert found["packed"].items[name].tolist() == found["peft"].items[name].tolist()
    assert len(set(found["packed"].items[f"search/{ROWS}/answer"].ravel())) > 2
