"""Chats of OpenAI and of ShareGPT: roles, calls, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.finetune.rows.test_forms import refusal
from tests.support.tiny import write_jsonl


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("human", "gpt"), "row 1: no message has the role assistant; it has human, gpt"),
        (("user", "model"), 'row 1: no message has the role assistant; it has user, model ("model" is "assistant"'),
        (("user", "Assistant"), "row 1: no message has the role assistant; it has user, Assistant"),
        (("user", "assistant", "user", "gpt"), 'row 1: a message has the role "gpt" ("gpt" is "assistant" here)'),
        (("user", "user"), "no message has the role assistant, so there is no answer to train on; the roles are user"),
    ],
)
def test_roles_of_other_formats_are_named(tmp_path: Path, roles: tuple[str, ...], message: str) -> None:
    row = {"messages": [{"role": role, "content": "text"} for role in roles]}
    assert message in refusal(write_jsonl(tmp_path / "rows.jsonl", [row]))
