"""`partune verdict` on models, as a shell would run it: an adapter that learnt labels against its base model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from partune import FineTune, Study
from partune.runtime.isolation import quiet
from partune.study.recorded import load_study
from tests.support.command import run
from tests.support.tiny import make_items, make_model, make_tickets, make_tokenizer, write_jsonl, write_task
from tests.support.tuning import SPACE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of labels, its winner's adapter and merged model, rows of the same kind, and a task."""
    root = tmp_path_factory.mktemp("verdict")
    tokenizer = make_tokenizer()
    with quiet():
        make_model("llama", len(tokenizer)).save_pretrained(root / "tiny")
        tokenizer.save_pretrained(root / "tiny")
    write_task(root, "choices", make_items(30))
    training = {"steps": 30, "batch_size": 8}
    rows = write_jsonl(root / "rows.jsonl", make_tickets(150))
    tuner = FineTune(root / "tiny", rows, training=training, run={"device": "cpu", "pack": 2})
    Study(SPACE, tuner, "random", directory=root / "study", seeds=0).run(2).close()
    load_study(root / "study").export(root / "adapter", anyway=True)
    load_study(root / "study").export(root / "merged", anyway=True, merge=True)
    write_jsonl(root / "others.jsonl", make_tickets(200, 1))
    return root


def verdict(place: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.chdir(place)
    status, output, errors = run("verdict", *arguments, "--json")
    assert (status, errors) == (0, "")
    return json.loads(output)


@pytest.mark.slow
def test_a_study_its_adapter_and_its_merge_have_the_same_answer(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["--data", "others.jsonl", "--metric", "loss"]
    answers = [
        verdict(place, monkeypatch, name, other, *rows, *model)
        for name, other, model in (
            ("study", "base", ["--model", "tiny"]),
            ("adapter", "base", ["--model", "tiny", "--dtype", "fp32", "--device", "cpu"]),
            ("merged", "tiny", []),
        )
    ]
    first = answers[0]["answers"][0]
    assert (first["name"], first["items"], first["metrics"]) == ("others.jsonl", 200, ["loss"])
    assert (first["relation"], first["higher_is_better"]) == ("better", False)
    for other in answers[1:]:
        found = other["answers"][0]
        assert [found["gain"], *found["interval"]] == pytest.approx([first["gain"], *first["interval"]], abs=1e-4)
        assert found["sentence"] == first["sentence"]
    assert answers[0]["a"] == {"paths": ["study"], "model": answers[0]["a"]["model"]}
    assert "the winner, on " in answers[0]["a"]["model"]


@pytest.mark.slow
def test_a_merge_is_no_worse_than_the_adapter_within_a_margin(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--model", "tiny", "--task", "choices.yaml", "--limit", "25", "--margin", "0.2"]
    (answer,) = verdict(place, monkeypatch, "merged", "adapter", *flags)["answers"]
    assert (answer["items"], answer["won"], answer["lost"]) == (25, 0, 0)
    assert answer["relation"] == "no worse"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("adapter", "base", "--task", "t", "--model-revision", "v2"), "settings of the model need `--model`"),
        (("adapter", "base", "--task", "t", "--format", "qa"), "settings of the data need `--data`"),
        (("adapter", "base", "--model", "m", "--task", "t", "--limit", "0"), "limit"),
        (("adapter", "base", "--model", "m", "--task", "t", "--dtype", "fp8"), "dtype"),
        (("adapter", "base", "--model", "m", "--task", "piqa", "--device", "gpu"), 'no device "gpu"'),
        (("adapter", "base", "--model", "nowhere/m", "--task", "t"), 'no task "t"|no folder "nowhere/m"'),
        (("adapter", "base", "--model", "./nowhere", "--task", "t"), "no model folder ./nowhere"),
        (
            ("adapter", "base", "--model", "adapter", "--task", "t"),
            "adapter's folder: use the folder of its base model",
        ),
        (("adapter", "base", "--model", "merged", "--data", "nowhere.json"), "nowhere.json"),
    ],
)
def test_hostile_flags_are_one_line(
    place: Path, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    status, output, errors = run("verdict", *arguments)
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert re.search(said, errors)
