"""The black box as a whole: checks, trials, failures, anchors, and memory."""

from __future__ import annotations

import gc
import io
import json
import pickle
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from partune import config
from partune.errors import UserError
from partune.finetune import adapter as adapters
from partune.finetune import training as trainings
from partune.finetune.packed import capacity
from partune.finetune.packed.residents import Residents
from partune.objectives.finetune import ALL, FIELD_DEFAULTS, SETTINGS, FineTune
from partune.report.summary import summarise
from partune.report.terminal import brief, show
from partune.runtime.preemption import PreemptedError
from partune.space import Choice, Float, Int, Space
from partune.study import Study
from partune.trial import Observation, Status, Trial
from tests.support.tiny import make_items, make_rows, write_jsonl, write_task

SPACE = Space(learning_rate=Float(1e-5, 1e-1, log=True), lora_r=Int(2, 8))


# Where an engine trains, for tests that break it or look on.
TRAINING = {"packed": (Residents, "step"), "peft": (trainings, "accumulate")}


@pytest.fixture
def make(folders: dict[str, Path], data_file: Path, task_file: Path) -> Any:
    def build(**changes: Any) -> FineTune:
        settings: dict[str, Any] = {"model": folders["llama"], "data": data_file, "task": task_file}
        settings["training"] = {"steps": 3, "batch_size": 4}
        settings["run"] = {"device": "cpu", "pack": 2} | changes.pop("run", {})
        return FineTune(**settings | changes)

    return build


@pytest.fixture(scope="module", params=list(TRAINING))
def tuner(
    folders: dict[str, Path], data_file: Path, task_file: Path, test_file: Path, request: pytest.FixtureRequest
) -> FineTune:
    """One resident objective for the tests that only ask, with each engine."""
    training, run = {"steps": 3, "batch_size": 4}, {"device": "cpu", "engine": request.param, "pack": 2}
    return FineTune(folders["llama"], data_file, task_file, test=test_file, training=training, run=run)


def same(a: Observation, b: Observation) -> bool:
    shared = [name for name in a.items if name in b.items]
    return bool(shared) and all(np.array_equal(a.items[name], b.items[name], equal_nan=True) for name in shared)


def near(a: Observation, b: Observation) -> bool:
    """The same but for the last bits, as a pack's products are not summed in PEFT's order."""
    shared = [name for name in a.items if name in b.items]
    return bool(shared) and all(np.allclose(a.items[n], b.items[n], atol=1e-4, equal_nan=True) for n in shared)


# ----- what is handed over


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
    save_file({first.replace("q_proj", "x_proj").replace("k_proj", "x_proj"): weights.pop(first), **weights}, file)


