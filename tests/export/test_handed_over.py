"""What a study hands over: the tokenizer too, the winner's own numbers, and a merged model that answers alike."""

from __future__ import annotations

import ast
import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from partune import Choice, FineTune, Float, Space, Study, config
from partune.cli import main
from partune.errors import UserError
from partune.export.export import export
from partune.export.usage import QUESTION
from partune.finetune import adapter as adapters
from partune.finetune.data import tokenise
from partune.finetune.model import load_tokenizer
from partune.finetune.training import count_steps, count_warmup
from partune.runtime.isolation import quiet
from tests.support.tiny import CONTEXT, Row, make_rows, write_jsonl

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
SPACE = Space(
    learning_rate=Float(1e-3, 1e-2, log=True),
    max_length=Choice([10, 40]),
    loss_on=Choice(["answer"]),
    epochs=Choice([3.0]),
    batch_size=Choice([3, 4]),
    dtype=Choice(["fp32", "bf16"]),
)


def chats(count: int) -> list[Row]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"{row['instruction']} {row['input']}"},
                {"role": "assistant", "content": row["output"]},
            ]
        }
        for row in make_rows(count)
    ]


@pytest.fixture(scope="module")
def study(folders: dict[str, Path], task_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Four trials over data settings, on chats with a template of the study's own."""
    root = tmp_path_factory.mktemp("handed")
    shutil.copytree(folders["llama"], root / "base")
    (root / "base" / "preprocessor_config.json").write_text('{"size": 28}')
    data = {"path": str(write_jsonl(root / "chats.jsonl", chats(40))), "chat_template": TEMPLATE}
    tuner = FineTune(root / "base", data, task_file, run={"device": "cpu", "pack": 2})
    return Study(SPACE, tuner, "random", directory=root / "study", keep="all").run(4)


def recipe(out: Path, file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((out / "recipes" / file).read_text())
    return found


@pytest.mark.slow
def test_card_and_recipes_have_the_trials_own_examples_steps_and_warm_up(study: Study, tmp_path: Path) -> None:
    tuner = study.objective
    assert isinstance(tuner, FineTune)
    whole = tokenise(tuner.data, load_tokenizer(tuner.model))
    counted = set()
    for trial in study.trials:
        out = export(study.record.directory, tmp_path / str(trial.number), trial=trial.number)  # type: ignore[arg-type]
        settings, length, _ = tuner.settings(trial.config)
        examples = len(whole.cut(min(length, CONTEXT), "answer"))
        steps = count_steps(examples, settings)
        card = (out / "README.md").read_text()
        assert f"{examples} examples, chat rows" in card
        assert f"| {length} tokens |" in card
        assert f"{steps} steps |" in card
        assert f"| {count_warmup(steps, settings)} steps |" in card
        assert recipe(out, "axolotl.yaml")["bf16"] == (trial.config["dtype"] == "bf16")
        train = recipe(out, "litgpt.yaml")["train"]
        assert (train["max_steps"], train["max_seq_length"]) == (steps, length)
        assert recipe(out, "axolotl.yaml")["warmup_steps"] == count_warmup(steps, settings)
        script = ast.unparse(ast.parse((out / "recipes" / "train_trl.py").read_text()))
        assert f"max_length={length}" in script
        counted.add(examples)
    assert len(counted) == 2  # or nothing was shown
    assert study.record.loaded["data"]["examples"] not in counted - {max(counted)}


@pytest.mark.slow
def test_a_length_beyond_what_the_base_reads_is_told_as_it_was(study: Study, tmp_path: Path) -> None:
    out = export(study.record.directory, tmp_path / "out", trial="defaults")  # type: ignore[arg-type]
    assert f"| {CONTEXT} tokens |" in (out / "README.md").read_text()
    assert recipe(out, "axolotl.yaml")["sequence_len"] == CONTEXT


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True])
def test_the_tokenizer_goes_along_with_the_template_of_the_training(study: Study, tmp_path: Path, merge: bool) -> None:
    out = export(study.record.directory, tmp_path / "out", merge=merge)  # type: ignore[arg-type]
    assert isinstance(study.objective, FineTune)
    base = load_tokenizer(study.objective.model)
    found = AutoTokenizer.from_pretrained(out)
    text = "why the pump leaks, and the motor"
    assert found(text)["input_ids"] == base(text)["input_ids"]
    messages = chats(1)[0]["messages"]
    assert found.apply_chat_template(messages, tokenize=False) == base.apply_chat_template(
        messages, chat_template=TEMPLATE, tokenize=False
    )
    assert "AutoTokenizer.from_pretrained('this/folder')" in (out / "README.md").read_text()
    home = str(Path(study.objective.model.path).parent)
    assert not [file for file in out.glob("*token*") if home in file.read_text()]


