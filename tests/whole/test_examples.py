"""The worked examples: files are what the generator writes, nothing leaks, no guess pays, and the studies run."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from partune import config
from partune.cli import main
from partune.cli.parser import build_parser
from tests.support import ROOT
from tests.whole.test_docs import blocks, commands

EXAMPLES = ROOT / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/study.yaml"))
TASKS = sorted(EXAMPLES.glob("*/*_test.jsonl"))

# The simplest form for each: how its rows are read.
LAYOUTS = {"predictive-maintenance": "label", "quality-control": "completion", "supply-chain": "chat"}


def identity(path: Path) -> str:
    return str(path.relative_to(EXAMPLES))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = spec_from_file_location("examples_make", EXAMPLES / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases(make: ModuleType) -> dict[str, dict[str, list[Any]]]:
    """Task -> part -> cases."""
    return {name: make.parts(name, task) for _, tasks in make.EXAMPLES.values() for name, task in tasks.items()}


def test_every_example_is_there(make: ModuleType) -> None:
    assert {folder.name for folder in FOLDERS} == set(make.EXAMPLES)


@pytest.mark.slow
def test_the_files_are_what_the_generator_writes(make: ModuleType) -> None:
    written = make.files()
    data = [path for path in EXAMPLES.glob("*/*") if path.suffix in (".jsonl", ".csv")]
    assert {identity(path) for path in data} == set(written)
    for name, text in written.items():
        assert (EXAMPLES / name).read_text(encoding="utf-8") == text, name


@pytest.mark.slow
def test_no_case_is_told_twice(cases: dict[str, dict[str, list[Any]]]) -> None:
    for name, parts in cases.items():
        facts = [case.facts for part in parts.values() for case in part]
        texts = [case.text for part in parts.values() for case in part]
        assert len(set(facts)) == len(facts), name
        assert len(set(texts)) == len(texts), name


@pytest.mark.slow
def test_the_test_is_about_what_training_never_shows(make: ModuleType, cases: dict[str, dict[str, list[Any]]]) -> None:
    def words(name: str, part: str) -> set[str]:
        return {
            word for case in cases[name][part] for word in case.text.lower().replace(",", " ").replace(".", " ").split()
        }

    late = {family[-1] for family in make.FAMILIES.values()}
    new = {
        "defects": set(make.NEW_PRODUCTS),
        "feedback": set(make.NEW_PRODUCTS),
        "demand": late,
        "cause": set(make.NEW_COMPONENTS),
    }
    for name, never in new.items():
        assert never <= words(name, "test"), name
        for part in ("train", "validation"):
            # A log also names "belt off its track" and "fan current": its component is the second word.
            shown = {case.text.split()[1] for case in cases[name][part]} if name == "cause" else words(name, part)
            assert not never & shown, (name, part)

    def pairs(part: str) -> set[tuple[str, str]]:
        parts = {each for family in make.FAMILIES.values() for each in family}
        return {
            (next(each for each in parts if f"the {each}," in case.text), case.answers[0])
            for case in cases["supplier"][part]
        }

    assert not pairs("test") & (pairs("train") | pairs("validation"))


@pytest.mark.parametrize("path", TASKS, ids=identity)
def test_no_guess_pays(path: Path) -> None:
    """Each place is right for a quarter of the items; the longest, the shortest, a fixed answer too, within error."""
    items = rows(path)
    right = np.array([item["answer"] for item in items])
    assert set(np.bincount(right, minlength=4)) == {len(items) // 4}
    assert all(len(set(item["choices"])) == 4 for item in items)
    error = np.sqrt(0.25 * 0.75 / len(items))
    for better in (max, min):
        hits = []
        for item in items:
            best = better(len(choice) for choice in item["choices"])
            ties = [place for place, choice in enumerate(item["choices"]) if len(choice) == best]
            hits.append((item["answer"] in ties) / len(ties))
        assert abs(np.mean(hits) - 0.25) < 4 * error
    for word in {choice for item in items for choice in item["choices"]}:
        offered = [item["choices"][item["answer"]] == word for item in items if word in item["choices"]]
        if len(offered) >= 30:
            assert np.mean(offered) < 0.25 + 4 * np.sqrt(0.25 * 0.75 / len(offered)), word


def test_a_rare_answer_is_no_more_frequent_in_training(cases: dict[str, dict[str, list[Any]]]) -> None:
    """The answers of a task are about equally frequent where a row has one of a few."""
    for name in ("defects", "demand", "cause", "supplier"):
        _, counts = np.unique([case.answers[0] for case in cases[name]["train"]], return_counts=True)
        assert counts.max() - counts.min() <= 1, name


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=identity)
def test_the_tests_ask_as_training_words_it(folder: Path, make: ModuleType) -> None:
    """What a test puts before a choice is what a training row of the same text has before that answer."""
    from partune.finetune.data import tokenise
    from partune.finetune.model import load_tokenizer

    study = config.parse(config.load(folder / "study.yaml"))
    assert study.model is not None
    assert study.data is not None
    tokenizer = load_tokenizer(study.model)
    examples = tokenise(study.data, tokenizer)
    trained = [tokenizer.decode(examples.example(i)[0]) for i in range(len(examples))]
    form, tasks = make.EXAMPLES[folder.name]
    assert {Path(path).name for path in study.test.tasks} == {f"{name}_test.yaml" for name in tasks}
    assert {path.name for path in folder.glob("*_*.yaml")} == {f"{name}_test.yaml" for name in tasks}
    for name, task in tasks.items():
        asked = yaml.safe_load((folder / f"{name}_test.yaml").read_text(encoding="utf-8"))
        assert asked["task"] == f"{name}_test"
        before, after = asked["doc_to_text"].split("{{input}}")
        for case in make.parts(name, task)["train"][:5]:
            answer = make.bare(case.answers[0]) if form is make.labelled else case.answers[0]
            whole = "".join(f"{before[-16:]}{case.text}{after} {answer}".split())
            assert sum(whole in "".join(text.split()) for text in trained) == 1, case.text


@pytest.mark.parametrize("folder", FOLDERS, ids=identity)
def test_a_page_shows_rows_that_are_there_and_commands_that_parse(folder: Path) -> None:
    page = folder / "README.md"
    files = [path for path in folder.iterdir() if path.suffix in (".jsonl", ".csv")]
    lines = {line for path in files for line in path.read_text(encoding="utf-8").splitlines()}
    shown = [block for block in blocks(page) if block.language in ("json", "csv")]
    assert len(shown) >= 2
    assert [line for block in shown for line in block.text.splitlines() if line not in lines] == []
    called = [arguments for block in blocks(page) if block.language == "sh" for arguments, _ in commands(block.text)]
    assert called
    for arguments in called:
        build_parser().parse_args(arguments)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (folder / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=identity)
def test_the_study_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """End to end, shortened: one trial of four steps, a few items and validation rows."""
    monkeypatch.chdir(tmp_path)
    few = ["--steps", "4", "--warmup-steps", "1", "--limit", "16", "--test-limit", "8", "--budget", "1"]
    few += ["--seeds", "2", "--pack", "2"]
    assert main(["tune", str(folder / "study.yaml"), *few, "--name", "short"]) == 0
    capsys.readouterr()
    assert main(["report", "runs/short", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [trial["status"] for trial in found["trials"]] == ["done"]
    assert found["loaded"]["data"]["layout"] == LAYOUTS[folder.name]
    for name in ("base", "defaults", "best"):
        assert None not in (found[name]["score"], found[name]["verdict"]), name
        assert set(found[name]["test"]) == {path.stem for path in folder.glob("*_test.yaml")}, name
    assert found["verdict"]["sentence"]
    assert (tmp_path / "runs" / "short" / "report.html").exists()
