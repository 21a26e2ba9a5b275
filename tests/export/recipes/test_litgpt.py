"""LitGPT's file has its own keys."""

from __future__ import annotations

import pytest
import yaml

from partune.export.chosen import Chosen
from partune.export.recipes import litgpt
from tests.support.recipes import CASES, keys


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_key_is_one_that_litgpt_knows(case: Chosen) -> None:
    found = yaml.safe_load(litgpt.recipe(case)[litgpt.FILE])
    assert set(found) <= keys("litgpt", "finetune_lora")
    assert set(found["train"]) <= keys("litgpt", "train")
    assert set(found["eval"]) <= keys("litgpt", "eval")
    assert set(found["data"]["init_args"]) <= keys("litgpt", "data.JSON")
