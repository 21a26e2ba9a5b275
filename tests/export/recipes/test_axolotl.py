"""axolotl's file has its own keys and the study's prompts."""

from __future__ import annotations

import pytest
import yaml

from partune.export.chosen import Chosen
from partune.export.recipes import axolotl
from partune.finetune.data import alpaca_prompt
from tests.support.recipes import CASES, keys


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_key_is_one_that_axolotl_knows(case: Chosen) -> None:
    found = yaml.safe_load(axolotl.recipe(case)[axolotl.FILE])
    assert set(found) <= keys("axolotl", "config")
    for data in found["datasets"]:
        assert set(data) <= keys("axolotl", "dataset")
        assert set(data["type"] if isinstance(data["type"], dict) else ()) <= keys("axolotl", "prompts")


def test_prompts_are_the_studys() -> None:
    prompts = yaml.safe_load(axolotl.recipe(CASES["plain"])[axolotl.FILE])["datasets"][0]["type"]
    row = {"instruction": "Do.", "input": "This.", "output": "Done."}
    assert prompts["format"].format(**row) == alpaca_prompt(row)
    assert prompts["no_input_format"].format(**row) == alpaca_prompt({**row, "input": ""})
