"""Tokens of the harness's requests, by their type."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.scoring.base import Prompt
from partune.finetune.scoring.encoding import request_encoder, with_changes
from partune.finetune.scoring.harness_generation import prompt_encoder
from partune.runtime.isolation import quiet


def instance(kind: Any, *arguments: Any, repeats: int = 1) -> Instance:
    return Instance(kind, {}, arguments, 0, ("some", 0, repeats))


def test_each_type_has_its_own_requests(base: Base) -> None:
    kwargs = {"until": ["."], "max_gen_toks": 5}
    encode = request_encoder(base)
    found = encode(
        [
            instance("generate_until", "the pump", kwargs, repeats=3),
            instance("loglikelihood", "the pump", " leaks"),
            instance("loglikelihood_rolling", "the pump leaks " * 90),
        ]
    )
    assert [len(requests) for requests in found[:2]] == [3, 1]
    prompt = found[0][0]
    assert isinstance(prompt, Prompt)
    assert list(prompt.tokens) == prompt_encoder(base)(["the pump"])[0]
    assert (prompt.settings.until, prompt.settings.max_new_tokens) == ((".",), 5)
    (continuation,) = found[1]
    assert not isinstance(continuation, Prompt)
    assert continuation[0] == ("the pump", " leaks")
    windows = [window for window in found[2] if not isinstance(window, Prompt)]
    assert len(windows) > 1
    text = prompt_encoder(base)(["the pump leaks " * 90])[0]
    assert [token for _, _, tokens in windows for token in tokens] == text  # every token is predicted once
    assert max(len(before) + len(tokens) for _, before, tokens in windows) <= base.context + 1
    assert windows[0][1] == [base.tokenizer.bos_token_id]


def test_windows_are_those_of_the_harness(base: Base) -> None:
    seen: list[Any] = []

    class Spy(HFLM):  # type: ignore[misc]
        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
            seen.extend(requests)
            return [(0.0, False)] * len(requests)

    with quiet():
        model = Spy(pretrained=base.model, tokenizer=base.tokenizer, batch_size=2, max_length=base.context)
        asked = [instance("loglikelihood_rolling", "why valve " * 70)]
        model.loglikelihood_rolling(asked, disable_tqdm=True)
    (ours,) = request_encoder(base)(asked)
    assert [tuple(window[1:]) for window in ours if not isinstance(window, Prompt)] == [
        tuple(map(list, window[1:])) for window in seen
    ]


def test_settings_of_the_user_replace_those_of_the_task(base: Base) -> None:
    kwargs = {"max_new_tokens": 7, "until": ["a"], "do_sample": True, "temperature": 0.8, "top_p": 0.9}
    assert with_changes(kwargs, {}) == kwargs
    assert with_changes(kwargs, {"temperature": 0.3})["top_p"] == 0.9
    assert with_changes(kwargs, {"max_gen_toks": 3, "until": ["b"]}) == {
        "max_gen_toks": 3, "until": ["b"], "do_sample": True, "temperature": 0.8, "top_p": 0.9,
    }  # fmt: skip
    assert with_changes(kwargs, {"temperature": 0.0}) == {"max_new_tokens": 7, "until": ["a"], "temperature": 0.0}
    for changes, message in (
        (
            {"max_gen_toks": 500},
            "task some: max_new_tokens must be less than the 192 .*; choose fewer, such as `--max-new-tokens 96`",
        ),
        ({"until": [""]}, "task some: until has an empty text"),
    ):
        with pytest.raises(UserError, match=message):
            request_encoder(base)([instance("generate_until", "x", kwargs)], changes)
