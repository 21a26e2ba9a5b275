"""The loss of validation rows, against transformers' Trainer on PEFT's model, and how the rows are held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune import config
from partune.errors import UserError
from partune.finetune.data import Examples, tokenise
from partune.finetune.model import Base
from partune.finetune.scoring.base import NotFiniteError
from partune.finetune.scoring.heldout import HeldOutRows, drawn, grouped, held_out, stretches
from partune.runtime.isolation import quiet
from partune.trial import Status, Trial
from partune.trial.names import ROWS
from partune.verdict.paired import compare
from partune.verdict.winner import on_verdict_items
from tests.support.tiny import make_rows, write_jsonl

TEMPLATE = "{% for m in messages %}{{ '<s>' + m.role + ' ' + m.content + '</s>' }}{% endfor %}"
LOSS = f"{ROWS}/loss"


def examples_of(rows: list[tuple[str, str]]) -> Examples:
    """Examples of prompts and answers, one token a letter."""
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    return Examples(
        tokens=np.array([ord(letter) for prompt, answer in rows for letter in prompt + answer], np.int32),
        trained=np.concatenate([np.arange(len(p) + len(a)) >= max(1, len(p)) for p, a in rows]),
        starts=np.cumsum([0, *lengths]),
        numbers=np.arange(1, len(rows) + 1),
        rows=len(rows),
    )


def chats(count: int) -> list[dict[str, Any]]:
    """Conversations of one to three answers."""
    rows = make_rows(3 * count)
    return [
        {
            "messages": [
                {"role": role, "content": row[field]}
                for row in rows[3 * i : 3 * i + 1 + i % 3]
                for role, field in (("user", "instruction"), ("assistant", "output"))
            ]
        }
        for i in range(count)
    ]


def trainers_loss(model: Path, adapter: Path | None, examples: Examples, indices: np.ndarray, folder: Path) -> float:
    """The loss that transformers' Trainer finds for rows, all in one batch, with PEFT's model from disk."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    ids, attention, labels = examples.batch(indices)
    rows = [{"input_ids": i, "attention_mask": a, "labels": n} for i, a, n in zip(ids, attention, labels, strict=True)]
    options = TrainingArguments(
        str(folder), per_device_eval_batch_size=len(rows), use_cpu=True, report_to="none", disable_tqdm=True
    )
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(model)
        adapted = base if adapter is None else PeftModel.from_pretrained(base, str(adapter))
        return float(Trainer(adapted, options, eval_dataset=rows).evaluate()["eval_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["packed", "peft"])
@pytest.mark.parametrize("form", ["alpaca", "chat"])
def test_the_score_is_minus_the_trainers_loss(
    make: Any, folders: dict[str, Path], tmp_path: Path, engine: str, form: str
) -> None:
    rows = make_rows(60) if form == "alpaca" else chats(60)
    data: dict[str, Any] = {"path": str(write_jsonl(tmp_path / "rows.jsonl", rows))}
    if form == "chat":
        data["chat_template"] = TEMPLATE
    tuner = make(data=data, task=None, validation={"split": 0.3}, run={"engine": engine})
    trial = Trial(0, {"learning_rate": 0.05, "lora_r": 4}, seed=1)
    found = tuner.score_winner(trial, tmp_path / "adapter")
    assert found.status is Status.DONE, found.error
    task = tuner.engine.materials.scorer.tasks[0]
    if form == "chat":
        assert any(len(task.requests[task.span(i)]) > 1 for i in range(len(task)))
    for part in ("search", "verdict"):
        numbers = found.items[f"{part}/{ROWS}/doc_id"]
        indices = np.flatnonzero(np.isin(task.examples.numbers, numbers))
        for adapter, scored in ((tmp_path / "adapter", found), (None, tuner.score_base())):
            expected = trainers_loss(folders["llama"], adapter, task.examples, indices, tmp_path)
            score = scored.score if part == "search" else scored.scores["verdict"]
            assert score == pytest.approx(-expected, abs=1e-5)
            weights, values = scored.items[f"{part}/{ROWS}/weight"], scored.items[f"{part}/{LOSS}"]
            assert weights @ values == pytest.approx(score, abs=1e-12)


@pytest.mark.slow
def test_the_verdict_compares_losses_per_token(make: Any, tmp_path: Path) -> None:
    tuner = make(task=None, validation={"split": 0.5})
    trained, base = tuner.score_winner(Trial(0, {"learning_rate": 0.05}), tmp_path / "adapter"), tuner.score_base()
    runs = [on_verdict_items([scored.items], "loss") for scored in (trained, base)]
    assert runs[0] is not None
    assert runs[1] is not None
    gain = compare(runs[0], runs[1]).gain
    assert gain == pytest.approx(trained.scores["verdict"] - base.scores["verdict"], abs=1e-12)


@pytest.mark.slow
def test_a_study_without_a_task_trains_on_the_other_rows(make: Any, data_file: Path) -> None:
    tuner = make(task=None, validation={"split": 0.25})
    tuner.prepare()
    materials = tuner.engine.materials
    trained, task = materials.loaded.examples, materials.scorer.tasks[0]
    assert isinstance(task, HeldOutRows)
    assert sorted([*trained.numbers, *task.examples.numbers]) == list(range(1, 41))
    assert 8 <= len(task) <= 12
    found = tuner.evaluate(Trial(0, {"learning_rate": 0.05}))
    assert found.cost["examples"] == len(trained)
    assert (tuner.summary["scoring"]["shown_as"], tuner.summary["scoring"]["metric"]) == ("loss", "loss")
    assert tuner.summary["data"]["validation_rows"] == len(task)
    # The digest is of all rows: the seed of a study decides which of them are held out.
    other = make(task=None, validation={"split": 0.25}, seed=1)
    assert {**tuner.contents} == {**other.contents}
    assert other.engine.materials.loaded.examples.numbers.tolist() != trained.numbers.tolist()


@pytest.mark.slow
def test_validation_rows_may_be_in_a_file_of_their_own(make: Any, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "validation.jsonl", make_rows(12, seed=5))
    tuner = make(task=None, validation={"data": str(path), "limit": 10})
    tuner.prepare()
    materials = tuner.engine.materials
    assert len(materials.loaded.examples) == 40
    assert len(materials.scorer.tasks[0]) == 10
    assert f"the items of task {ROWS}" in tuner.contents
    base, zero = tuner.score_base(), tuner.score_zero(Trial(0, tuner.defaults))
    assert tuner.disagreement(base, zero) is None


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"split": 0.05}, "the validation rows are too few"),
        ({"limit": 2}, "the validation rows are too few"),
        ({"data": "nowhere.jsonl"}, "no data file nowhere.jsonl"),
    ],
)
def test_bad_validation_rows_are_one_line(make: Any, validation: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(task=None, validation=validation).prepare()
    assert "\n" not in str(caught.value)


def test_a_model_whose_likelihoods_are_no_numbers_has_no_score() -> None:
    rows = HeldOutRows(examples_of([("ab", "cd"), ("ef", "g")]))
    with pytest.raises(NotFiniteError, match="validation row 2"):
        rows.values(np.arange(2), [(-1.0, True), (float("nan"), False)])


def test_each_stretch_of_trained_tokens_is_a_request() -> None:
    examples = examples_of([("ab", "cdefgh")])
    examples.trained[:] = [False, True, True, False, False, True, False, True]
    rows = HeldOutRows(examples)
    assert stretches(examples.trained) == [(1, 3), (5, 6), (7, 8)]
    assert [(len(context), len(continuation)) for _, context, continuation in rows.requests] == [(1, 2), (5, 1), (7, 1)]
    values, likelihoods = rows.values(np.arange(1), [(-1.0, True), (-2.0, True), (-3.0, True)])
    assert values["loss"].tolist() == [-6 / 4]
    assert likelihoods.tolist() == [[-1.0, -2.0, -3.0]]


# ----- which rows are held out

LETTERS = st.text("abc", max_size=2)
DRAWN = st.lists(st.tuples(LETTERS, st.text("xyz", min_size=2, max_size=3)), min_size=1, max_size=40)


@given(DRAWN, st.floats(0.05, 0.6), st.integers(0, 5))
def test_twins_stay_together_and_the_share_is_near(rows: list[tuple[str, str]], share: float, seed: int) -> None:
    examples = examples_of(rows)
    groups = grouped(examples)
    trained, validation = held_out(examples, share, seed)
    assert sorted([*trained, *validation]) == list(range(len(rows)))
    assert not set(groups[trained]) & set(groups[validation])
    assert abs(len(validation) - share * len(rows)) <= max(np.bincount(groups)) / 2 + 1e-9
    assert held_out(examples, share, seed)[1].tolist() == validation.tolist()
    wholes = [prompt + answer for prompt, answer in rows]
    for i, j in zip(*np.triu_indices(len(rows), 1), strict=True):
        if wholes[i] == wholes[j]:
            assert groups[i] == groups[j]


def test_rows_with_one_prompt_are_one_group_unless_most_rows_have_it() -> None:
    few = [("a", "xx"), ("a", "yy"), ("b", "xx"), ("c", "xx"), ("d", "xx")]
    assert grouped(examples_of(few)).tolist() == [0, 0, 1, 2, 3]
    most = [("a", "xx"), ("a", "yy"), ("a", "xx"), ("b", "xx")]
    groups = grouped(examples_of(most))
    assert groups[0] == groups[2]
    assert len(set(groups)) == 3


def test_examples_of_one_row_are_one_group() -> None:
    examples = examples_of([("a", "xx"), ("b", "yy"), ("c", "zz")])
    examples.numbers[:] = [1, 1, 2]
    assert grouped(examples).tolist() == [0, 0, 1]


def test_a_group_that_is_too_large_is_passed_over() -> None:
    groups = np.array([0] * 50 + list(range(1, 51)))
    for seed in range(20):
        members = drawn(groups, 0.1, np.random.default_rng(seed))
        assert len(members) == 10
        assert members.min() >= 50


def test_rows_are_tokenised_with_their_numbers(base: Base, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = make_rows(6)
    rows[2] = {"instruction": "", "output": ""}
    data = config.Data(path=str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    assert tokenise(data, base.tokenizer).numbers.tolist() == [1, 2, 4, 5, 6]
