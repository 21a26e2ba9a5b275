"""The loss of validation rows, against transformers' Trainer on PEFT's model, and how the rows are held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune.finetune.data import Examples
from partune.finetune.scoring.base import NotFiniteError
from partune.finetune.scoring.row_losses import RowLosses, stretches
from partune.runtime.isolation import quiet
from partune.trial import Status, Trial
from partune.trial.names import LIKELIHOODS, ROWS
from partune.verdict.paired import compare
from partune.verdict.winner import on_verdict_items
from tests.support.lettered import examples_of
from tests.support.tiny import make_rows, write_jsonl

TEMPLATE = "{% for m in messages %}{{ '<s>' + m.role + ' ' + m.content + '</s>' }}{% endfor %}"
LOSS = f"{ROWS}/loss"


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


def test_a_model_whose_likelihoods_are_no_numbers_has_no_score() -> None:
    rows = RowLosses(examples_of([("ab", "cd"), ("ef", "g")]))
    with pytest.raises(NotFiniteError, match="validation row 2"):
        rows.values(np.arange(2), [(-1.0, True), (float("nan"), False)])


def test_each_stretch_of_trained_tokens_is_a_request() -> None:
    examples = examples_of([("ab", "cdefgh")])
    examples.trained[:] = [False, True, True, False, False, True, False, True]
    rows = RowLosses(examples)
    assert stretches(examples.trained) == [(1, 3), (5, 6), (7, 8)]
    assert [(len(context), len(continuation)) for _, context, continuation in rows.requests] == [(1, 2), (5, 1), (7, 1)]
    values, arrays = rows.values(np.arange(1), [(-1.0, True), (-2.0, True), (-3.0, True)])
    assert values["loss"].tolist() == [-6 / 4]
    assert arrays[LIKELIHOODS].tolist() == [[-1.0, -2.0, -3.0]]
