"""Requests of both kinds in any order: each answer at its request's place, equal prompts answered once."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from partune.finetune.scoring.answers import answered
from partune.finetune.scoring.base import Continuation, Likelihood, Prompt, Request
from partune.finetune.scoring.decoding import GenerationSettings

GREEDY, SAMPLED = GenerationSettings(4), GenerationSettings(4, temperature=1.0)
MODELS = 2


def prompt(token: int, sampled: bool = False) -> Prompt:
    return Prompt(str(token), (token,), SAMPLED if sampled else GREEDY)


requests = st.lists(
    st.one_of(
        st.builds(prompt, st.integers(0, 3), st.booleans()),
        st.integers(0, 3).map(lambda token: (("", ""), [token], [token])),
    ),
    min_size=1,
    max_size=12,
)


@given(requests)
def test_every_request_gets_its_own_answer(asked: list[Request]) -> None:
    calls: list[tuple[GenerationSettings, list[tuple[int, ...]]]] = []

    def likelihoods(continuations: Sequence[Continuation]) -> list[list[Likelihood]]:
        return [[(-float(context[0]) - model, False) for _, context, _ in continuations] for model in range(MODELS)]

    def texts(prompts: Sequence[Prompt], settings: GenerationSettings) -> list[list[str]]:
        calls.append((settings, [prompt.tokens for prompt in prompts]))
        return [[f"{model}{prompt.text}{settings.samples}" for prompt in prompts] for model in range(MODELS)]

    found = answered(asked, likelihoods, texts)
    assert len(found) == MODELS
    for model, answers in enumerate(found):
        for request, answer in zip(asked, answers, strict=True):
            if isinstance(request, Prompt):
                assert answer == f"{model}{request.text}{request.settings.samples}"
            else:
                assert answer == (-float(request[1][0]) - model, False)
    for settings, tokens in calls:
        own = [request.tokens for request in asked if isinstance(request, Prompt) and request.settings == settings]
        assert tokens == (own if settings.samples else list(dict.fromkeys(own)))
    assert len(calls) == len({request.settings for request in asked if isinstance(request, Prompt)})
