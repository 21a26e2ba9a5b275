"""LitGPT's command line as it is driven: arguments, processes, conversion, answers; with a stand-in for the program."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig

from partune import config
from partune.errors import UserError
from partune.finetune.adapter import loaded
from partune.finetune.litgpt.arguments import find_switches, finetune_arguments, refuse
from partune.finetune.litgpt.checkpoints import convert, describe, keep_lora
from partune.finetune.litgpt.files import read_answers, workplace, write_data
from partune.finetune.litgpt.program import Program, StepError, environment, tail
from partune.finetune.model import Base
from partune.runtime.isolation import quiet
from tests.support import fake_litgpt


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program.find(str(install(tmp_path / "bin")), environment("cpu", 1))


def install(folder: Path, **behaviour: str) -> Path:
    """The stand-in as an executable."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "litgpt"
    command.write_text(f"#!{sys.executable}\n{Path(fake_litgpt.__file__).read_text(encoding='utf-8')}")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    torch.save({"model": lora(4)}, folder / "lora.pth")
    behave(command, **behaviour)
    return command


def lora(r: int) -> dict[str, torch.Tensor]:
    """LoRA weights of the tiny Llama, as LitGPT names and stacks them: q, k and v (widths 32, 16, 16), projection."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"attn.qkv.lora_A": (3 * r, 32), "attn.qkv.lora_B": (64, r)}
    shapes |= {"attn.proj.lora_A": (r, 32), "attn.proj.lora_B": (32, r)}
    return {
        f"transformer.h.{block}.{name}": torch.randn(*shape, generator=draw)
        for block in range(2)
        for name, shape in shapes.items()
    }


def behave(command: Path, **behaviour: str) -> None:
    (command.parent / "behaviour.json").write_text(json.dumps(behaviour))


def calls(command: Path, step: str | None = None) -> list[dict[str, Any]]:
    path = command.parent / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [call for call in map(json.loads, lines) if step in (None, call["step"])]


# ----- arguments

PATHS = (Path("/base"), Path("/data"), Path("/out"))
SWITCHES = dict.fromkeys(("lora_query", "lora_key", "lora_value", "lora_projection"), True) | {
    "lora_mlp": False,
    "lora_head": False,
}


def given(examples: int = 100, loss_on: Any = "answer", dtype: str = "fp32", **settings: Any) -> dict[str, Any]:
    training = config.Training(**settings)
    arguments = finetune_arguments(
        *PATHS, examples, training, SWITCHES, max_length=64, loss_on=loss_on, dtype=dtype, seed=7, order_seed=5
    )
    return vars(fake_litgpt.parser("finetune_lora", fake_litgpt.FINETUNE).parse_args(arguments))


def test_every_setting_becomes_its_argument() -> None:
    settings = {"lora_r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1, "learning_rate": 1e-6, "weight_decay": 1e-5}
    sizes = {"batch_size": 8, "micro_batch_size": 2, "steps": 30, "warmup_steps": 4}
    found = given(**settings, **sizes, dtype="bf16")
    assert {name: value for name, value in found.items() if value is not None} == {
        "checkpoint_dir": PATHS[0],
        "out_dir": PATHS[2],
        "precision": "bf16-true",
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        **SWITCHES,
        "data": "JSON",
        "data.json_path": PATHS[1],
        "data.mask_prompt": True,
        "data.prompt_style": "alpaca",
        "data.seed": 5,
        "data.num_workers": 0,
        "train.global_batch_size": 8,
        "train.micro_batch_size": 2,
        "train.epochs": 3,
        "train.max_steps": 30,
        "train.lr_warmup_steps": 4,
        "train.max_seq_length": 64,
        "eval.interval": 10**9,
        "eval.final_validation": False,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-6, "weight_decay": 1e-5}},
        "seed": 7,
    }
    assert given(loss_on="all")["data.mask_prompt"] is False


@pytest.mark.parametrize("examples", [40, 41, 100])
@pytest.mark.parametrize("batch", [1, 6, 16])
@pytest.mark.parametrize("micro", [None, 1, 4])
@pytest.mark.parametrize("epochs", [1, 2.5])
def test_litgpts_own_loop_takes_the_steps_that_we_count(
    examples: int, batch: int, micro: int | None, epochs: float
) -> None:
    found = given(examples, batch_size=batch, micro_batch_size=micro, epochs=epochs)
    micro_batches = -(-examples // found["train.micro_batch_size"])
    accumulated = batch // found["train.micro_batch_size"]
    assert batch % found["train.micro_batch_size"] == 0
    assert found["train.micro_batch_size"] <= (micro or batch)
    # litgpt/finetune/lora.py: `fit` and, for the schedule's length, `main`
    step = iteration = 0
    while step < found["train.max_steps"]:
        iteration += 1
        if (iteration - 1) // micro_batches >= found["train.epochs"]:
            break
        step += iteration % accumulated == 0
    lr_max_steps = min(found["train.epochs"] * (micro_batches // accumulated), found["train.max_steps"])
    assert step == lr_max_steps == math.ceil(epochs * math.ceil(examples / batch))
    assert 1 <= found["train.lr_warmup_steps"] < step


@pytest.mark.parametrize(
    ("examples", "settings", "message"),
    [
        (100, {"batch_size": 101, "micro_batch_size": 1}, "batch_size 101: LitGPT drops a batch that is not full"),
        (100, {"steps": 5, "warmup_steps": 5}, "warmup_steps 5 of 5 steps in all"),
        (16, {}, "warmup_steps 1 of 1 steps in all"),
    ],
)
def test_a_schedule_that_litgpt_cannot_run_is_refused(examples: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        given(examples, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "LitGPT cannot do optimizer sgd"),
        ({"schedule": "linear"}, "LitGPT cannot do schedule linear: it knows cosine only"),
        ({"max_grad_norm": 0.5}, "LitGPT cannot do max_grad_norm 0.5: it clips no gradients"),
        ({"lora_alpha": 2.5}, "LitGPT cannot do lora_alpha 2.5: it takes integers only"),
        ({"warmup_steps": 0}, "LitGPT cannot do warmup_steps 0"),
        ({"steps": 1}, "LitGPT cannot do steps 1"),
    ],
)
def test_what_litgpt_has_not_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        refuse(config.Training(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "targets", "on"),
    [
        ("llama", "attention", "query key value projection"),
        ("llama", "all-linear", "query key value projection mlp"),
        ("llama", "q_proj, v_proj", "query value"),
        ("llama", "gate_proj,up_proj,down_proj,lm_head", "mlp head"),
        ("neox", "attention", "query key value projection"),
        ("neox", "all-linear", "query key value projection mlp"),
    ],
)
def test_targets_are_litgpts_switches(bases: dict[str, Base], kind: str, targets: str, on: str) -> None:
    found = find_switches(bases[kind].model, targets)
    assert list(found) == list(SWITCHES) == [name for name in fake_litgpt.FINETUNE if name in found]
    assert {name for name, is_on in found.items() if is_on} == {f"lora_{name}" for name in on.split()}


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("llama", "up_proj", r"but not model\.layers\.0\.mlp\.up_proj by itself"),
        ("llama", "layers.0.self_attn.q_proj", r"but not model\.layers\.0\.self_attn\.q_proj by itself"),
        ("llama", "q_prj", 'no linear layer "q_prj"'),
        ("qwen2", "lm_head", "the head shares its weights with the embeddings"),
        ("gpt2", "attention", "but not transformer"),
    ],
)
def test_targets_that_litgpt_cannot_adapt_are_refused(
    bases: dict[str, Base], kind: str, targets: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_switches(bases[kind].model, targets)


def test_data_are_all_rows_in_alpacas_form(tmp_path: Path) -> None:
    rows = [{"instruction": "é", "output": None, "more": 1}, {"instruction": "b", "input": "c", "output": "d"}] * 2
    folder = write_data(rows, tmp_path / "data")
    train = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    assert (
        train
        == [
            {"instruction": "é", "input": "", "output": ""},
            {"instruction": "b", "input": "c", "output": "d"},
        ]
        * 2
    )
    assert json.loads((folder / "val.json").read_text(encoding="utf-8")) == train[:2]


# ----- processes


def test_a_missing_command_says_how_to_install_it(tmp_path: Path) -> None:
    for command in (str(tmp_path / "litgpt"), "no-such-litgpt"):
        with pytest.raises(UserError, match=r"no LitGPT command .*: install it in a virtual environment of its own"):
            Program.find(command, {})


def test_a_command_that_is_no_litgpt_is_found_out(tmp_path: Path, program: Program) -> None:
    program.check()
    for text, message in (
        ("echo --out_dir --precision", "finetune_lora has no --data"),
        ("echo ModuleNotFoundError: torch >&2; exit 1", "does not run: .*exit code 1: ModuleNotFoundError: torch"),
    ):
        (tmp_path / "other").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "other").chmod(0o755)
        with pytest.raises(UserError, match=message):
            Program.find(str(tmp_path / "other"), dict(os.environ)).check()


def test_a_relative_command_is_found_from_where_we_are(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Program.find("bin/litgpt", {}).path == program.path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "fail",
            r"litgpt evaluate ended with exit code 3: .*RuntimeError: the loss of this trial is odd \(log: .*log\)",
        ),
        ("kill", "out of memory: litgpt evaluate was killed by signal 9: it said nothing"),
        ("memory", "out of memory: litgpt evaluate ended with exit code 1: .*Tried to allocate 2 GiB"),
    ],
)
def test_a_failed_step_says_how_it_ended_and_the_end_of_its_log(
    tmp_path: Path, program: Program, what: str, message: str
) -> None:
    behave(Path(program.path), evaluate=what)
    with pytest.raises(StepError, match=message) as caught:
        program.run("evaluate", ["checkpoint"], tmp_path / "step.log")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_wrong_argument_is_an_exit_code(tmp_path: Path, program: Program) -> None:
    with pytest.raises(StepError, match=r"exit code 2: .*unrecognized arguments: --lora_rank 3"):
        program.run("finetune_lora", ["checkpoint", "--lora_rank", "3"], tmp_path / "step.log")


def test_a_tail_is_one_short_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n" + b"x" * 1000 + b"\n\n 10%\r 99%\rlast  word\r\n")
    assert tail(log, 20) == "...xxxxxxx last word"
    log.write_bytes(b"\xff\n")
    assert tail(log) == "�"


def test_processes_see_their_device_and_not_our_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    seen = [environment(device, None)["CUDA_VISIBLE_DEVICES"] for device in ("cpu", "cuda", "cuda:1")]
    assert seen == ["", "4,6", "6"]
    assert "PYTHONPATH" not in environment("cpu", None)
    assert [environment("cpu", threads)["OMP_NUM_THREADS"] for threads in (None, 1)] == ["3", "1"]


def test_an_interrupt_ends_the_process(tmp_path: Path, program: Program) -> None:
    behave(Path(program.path), evaluate="sleep")
    code = (
        "import os, sys; from pathlib import Path; from partune.finetune.litgpt.program import Program\n"
        f"Program({program.path!r}, dict(os.environ)).run('evaluate', ['x'], Path({str(tmp_path / 'step.log')!r}))"
    )
    ours = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not calls(Path(program.path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    (call,) = calls(Path(program.path))
    ours.send_signal(signal.SIGINT)
    _, errors = ours.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(call["pid"], 0)


def test_a_workplace_is_empty_at_first_and_keeps_its_logs(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "left-behind").touch()
    with workplace(tmp_path / "w") as folder:
        assert not list(folder.iterdir())
        (folder / "out").mkdir()
        (folder / "out" / "lit_model.pth").touch()
        (folder / "results-1.json").touch()
        (folder / "evaluate-1.log").write_text("kept")
    assert [path.name for path in folder.iterdir()] == ["evaluate-1.log"]


# ----- checkpoints


def test_a_model_of_any_size_is_converted_under_a_stand_ins_name_once(
    tmp_path: Path, program: Program, folders: dict[str, Path]
) -> None:
    for kind, name in (("llama", "Llama-3.2-1B"), ("qwen2", "Qwen2.5-0.5B")):
        for _ in range(2):
            found = convert(program, folders[kind], tmp_path / "base" / kind, kind, tmp_path / "c.log")
        assert [call["model_name"] for call in calls(Path(program.path))][-2:] == [kind, name]
        assert yaml.safe_load((found / "model_config.yaml").read_text()) == describe(folders[kind])[1]
        assert sorted(path.name for path in found.iterdir()) == [
            "config.json",
            "generation_config.json",
            "lit_model.pth",
            "model_config.yaml",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    assert len(calls(Path(program.path))) == 4
    assert sorted(path.name for path in folders["llama"].iterdir())[-3:] == [
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert convert(program, found, tmp_path / "none", "x", tmp_path / "c.log") == found


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, program: Program, folders: dict[str, Path]) -> None:
    behave(Path(program.path), convert_to_litgpt="fail")
    with pytest.raises(StepError, match="litgpt convert_to_litgpt ended with exit code 3"):
        convert(program, folders["llama"], tmp_path / "base" / "llama", "llama", tmp_path / "c.log")
    assert not list((tmp_path / "base").iterdir())


def test_other_architectures_are_refused(tmp_path: Path, program: Program, folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="LitGPT knows no model of the name gpt2, and of type gpt2 only those"):
        convert(program, folders["gpt2"], tmp_path / "base" / "gpt2", "gpt2", tmp_path / "c.log")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_bias": True}, "of attention_bias only"),
        ({"hidden_act": "gelu"}, "of hidden_act gelu only"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "of rope_type dynamic only"),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with quiet():
        LlamaConfig(hidden_size=32, num_attention_heads=4, **settings).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        describe(tmp_path)


def test_peft_loads_what_litgpt_trained(base: Base, tmp_path: Path) -> None:
    final, weights = tmp_path / "final", lora(4)
    final.mkdir()
    torch.save({"model": weights}, final / "lit_model.pth.lora")
    (final / "lit_model.pth").touch()
    keep_lora(final, tmp_path / "kept", base.model, config.Training(lora_r=4, lora_alpha=8))
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert names == {"lit_model.pth.lora", "adapter_config.json", "adapter_model.safetensors"}
    with loaded(base, tmp_path / "kept") as adapted:
        delta = {
            name.removeprefix("base_model.model.model."): module.get_delta_weight("default")
            for name, module in adapted.named_modules()
            if hasattr(module, "get_delta_weight")
        }
    assert len(delta) == 8
    for block in range(2):
        a, b = (weights[f"transformer.h.{block}.attn.qkv.lora_{matrix}"] for matrix in "AB")
        # litgpt/lora.py, `get_lora_AB` of the stacked layer: a convolution in three groups
        stacked = torch.cat([x @ y for x, y in zip(b.split([32, 16, 16]), a.chunk(3), strict=True)]) * 2
        found = torch.cat([delta[f"layers.{block}.self_attn.{part}_proj"] for part in "qkv"])
        assert torch.allclose(found, stacked, atol=1e-6)
        a, b = (weights[f"transformer.h.{block}.attn.proj.lora_{matrix}"] for matrix in "AB")
        assert torch.allclose(delta[f"layers.{block}.self_attn.o_proj"], 2 * b @ a, atol=1e-6)


def test_a_model_of_other_layers_keeps_litgpts_format_alone(bases: dict[str, Base], tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "lit_model.pth.lora").touch()
    keep_lora(tmp_path / "final", tmp_path / "kept", bases["neox"].model, config.Training())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["lit_model.pth.lora"]


# ----- answers


def test_answers_are_found_by_context_and_continuation(tmp_path: Path) -> None:
    sample = {"arguments": [["a", " b"], ["a", " c"]], "resps": [[[-1.5, True]], [[float("nan"), False]]]}
    (tmp_path / "r.json").write_text(json.dumps({"samples": {"task": [sample]}}))
    found = read_answers(tmp_path / "r.json")
    assert found["a", " b"] == (-1.5, True)
    assert found["a", " c"][0] != found["a", " c"][0]
    for text in ("", "{}", '{"samples": {"task": [{"arguments": [["a"]], "resps": []}]}}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(StepError, match="litgpt evaluate left no samples"):
            read_answers(tmp_path / "r.json")
