"""Labels of validation rows: when rows have them, and what a model's are, against likelihoods by plain transformers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from partune.errors import UserError
from partune.finetune.scoring.base import NotFiniteError
from partune.finetune.scoring.row_labels import Labels, RowLabels, evident_labels, require_labels
from partune.trial import Status, Trial
from partune.trial.names import LIKELIHOODS, ROWS
from tests.support.lettered import examples_of
from tests.support.tiny import LABELS, make_tickets, write_jsonl


def saying(text: str) -> Any:
    """A tokenizer that decodes all tokens to one text."""
    return SimpleNamespace(decode=lambda tokens, skip_special_tokens: f" {text}")


def lettered(labels: str) -> list[tuple[str, str]]:
    return [(f"{number:03}", label) for number, label in enumerate(labels)]


def test_few_answers_are_labels_by_frequency() -> None:
    assert Labels.of(examples_of(lettered("xyxyxxyxzx")), 5) is None  # ten rows are too few for three labels
    labels = Labels.of(examples_of(lettered("xyxyxxyxzx" * 2)))
    assert labels is not None
    assert labels.answers == ((ord("x"),), (ord("y"),), (ord("z"),))
    assert labels.of_rows[:5].tolist() == [0, 1, 0, 1, 0]
    assert labels.select(np.array([1, 8])).of_rows.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (lettered("x" * 20), "all answers are the same"),
        (lettered("abcdefghij"), "10 rows have 10 different answers"),
        (lettered("abcabc" + "d"), "7 rows have 4 different answers"),
        ([("a", "x"), ("", "y")] * 10, "a row has no prompt, or more than one answer"),
    ],
    ids=["one", "many", "rare", "texts"],
)
def test_other_answers_are_no_labels(rows: list[tuple[str, str]], fault: str) -> None:
    labels = Labels.of(examples_of(rows))
    assert labels is None
    with pytest.raises(UserError) as caught:
        require_labels("rows.csv", "acc", examples_of(rows))
    assert str(caught.value) == (
        f"rows.csv: metric acc needs labels, but {fault}; rows with labels have a prompt and one of 2 to 100 different "
        "answers, with at least 2 rows for each on average; use `--metric loss`, or name a task (`--task`)"
    )


def test_several_answers_in_a_row_are_no_labels() -> None:
    examples = examples_of([("a", "xyz")] * 20)
    examples.trained[2::4] = False
    assert Labels.of(examples) is None


def test_other_rows_may_have_the_labels() -> None:
    labels = Labels.of(examples_of(lettered("xy" * 10)))
    assert labels is not None
    among = labels.among(examples_of(lettered("yyx")))
    assert among is not None
    assert among.of_rows.tolist() == [1 - labels.of_rows[0]] * 2 + [labels.of_rows[0]]
    assert labels.among(examples_of(lettered("yq"))) is None
    assert labels.named(saying("a")) == ["a (0)", "a (1)"]


def test_few_short_answers_are_evident_labels() -> None:
    examples = examples_of(lettered("xy" * 20))
    assert evident_labels(examples, saying("at most six words, as here")) is not None
    assert evident_labels(examples, saying("a sentence is rather an answer of another kind")) is None
    few = examples_of(lettered("xyz" * 5))
    assert evident_labels(few, saying("a")) is None  # 15 rows could be anything
    named = dataclasses.replace(few, reading={"layout": "label"})
    assert evident_labels(named, saying("the columns say that these are labels, whatever they are")) is not None


def test_the_likeliest_label_is_the_answer() -> None:
    examples = examples_of(lettered("xxyx" * 5))
    labels = Labels.of(examples)
    assert labels is not None
    rows = RowLabels(examples, labels, ["x", "y"])
    answers = [(-1.0, True), (-3.0, False), (-2.0, True), (-1.5, False), (-0.5, True), (-0.7, True)]
    values, arrays = rows.values(np.arange(3), answers)
    assert values["acc"].tolist() == [1.0, 0.0, 0.0]
    assert values["margin"] == pytest.approx([math.tanh(1), math.tanh(-0.25), math.tanh(-0.1)])
    assert arrays[LIKELIHOODS].shape == (3, 2)
    assert rows.recorded(np.arange(3))["gold"].tolist() == [0, 0, 1]
    with pytest.raises(NotFiniteError, match="validation row 2"):
        rows.values(np.arange(2), [(-1.0, True)] * 3 + [(math.nan, False)])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["packed", "peft"])
def test_labels_by_plain_likelihoods(make: Any, folders: dict[str, Path], tmp_path: Path, engine: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from partune.finetune.data import alpaca_prompt

    rows = make_tickets(60)
    path = write_jsonl(tmp_path / "tickets.jsonl", rows)
    tuner = make(data=path, task=None, validation={"split": 0.4}, run={"engine": engine})
    found = tuner.score_winner(Trial(0, {"learning_rate": 0.05}, seed=1), tmp_path / "adapter")
    assert found.status is Status.DONE, found.error
    assert tuner.summary["scoring"]["labels"] == [*LABELS]
    tokenizer = AutoTokenizer.from_pretrained(folders["llama"])
    plain = AutoModelForCausalLM.from_pretrained(folders["llama"])
    model = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    endings = [[*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for label in LABELS]
    for part in ("search", "verdict"):
        right = []
        for place, number in enumerate(found.items[f"{part}/{ROWS}/doc_id"]):
            prompt = tokenizer(alpaca_prompt(rows[number - 1]))["input_ids"]
            for label, ending in enumerate(endings):
                with torch.no_grad():
                    chances = model(torch.tensor([prompt + ending])).logits[0].log_softmax(-1)
                at = range(len(prompt) - 1, len(prompt) + len(ending) - 1)
                expected = sum(float(chances[i, token]) for i, token in zip(at, ending, strict=True))
                assert found.items[f"{part}/{ROWS}/loglikelihood"][place, label] == pytest.approx(expected, abs=1e-4)
            given = found.items[f"{part}/{ROWS}/loglikelihood"][place].argmax()
            right.append(LABELS[given] == rows[number - 1]["output"])
        score = found.score if part == "search" else found.scores["verdict"]
        assert score == pytest.approx(np.mean(right))
        assert found.items[f"{part}/{ROWS}/acc"].tolist() == right
