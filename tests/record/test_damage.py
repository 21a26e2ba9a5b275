"""Damage on disk: what is named is the file or the trial, in one line; what is intact goes on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from partune import Choice, Float, Int, Space, Study
from partune.cli import main
from partune.errors import UserError
from partune.export.export import export
from partune.record.record import Record
from partune.report.facts import Facts
from partune.report.html.page import page
from tests.support.simulated import SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 1e-2, log=True), lora_r=Int(2, 64, log=True), kind=Choice(["a", "b"]))
BYTES = b'0123456789"{}[],:-.eEnulltrfas'


def objective() -> SimulatedTuning:
    return SimulatedTuning(gain=0.4, items=40)


def resume(directory: Path) -> None:
    study = Study(SPACE, objective(), "bamsoo", seed=1, directory=directory, confirm=2, resume=True)
    try:
        study.run(7)
    finally:
        study.close()


def report(directory: Path) -> None:
    record = Record.open(directory, read_only=True)
    page(Facts(record))
    record.close()


def hand_over(directory: Path) -> None:
    export(directory, directory.with_name("out"), recipes=["none"], anyway=True)


USES: dict[str, Callable[[Path], None]] = {"report": report, "resume": resume, "export": hand_over}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "study"
    study = Study(SPACE, objective(), "bamsoo", seed=1, directory=directory, confirm=2)
    study.run(6)
    study.close()
    return directory


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study"))


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Another byte, a bit, or one byte less."""
    at, kind, other = rng.randrange(len(content)), rng.randrange(4), bytearray(content)
    if kind == 0:
        del other[at]
    else:
        other[at] = (rng.randrange(256), rng.choice(BYTES), other[at] ^ 1 << rng.randrange(8))[kind - 1]
    return bytes(other)


def outcome(use: str, directory: Path) -> str:
    """What a use ended in: nothing, or one line."""
    try:
        USES[use](directory)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_byte_that_changed_in_the_journal_is_fine_or_one_line(seed: int, whole: Path, tmp_path: Path) -> None:
    content = mutated((whole / "journal.log").read_bytes(), random.Random(seed))
    for use in USES:
        directory = Path(shutil.copytree(whole, tmp_path / use / "study"))
        (directory / "journal.log").write_bytes(content)
        line = outcome(use, directory)
        assert len(line.splitlines()) <= 1
        assert not line or any(name in line for name in ("journal.log", str(directory), "trial ", "line "))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (b'"fidelity":1.0,"error"', b'"fidhlity":1.0,"error"', "is damaged at "),
        (b'"status":"done"', b'"stat1s":"done"', "status is missing"),
        (b'"status":"done"', b'"status":"gone"', "is damaged at "),
        (
            b'"told_before":0',
            b'"told_befo_e":0',
            "at trial 0: restore it from a copy (told_before is missing)",
        ),
        (b'"told_before":0', b'"told_before":"0"', "is damaged at trial 0"),
        (b'"attempts":1', b'"attempts":[]', "is damaged at trial 0"),
        (b'"notes":[{', b'"notes":[[{}],{', "is damaged at trial "),
        (b'"std":', b'"stc":', "its record cannot be followed (KeyError: 'std')"),
        (b'"algorithm":"bamsoo"', b'"alg":"bamsoo"', "is damaged at the study's header"),
        (b'"versions":{', b'"versions":7,"v":{', "is damaged at the study's header"),
        (b'"int":[2,64]', b'"int":[2,-4]', "is damaged at the study's header"),
        (b'"name":"base"', b'"name":["base"]', "is damaged at baseline ['base']"),
    ],
    ids=range(12),
)
def test_what_is_valid_json_and_not_what_was_written_names_its_trial(
    old: bytes, new: bytes, named: str, directory: Path
) -> None:
    content = (directory / "journal.log").read_bytes()
    assert old in content
    (directory / "journal.log").write_bytes(content.replace(old, new, 1))
    line = outcome("report", directory)
    assert named in line
    assert len(line.splitlines()) == 1


def test_a_journal_of_nested_brackets_is_one_line(directory: Path) -> None:
    with (directory / "journal.log").open("ab") as file:
        file.write(b"[" * 200_000 + b"\n")
    assert "journal.log is damaged in line " in outcome("report", directory)


# ----- files beside the journal


