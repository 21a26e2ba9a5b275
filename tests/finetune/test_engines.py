"""What every engine keeps: trials, failures and adapters, whatever trains them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from partune.errors import UserError
from partune.objectives.finetune import FineTune
from partune.objectives.settings import SETTINGS
from partune.trial import Observation, Status, Trial
from tests.support.tuning import TRAINING, near, same

TRAINED = Trial(0, {"learning_rate": 1e-2, "lora_r": 3, "lora_alpha": 8, "steps": 3}, seed=1)


def half_the_scale(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"lora_alpha": settings["lora_alpha"] / 2}))


def fewer_layers(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": ["q_proj", "k_proj", "v_proj"]}))


def another_name(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    first = min(weights)
    save_file({first.replace("_proj", "_part"): weights.pop(first), **weights}, file)


def cut(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def gone(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (half_the_scale, r"items of search/choices differ, most in log-likelihood"),
        (fewer_layers, r"(missing adapter keys|the model has no place for) .*layers"),
        (another_name, r"(missing adapter keys|the model has no place for) "),
        (cut, r"."),
        (gone, r"."),
    ],
)
def test_an_adapter_that_does_not_load_as_it_was_scored_is_told(
    tuner: FineTune, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    adapter = tmp_path / "adapter"
    scored = tuner.evaluate(TRAINED, adapter)
    same = tuner.reload(TRAINED, adapter, scored)
    assert same is not None
    assert (same.error, same.scores["items"]) == (None, 8)
    damage(adapter)
    other = tuner.reload(TRAINED, adapter, scored)
    assert other is not None
    assert other.status is Status.FAILED
    assert re.search(reason, str(other.error))
    assert "\n" not in str(other.error)
    assert near(tuner.evaluate(TRAINED), scored)  # the base is as it was


@pytest.mark.slow
def test_a_trial_is_scored_saved_and_scored_again(tuner: FineTune, tmp_path: Path) -> None:
    trial = Trial(0, {"learning_rate": 0.05, "lora_r": 4}, seed=1)
    found = tuner.evaluate(trial, tmp_path / "adapter")
    assert found.status is Status.DONE
    assert found.score == found.scores["search/choices/acc_norm"]
    assert found.stderr == found.scores["search/choices/acc_norm_stderr"]
    assert not any(name.startswith(("verdict", "test")) for name in found.scores)
    assert set(found.cost) == {"seconds", "train_seconds", "score_seconds", "tokens", "examples"}
    assert found.cost["seconds"] >= found.cost["train_seconds"] + found.cost["score_seconds"] > 0
    assert near(tuner.score_adapter(tmp_path / "adapter"), found)
    assert not near(tuner.score_base(), found)
    assert same(tuner.evaluate(trial), found)


@pytest.mark.slow
def test_anchors_and_winner_are_scored_on_all_parts(tuner: FineTune, tmp_path: Path) -> None:
    trial = Trial(0, {"learning_rate": 0.05}, seed=1)
    trained_again = tuner.score_winner(trial, tmp_path / "winner")
    kept = tuner.score_winner(trial, tmp_path / "winner")
    assert near(trained_again, kept)
    for found in (kept, tuner.score_base(), tuner.score_defaults(Trial(0, tuner.defaults), tmp_path / "defaults")):
        assert {"score", "verdict", "verdict_stderr", "test/others", "test/others/acc"} <= set(found.scores)
        parts = [found.items[f"{part}/choices/doc_id"] for part in ("search", "verdict")]
        assert sorted(np.concatenate(parts)) == list(range(30))


@pytest.mark.slow
def test_learning_rate_zero_is_the_base(tuner: FineTune) -> None:
    base, zero = tuner.score_base(), tuner.score_zero(Trial(0, tuner.defaults))
    assert same(base, zero)
    assert tuner.disagreement(base, zero) is None


@pytest.mark.slow
def test_every_setting_can_be_searched(tuner: FineTune) -> None:
    values: dict[str, Any] = {
        "lora_r": 3, "lora_alpha": 4, "lora_dropout": 0.1, "learning_rate": 0.03, "weight_decay": 0.2, "epochs": 0.5,
        "steps": 2, "batch_size": 5, "micro_batch_size": 2, "warmup_steps": 1, "schedule": "linear",
        "max_grad_norm": 0.5, "optimizer": "sgd", "momentum": 0.5, "targets": "attention", "dtype": "bf16", "seed": 9,
        "max_length": 48, "loss_on": "all",
    }  # fmt: skip
    assert tuple(values) == SETTINGS
    plain = tuner.evaluate(Trial(0, {"learning_rate": 0.02, "momentum": 0.9}))
    for name, value in values.items():
        found = tuner.evaluate(Trial(0, {"learning_rate": 0.02, "momentum": 0.9, name: value}))
        assert found.status is Status.DONE, found.error
        unused = {"momentum", "micro_batch_size", "epochs"}  # AdamW, accumulated alike, and steps that are given
        assert (name in unused) == (same(found, plain) or name == "micro_batch_size"), name
    assert len(tuner.engine.materials._bases) == 2


@pytest.mark.slow
def test_a_trials_own_seed_counts_unless_one_is_fixed(tuner: FineTune) -> None:
    def found(number: int, **fixed: Any) -> Observation:
        return tuner.evaluate(Trial(0, {"learning_rate": 0.05, **fixed}, seed=number))

    assert same(found(1), found(1))
    assert not same(found(1), found(2))
    assert same(found(1, seed=4), found(2, seed=4))


@pytest.mark.slow
@pytest.mark.parametrize("training", [{}, {"seed": 7}])
@pytest.mark.parametrize("engine", ["packed", "peft"])
def test_a_run_with_fresh_seeds_has_its_own_of_each(make: Any, engine: str, training: dict[str, Any]) -> None:
    """Whatever seed is configured: the order of the data alone, or the initialisation alone, gives another adapter."""
    tuner = make(training={**training, "lora_dropout": 0.0}, run={"engine": engine, "pack": 1})
    config = {**tuner.defaults, "learning_rate": 1e-2}
    runs = [Trial(0, config, seed=seed, order=order) for seed, order in ((1, 1), (1, 2), (2, 1), (1, 1))]
    losses = [tuner.evaluate(run).items["search/choices/loglikelihood"] for run in runs]
    assert not np.allclose(losses[0], losses[1], atol=1e-6, equal_nan=True)
    assert not np.allclose(losses[0], losses[2], atol=1e-6, equal_nan=True)
    assert np.allclose(losses[0], losses[3], atol=1e-6, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate\n20 GiB"), "out of memory: CUDA out of memory. Tried"),
        (torch.OutOfMemoryError("no room"), "out of memory: no room"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_what_goes_wrong_in_a_trial_is_its_result(
    tuner: FineTune, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    before = tuner.score_base({"search"})

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*TRAINING[tuner.config.run.engine], fail)
        found = tuner.evaluate(Trial(0, {}))
    assert found.status is Status.FAILED
    assert found.error is not None
    assert found.error.startswith(message)
    assert "\n" not in found.error
    assert found.cost["seconds"] > 0
    assert same(tuner.score_base({"search"}), before)


def test_user_errors_end_the_study(tuner: FineTune, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise UserError("mend this")

    modules = dict(tuner.engine.materials.base("fp32").model.named_modules())
    with monkeypatch.context() as patch:
        patch.setattr(*TRAINING[tuner.config.run.engine], fail)
        with pytest.raises(UserError, match="mend this"):
            tuner.evaluate(Trial(0, {}))
    assert not hasattr(tuner.engine.materials.base("fp32").model, "peft_config")
    tuner.interrupt()  # returns when the engine has put everything back
    assert dict(tuner.engine.materials.base("fp32").model.named_modules()) == modules


def test_divergence_is_a_failure(tuner: FineTune, tmp_path: Path) -> None:
    found = tuner.evaluate(Trial(0, {"learning_rate": 1e30, "steps": 20, "warmup_steps": 0}), tmp_path / "adapter")
    assert found.status is Status.FAILED
    assert str(found.error).startswith("loss diverged at step ")
    assert not (tmp_path / "adapter").exists()


def test_a_model_that_breaks_in_the_last_step_is_a_failure(tuner: FineTune, tmp_path: Path) -> None:
    settings = {"learning_rate": 1e30, "steps": 1, "warmup_steps": 0}
    found = tuner.evaluate(Trial(0, settings), tmp_path / "adapter")
    assert (found.status, found.items) == (Status.FAILED, {})
    assert not (tmp_path / "adapter").exists()
    assert "log-likelihoods are not finite (task choices, item " in str(found.error)


@pytest.mark.slow
@pytest.mark.parametrize("engine", list(TRAINING))
@pytest.mark.parametrize(("asked", "expected"), [(None, 1), (2, 2)])
def test_trials_run_on_as_many_threads_as_suit(
    make: Any, monkeypatch: pytest.MonkeyPatch, asked: int | None, expected: int, engine: str
) -> None:
    tuner = make(run={"threads": asked, "engine": engine})
    tuner.prepare()
    seen: list[int] = []
    owner, name = TRAINING[engine]
    plain = getattr(owner, name)

    def look(*arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return plain(*arguments)

    monkeypatch.setattr(owner, name, look)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert tuner.evaluate(Trial(0, {})).status is Status.DONE
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {expected}


# ----- the course of a training

OVERFITTING = {"learning_rate": 0.03, "lora_r": 8}  # with these rows, the validation loss falls for 6 steps, then rises


@pytest.mark.slow
def test_both_engines_score_the_same_points_and_keep_the_same_adapter(make: Any, tmp_path: Path) -> None:
    trial, found = Trial(0, OVERFITTING, seed=1), {}
    for engine in TRAINING:
        for select in ("last", "best"):
            tuner = make(
                task=None,
                validation={"split": 0.5, "points": 4, "select": select},
                training={"steps": 12, "batch_size": 4, "schedule": "constant"},
                run={"engine": engine},
            )
            found[engine, select] = tuner.evaluate(trial, tmp_path / f"{engine}-{select}")
    for select in ("last", "best"):
        packed, peft = found["packed", select], found["peft", select]
        assert packed.items["points"][:, 0].tolist() == [3, 6, 9, 12]
        np.testing.assert_allclose(packed.items["points"], peft.items["points"], atol=1e-3)
        np.testing.assert_allclose(packed.items["training_loss"], peft.items["training_loss"], atol=1e-3)
        assert packed.score == pytest.approx(peft.score, abs=1e-3)
    steps, scores = found["packed", "best"].items["points"].T
    assert found["packed", "best"].scores["selected"] == steps[scores.argmax()] == 6
    assert "selected" not in found["packed", "last"].scores
    # With fewer than 64 search items, the points are scored on all of them, so the end's score is the trial's.
    assert found["packed", "last"].score == pytest.approx(scores[-1], abs=1e-6)
    assert found["packed", "best"].score == pytest.approx(scores.max(), abs=1e-6)
    again = make(task=None, validation={"split": 0.5})
    for select in ("last", "best"):
        kept = again.score_adapter(tmp_path / f"packed-{select}")
        assert kept.score == pytest.approx(found["packed", select].score, abs=1e-4)


@pytest.mark.slow
def test_points_change_nothing_of_a_training(make: Any) -> None:
    trial = Trial(0, {"learning_rate": 0.05, "lora_dropout": 0.2}, seed=1)
    for engine in TRAINING:
        plain = make(run={"engine": engine}).evaluate(trial)
        watched = make(run={"engine": engine}, validation={"points": 3}).evaluate(trial)
        assert same(plain, watched)
        assert watched.items["points"][:, 0].tolist() == [1, 2, 3]
