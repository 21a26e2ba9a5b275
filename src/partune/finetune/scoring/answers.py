"""Answer requests of different kinds with one model or with several, each kind in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from partune.finetune.scoring.base import Answer, Continuation, Likelihood, Prompt, Request
from partune.finetune.scoring.decoding import GenerationSettings

# A function from prompts, and how to answer them, to the texts of each of several models.
PackTexts = Callable[[Sequence[Prompt], GenerationSettings], list[list[str]]]


def answered(
    requests: Sequence[Request],
    likelihoods: Callable[[Sequence[Continuation]], list[list[Likelihood]]],
    texts: PackTexts,
) -> list[list[Answer]]:
    """Return the answers of each model to requests, in the order of the requests.

    Prompts that are answered in the same way are answered together. Equal ones are answered once, unless the answers
    are sampled: a repeated prompt then asks for another sample.

    Args:
        requests: The requests, of both kinds.
        likelihoods: Returns the likelihoods that each model gives to continuations.
        texts: Returns the texts with which each model answers prompts.
    """
    continuations = [request for request in requests if not isinstance(request, Prompt)]
    if len(continuations) == len(requests):
        return [list(of_model) for of_model in likelihoods(continuations)]
    groups: dict[GenerationSettings, dict[object, list[int]]] = {}  # the places of prompts, by settings and tokens
    for place, request in enumerate(requests):
        if isinstance(request, Prompt):
            key = place if request.settings.samples else request.tokens
            groups.setdefault(request.settings, {}).setdefault(key, []).append(place)
    found: list[dict[int, Answer]] = []
    if continuations:
        places = [place for place, request in enumerate(requests) if not isinstance(request, Prompt)]
        found = [dict(zip(places, of_model, strict=True)) for of_model in likelihoods(continuations)]
    for settings, group in groups.items():
        first = [requests[equal[0]] for equal in group.values()]
        by_model = texts([prompt for prompt in first if isinstance(prompt, Prompt)], settings)
        found = found or [{} for _ in by_model]
        for of_model, answers in zip(found, by_model, strict=True):
            for equal, answer in zip(group.values(), answers, strict=True):
                of_model.update(dict.fromkeys(equal, answer))
    return [[of_model[place] for place in range(len(requests))] for of_model in found]
