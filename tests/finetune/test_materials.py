"""What the trials of a study share: loaded once, released, and compared with what the study stands on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from partune.errors import UserError
from partune.finetune.materials import SMALL, Materials, load_resident, suitable_threads
from partune.finetune.model import Base
from partune.objectives.settings import study_of
from tests.support.tiny import make_items, make_rows, write_jsonl, write_task


@pytest.fixture
def loads() -> list[str]:
    return []


@pytest.fixture
def materials(folders: dict[str, Path], data_file: Path, task_file: Path, loads: list[str]) -> Materials:
    study = study_of(folders["llama"], data_file, task_file, None, 0, run={"device": "cpu"})

    def load(dtype: str) -> Base:
        loads.append(dtype)
        return load_resident(study, dtype)

    return Materials(study, load)


def test_a_base_is_loaded_once_per_precision(materials: Materials, loads: list[str]) -> None:
    with pytest.raises(RuntimeError, match=r"call prepare\(\) first"):
        _ = materials.scorer
    materials.prepare()
    materials.prepare()
    assert materials.base("auto") is materials.base("fp32")
    assert materials.base("bf16").dtype == "bf16"
    assert loads == ["fp32", "bf16"]


@pytest.mark.slow
def test_what_is_released_is_loaded_again(materials: Materials, loads: list[str]) -> None:
    materials.prepare()
    materials.release()
    with pytest.raises(RuntimeError):
        _ = materials.scorer
    materials.prepare()
    assert loads == ["fp32", "fp32"]


def test_examples_are_cut_once_per_length(materials: Materials) -> None:
    materials.prepare()
    base = materials.base("fp32")
    assert materials.examples(base, 110, "answer") is materials.examples(base, 110, "answer")
    assert materials.examples(base, 10**6, "answer") is materials.examples(base, base.positions, "answer")
    with pytest.raises(UserError, match="no example has a token to train on within max_length 4"):
        materials.examples(base, 4, "answer")


@pytest.mark.slow
def test_what_a_study_does_not_stand_on_is_refused(materials: Materials) -> None:
    there = materials.contents()
    materials.expect(there)
    materials.prepare()
    name = "the training rows"
    changed: dict[str, Any] = {**there, name: dataclasses.replace(there[name], digest="another")}
    materials.expect(changed)
    with pytest.raises(UserError, match="changed since this study began: the training rows"):
        materials.prepare()


def test_threads_suit_the_base(base: Base) -> None:
    assert base.model.num_parameters() < SMALL
    assert (suitable_threads(base, None), suitable_threads(base, 3)) == (1, 3)


def test_items_that_stand_in_the_training_rows_are_recorded(folders: dict[str, Path], tmp_path: Path) -> None:
    items = make_items(12)
    asked = f"Question: {items[5]['question'].upper()} / answer"
    rows = write_jsonl(tmp_path / "rows.jsonl", [*make_rows(6), {"instruction": asked, "output": "oil"}])
    task, other = write_task(tmp_path, "known", items), write_task(tmp_path, "new", make_items(12, seed=5))
    study = study_of(folders["llama"], rows, task, other, 0, run={"device": "cpu"})
    materials = Materials(study, lambda dtype: load_resident(study, dtype))
    materials.prepare()
    assert materials.seen == {"seen": [{"what": "known", "items": 12, "same": 1, "alike": 0, "rows": [7]}]}
    assert materials.seen is materials.seen


def test_nothing_is_recorded_if_no_item_stands_in_the_training_rows(materials: Materials) -> None:
    materials.prepare()
    assert materials.seen == {}