def test_per_item_results_that_are_gone_are_named_before_anything_runs(directory: Path) -> None:
    shutil.rmtree(directory / "items")
    for use in USES:
        line = outcome(use, directory)
        assert str(directory / "items" / "anchor-") in line
        assert "is missing, which holds the per-item results of baseline " in line


@pytest.mark.slow
def test_a_study_goes_on_without_per_item_results_that_no_verdict_needs(directory: Path) -> None:
    for path in (directory / "items").glob("0*.npz"):
        path.unlink()
    assert outcome("report", directory) == outcome("resume", directory) == ""
    record = Record.open(directory, read_only=True)
    assert len(record.trials()) == 7
    record.close()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x00" * 300])
def test_per_item_results_that_are_damaged_are_named(content: bytes, directory: Path) -> None:
    for path in (directory / "items").iterdir():
        path.write_bytes(content)
    line = outcome("report", directory)
    assert str(directory / "items" / "anchor-") in line
    assert "is damaged: restore it from a copy" in line


@pytest.mark.slow
def test_a_byte_that_changed_in_per_item_results_is_fine_or_one_line(directory: Path) -> None:
    record = Record.open(directory, read_only=True)
    path = min(each for each in (directory / "items").iterdir() if each.name.startswith("anchor-"))
    number, content = int(path.stem.removeprefix("anchor-")), path.read_bytes()
    lines = []
    for seed in range(300):
        path.write_bytes(mutated(content, random.Random(seed)))
        try:
            record.items("anchors", number)
        except UserError as error:
            lines.append(str(error))
    record.close()
    assert len(lines) > 100
    assert all(str(path) in line for line in lines)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("storage.json", b"[]", "storage.json is damaged"),
        ("storage.json", b"\xff", "storage.json is damaged"),
        ("storage.json", b"[" * 100_000, "storage.json is damaged"),
        ("storage.json", b'{"url": 3, "study": "a"}', "storage.json names no study"),
        ("study.yaml", b"\xff\xfe", "study.yaml is not UTF-8 text"),
        ("study.yaml", b"a: [", "study.yaml is not valid YAML"),
        ("study.yaml", b"trainig: {}", "study.yaml is damaged: unknown key"),
        ("study.yaml", b"- a", "study.yaml: a study's file must be a mapping"),
    ],
    ids=range(8),
)
def test_other_files_of_a_study_are_named(
    name: str, content: bytes, named: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / name).write_bytes(content)
    assert main(["resume", str(directory)]) == 2
    told = capsys.readouterr().err
    assert named in told
    assert len(told.strip().splitlines()) == 1


# ----- adapters


def adapter_of(directory: Path) -> Path:
    record = Record.open(directory, read_only=True)
    (number,) = record.artifacts.adapters()
    folder = record.adapter("winner" if record.adapter("winner").is_dir() else number)
    record.close()
    return folder


def spoil(folder: Path, config: bytes | None, weights: bytes | None) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in (("adapter_config.json", config), ("adapter_model.safetensors", weights)):
        if content is not None:
            (folder / name).write_bytes(content)


def tensors(folder: Path, **named: np.ndarray) -> bytes:  # type: ignore[type-arg]
    save_file(named, folder / "t.safetensors")
    return (folder / "t.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["all", "config", "no config", "list", "no weights", "empty", "no tensor", "cut"])
def test_an_adapter_that_is_damaged_is_not_handed_over(damage: str, directory: Path, tmp_path: Path) -> None:
    folder, good = adapter_of(directory), tensors(tmp_path, a=np.zeros((4, 4)))
    ours = json.dumps({"peft_type": "LORA"}).encode()
    config, weights, named = {
        "all": (None, None, "is empty"),
        "config": (b"{", good, "adapter_config.json is not valid JSON"),
        "no config": (None, good, "is not an adapter folder: it has no adapter_config.json"),
        "list": (b"[1]", good, "adapter_config.json must hold a JSON object, got [1]"),
        "no weights": (ours, None, "adapter_model.safetensors is missing"),
        "empty": (ours, b"", "adapter_model.safetensors is cut or damaged"),
        "no tensor": (ours, tensors(tmp_path), "adapter_model.safetensors holds no tensor"),
        "cut": (ours, good[:-5], "adapter_model.safetensors is cut or damaged"),
    }[damage]
    spoil(folder, config, weights)
    line = outcome("export", directory)
    assert str(folder) in line
    assert named in line
    assert len(line.splitlines()) == 1
    assert not directory.with_name("out").exists()
