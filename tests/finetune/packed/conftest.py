"""Tokenised examples for packs."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.finetune.data import Examples, tokenise
from tests.support.tiny import make_rows, write_jsonl


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Examples:
    path = write_jsonl(tmp_path_factory.mktemp("packed") / "rows.jsonl", make_rows(14))
    return tokenise(config.Data(path=str(path)), tokenizer).cut(160, "answer")
