"""The model card: read by the Hub's own reader, true to the record, and free of what does not leave a machine."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig

from partune import Float, Int, Space, Study, UserError, config
from partune.export.export import export
from partune.finetune.model import quantization
from partune.report.words import value
from partune.runtime.markdown import code, fenced, plain
from partune.runtime.rounding import measured
from partune.trial.contents import Content
from tests.report.test_data_notes import CUT, CUT_NOTES
from tests.support.simulated import SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 1e-3, log=True), lora_r=Int(2, 64, log=True), lora_alpha=Int(8, 128))
LORA = {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "acme/base-1b"}


@dataclass
class Tuning(SimulatedTuning):
    """A simulated fine-tuning whose record and adapters say what a real one's do."""

    model: dict[str, Any] = field(default_factory=lambda: {"path": "acme/base-1b"})
    data: dict[str, Any] = field(default_factory=lambda: {"path": "acme/rows", "max_length": 128})

    @property
    def identity(self) -> dict[str, Any]:
        given = {"model": self.model, "data": self.data, "validation": {"tasks": ["/srv/tasks/cloze.yaml", "piqa"]}}
        study = config.parse({"training": {"steps": 30, "batch_size": 8}, **given})
        return study.model_dump(mode="json", include={"model", "data", "training", "validation", "test"})

    @property
    def summary(self) -> Mapping[str, Any]:
        return {**super().summary, "data": {"format": "alpaca", "examples": 100}, "dtype": "fp32", "device": "cpu"}

    def evaluate(self, trial: Any, adapter: Path | None = None, parts: Any = frozenset({"search"})) -> Any:
        cost = {"seconds": 30.0, "train_seconds": 25.0, "score_seconds": 4.0}
        found = replace(super().evaluate(trial, adapter, parts), cost=cost)
        if adapter is not None:
            base = {"base_model_name_or_path": self.model["path"]}
            (adapter / "adapter_config.json").write_text(json.dumps(LORA | base))
            save_file({"lora_A": torch.zeros(2, 2)}, adapter / "adapter_model.safetensors")
        return found


def hand_over(folder: Path, objective: Tuning, trial: Any = None, **options: Any) -> tuple[Study, str]:
    study = Study(SPACE, objective, "lhs", directory=folder / "s", keep="all", **options).run(5)
    return study, (export(folder / "s", folder / "out", trial) / "README.md").read_text()


def study_in(card: str) -> config.StudyConfig:
    found = re.search(r"^(```+)yaml\n(.*?)^\1$", card, re.M | re.S)
    assert found is not None
    return config.parse(yaml.safe_load(found[2]))


def test_the_hubs_reader_understands_it(tmp_path: Path) -> None:
    _, text = hand_over(tmp_path, Tuning())
    data = ModelCard(text).data
    assert (data.base_model, data.library_name, data.datasets) == ("acme/base-1b", "peft", ["acme/rows"])
    assert data.tags == ["lora", "partune", "base_model:adapter:acme/base-1b"]
    assert data.pipeline_tag == "text-generation"


def test_scores_verdict_and_hyperparameters_are_the_records(tmp_path: Path) -> None:
    study, text = hand_over(tmp_path, Tuning())
    assert study.verdict is not None
    assert plain(study.verdict.sentence) in text
    for name, anchor in (("base", "base"), ("defaults", "defaults"), ("this one", "winner")):
        observation = study.anchors[anchor].observation
        assert observation is not None
        parts = ("score", "verdict", "test/t")
        scores = (measured(observation.scores[part], observation.scores[f"{part}_stderr"]) for part in parts)
        assert f"| {' | '.join((name, *scores))} |" in text
    assert f"| rank r | {study.best.config['lora_r']} |" in text
    assert f"| alpha | {study.best.config['lora_alpha']} |" in text
    assert f"{value(study.best.config['learning_rate'])} at its peak" in text
    assert f"trial {study.best.number} of 5" in text
    assert f"| seed | {study.best.seed}; the data's order: 0 |" in text


def test_rows_that_were_cut_are_told(tmp_path: Path) -> None:
    class Cut(Tuning):
        @property
        def summary(self) -> Mapping[str, Any]:
            loaded = dict(super().summary)
            return {**loaded, "data": {**loaded["data"], **CUT}}

    _, text = hand_over(tmp_path, Cut())
    for note in CUT_NOTES:
        assert f"\n{plain(note)}\n" in text


def test_what_the_search_cost_is_the_records(tmp_path: Path) -> None:
    _, text = hand_over(tmp_path, Tuning())  # learning rate 0, the defaults, and four more of these and of the winner
    assert (
        "5 trials by `lhs` on `cpu`: 2 min 30 s of device time (training 2 min 05 s, scoring 20.0 s); "
        "base, defaults and verdict: 5 min 00 s."
    ) in text


def test_the_code_that_loads_it_names_the_base_and_its_revision(tmp_path: Path) -> None:
    _, text = hand_over(tmp_path, Tuning(model={"path": "acme/base-1b", "revision": "v2"}))
    for loader in ("AutoTokenizer", "AutoModelForCausalLM"):
        assert f"{loader}.from_pretrained('acme/base-1b', revision='v2')\n" in text
    assert 'PeftModel.from_pretrained(model, "this/folder")\n' in text