@pytest.mark.slow
def test_an_adapter_can_be_had_where_the_base_is_gone_and_it_is_said(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(study.objective, FineTune)
    base = Path(study.objective.model.path)
    base.rename(base.with_name("moved"))
    try:
        assert main(["export", str(study.record.directory), str(tmp_path / "out")]) == 0
    finally:
        base.with_name("moved").rename(base)
    assert "The folder has no tokenizer, because the base model cannot be loaded here." in capsys.readouterr().out
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert "AutoTokenizer.from_pretrained('path/to/base')" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["fewer layers", "another rank", "another layer"])
def test_any_trials_adapter_is_one_of_the_base_or_is_not_handed_over(study: Study, tmp_path: Path, damage: str) -> None:
    assert study.record.directory is not None
    shutil.copytree(study.record.directory, tmp_path / "study")
    (number,) = (trial.number for trial in study.trials[-1:])
    settings = next((tmp_path / "study" / "adapters").glob(f"*{number}")) / "adapter_config.json"
    lora = json.loads(settings.read_text())
    changes = {
        "fewer layers": {"target_modules": ["q_proj"]},
        "another rank": {"r": lora["r"] + 1},
        "another layer": {"target_modules": ["x_proj"]},
    }
    settings.write_text(json.dumps(lora | changes[damage]))
    with pytest.raises(
        UserError, match=r"^PEFT does not load adapter|^adapter .* does not fit .* in only one of the two"
    ):
        export(tmp_path / "study", tmp_path / "out", trial=number)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True])
def test_the_code_of_the_card_answers_as_the_adapter(study: Study, tmp_path: Path, merge: bool) -> None:
    out = export(study.record.directory, tmp_path / "out", merge=merge)  # type: ignore[arg-type]
    assert isinstance(study.objective, FineTune)
    loading, asking = re.findall(r"^```python\n(.*?)^```$", (out / "README.md").read_text(), re.M | re.S)
    code = (loading + asking).replace("this/folder", str(out)).replace("path/to/base", study.objective.model.path)
    printed: list[str] = []
    names: dict[str, Any] = {"print": printed.append}
    with quiet():
        exec(code.replace("max_new_tokens=200", "max_new_tokens=8"), names)
        base = AutoModelForCausalLM.from_pretrained(study.objective.model.path)
        adapted = PeftModel.from_pretrained(base, str(study.record.adapter(study.best.number)))
        prompt = load_tokenizer(study.objective.model)(f"user: {QUESTION}\n", add_special_tokens=False)
        tokens = torch.tensor([prompt["input_ids"]])
        expected = adapted.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=8)
    assert names["output"].tolist() == expected.tolist()
    answer = AutoTokenizer.from_pretrained(out).decode(expected[0, tokens.shape[1] :], skip_special_tokens=True)
    assert printed == [answer]


# ----- merged models


@pytest.mark.slow
def test_a_merged_model_answers_as_the_adapter(study: Study, tmp_path: Path) -> None:
    out = {merge: export(study.record.directory, tmp_path / str(merge), merge=merge) for merge in (False, True)}  # type: ignore[arg-type]
    assert isinstance(study.objective, FineTune)
    ids = torch.arange(24).reshape(2, 12)
    with quiet(), torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(study.objective.model.path)
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(out[False]))(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out[True])(ids).logits
    assert (out[True] / "preprocessor_config.json").read_text() == '{"size": 28}'
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, plain, atol=1e-2)


def test_layers_that_share_their_weights_are_not_merged(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some models tie the layers of several blocks: the sum of one would be in all of them."""
    load = adapters.load

    def tied(*given: Any) -> Any:
        base = load(*given)
        first, second = (block.self_attn for block in base.model.model.layers)
        second.q_proj.weight = first.q_proj.weight
        return base

    monkeypatch.setattr(adapters, "load", lambda *given, **named: tied(*given, *named.values()))
    assert isinstance(study.objective, FineTune)
    folder = study.record.adapter(study.best.number)
    with pytest.raises(
        UserError, match=r"cannot be merged: the merged model gives different answers \(logits .* differ by"
    ):
        adapters.merge(study.objective.model, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merged_model_that_does_not_load_as_written_is_no_result(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = PreTrainedModel.save_pretrained

    def forgetful(self: PreTrainedModel, *given: Any, **named: Any) -> None:
        other = copy.deepcopy(self)
        nn.init.normal_(other.model.layers[0].mlp.up_proj.weight)
        save(other, *given, **named)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", forgetful)
    assert isinstance(study.objective, FineTune)
    folder = study.record.adapter(study.best.number)
    with pytest.raises(UserError, match="does not load as it was written"):
        adapters.merge(config.Model(path=study.objective.model.path), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
