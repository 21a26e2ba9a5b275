"""The doctor: what it finds, what it advises, and that its self-check fails where something is wrong."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from partune.cli import doctor, main
from partune.cli.doctor import Check
from partune.runtime.extras import install_command


def test_a_machine_that_is_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor", "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    names = [each["name"] for each in found["checks"]]
    assert names[:5] == ["python", "machine", "devices", "disk", "libraries"]
    assert {"extra: finetune", "extra: dask", "extra: litgpt", "extra: quantize", "hub"} <= set(names)
    assert "extra: dev" not in names
    lines = {each["name"]: each["found"] for each in found["checks"]}
    assert f"numpy {importlib.metadata.version('numpy')}" in lines["libraries"]
    assert f"torch {importlib.metadata.version('torch')}" in lines["extra: finetune"]
    assert "offline (HF_HUB_OFFLINE=1" in found["checks"][-1]["found"]


def test_a_failure_is_status_1_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [
        Check("a", "ok", "fine"),
        Check("b", "warn", "so so", "mend [it]"),
        Check("c", "FAIL", "broken", "buy one"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda quick: iter(checks))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ok    a: fine", "warn  b: so so", "      -> mend [it]", "FAIL  c: broken", "      -> buy one"]
    monkeypatch.setattr(doctor, "examine", lambda quick: iter(checks[:2]))
    assert main(["doctor", "--json"]) == 0


def test_a_library_that_is_missing_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError
        return "0.1" if name in ("scipy", "transformers") else "9999"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = doctor.libraries()
    assert found.verdict == "FAIL"
    assert '"optuna>=5"' in found.todo
    assert '"scipy>=1.15"' in found.todo
    assert "scipy 0.1" in found.found
    assert "numpy" not in found.todo
    parts = {each.name: each for each in doctor.extras()}
    assert parts["extra: finetune"].verdict == "FAIL"  # it is there, and would be used
    assert parts["extra: finetune"].todo == f"too old (transformers): {install_command('finetune')}"
    dask = parts["extra: dask"]
    assert (dask.verdict, "distributed 9999" in dask.found) == ("ok", True)


def test_an_extra_that_is_not_there_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = {each.name: each for each in doctor.extras()}
    assert all(each.verdict == "ok" for each in found.values())
    assert found["extra: finetune"].found.endswith(install_command("finetune"))
    assert found["extra: quantize"].found == f"not installed (bitsandbytes): {install_command('quantize')}"
    assert "--litgpt PATH" in found["extra: litgpt"].found


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in doctor.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    asked: list[Any] = []

    def refused(address: tuple[str, int], timeout: float) -> Any:
        asked.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setenv("HF_ENDPOINT", "http://user:secret@mirror:8080/hub")
    found = doctor.hub()
    assert asked == [("mirror", 8080)]
    assert (found.verdict, "HF_HUB_OFFLINE=1" in found.todo, "secret" in found.found) == ("warn", True, False)
    monkeypatch.setattr(socket, "create_connection", lambda *_: socket.socket())
    assert doctor.hub().verdict == "ok"


def test_little_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: (8e9, 1e9))
    assert doctor.machine().verdict == "warn"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1e12, 0, 1e9))
    assert doctor.disk().verdict == "warn"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert doctor.disk().verdict == "FAIL"


def test_a_driver_without_a_torch_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.devices().verdict == "ok"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    found = doctor.devices()
    assert (found.verdict, "CUDA" in found.todo) == ("warn", True)


@pytest.mark.slow
def test_the_self_checks_pass_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    zero, packed = (each for each in json.loads(capsys.readouterr().out)["checks"] if each["name"] == "self-check")
    assert (zero["verdict"], packed["verdict"]) == ("ok", "ok")
    assert zero["found"].startswith("learning rate 0 does not change the base model's answers (")
    assert packed["found"].startswith("trials that train together answer like the same trials alone through PEFT (")


@pytest.mark.slow
def test_the_self_check_fails_where_learning_rate_0_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    from partune.objectives.finetune import FineTune

    monkeypatch.setattr(FineTune, "score_zero", FineTune.evaluate)  # with the trial's own rate
    monkeypatch.setattr(doctor, "packed_is_peft", lambda: None)
    *_, zero, packed = doctor.examine()
    assert (zero.verdict, packed.verdict) == ("FAIL", "ok")
    assert zero.found.startswith("not true that learning rate 0 does not change the base model's answers: ")
    assert "items of search/factory_cloze differ" in zero.found


@pytest.mark.slow
def test_the_self_check_fails_where_packs_train_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    make = doctor.demo_tuning

    def longer(engine: str, dtype: str) -> Any:
        monkeypatch.setattr(doctor, "STEPS", 5 if engine == "packed" else 6)
        return make(engine, dtype)

    monkeypatch.setattr(doctor, "demo_tuning", longer)
    found = doctor.attempted("self-check", "it holds", doctor.packed_is_peft)
    assert found.verdict == "FAIL"
    assert "items of search/factory_cloze differ" in found.found
    assert "--engine peft" in found.todo


@pytest.mark.slow
def test_the_self_check_fails_where_an_adapter_is_not_what_was_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    from partune.finetune import adapter

    write = adapter.write

    def wrong(folder: Path, lora: Any, *given: Any) -> None:
        lora.lora_alpha *= 3
        write(folder, lora, *given)

    monkeypatch.setattr(adapter, "write", wrong)
    found = doctor.attempted("self-check", "it holds", doctor.packed_is_peft)
    assert found.verdict == "FAIL"
    assert "an adapter on disk, loaded by PEFT: " in found.found


def test_a_self_check_that_breaks_is_a_failure() -> None:
    def broken() -> str | None:
        raise RuntimeError("no\nkernel")

    found = doctor.attempted("self-check", "it holds", broken)
    assert (found.verdict, found.found) == ("FAIL", "not true that it holds: RuntimeError: no kernel")