def test_a_base_in_four_bits_is_loaded_as_it_was_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = hand_over(tmp_path, Tuning(model={"path": "acme/base-1b", "quantize": "nf4"}))
    found = re.search(r"```python\n(.*?)```", text, re.S)
    assert found is not None
    code = ast.parse(found[1])
    assigned = {ast.unparse(each.targets[0]): each.value for each in code.body if isinstance(each, ast.Assign)}
    known = {"BitsAndBytesConfig": BitsAndBytesConfig, "torch": torch}
    settings = eval(compile(ast.Expression(assigned["four_bits"]), "card", "eval"), known)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    expected = quantization(config.Model(path="m", quantize="nf4"), torch.device("cuda"), "fp32")["quantization_config"]
    assert settings.to_dict() == expected.to_dict()
    assert "AutoModelForCausalLM.from_pretrained('acme/base-1b', quantization_config=four_bits)\n" in text
    assert "AutoTokenizer.from_pretrained('acme/base-1b')\n" in text
    assert "not those of this model" not in text


@pytest.mark.slow
def test_what_was_scored_in_four_bits_is_merged_only_with_the_cards_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full base with the adapter is a model that nobody scored."""
    hand_over(tmp_path, Tuning(model={"path": "acme/base-1b", "quantize": "nf4"}))
    with pytest.raises(
        UserError, match=r"base model in 4 bits \(nf4\), but .* never scored\. Export the adapter without `--merge`"
    ):
        export(tmp_path / "s", tmp_path / "merged", merge=True)
    assert not (tmp_path / "merged").exists()
    monkeypatch.setattr("partune.finetune.digests.of_model", lambda spec: {})
    monkeypatch.setattr("partune.finetune.adapter.merge", lambda model, adapter, out: out.mkdir())
    text = (export(tmp_path / "s", tmp_path / "merged", merge=True, anyway=True) / "README.md").read_text()
    assert (
        "**The scores below are not those of this model.** The study trained and scored the adapter on the base model"
        " in 4" in text
    )
    plainly = Study(SPACE, Tuning(), "lhs", directory=tmp_path / "plain", keep="all").run(5)
    plainly.close()
    text = (export(tmp_path / "plain", tmp_path / "whole", merge=True) / "README.md").read_text()
    assert "not those of this model" not in text


def test_nothing_is_merged_into_a_base_that_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"the model's weights": Content("then")}
    monkeypatch.setattr(Tuning, "contents", weights)
    hand_over(tmp_path, Tuning())
    monkeypatch.setattr("partune.finetune.digests.of_model", lambda spec: {"the model's weights": Content("now")})
    with pytest.raises(
        UserError, match="acme/base-1b is not the base model that the study fine-tuned; restore the model's w"
    ):
        export(tmp_path / "s", tmp_path / "merged", merge=True)


def test_the_study_in_it_can_be_run_again(tmp_path: Path) -> None:
    _, text = hand_over(tmp_path, Tuning(data={"path": "/srv/rows.jsonl", "max_length": 128}), seed=4)
    study = study_in(text)
    assert (study.search.algorithm, study.search.budget, study.search.seed) == ("lhs", 5, 4)
    assert study.training == config.Training(steps=30, batch_size=8)
    assert study.data == config.Data(path="rows.jsonl", max_length=128)
    assert study.validation == config.Validation(tasks=("cloze.yaml", "piqa"))
    assert Space.parse(study.space or "") == SPACE


@pytest.mark.slow
def test_another_trial_and_the_defaults_have_no_verdict(tmp_path: Path) -> None:
    study = Study(SPACE, Tuning(), "lhs", directory=tmp_path / "s", keep="all").run(5)
    other = next(trial for trial in study.trials if trial.number != study.best.number)
    for which, rank in ((other.number, other.config["lora_r"]), ("defaults", 16)):
        text = (export(tmp_path / "s", tmp_path / str(which), which) / "README.md").read_text()  # type: ignore[arg-type]
        assert "The study's verdict is about its winner, which is another trial." in text
        assert "BETTER" not in text
        assert f"| rank r | {rank} |" in text


NASTY = "x | y` ``z`` <script>alert(1)</script>\n# head [a](b)"


def test_whatever_is_in_a_name_is_text(tmp_path: Path) -> None:
    template = "{{ messages }}\n```\n# head\n````"
    data = {"path": NASTY, "chat_template": template}
    _, text = hand_over(tmp_path, Tuning(model={"path": f"/srv/{NASTY}"}, data=data))
    outside = re.sub(
        r"^(```+)\w*\n.*?^\1$|(?<!`)(`+)(?!`).*?(?<!`)\2(?!`)", "", ModelCard(text).text, flags=re.M | re.S
    )
    assert "<script>" not in outside
    assert "# head" not in outside
    rows = [line for line in text.splitlines() if line.startswith("| data")]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 3
    assert ModelCard(text).data.datasets == [NASTY]
    assert study_in(text).data == config.Data(**data)


@pytest.mark.slow
def test_homes_and_passwords_stay_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "ada"
    (home / "runs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    tuning = Tuning(model={"path": str(home / "base")}, data={"path": "/home/bob/rows.json", "max_length": 128})
    hand_over(home / "runs", tuning, storage=f"sqlite:///{home}/record.db")
    texts = {path.name: path.read_text() for path in (home / "runs" / "out").rglob("*") if path.is_file()}
    assert set(texts) >= {"README.md", "adapter_config.json", "train_trl.py", "axolotl.yaml", "dataset_info.json"}
    for text in texts.values():
        for secret in (str(home), "/home/bob", "hf_secret", "record.db"):
            assert secret not in text
    assert "base_model:" not in texts["README.md"]
    assert json.loads(texts["adapter_config.json"])["base_model_name_or_path"] == "base"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a|b", "`a\\|b`"), ("a\nb", "`a b`"), ("", "`  `")],
)
def test_code(text: str, expected: str) -> None:
    assert code(text) == expected


def test_blocks_and_plain_text() -> None:
    assert fenced("a\n````\n") == "`````\na\n````\n`````"
    assert plain("a_b *c* <d>\n# e") == r"a_b \*c\* \<d\> \# e"  # within a word it means nothing
