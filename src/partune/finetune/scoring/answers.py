"""Answer requests for likelihoods and for texts, with one model or with several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from partune.finetune.scoring.base import Answer, Continuation, Likelihood, Prompt, Request
from partune.finetune.scoring.decoding import GenerationSettings

# Takes prompts and their settings; returns one list of texts per model.
PackTexts = Callable[[Sequence[Prompt], GenerationSettings], list[list[str]]]


def answered(
    requests: Sequence[Request],
    likelihoods: Callable[[Sequence[Continuation]], list[list[Likelihood]]],
    texts: PackTexts,
) -> list[list[Answer]]:
    """Return the answers of each model to requests, in the order of the requests.

    Prompts with the same settings are answered together. Equal prompts are answered once, unless the answers are
    sampled: a repeated prompt then asks for another sample.

    Args:
        requests: The requests, of both kinds.
        likelihoods: Computes each model's likelihoods of continuations.
        texts: Generates each model's texts.
    """
    continuations = [request for request in requests if not isinstance(request, Prompt)]
    if len(continuations) == len(requests):
        return [list(of_model) for of_model in likelihoods(continuations)]
    # For each settings and each different prompt, the indices of its requests. Each sampled prompt counts as different.
    groups: dict[GenerationSettings, dict[object, list[int]]] = {}
    prompts = {index: request for index, request in enumerate(requests) if isinstance(request, Prompt)}
    for index, prompt in prompts.items():
        key = index if prompt.settings.samples else prompt.tokens
        groups.setdefault(prompt.settings, {}).setdefault(key, []).append(index)
    by_model: list[dict[int, Answer]] = []
    if continuations:
        indices = [index for index in range(len(requests)) if index not in prompts]
        by_model = [dict(zip(indices, of_model, strict=True)) for of_model in likelihoods(continuations)]
    for settings, group in groups.items():
        generated = texts([prompts[equal[0]] for equal in group.values()], settings)
        by_model = by_model or [{} for _ in generated]
        for answers, of_model in zip(by_model, generated, strict=True):
            for equal, text in zip(group.values(), of_model, strict=True):
                answers.update(dict.fromkeys(equal, text))
    return [[answers[index] for index in range(len(requests))] for answers in by_model]
