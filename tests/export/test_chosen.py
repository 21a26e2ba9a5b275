"""What is handed to other tools names nobody's home, and has the seeds that the trial was trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from partune.export.chosen import Chosen
from partune.objectives.finetune import FineTune
from partune.trial import Trial
from tests.support.chosen import HERE, chosen
from tests.support.recipes import texts


def test_paths_are_from_the_recipes_folder_and_homes_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / "home" / "ada", tmp_path / "home" / "ada" / "lora"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    given = {"model": {"path": str(home / "models" / "base")}, "data": {"path": str(work / "rows.json")}}
    inside = chosen(**given, here=work / "out" / "recipes")
    assert (inside.base, inside.file) == ("~/models/base", "../../rows.json")
    assert chosen(**given, here=tmp_path / "out").file == "~/lora/rows.json"
    assert chosen(model={"path": "/home/bob/base"}).base == "~/base"
    assert chosen(model={"path": "/srv/base"}).base == "/srv/base"
    for text in texts(inside).values():
        assert str(home) not in text
    assert "Replace ~ by the path of the home folder" in texts(inside)["axolotl"]
    assert "MODEL = str(Path('~/models/base').expanduser())" in texts(inside)["trl"]


@pytest.mark.parametrize(
    ("fixed", "order", "seeds"),
    [(None, None, (7, 3)), (11, None, (11, 3)), (None, 5, (7, 5)), (11, 5, (7, 5))],
)
def test_a_trial_has_the_seeds_that_the_study_trains_it_with(
    fixed: int | None, order: int | None, seeds: tuple[int, int], tmp_path: Path
) -> None:
    """A run with fresh seeds, which has an order of its own, takes neither from the settings."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"target_modules": ["q_proj"]}))
    tuner = FineTune("acme/base-1b", "rows.json", ["arc_easy"], training={"seed": fixed}, seed=3)
    header = {"seed": 3, "objective": tuner.identity}
    loaded = {"dtype": "fp32", "data": {"format": "alpaca", "examples": 9}}
    trial = Trial(0, {}, seed=7, order=order)
    found = Chosen.of(header, loaded, trial, tmp_path, HERE)
    assert tuner.seeds(trial, tuner.training) == (found.seed, found.order_seed) == seeds


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({"data": {"path": "rows.json"}}, None),
        ({"data": {"path": "rows.jsonl.gz"}, "layout": "alpaca"}, None),
        ({"data": {"path": "acme/rows", "config": "en"}, "layout": "alpaca"}, None),
        ({"data": {"path": "acme/chats"}, "rows": "chat", "layout": "chat"}, None),
        ({"data": {"path": "rows.json"}, "layout": "alpaca", "fields": {"output": "response"}}, None),
        ({"data": {"path": "rows.csv"}, "layout": "alpaca"}, "rows.csv"),
        ({"data": {"path": "rows.jsonl.xz"}, "layout": "alpaca"}, "rows.jsonl.xz"),
        ({"data": {"path": "/srv/rows"}, "layout": "alpaca"}, "/srv/rows"),
        ({"data": {"path": "rows.json"}, "layout": "alpaca", "fields": {"output": "Output"}}, "rows.json"),
        ({"data": {"path": "a.json,b.json"}, "layout": "alpaca"}, "a.json,b.json"),
        (
            {"data": {"path": "acme/qa", "split": "dev", "limit": 9}, "layout": "qa"},
            "acme/qa --data-split dev --data-limit 9",
        ),
        (
            {
                "data": {"path": "r.json", "format": "qa", "columns": {"question": "my q", "answer": "a"}},
                "layout": "qa",
            },
            "r.json --format qa --columns 'question=my q,answer=a'",
        ),
        ({"data": {"path": "rows.json"}, "rows": "chat", "layout": "sharegpt"}, "rows.json"),
        (
            {"data": {"path": "acme/dpo", "config": "en"}, "rows": "completion", "layout": "preference"},
            "acme/dpo --data-config en",
        ),
    ],
)
def test_data_that_tools_would_read_otherwise_are_converted_first(given: dict[str, Any], command: str | None) -> None:
    case = chosen(**given)
    assert case.converted == (command is not None)
    for text in texts(case).values():
        lines = [line.removeprefix("# ").strip() for line in text.splitlines()]
        assert (f"partune data {command} --write rows.jsonl" in lines) == case.converted
        assert ("partune data" in text) == case.converted
    if case.converted:
        assert (case.file, case.split, case.limit) == ("rows.jsonl", "train", None)
        assert case.name_of("output") == "output"


def test_recipes_say_that_tools_train_on_the_answers_of_prompts_too(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"target_modules": ["q_proj"]}))
    tuner = FineTune("acme/base-1b", "acme/dpo", ["arc_easy"], seed=3)
    fields = {"prompt": "prompt", "chosen": "chosen"}
    data = {"format": "chat", "layout": "preference", "examples": 9, "fields": fields, "untrained": 4}
    loaded = {"dtype": "fp32", "data": data}
    found = Chosen.of({"seed": 3, "objective": tuner.identity}, loaded, Trial(0, {}, seed=7), tmp_path, HERE)
    for text in texts(found).values():
        assert "The study used the rows' fields weight;" in " ".join(text.replace("\n#", " ").split())