def cut(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def gone(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (half_the_scale, r"items of search/choices differ, most of all log-likelihood"),
        (fewer_layers, r"(missing adapter keys|it has no place for) .*layers"),
        (another_name, r"(missing adapter keys|it has no place for) "),
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


def test_a_study_loads_its_winner_from_disk_once_more(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def study(name: str) -> Study:
        return Study(SPACE, make(), "random", directory=tmp_path / name).run(1)

    summary = summarise(study("whole").record)
    assert summary["reloaded"] == {
        "same": True,
        "words": "PEFT loads it from disk, and 8 items have the scores on record",
    }
    assert summary["reloaded"]["words"] in printed(summary)
    save = adapters.write

    def wrong(folder: Path, lora: Any, matrices: Any, base: str | None = None) -> None:
        """As one that writes the scale of another adapter."""
        lora.lora_alpha *= 3
        save(folder, lora, matrices, base)

    monkeypatch.setattr(adapters, "write", wrong)
    summary = summarise(study("broken").record)
    assert not summary["reloaded"]["same"]
    assert "But do not rely on the winner's adapter: loaded from disk by PEFT, it is not what was scored" in brief(
        summary
    )
    assert "do not rely on the winner's adapter" in printed(summary)


def printed(summary: Any) -> str:
    console = Console(file=io.StringIO(), width=300)
    show(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ----- construction and checks


def test_nothing_heavy_is_imported_or_loaded_at_construction() -> None:
    code = (
        "import sys; from partune.objectives.finetune import FineTune; import partune.finetune.training; "
        "tuner = FineTune('nobody/nothing', 'none.json', 'no_task'); "
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets', 'lm_eval') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_sections_are_texts_mappings_or_sections(make: Any, task_file: Path) -> None:
    tuner = make(
        data=config.Data(path="rows.json", max_length=64),
        task=None,
        validation={"tasks": [str(task_file)], "metric": "loss"},
        test=["arc_easy", "mmlu"],
        training=config.Training(lora_r=8),
        seed=5,
    )
    assert (tuner.data.max_length, tuner.validation.metric, tuner.training.lora_r) == (64, "loss", 8)
    assert tuner.config.test.tasks == ("arc_easy", "mmlu")
    assert FineTune.of(tuner.config).config == tuner.config
    assert make(task=["a", "b"], validation={"limit": 9}).validation == config.Validation(tasks=("a", "b"), limit=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "validation is missing: give --task"),
        ({"training": {"learning_rat": 1}}, 'unknown key "training.learning_rat"; did you mean "learning_rate"'),
        ({"training": {"lora_dropout": 1.5}}, "training.lora_dropout: input should be less than 1, got 1.5"),
    ],
)
def test_bad_sections_are_refused_at_construction(make: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_the_field_defaults_keep_what_the_user_fixed(make: Any) -> None:
    plain = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "learning_rate": 2e-4, "weight_decay": 0.01}
    tuner = make(training={"lora_alpha": 8, "learning_rate": 1e-3, "steps": 1})
    assert tuner.defaults == plain
    tuner.check(SPACE)
    assert tuner.defaults == plain | {"lora_alpha": 8}
    assert tuple(tuner.defaults) == FIELD_DEFAULTS


@pytest.mark.parametrize(
    ("changes", "space", "message"),
    [
        (
            {},
            Space(learning_rte=Float(0, 1)),
            '"learning_rte", which is no training setting; did you mean "learning_rate"',
        ),
        ({}, Space(lora_dropout=Float(0, 1)), "training.lora_dropout: input should be less than 1, got 1"),
        ({}, Space(loss_on=Choice(["answer", "both"])), "data.loss_on: input should be 'answer' or 'all', got 'both'"),
        ({}, Space(targets=Choice(["attention", "wq,wk"])), 'no linear layer "wq"'),
        ({"training": {"targets": "q_prj"}}, SPACE, 'no linear layer "q_prj"; did you mean "q_proj"'),
        ({"model": "nobody/nothing"}, SPACE, 'no folder "nobody/nothing"'),
        ({"data": "rows.json"}, SPACE, "no data file rows.json"),
        ({"task": "choices.yaml"}, SPACE, "no task file choices.yaml"),
        ({"run": {"device": "gpu"}}, SPACE, 'no device "gpu"'),
        ({"data": {"max_length": 4}}, SPACE, "no example has a token to train on within max_length 4"),
    ],
)
def test_bad_input_is_one_line_before_any_training(
    make: Any, monkeypatch: pytest.MonkeyPatch, data_file: Path, changes: dict[str, Any], space: Space, message: str
) -> None:
    monkeypatch.setattr(trainings, "run", lambda *_: pytest.fail("trained"))
    if isinstance(changes.get("data"), dict):
        changes = {"data": {"path": str(data_file), **changes["data"]}}
    with pytest.raises(UserError, match=message) as caught:
        make(**changes).check(space)
    assert "\n" not in str(caught.value)


def test_a_task_that_is_test_too_is_refused(make: Any, task_file: Path) -> None:
    with pytest.raises(UserError, match="task choices is both validation and test"):
        make(test=task_file).check(SPACE)


# ----- trials


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


def test_anchors_and_winner_are_scored_on_all_parts(tuner: FineTune, tmp_path: Path) -> None:
    trial = Trial(0, {"learning_rate": 0.05}, seed=1)
    trained_again = tuner.score_winner(trial, tmp_path / "winner")
    kept = tuner.score_winner(trial, tmp_path / "winner")
    assert near(trained_again, kept)
    for found in (kept, tuner.score_base(), tuner.score_defaults(Trial(0, tuner.defaults), tmp_path / "defaults")):
        assert {"score", "verdict", "verdict_stderr", "test/others", "test/others/acc"} <= set(found.scores)
        parts = [found.items[f"{part}/choices/doc_id"] for part in ("search", "verdict")]
        assert sorted(np.concatenate(parts)) == list(range(30))


def test_learning_rate_zero_is_the_base(tuner: FineTune) -> None:
    base, zero = tuner.score_base(), tuner.score_zero(Trial(0, tuner.defaults))
    assert same(base, zero)
    assert tuner.disagreement(base, zero) is None


def test_a_disagreement_is_found_and_explained(tuner: FineTune) -> None:
    base = tuner.score_base({"search"})
    name = "search/choices/loglikelihood"

    def shifted(by: float) -> Observation:
        array = base.items[name].copy()
        array[2, 1] += by
        return Observation(base.scores, items={**base.items, name: array})

    assert tuner.disagreement(base, shifted(5e-5)) is None
    assert "1 of 15 items of search/choices differ" in str(tuner.disagreement(base, shifted(-0.01)))
    assert tuner.disagreement(base, shifted(float("nan"))) is not None
    short = Observation(base.scores, items={name: base.items[name][:3]})
    assert "(3, 4) for learning rate 0" in str(tuner.disagreement(base, short))
    assert tuner.disagreement(base, Observation.failure("out of memory")) == "out of memory"
    assert tuner.disagreement(base, Observation({"score": 0.0})) == "no item was scored for both"


def test_test_tasks_can_be_scored_for_every_trial(make: Any, test_file: Path) -> None:
    found = make(test={"tasks": [str(test_file)], "every_trial": True}).evaluate(Trial(0, {}))
    assert "test/others" in found.scores
    assert "verdict" not in found.scores


def test_every_setting_can_be_searched(tuner: FineTune) -> None:
    values: dict[str, Any] = {
        "lora_r": 3, "lora_alpha": 4, "lora_dropout": 0.1, "learning_rate": 0.03, "weight_decay": 0.2, "epochs": 0.5,
        "steps": 2, "batch_size": 5, "micro_batch_size": 2, "warmup_steps": 1, "schedule": "linear",
        "max_grad_norm": 0.5, "optimizer": "sgd", "momentum": 0.5, "targets": "all-linear", "dtype": "bf16", "seed": 9,
        "max_length": 110, "loss_on": "all",
    }  # fmt: skip
    assert tuple(values) == SETTINGS
    plain = tuner.evaluate(Trial(0, {"learning_rate": 0.02, "momentum": 0.9}))
    for name, value in values.items():
        found = tuner.evaluate(Trial(0, {"learning_rate": 0.02, "momentum": 0.9, name: value}))
        assert found.status is Status.DONE, found.error
        unused = {"momentum", "micro_batch_size", "epochs"}  # AdamW, accumulated alike, and steps that are given
        assert (name in unused) == (same(found, plain) or name == "micro_batch_size"), name
    assert len(tuner._bases) == 2


def test_a_trials_own_seed_counts_unless_one_is_fixed(tuner: FineTune) -> None:
    def found(number: int, **fixed: Any) -> Observation:
        return tuner.evaluate(Trial(0, {"learning_rate": 0.05, **fixed}, seed=number))

    assert same(found(1), found(1))
    assert not same(found(1), found(2))
    assert same(found(1, seed=4), found(2, seed=4))


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

    modules = dict(tuner._base("fp32")[0].model.named_modules())
    with monkeypatch.context() as patch:
        patch.setattr(*TRAINING[tuner.config.run.engine], fail)
        with pytest.raises(UserError, match="mend this"):
            tuner.evaluate(Trial(0, {}))
    assert not hasattr(tuner._base("fp32")[0].model, "peft_config")
    tuner.interrupt()  # returns when the engine has put everything back
    assert dict(tuner._base("fp32")[0].model.named_modules()) == modules


def test_an_interrupt_ends_a_trial_of_peft(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    tuner = make(run={"engine": "peft"})
    monkeypatch.setattr(trainings, "accumulate", fail)
    with pytest.raises(KeyboardInterrupt):
        tuner.evaluate(Trial(0, {}))
    assert not hasattr(tuner._base("fp32")[0].model, "peft_config")


def test_an_interrupt_ends_trials_in_packs(make: Any) -> None:
    tuner = make(training={"steps": 100_000})
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(tuner.evaluate, Trial(number, {})) for number in range(2)]
        time.sleep(0.5)
        tuner.interrupt()
        for future in futures:
            with pytest.raises(PreemptedError):
                future.result(timeout=5)


def test_threads_share_a_pack_and_its_scores_are_those_of_peft(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trials, dropout included, have the same scores with either engine."""
    widths: list[int] = []
    step = Residents.step

    def spy(self: Residents) -> None:
        widths.append(len(self))
        step(self)

    monkeypatch.setattr(Residents, "step", spy)
    trials = [
        Trial(n, {"lora_r": 2 + 3 * n, "learning_rate": 0.01 * (n + 1), "lora_dropout": 0.2}, seed=n) for n in range(4)
    ]
    monkeypatch.setattr(
        "partune.finetune.packed.engine.GATHER", 5.0
    )  # a full pack begins at once; a busy machine may be late
    packed, alone = make(run={"pack": 4}), make(run={"engine": "peft"})
    assert (packed.slots, alone.slots) == (4, 1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(packed.evaluate, trials))
    assert widths == [4] * 3
    for trial, observation in zip(trials, found, strict=True):
        expected = alone.evaluate(trial)
        assert near(observation, expected)
        assert observation.scores == pytest.approx(expected.scores, abs=1e-5)


def test_a_study_refills_its_slots_while_others_train(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of different lengths through a study: the pack stays full until nothing waits."""
    widths: list[int] = []
    step = Residents.step

    def spy(self: Residents) -> None:
        widths.append(len(self))
        step(self)
        time.sleep(0.03)  # so that the study is not the slower one

    space = Space(steps=Int(2, 40), learning_rate=Float(1e-4, 1e-2, log=True))
    tuner = make(run={"pack": 3}, training={"batch_size": 2})
    study = Study(space, tuner, "lhs", directory=tmp_path / "s")
    monkeypatch.setattr(Residents, "step", spy)
    study.run(12)
    study.close()
    assert len(study.trials) == 12
    searching = widths[3 + tuner.defaults.get("steps", 1) :]
    assert sum(width == 3 for width in searching) > 0.6 * sum(width > 1 for width in searching) > 20


def test_the_pack_is_measured_once_and_recalled(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(capacity, "choose", lambda *arguments: asked.append(arguments) or 8)
    tuner = make(run={"pack": "auto"})
    assert (tuner.slots, tuner.slots, tuner.summary["pack"]) == (8, 8, 8)
    assert len(asked) == 1
    again = make(run={"pack": "auto"})
    again.recall(tuner.summary)
    assert again.slots == 8
    fixed = make(run={"pack": 3})
    fixed.recall(tuner.summary)
    assert fixed.slots == 3
    assert len(asked) == 1


def test_trials_are_uneven_where_what_they_take_is_searched(make: Any) -> None:
    tuner = make()
    tuner.check(SPACE)
    assert tuner.even
    tuner.check(Space(steps=Int(1, 3)))
    assert not tuner.even


def test_a_judged_trial_is_stopped_with_its_rung_and_score(make: Any) -> None:
    class Strict:
        def report(self, rung: int, score: float) -> None:
            reported.append((rung, score))

        def stops(self, rung: int) -> bool:
            return rung == 1

    reported: list[tuple[int, float]] = []
    found = make(training={"steps": 9}).evaluate_judged(Trial(0, {}), None, Strict())
    assert (found.status, found.fidelity) == (Status.STOPPED, 2 / 9)
    assert [rung for rung, _ in reported] == [0, 1]
    assert found.scores == {"score": reported[1][1], "rung/0": reported[0][1], "rung/1": reported[1][1]}
    assert not make(run={"engine": "peft"}).stoppable


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


def test_a_base_that_cannot_be_scored_is_the_users_to_mend(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = make()
    tuner.prepare()

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(tuner._scorer, "score_one", fail)
    with pytest.raises(UserError, match=r"cannot be scored \(dtype auto\): out of memory: no room"):
        tuner.score_base()


def test_a_configuration_that_is_none_is_the_users_to_mend(tuner: FineTune) -> None:
    with pytest.raises(UserError, match='"lora_rank" is no training setting; did you mean "lora_r"'):
        tuner.evaluate(Trial(0, {"lora_rank": 4}))


def test_trials_leave_the_global_generators_alone(make: Any) -> None:
    tuner = make()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    tuner.check(SPACE)
    tuner.evaluate(Trial(0, {"lora_dropout": 0.3}))
    assert states[0] == random.getstate()
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(states[2], torch.get_rng_state())


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


def test_trials_are_silent(make: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tuner = make()
    tuner.check(SPACE)
    tuner.evaluate(Trial(0, {}), tmp_path / "adapter", ALL)
    tuner.score_adapter(tmp_path / "adapter")
    assert capfd.readouterr() == ("", "")


def test_an_objective_travels_without_its_resident_parts(tuner: FineTune) -> None:
    tuner.prepare()
    packed = pickle.dumps(tuner)
    assert len(packed) < 20_000
    trial = Trial(0, {"learning_rate": 0.05}, seed=1)
    there = pickle.loads(packed)
    assert same(there.evaluate(trial), tuner.evaluate(trial))
    assert pickle.loads(packed) is there  # loaded once, however often it is sent


def test_no_password_goes_to_workers(make: Any) -> None:
    tuner = make(run={"storage": "postgresql://tuner:s3cr3t@127.0.0.1/studies"})
    assert b"s3cr3t" not in pickle.dumps(tuner)


def test_a_summary_counts_what_was_loaded(make: Any, tmp_path: Path) -> None:
    rows = [*make_rows(5), {"instruction": "", "output": ""}, {"instruction": "oil " * 300, "output": "oil"}]
    tuner = make(data=write_jsonl(tmp_path / "rows.jsonl", rows), validation={"verdict_share": 0.2})
    summary = tuner.summary
    counts = {name: summary["data"][name] for name in ("rows", "examples", "empty", "truncated", "untrainable")}
    assert counts == {"rows": 7, "examples": 5, "empty": 1, "truncated": 1, "untrainable": 1}
    assert summary["scoring"]["items"] == {"search/choices": 24, "verdict/choices": 6}
    assert (summary["device"], summary["dtype"]) == ("cpu", "fp32")


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_trials(make: Any) -> None:
    tuner = make(training={"steps": 1, "batch_size": 2})

    def alive() -> tuple[int, int]:
        gc.collect()
        found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        return len(found), sum(each.nbytes for each in found)

    def tensors() -> tuple[int, int]:
        """Once the engine's thread has ended, which holds the last pack a little longer than its trials."""
        last = alive()
        for _ in range(50):
            time.sleep(0.1)
            if last == (last := alive()):
                break
        return last

    def trial(number: int) -> None:
        config = {"lora_r": 2 + number % 7, "learning_rate": 1e30 if number % 10 == 0 else 1e-3}
        tuner.evaluate(Trial(number, config, seed=number))

    for number in range(5):
        trial(number)
    before, objects = tensors(), len(gc.get_objects())
    for number in range(100):
        trial(number)
    assert tensors() == before
    assert len(gc.get_objects()) < objects + 500


def test_a_study_is_resumed_with_its_own_model_and_data_only(folders: dict[str, Path], tmp_path: Path) -> None:
    from partune import Study

    def study(**changes: Any) -> Study:
        sections = {"model": str(folders["llama"]), "data": str(rows), "task": "hellaswag"} | changes
        space = Space(learning_rate=Float(1e-4, 1e-2, log=True))
        return Study(space, FineTune(**sections), "random", directory=tmp_path / "s", resume=True)

    rows = write_jsonl(tmp_path / "rows.jsonl", make_rows(4))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(FineTune, "check", lambda self, space: None)
        patch.setattr(FineTune, "contents", {})
        study().close()
        study(run={"threads": 1}).close()  # where it runs is no part of what it is
        with pytest.raises(UserError, match=r"another study: objective\.model\.path is .*llama there, and .*gpt2 here"):
            study(model=str(folders["gpt2"]))
        with pytest.raises(UserError, match=r"objective\.training\.steps is None there, and 5 here"):
            study(training={"steps": 5})


# ----- tasks that cannot be scored


@pytest.mark.parametrize("engine", TRAINING)
def test_an_item_that_a_tasks_code_cannot_score_ends_a_study_before_it_trains(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    path = write_task(tmp_path, "coded", make_items(8), metrics=("acc",))
    path.write_text(path.read_text() + "process_results: !function code.results\n")
    answer = "{'acc': float('nan') if document['answer'] else 1.0}"
    (tmp_path / "code.py").write_text(f"def results(document, answers):\n    return {answer}\n")
    where, name = TRAINING[engine]
    monkeypatch.setattr(where, name, lambda *_, **__: pytest.fail("trained"))
    tuner = make(
        task=path,
        validation={"trust_task_code": True},
        run={"engine": engine, "pack": 2 if engine == "packed" else "auto"},
    )
    study = Study(SPACE, tuner, "random", directory=tmp_path / "study")
    with pytest.raises(UserError, match=r"^task coded, item \d+: its acc is nan, no number$"):
        study.run(2)
    study.close()


def test_a_study_whose_task_has_code_asks_for_the_users_word_when_it_goes_on(make: Any, tmp_path: Path) -> None:
    path = write_task(tmp_path, "coded", make_items(8))
    path.write_text(path.read_text() + "process_docs: !function code.documents\n")
    (tmp_path / "code.py").write_text("def documents(rows):\n    return rows\n")
    trusting = make(task=path, validation={"trust_task_code": True})
    Study(SPACE, trusting, "random", directory=tmp_path / "study").close()
    careful = make(task=path)
    assert careful.identity == trusting.identity  # it is the same study
    with pytest.raises(UserError, match=r"runs code .*documents.*give --trust-task-code"):
        Study(SPACE, careful, "random", directory=tmp_path / "study", resume=True)
    Study(SPACE, trusting, "random", directory=tmp_path / "study", resume=True).close()
