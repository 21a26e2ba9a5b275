"""Several models on the same items: each scored as lm-evaluation-harness scores it alone, however it is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from partune import FineTune, config
from partune.errors import UserError
from partune.finetune.scoring import models
from partune.finetune.scoring.models import Asked, Candidate, Scored, score_models
from partune.finetune.scoring.scores import Scores
from partune.runtime.isolation import quiet
from tests.support.tiny import make_rows, make_tickets, write_jsonl

pytestmark = pytest.mark.slow

ADAPTERS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "mlp": {"r": 2, "lora_alpha": 3, "target_modules": ["up_proj", "down_proj"]},
    "dora": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj"], "use_dora": True},
    "rslora": {"r": 4, "lora_alpha": 16, "target_modules": ["o_proj"], "use_rslora": True},
}


@pytest.fixture(scope="module")
def spec(folders: dict[str, Path]) -> config.Model:
    return config.Model(path=str(folders["llama"]))


@pytest.fixture(scope="module")
def adapters(spec: config.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters with random weights, as PEFT writes them."""
    root = tmp_path_factory.mktemp("adapters")
    for number, (name, settings) in enumerate(ADAPTERS.items()):
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            base = AutoModelForCausalLM.from_pretrained(spec.path)
            adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
            for key, weight in adapted.named_parameters():
                if "lora_" in key:
                    torch.nn.init.normal_(weight, std=0.3)
            adapted.save_pretrained(root / name)
    return {name: root / name for name in ADAPTERS}


def on(task: Path) -> Asked:
    return Asked(validation=config.Validation(tasks=(str(task),)))


def same(found: models.Scored, expected: Any, task: str) -> None:
    """Compare with an outcome on the same items, whose parts are search and verdict."""
    numbers = np.concatenate([expected.items[f"{part}/{task}/doc_id"] for part in ("search", "verdict")])
    order = np.argsort(numbers, kind="stable")
    for metric in found.metrics.values():
        values = np.concatenate([expected.items[f"{part}/{task}/{metric}"] for part in ("search", "verdict")])
        np.testing.assert_allclose(found.scores.items[f"test/{task}/{metric}"], values[order], atol=1e-3)


@pytest.mark.parametrize("together", [("attention", "mlp"), ("attention", "dora"), ("dora", "rslora"), ("mlp",)])
def test_adapters_are_scored_as_each_alone_by_the_harness(
    together: tuple[str, ...], spec: config.Model, adapters: dict[str, Path], task_file: Path, data_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    packs: list[int] = []
    pack = models._in_one_pack

    def counted(*arguments: Any) -> Any:
        packs.append(len(found := pack(*arguments)))
        return found

    monkeypatch.setattr(models, "_in_one_pack", counted)
    chosen = [Candidate(spec, adapters[name]) for name in together]
    scored = score_models([*chosen, Candidate(spec)], on(task_file), "fp32", "cpu")
    assert packs == ([2] if together == ("attention", "mlp") else [])
    reference = FineTune(spec, data_file, task_file, run={"device": "cpu", "engine": "peft"})
    parts = frozenset({"search", "verdict"})
    with reference as tuner:
        for candidate, found in zip(chosen, scored, strict=False):
            assert candidate.adapter is not None
            same(found, tuner.score_adapter(candidate.adapter, parts), "choices")
        same(scored[-1], tuner.score_base(parts), "choices")
    assert {found.metrics["choices"] for found in scored} == {"acc_norm"}
    assert len(scored[0].scores.items["test/choices/acc"]) == 30


@pytest.mark.parametrize(("kind", "metric"), [("losses", "loss"), ("labels", "acc"), ("answers", "f1")])
def test_all_rows_are_scored_by_their_loss_their_labels_or_answers(
    kind: str, metric: str, spec: config.Model, adapters: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", make_tickets(60) if kind == "labels" else make_rows(20))
    wanted = "f1" if kind == "answers" else None
    asked = Asked(config.Data(path=str(rows)), config.Validation(metric=wanted))
    scored = score_models([Candidate(spec, adapters["mlp"]), Candidate(spec)], asked, "fp32", "cpu")
    task = "validation rows"
    assert all(found.metrics == {task: metric} for found in scored)
    assert bool(scored[0].rows) == (kind == "losses")
    assert len(scored[0].scores.items[f"test/{task}/{metric}"]) == (60 if kind == "labels" else 20)
    apart = write_jsonl(tmp_path / "train.jsonl", make_tickets(60, 1) if kind == "labels" else make_rows(9))
    validation = {"data": str(rows), "metric": wanted}
    with FineTune(spec, apart, validation=validation, run={"device": "cpu", "engine": "peft"}) as tuner:
        same(scored[1], tuner.score_base(frozenset({"search", "verdict"})), task)
        same(scored[0], tuner.score_adapter(adapters["mlp"], frozenset({"search", "verdict"})), task)


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({}, True),
        ({"init_lora_weights": "gaussian", "megatron_core": "megatron.core", "use_dora": False}, True),
        ({"use_dora": True}, False),
        ({"alora_invocation_tokens": [5, 6]}, False),
        ({"rank_pattern": {"q_proj": 8}}, False),
        ({"bias": "all"}, False),
        ({"of_another_version": "yes"}, False),
        ({"init_lora_weights": "mica"}, False),
    ],
)
def test_only_plain_adapters_share_a_pack(
    adapters: dict[str, Path], tmp_path: Path, settings: dict[str, Any], plain: bool
) -> None:
    shutil.copytree(adapters["mlp"], tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert models._is_plain(tmp_path / "adapter") == plain


def test_an_adapter_that_was_subtracted_from_its_base_is_refused(
    spec: config.Model, adapters: dict[str, Path], tmp_path: Path, task_file: Path
) -> None:
    shutil.copytree(adapters["mlp"], tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "pissa_niter_16"}))
    with pytest.raises(UserError, match="its training began with init_lora_weights pissa_niter_16, so PEFT changes"):
        score_models([Candidate(spec, tmp_path / "adapter")], on(task_file), "fp32", "cpu")


