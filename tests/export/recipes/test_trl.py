"""TRL's script has its own keys, and trains on the study's very tokens."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from partune import config
from partune.export.chosen import Chosen
from partune.export.recipes import trl
from partune.finetune.data import tokenise
from tests.finetune.test_data import spaced_tokenizer
from tests.support.chosen import chosen
from tests.support.recipes import CASES, keys, script


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_key_is_one_that_trl_knows(case: Chosen) -> None:
    import peft
    import transformers

    arguments, lora = script(case)
    assert set(arguments) <= keys("trl", "SFTConfig")
    assert peft.LoraConfig(**lora).r == 16
    assert arguments["optim"] in [each.value for each in transformers.training_args.OptimizerNames]
    assert arguments["lr_scheduler_type"] in [each.value for each in transformers.SchedulerType]


def test_steps_and_micro_batches_are_the_studys() -> None:
    arguments, _ = script(CASES["steps"])
    assert (arguments["max_steps"], arguments["warmup_steps"]) == (40, 5)
    assert "num_train_epochs" not in arguments
    assert (arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]) == (4, 4)


ROWS = [
    {"instruction": "Name a pump.", "output": "P-1"},
    {"instruction": "What is wrong?", "input": "Pump P-1 is loud.", "output": "A bearing."},
    {"instruction": "Say nothing.", "input": None, "output": ""},
    {"instruction": "Be long. " * 40, "output": "Cut."},
    {"instruction": " ", "output": ""},
]


DOLLYS = [
    {"instruction": "When?", "context": "It was May.", "response": "In May."},
    {"instruction": "Now?", "response": "No.", "system": "Be terse.", "history": [["Why?", "Rust."], ["So?", " Oil."]]},
    {"instruction": "Which?", "response": "the red</s>the pump\n\n### Response:\nleaks"},
]


CONTINUED = [
    {"prompt": "The pump ", "completion": "leaks."},
    {"prompt": "", "completion": "oil</s>"},
    {"prompt": "Be long. " * 40, "completion": "Cut."},
    {"prompt": " ", "completion": ""},
    {"prompt": "{x}", "completion": ""},
]
TEXTS = [{"text": "The pump leaks. " * 30}, {"text": "oil"}, {"text": " "}, {"text": "ends</s>"}]


@pytest.mark.slow
@pytest.mark.parametrize("loss_on", ["answer", "all"])
@pytest.mark.parametrize("rows", [ROWS, DOLLYS, CONTINUED, TEXTS])
@pytest.mark.parametrize("spaced", [False, True])
def test_the_script_trains_on_the_very_tokens_of_the_study(
    loss_on: str, rows: list[dict[str, Any]], spaced: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from partune.demo import DIRECTORY

    tokenizer = spaced_tokenizer("llama") if spaced else AutoTokenizer.from_pretrained(DIRECTORY / "model")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = config.Data(path=str(tmp_path / "rows.json"), max_length=60, loss_on=loss_on)  # type: ignore[arg-type]
    expected = tokenise(data, tokenizer).cut(60, data.loss_on)
    section = {"path": "rows.json", "max_length": 60, "loss_on": loss_on}
    form, fields = expected.summary["format"], expected.summary["fields"]
    text = trl.recipe(chosen(data=section, rows=form, layout=expected.summary["layout"], fields=fields))[trl.FILE]
    known: dict[str, Any] = {"tokenizer": tokenizer}
    plain = [
        node
        for node in ast.parse(text).body
        if isinstance(node, (ast.FunctionDef, ast.Import))
        or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))
    ]
    exec(compile(ast.Module(plain, []), "recipe", "exec"), known)
    found = [known["tokenised"](row) for row in rows if known["has_text"](row)]
    found = [each for each in found if known["has_loss"](each)]
    assert len(found) == len(expected)
    for i, each in enumerate(found):
        tokens, trained = expected.example(i)
        assert each["input_ids"] == tokens.tolist()
        assert [label != -100 for label in each["labels"]][1:] == trained.tolist()[1:]
