"""Answer requests for all trials of a pack: continuations by their likelihoods, and prompts by texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from partune.finetune.model import Base
from partune.finetune.packed.head import Head
from partune.finetune.packed.likelihoods import PackedLikelihoods
from partune.finetune.scoring.answers import answered
from partune.finetune.scoring.base import Answer, Prompt, Request
from partune.finetune.scoring.decoding import GenerationSettings, answer_text

if TYPE_CHECKING:
    from partune.finetune.packed.adapters import Carrier, Pack
    from partune.finetune.packed.generation import PackedGeneration


class PackedAnswers:
    """Answer requests with a base model alone, or with packs of adapters on it.

    Args:
        base: The base model.
        head: The head of the base model.
    """

    def __init__(self, base: Base, head: Head) -> None:
        self.base, self.head = base, head
        self.likelihoods = PackedLikelihoods(base, head)

    @cached_property
    def generation(self) -> PackedGeneration:
        """The generator of texts, made on first use because it first checks the model."""
        from partune.finetune.packed.generation import PackedGeneration

        return PackedGeneration(self.base, self.head)

    def answers(
        self,
        name: str,
        requests: Sequence[Request],
        carrier: Carrier | None = None,
        pack: Pack | None = None,
        before_pass: Callable[[], None] = lambda: None,
    ) -> list[list[Answer]]:
        """Return the answers to requests: one list for each trial of a pack, or a single list for the base model alone.

        Args:
            name: The name of the requests, under which the plan to compute them is cached.
            requests: The requests.
            carrier: The base model with layers that apply the pack; None for the base model alone.
            pack: The trials' adapters.
            before_pass: Called before each forward pass. It may raise an exception to interrupt the scoring.
        """

        def texts(prompts: Sequence[Prompt], settings: GenerationSettings) -> list[list[str]]:
            """Return the texts of each trial's answers."""
            tokens = [prompt.tokens for prompt in prompts]
            found = self.generation.generate(tokens, settings, carrier, pack, before_pass=before_pass)
            return [
                [answer_text(self.base.tokenizer, answer, settings.until) for answer in of_trial] for of_trial in found
            ]

        return answered(
            requests,
            lambda continuations: self.likelihoods.answers(name, continuations, carrier, pack, before_pass),
            texts,
        )
