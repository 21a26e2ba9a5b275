"""Encode prompts and answer them with one model through lm-evaluation-harness's HFLM."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from partune.finetune.model import Base
from partune.finetune.positions import deepest, frequencies
from partune.finetune.scoring.answers import answered
from partune.finetune.scoring.base import Answers, Prompt
from partune.finetune.scoring.decoding import Draws, Ends, GenerationSettings, chooser, fitted
from partune.finetune.scoring.harness import copied, encoding_class, harness_model
from partune.runtime.isolation import quiet

if TYPE_CHECKING:
    from torch import Tensor

# Takes the tokens of prompts and settings; returns one model's texts.
GenerateTexts = Callable[[Sequence[Sequence[int]], GenerationSettings], list[str]]


def prompt_encoder(base: Base) -> Callable[[Sequence[str]], list[list[int]]]:
    """Return a function that tokenises prompts as HFLM does, but without tokens (such as EOS) at the end of a text.

    Args:
        base: The base model.
    """
    with quiet():
        model = encoding_class(base)(pretrained=base.model, tokenizer=copied(base.tokenizer))
    return lambda texts: [model.tok_encode(text) for text in texts]


def harness_answers(base: Base, batch_size: int) -> Answers:
    """Return a function that answers requests through the harness's HFLM: with likelihoods, or with generated texts.

    Each call uses the adapter that is on the base model at that time.

    Args:
        base: The base model.
        batch_size: The number of requests per forward pass.
    """
    likelihoods = harness_model(base, batch_size)

    @functools.cache
    def generation() -> GenerateTexts:
        """Return the function that generates texts, made when it is first needed."""
        return harness_generation(base, batch_size)

    def texts(prompts: Sequence[Prompt], settings: GenerationSettings) -> list[list[str]]:
        """Return the texts of one model, as the only list."""
        return [generation()([prompt.tokens for prompt in prompts], settings)]

    return lambda requests: answered(requests, lambda continuations: [likelihoods(continuations)], texts)[0]


def harness_generation(base: Base, batch_size: int) -> GenerateTexts:
    """Return a function that generates answers through the harness's HFLM.

    Each call uses the adapter that is on the base model at that time. No answer depends on the other prompts of its
    batch. HFLM generates until the last answer of a batch has ended, so the text after an answer's own end is cut.
    Prompts of different lengths share no batch if the padding could change an answer. With sampling, every prompt is a
    batch of its own, and its tokens are drawn by the rule of `decoding`.

    Args:
        base: The base model.
        batch_size: The number of prompts per batch.
    """
    from lm_eval.api.instance import Instance

    with quiet():
        model = _generator_class(base)(
            pretrained=base.model,
            tokenizer=copied(base.tokenizer),
            max_length=base.context,
            batch_size=batch_size,
        )
    padded = frequencies(base.model.config) is None and deepest(base.model.config) > 0

    def texts(prompts: Sequence[Sequence[int]], settings: GenerationSettings) -> list[str]:
        """Return the text of the answer to each prompt."""
        tokens, _ = fitted(prompts, settings.room(base.context))
        model.prompts = {str(index): prompt for index, prompt in enumerate(tokens)}
        model.ends = Ends(base, settings.until)
        batches: dict[Hashable, list[int]] = {}
        for index, prompt in enumerate(tokens):
            key = index if settings.samples else 0 if padded else len(prompt)
            batches.setdefault(key, []).append(index)
        answers: dict[int, str] = {}
        kwargs = {"until": list(settings.until), "max_gen_toks": settings.max_new_tokens, "do_sample": False}
        for indices in batches.values():
            draws = Draws([settings.seed], [indices[0]]) if settings.samples else None
            model.choosing = None if draws is None else lambda length, draws=draws: chooser(settings, draws, length)
            requests = [Instance("generate_until", {}, (str(index), kwargs), index) for index in indices]
            with quiet():
                answers.update(zip(indices, model.generate_until(requests, disable_tqdm=True), strict=True))
        return [answers[index] for index in range(len(prompts))]

    return texts


def _generator_class(base: Base) -> type[Any]:
    """Return a subclass of HFLM whose answers do not depend on the other prompts of their batch."""
    encoding: Any = encoding_class(base)

    class Generator(encoding):  # type: ignore[misc]
        ends: Ends
        prompts: Mapping[str, list[int]]
        choosing: Callable[[int], Callable[[Tensor, Tensor], Tensor]] | None = None

        def tok_encode(self, string: str, *arguments: Any, **options: Any) -> list[int]:
            """Return a prompt's tokens. In place of the prompt's text, HFLM has received the prompt's number."""
            return self.prompts[string]

        def tok_batch_encode(
            self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, **_: Any
        ) -> tuple[Tensor, Tensor]:
            """Return the tokens of each prompt, padded on the left, and which tokens are not padding."""
            import torch

            rows = [self.prompts[string] for string in strings]
            longest = max(map(len, rows))
            ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
            for row, tokens in zip(ids, rows, strict=True):
                row[longest - len(tokens) :] = torch.tensor(tokens)
            real = torch.arange(longest) >= longest - torch.tensor([[len(tokens)] for tokens in rows])
            return ids, real.long()

        def _model_generate(self, context: Tensor, *arguments: Any, **kwargs: Any) -> Tensor:
            """Generate as HFLM does, and put padding after the first end of each answer."""
            import torch
            from transformers import LogitsProcessorList

            length = context.shape[1]
            kwargs["num_beams"] = 1
            if self.choosing is not None:
                kwargs["logits_processor"] = LogitsProcessorList([self.choosing(length)])
            whole: Tensor = super()._model_generate(context, *arguments, **kwargs)
            lengths = torch.from_numpy(self.ends.lengths(whole[:, length:].cpu().numpy())).to(whole.device)
            after = torch.arange(whole.shape[1] - length, device=whole.device) >= lengths.unsqueeze(1)
            whole[:, length:][after] = self.tokenizer.pad_token_id
            return whole

    return Generator
