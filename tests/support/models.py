"""What the tests share: saved models, loaded bases, a data file and task files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.finetune import model as models
from partune.finetune.model import Base
from partune.runtime.isolation import quiet
from tests.support.tiny import KINDS, make_items, make_model, make_rows, make_tokenizer, write_jsonl, write_task


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """A saved model of each kind."""
    root = tmp_path_factory.mktemp("models")
    with quiet():
        for kind in KINDS:
            make_model(kind, len(tokenizer)).save_pretrained(root / kind)
            tokenizer.save_pretrained(root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="session")
def bases(folders: dict[str, Path]) -> dict[str, Base]:
    return {kind: models.load(config.Model(path=str(folder)), "fp32", "cpu") for kind, folder in folders.items()}


@pytest.fixture(scope="session")
def doubles(folders: dict[str, Path]) -> dict[str, Base]:
    """The same in fp64."""
    bases = {kind: models.load(config.Model(path=str(folder)), "fp32", "cpu") for kind, folder in folders.items()}
    for base in bases.values():
        base.model.double()
    return bases


@pytest.fixture(scope="session")
def base(bases: dict[str, Base]) -> Base:
    return bases["llama"]


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "rows.jsonl", make_rows(40))


@pytest.fixture(scope="session")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("tasks"), "choices", make_items(30))


@pytest.fixture(scope="session")
def test_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("tests"), "others", make_items(12, seed=1))
