"""The black box through LitGPT's command line, with a stand-in for the program; and once, slowly, with the real one."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from partune.config import located
from partune.errors import UserError
from partune.export.export import export
from partune.finetune.litgpt.checkpoints import convert
from partune.finetune.litgpt.engine import LitGPTEngine
from partune.finetune.litgpt.program import Program, environment
from partune.objectives.finetune import FineTune
from partune.record.record import Record
from partune.space import Choice, Float, Int, Space
from partune.study import Study, UntrustworthyError
from partune.study.from_config import study as make_study
from partune.trial import Status, Trial
from tests.support.commands import said
from tests.support.litgpt import behave, calls, install
from tests.support.tiny import make_items, make_rows, write_jsonl, write_task

SPACE = Space(learning_rate=Float(1e-5, 1e-1, log=True), lora_r=Int(2, 8))


@pytest.fixture
def command(tmp_path: Path) -> Path:
    return install(tmp_path / "bin")


@pytest.fixture
def make(folders: dict[str, Path], data_file: Path, task_file: Path, command: Path, tmp_path: Path) -> Any:
    def build(**changes: Any) -> FineTune:
        settings: dict[str, Any] = {"model": folders["llama"], "data": data_file, "task": task_file}
        # lora.pth, beside the stand-in, has the layers of attention
        settings["training"] = {"steps": 3, "batch_size": 4, "targets": "attention"}
        settings["run"] = {"device": "cpu", "engine": "litgpt", "litgpt": str(command)} | changes.pop("run", {})
        return FineTune(**{"scratch": tmp_path / "scratch", **settings, **changes})

    return build


def our_own(tuner: FineTune) -> FineTune:
    """The same study with the packed engine."""
    run = tuner.config.run.model_copy(update={"engine": "packed"})
    return FineTune.of(tuner.config.model_copy(update={"run": run}))


# ----- construction and checks


def test_its_identity_is_not_that_of_our_own_engine(make: Any) -> None:
    tuner = make()
    own = our_own(tuner)
    assert tuner.identity == {**own.identity, "engine": "litgpt"}
    assert (tuner.name, own.name) == ("LitGPT", "FineTune")  # as studies have been recorded
    assert tuner.defaults == own.defaults
    again = pickle.loads(pickle.dumps(tuner))
    assert again.config.run.engine == "litgpt"
    assert (again.config, again.scratch) == (tuner.config, tuner.scratch)


@pytest.mark.slow
def test_nothing_is_converted_or_trained_by_a_check(make: Any, command: Path) -> None:
    tuner = make()
    tuner.check(SPACE)
    assert not calls(command)
    assert not tuner.scratch.exists()
    assert tuner.summary["engine"] == "litgpt"
    assert tuner.summary["scoring"]["metric"] == "acc_norm"
    assert all(parameter.is_meta for parameter in tuner.engine.materials.base("fp32").model.parameters())


@pytest.mark.slow
def test_a_temporary_scratch_folder_goes_with_its_context(make: Any) -> None:
    with make(scratch=None) as tuner:
        tuner.score_base()
        folder = tuner.engine.scratch()
        assert (folder / "base").is_dir()
        tuner.evaluate(Trial(0, {}))
        assert (folder / "data").is_dir()
    assert not folder.exists()
    assert tuner.evaluate(Trial(1, {})).status is Status.DONE  # it loads again
    tuner.close()


@pytest.mark.parametrize("place", ["notes.txt", "data/rows.jsonl"])
def test_a_scratch_folder_that_holds_something_else_is_refused(place: str, make: Any, tmp_path: Path) -> None:
    (tmp_path / "mine" / place).parent.mkdir(parents=True)
    (tmp_path / "mine" / place).write_text("mine")
    with pytest.raises(UserError, match="the content of a scratch folder may be replaced; name an empty or new folder"):
        make(scratch=tmp_path / "mine").check(SPACE)
    assert (tmp_path / "mine" / place).read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "space", "message"),
    [
        (
            {"run": {"litgpt": "no-such-litgpt"}},
            SPACE,
            'no LitGPT command "no-such-litgpt": install it in its own virtual',
        ),
        ({"training": {"schedule": "linear"}}, SPACE, "LitGPT does not support schedule linear"),
        ({"training": {"optimizer": "sgd"}}, SPACE, "LitGPT does not support optimizer sgd"),
        ({}, Space(schedule=Choice(["cosine", "constant"])), "LitGPT does not support schedule constant"),
        ({}, Space(lora_alpha=Float(1, 64)), r"LitGPT does not support lora_alpha 25\.0.*: it accepts integers only"),
        ({}, Space(max_grad_norm=Float(0.1, 1)), r"LitGPT does not support max_grad_norm 0\.1"),
        ({}, Space(warmup_steps=Int(0, 10)), "LitGPT does not support warmup_steps 0"),
        ({}, Space(targets=Choice(["attention", "up_proj"])), "but not model.layers.0.mlp.up_proj by itself"),
        ({}, Space(learning_rte=Float(0, 1)), '"learning_rte", which is not a training setting'),
        ({"training": {"steps": 3, "warmup_steps": 3}}, SPACE, "warmup_steps 3 of 3 steps"),
        ({"model": {"path": "m", "quantize": "nf4"}}, SPACE, "partune cannot use a quantized base"),
        ({"model": {"path": "m", "trust_remote_code": True}}, SPACE, "partune cannot run code that comes with a model"),
        ({"data": {"path": "d.json", "format": "chat"}}, SPACE, "partune cannot read chat rows"),
        ({"model": "nobody/nothing"}, SPACE, 'no folder "nobody/nothing"'),
        ({"task": "choices.yaml"}, SPACE, "no task file choices.yaml"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    make: Any, command: Path, changes: dict[str, Any], space: Space, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(**changes).check(space)
    assert "\n" not in str(caught.value)
    assert not calls(command)


def test_a_checkpoint_that_lacks_weights_is_never_converted(
    make: Any, command: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """LitGPT loads a checkpoint beside LoRA's own weights, and so takes whatever is missing for new."""
    folder = shutil.copytree(folders["llama"], tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacking lacks 1 of its \d+ weights, which would be random numbers: lm_head"):
        make(model=folder).check(SPACE)
    assert not calls(command)


def test_tasks_that_its_command_cannot_take_are_refused(make: Any, tmp_path: Path) -> None:
    group = tmp_path / "group.yaml"
    group.write_text("group: both\ntask: [choices]\n")
    with pytest.raises(
        UserError, match=r"group\.yaml is the file of a group; LitGPT accepts files of single tasks only"
    ):
        make(task=group).check(SPACE)
    with pytest.raises(UserError, match="LitGPT does not accept a comma"):
        make(test=["arc_easy,boolq"]).check(SPACE)


def test_a_command_beside_the_study_is_recorded_whole(tmp_path: Path, command: Path) -> None:
    assert located({"run": {"litgpt": "bin/litgpt"}}, tmp_path)["run"]["litgpt"] == str(command)
    assert located({"run": {"litgpt": "litgpt"}}, tmp_path)["run"]["litgpt"] == "litgpt"


def test_chat_rows_are_refused(make: Any, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    data = write_jsonl(tmp_path / "chat.jsonl", [{"messages": chat}] * 20)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(UserError, match="LitGPT reads Alpaca rows only"):
        make(data={"path": str(data), "chat_template": template}).check(SPACE)


# ----- trials


@pytest.mark.slow
def test_a_trial_is_two_processes_and_its_search_items(make: Any, command: Path, tmp_path: Path) -> None:
    tuner = make(data={"path": make().data.path, "loss_on": "all", "max_length": 500})
    found = tuner.evaluate(Trial(3, {"learning_rate": 0.05, "lora_r": 4}, seed=11), tmp_path / "0003")
    assert found.status is Status.DONE, found.error
    assert found.score == found.scores["search/choices/acc_norm"]
    assert not any(name.startswith(("verdict", "test")) for name in (*found.scores, *found.items))
    assert set(found.cost) == {"seconds", "train_seconds", "score_seconds"}
    assert found.cost["seconds"] >= found.cost["train_seconds"] + found.cost["score_seconds"] > 0
    assert [call["step"] for call in calls(command)] == ["convert_to_litgpt"] * 2 + ["finetune_lora", "evaluate"]
    (trained,), (scored,) = calls(command, "finetune_lora"), calls(command, "evaluate")
    assert (trained["lora_r"], trained["seed"], trained["data.mask_prompt"]) == (4, 11, False)
    assert trained["train.max_seq_length"] == 192  # the model reads no more
    assert trained["optimizer"]["init_args"] == {"lr": 0.05, "weight_decay": 0.0}
    assert scored["cwd"] == str(Path(tuner.validation.tasks[0]).parent)
    assert (scored["device"], scored["dtype"], scored["limit"]) == ("cpu", "float32", None)
    assert trained["env"] == {"PYTHONPATH": None, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    names = {path.name for path in (tmp_path / "0003").iterdir()}
    assert "lit_model.pth.lora" in names
    assert "lit_model.pth" not in names
    left = [path.name for path in sorted((tuner.scratch / "trials" / "0003").iterdir())]
    assert left == ["evaluate-1.log", "finetune_lora.log"]


@pytest.mark.slow
def test_scores_are_of_the_items_that_our_own_engine_scores(make: Any) -> None:
    tuner = make()
    found = tuner.score_base()
    own = our_own(tuner).score_base()
    assert set(found.items) == set(own.items)
    for name in ("search/choices/doc_id", "verdict/choices/doc_id"):
        assert np.array_equal(found.items[name], own.items[name])


@pytest.mark.slow
def test_tests_and_limits_are_scored_apart(
    make: Any, command: Path, test_file: Path, task_file: Path, tmp_path: Path
) -> None:
    beside = write_task(tmp_path / "bin", "third", make_items(9, seed=2))
    tuner = make(
        task=None,
        validation={"tasks": [str(task_file)], "limit": 20, "fewshot": 0},
        test={"tasks": [str(test_file), str(beside)], "limit": 5},
    )
    found = tuner.score_base()
    assert {"verdict", "test/others", "test/third"} <= set(found.scores)
    assert len(found.items["test/others/acc"]) == 5
    asked = [(Path(call["tasks"]).stem, call["limit"], call["num_fewshot"]) for call in calls(command, "evaluate")]
    assert asked == [("choices", 20.0, 0), ("others", 5.0, None), ("third", 5.0, None)]
    tuner.evaluate(Trial(0, {}))
    assert [Path(call["tasks"]).stem for call in calls(command, "evaluate")][3:] == ["choices"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ({"finetune_lora": "fail"}, "litgpt finetune_lora ended with exit code 3: .*the loss of this trial is odd"),
        ({"finetune_lora": "memory"}, "out of memory: litgpt finetune_lora ended with exit code 1"),
        ({"finetune_lora": "kill"}, "out of memory: litgpt finetune_lora was killed by signal 9"),
        ({"finetune_lora": "nan"}, "the model's log-likelihoods are not finite"),
        ({"evaluate": "fail"}, "litgpt evaluate ended with exit code 3"),
        ({"evaluate": "empty"}, "litgpt evaluate left no samples"),
    ],
)
def test_a_step_that_fails_is_a_failed_trial(
    make: Any, command: Path, tmp_path: Path, behaviour: dict[str, str], message: str
) -> None:
    tuner = make()
    behave(command, **behaviour)
    found = tuner.evaluate(Trial(0, {"learning_rate": 0.05}), tmp_path / "0000")
    assert found.status is Status.FAILED
    assert found.error is not None
    assert re.search(message, found.error)
    assert found.cost["seconds"] > 0
    assert not (tmp_path / "0000").exists()
    behave(command)
    assert tuner.evaluate(Trial(1, {"learning_rate": 0.05})).status is Status.DONE


@pytest.mark.slow
def test_sizes_that_fit_no_schedule_fail_the_trial_alone(make: Any, command: Path) -> None:
    found = make().evaluate(Trial(0, {"steps": 4, "warmup_steps": 4}))
    assert found.status is Status.FAILED
    assert found.error == "warmup_steps 4 of 4 steps in total: LitGPT needs steps after the warm-up"
    assert not calls(command, "finetune_lora")


@pytest.mark.slow
def test_what_fails_for_the_base_is_the_users_to_mend(make: Any, command: Path) -> None:
    for behaviour, ask, message in (
        ({"convert_to_litgpt": "fail"}, lambda tuner: tuner.score_base(), "llama cannot be converted: litgpt convert"),
        ({"evaluate": "fail"}, lambda tuner: tuner.score_base(), "the model cannot be scored: litgpt evaluate ended"),
        ({"finetune_lora": "fail"}, lambda tuner: tuner.score_zero(Trial(0, {})), "LitGPT cannot fine-tune here: "),
    ):
        behave(command, **behaviour)
        with pytest.raises(UserError, match=message) as caught:
            ask(make())
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_kept_adapter_is_merged_and_a_lost_one_trained_again(make: Any, command: Path, tmp_path: Path) -> None:
    tuner = make()
    trial = Trial(0, {"learning_rate": 0.05}, seed=1)
    trained_again = tuner.score_winner(trial, tmp_path / "0000")
    kept = tuner.score_winner(trial, tmp_path / "0000")
    assert [call["step"] for call in calls(command)][-4:] == ["finetune_lora", "evaluate", "merge_lora", "evaluate"]
    assert trained_again.scores == kept.scores
    assert "verdict" in kept.scores
    with pytest.raises(UserError, match="is not an adapter in LitGPT's format"):
        tuner.score_adapter(tmp_path)


@pytest.mark.slow
def test_learning_rate_zero_is_the_base_and_a_difference_is_found(make: Any) -> None:
    tuner = make(training={"steps": 20, "batch_size": 4, "warmup_steps": 5})
    base, zero = tuner.score_base(), tuner.score_zero(Trial(0, tuner.defaults))
    assert tuner.disagreement(base, zero) is None
    other = tuner.evaluate(Trial(0, {"learning_rate": 0.1}))
    assert "items of search/choices differ" in str(tuner.disagreement(base, other))


# ----- studies


@pytest.mark.slow
def test_a_study_runs_is_judged_and_exported(make: Any, command: Path, tmp_path: Path) -> None:
    study = Study(SPACE, make(), "random", directory=tmp_path / "run").run(3)
    assert {"base", "zero", "defaults", "winner", "reloaded"} <= set(study.anchors)
    assert study.verdict is not None
    with pytest.raises(UserError, match="does not get the scores on record"):  # by the program that stands for LitGPT
        export(tmp_path / "run", tmp_path / "adapter")
    out = export(tmp_path / "run", tmp_path / "adapter", anyway=True)
    assert (out / "lit_model.pth.lora").is_file()
    assert (out / "adapter_model.safetensors").is_file()
    study.close()
    study = Study(SPACE, make(), "random", directory=tmp_path / "run", resume=True).run(4)
    assert len(study.trials) == 4
    study.close()
    assert len(calls(command, "convert_to_litgpt")) == 2  # a name that LitGPT does not know, and its stand-in; once
    with pytest.raises(UserError, match="holds another study: objective"):
        Study(SPACE, make(training={"steps": 5, "batch_size": 4}), "random", directory=tmp_path / "run", resume=True)


@pytest.mark.slow
def test_an_interrupted_trial_runs_again_from_the_beginning(
    make: Any, command: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_run = Program.run

    def interrupted(self: Program, step: str, arguments: list[str], log: Path, cwd: Path | None = None) -> float:
        if step == "evaluate" and log.parent.name == "0001":
            raise KeyboardInterrupt
        return real_run(self, step, arguments, log, cwd)

    study = Study(SPACE, make(), "random", directory=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Program, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study.run(2)
    study.close()
    place = tmp_path / "scratch" / "trials" / "0001"
    assert [path.name for path in place.iterdir()] == ["finetune_lora.log"]
    (place / "out" / "final").mkdir(parents=True)  # as a kill would leave it
    study = Study(SPACE, make(), "random", directory=tmp_path / "run", resume=True).run(2)
    assert [(trial.status, trial.attempts) for trial in study.trials] == [(Status.DONE, 1), (Status.DONE, 2)]
    study.close()


@pytest.mark.slow
def test_a_study_stops_where_the_base_is_not_learning_rate_zero(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner = make()
    monkeypatch.setattr(tuner, "score_zero", lambda trial: tuner.evaluate(Trial(0, {"learning_rate": 0.1})))
    with pytest.raises(UntrustworthyError, match="of 15 items of search/choices differ"):
        Study(SPACE, tuner, "random", directory=tmp_path / "run").run(1)


@pytest.mark.slow
def test_the_engine_is_chosen_by_its_name(make: Any, command: Path, tmp_path: Path) -> None:
    study = make_study(make().config, tmp_path / "run", resume=False)
    assert isinstance(study.objective, FineTune)
    assert isinstance(study.objective.engine, LitGPTEngine)
    assert study.objective.scratch == tmp_path / "run" / "litgpt"
    assert study.objective.config.run.litgpt == str(command)
    study.close()


@pytest.mark.slow
def test_the_command_line_runs_it(
    folders: dict[str, Path], data_file: Path, task_file: Path, command: Path, tmp_path: Path
) -> None:
    arguments = ["--model", str(folders["llama"]), "--data", str(data_file), "--task", str(task_file)]
    arguments += ["--engine", "litgpt", "--litgpt", str(command), "--steps", "3", "--batch-size", "4"]
    arguments += ["--device", "cpu", "--algorithm", "random", "--budget", "1", "--name", "first"]
    said(tmp_path, "tune", *arguments)
    assert "Verdict: " in said(tmp_path, "report", "runs/first")
    said(tmp_path, "resume", "runs/first", "--budget", "2")
    report = json.loads(said(tmp_path, "report", "runs/first", "--json"))
    assert [trial["status"] for trial in report["trials"]] == ["done"] * 2
    assert sorted(path.name for path in (tmp_path / "runs" / "first" / "litgpt").iterdir()) == [
        "base",
        "convert_to_litgpt.log",
        "data",
        "trials",
    ]


# ----- the real thing

real = pytest.mark.skipif(
    "PARTUNE_LITGPT" not in os.environ,
    reason="set PARTUNE_LITGPT to LitGPT's command, in its own virtual environment (docs/litgpt.md)",
)
# LitGPT's forward pass against transformers', in LitGPT's environment: prints the largest difference of their logits.
FORWARD = """
import sys, torch
from pathlib import Path
from litgpt.config import Config
from litgpt.model import GPT
from transformers import AutoModelForCausalLM
checkpoint, folder = Path(sys.argv[1]), sys.argv[2]
config = Config.from_file(checkpoint / "model_config.yaml")
model = GPT(config)
model.load_state_dict(torch.load(checkpoint / "lit_model.pth"))
ids = torch.randint(0, config.vocab_size, (2, 150), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
    print((model.eval()(ids) - other).abs().max().item())
"""


@real
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama3"])
def test_really_a_converted_model_is_the_same_model(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = folders.get(kind, tmp_path / kind)
    if kind == "llama3":
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM.from_pretrained(folders["llama"])
        factors = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        model.config.rope_parameters = {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "original_max_position_embeddings": 32,
            **factors,
        }
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((folders["llama"] / name).read_bytes())
    program = Program.find(os.environ["PARTUNE_LITGPT"], environment("cpu", 1))
    found = convert(program, folder, tmp_path / "base" / kind, kind, tmp_path / "convert.log")
    python = Path(program.path).parent / "python"
    done = subprocess.run(
        [str(python), "-c", textwrap.dedent(FORWARD), str(found), str(folder)],
        env={**program.environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


@real
@pytest.mark.slow
def test_really_a_study_from_beginning_to_end_offline(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = write_jsonl(tmp_path / "rows.jsonl", make_rows(40))
    task = write_task(tmp_path / "tasks", "choices", make_items(30))
    test = write_task(tmp_path / "tests", "others", make_items(12, seed=1))
    study = {
        "model": str(folders["llama"]),
        "data": str(data),
        "training": {"steps": 4, "batch_size": 4, "micro_batch_size": 2, "targets": "all-linear"},
        "validation": {"tasks": [str(task)]},
        "test": {"tasks": [str(test)]},
        "space": {"learning_rate": {"float": [1e-3, 1e-1], "log": True}, "lora_r": {"int": [2, 8]}},
        "search": {"algorithm": "random", "budget": 1},
        "run": {"engine": "litgpt", "litgpt": os.environ["PARTUNE_LITGPT"], "device": "cpu"},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    assert "gives the base model's answers" in said(tmp_path, "tune", "study.yaml", "--name", "real")
    record = Record.open(tmp_path / "runs" / "real", read_only=True)
    (trial,) = record.trials()
    assert trial.status is Status.DONE
    anchors = record.anchors()
    # the base through LitGPT's conversions and evaluation scores, item by item, what our own engine scores
    tuner = FineTune(folders["llama"], data, task, test=test, run={"device": "cpu"})
    own, base = tuner.score_base(), record.items("anchors", anchors["base"].number)
    assert set(base) == set(own.items)
    assert all(np.allclose(base[name], own.items[name], atol=1e-4, equal_nan=True) for name in base)
    # the winner, merged again from what was kept, answers as it did when it was trained
    again, first = record.items("anchors", anchors["winner"].number), record.items("search", trial.number)
    name = "search/choices/loglikelihood"
    assert np.allclose(again[name], first[name], atol=1e-4, equal_nan=True)
    assert not np.allclose(first[name], base[name], atol=1e-2, equal_nan=True)
    # exported to PEFT, it answers the same with transformers and our own engine
    adapter = export(tmp_path / "runs" / "real", tmp_path / "adapter")
    assert np.allclose(tuner.score_adapter(adapter).items[name], first[name], atol=1e-4, equal_nan=True)
    # a LitGPT checkpoint is a model too
    converted = tmp_path / "runs" / "real" / "litgpt" / "base" / "llama"
    run = {"device": "cpu", "engine": "litgpt", "litgpt": os.environ["PARTUNE_LITGPT"]}
    direct = FineTune(converted, data, task, run=run, scratch=tmp_path / "direct")
    assert isinstance(direct.engine, LitGPTEngine)
    assert direct.engine.checkpoint() == converted
    found = direct.score_base({"search"})
    assert np.allclose(found.items[name], base[name], atol=1e-6, equal_nan=True)
