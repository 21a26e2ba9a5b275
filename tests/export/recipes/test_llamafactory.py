"""LLaMA-Factory's files have its own keys."""

from __future__ import annotations

import json

import pytest
import yaml

from partune.export.chosen import Chosen
from partune.export.recipes import llamafactory
from tests.support.recipes import CASES, keys


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_key_is_one_that_llamafactory_knows(case: Chosen) -> None:
    files = llamafactory.recipe(case)
    assert set(yaml.safe_load(files[llamafactory.FILE])) <= keys("llamafactory", "arguments")
    described = json.loads(files[llamafactory.DATA_FILE])["study"]
    for part, names in (("dataset", described), ("columns", described["columns"]), ("tags", described.get("tags", {}))):
        assert set(names) <= keys("llamafactory", part)