def test_quantized_models_are_scored_by_the_harness(spec: config.Model, task_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from partune.finetune.quantizing import quantize

    quantize(Path(spec.path), tmp_path / "int8", "int8")
    whole = config.Model(path=str(tmp_path / "int8"))
    found, base = score_models([Candidate(whole), Candidate(spec)], on(task_file), "fp32", "cpu")
    a, b = (scored.scores.items["test/choices/loglikelihood"] for scored in (found, base))
    assert not np.allclose(a, b, atol=1e-3, equal_nan=True)
    np.testing.assert_allclose(a, b, atol=2.0)


def test_what_does_not_fit_is_one_line(
    spec: config.Model, adapters: dict[str, Path], folders: dict[str, Path], task_file: Path, tmp_path: Path
) -> None:
    asked = on(task_file)
    other = config.Model(path=str(folders["gpt2"]))
    with pytest.raises(UserError, match="does not fit the base model"):
        score_models([Candidate(other, adapters["mlp"]), Candidate(other, adapters["attention"])], asked, "fp32", "cpu")
    with pytest.raises(UserError, match="is not an adapter folder: it has no adapter_config"):
        score_models([Candidate(spec, tmp_path)], asked, "fp32", "cpu")
    rows = write_jsonl(tmp_path / "one.jsonl", make_rows(1))
    with pytest.raises(UserError, match="at least two rows"):
        score_models([Candidate(spec)], Asked(data=config.Data(path=str(rows))), "fp32", "cpu")
    several = write_jsonl(tmp_path / "several.jsonl", make_rows(3))
    with pytest.raises(UserError, match=r"acc_norm needs a task \(--task\)"):
        score_models(
            [Candidate(spec)],
            Asked(config.Data(path=str(several)), config.Validation(metric="acc_norm")),
            "fp32",
            "cpu",
        )
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in adapters["mlp"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    settings = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(settings | {"r": 3}))
    with pytest.raises(UserError, match=r"adapter .*broken does not fit the base model"):
        score_models([Candidate(spec, broken), Candidate(spec, adapters["mlp"])], asked, "fp32", "cpu")


def test_training_data_are_searched_once_for_models_of_several_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[tuple[config.Data, ...]] = []

    def score(model: config.Model, candidates: Sequence[Candidate], asked: Asked, *_: Any) -> list[Scored]:
        asked_for.append(asked.training)
        return [Scored(Scores({}, {}), {}, frozenset()) for _ in candidates]

    monkeypatch.setattr(models, "_score", score)
    monkeypatch.setattr(models, "check_exists", lambda model: None)
    data = (config.Data(path="rows.jsonl"),)
    score_models([Candidate(config.Model(path=name)) for name in "aba"], Asked(training=data), "fp32", "cpu")
    assert asked_for == [data, ()]
