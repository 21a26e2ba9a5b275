"""Tokenise requests, and compute their log-likelihoods for one model, with lm-evaluation-harness's own class HFLM."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from partune.errors import UserError
from partune.finetune.model import Base, ending
from partune.finetune.positions import frequencies
from partune.finetune.scoring.base import Continuation, Likelihood, distinct
from partune.runtime.isolation import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A function from requests to the log-likelihoods that one model gives to their continuations.
LogLikelihoods = Callable[[Sequence[Continuation]], list[Likelihood]]


def harness_model(base: Base, batch_size: int) -> LogLikelihoods:
    """Return a function that computes the log-likelihoods of requests through the harness's HFLM.

    Each call uses the adapter that is on the base model at that time.

    Args:
        base: The base model.
        batch_size: The number of requests per forward pass.
    """
    from lm_eval.models.huggingface import HFLM

    with quiet():
        model = HFLM(
            pretrained=base.model,
            tokenizer=copied(base.tokenizer),
            max_length=base.context,
            batch_size=batch_size,
            softmax_dtype="float32",  # in bf16, different choices could get equal log-likelihoods
        )

    frequencies_at = frequencies(base.model.config)

    def loglikelihoods(requests: Sequence[Continuation]) -> list[Likelihood]:
        """Return the answers to requests; equal requests are computed once."""
        unique, indices = distinct(requests)
        batches: dict[Hashable, list[int]] = {}  # requests whose lengths have the same rotary frequencies
        for index, (_, context, continuation) in enumerate(unique):
            length = min(len(context) + len(continuation) - 1, base.context)
            batches.setdefault(frequencies_at and frequencies_at(length), []).append(index)
        answers: dict[int, Likelihood] = {}
        with quiet():
            for batch in batches.values():
                scored = model._loglikelihood_tokens([unique[index] for index in batch], disable_tqdm=True)
                answers.update(zip(batch, scored, strict=True))
        return [answers[index] for index in indices]

    return loglikelihoods


def encoder(base: Base) -> Callable[[list[Any]], list[Continuation]]:
    """Return a function that tokenises requests as HFLM does, but without tokens (such as EOS) at the end of a text.

    HFLM finds a choice's tokens by dropping as many tokens as the context alone has. If the tokenizer ends every text
    with EOS, the context's EOS is counted too: the choice would lose its first token and gain EOS.
    """
    encoding: Any = encoding_class(base)

    class Encoder(encoding):  # type: ignore[misc]
        def _loglikelihood_tokens(self, requests: list[Continuation], **_: Any) -> list[Continuation]:
            """Return the tokenised requests instead of computing their log-likelihoods."""
            return requests

    with quiet():
        model = Encoder(pretrained=base.model, tokenizer=copied(base.tokenizer))

    def encode(instances: list[Any]) -> list[Continuation]:
        """Return the harness's requests with their tokens."""
        requests: list[Continuation] = model.loglikelihood(instances, disable_tqdm=True)
        check_special(requests, base.tokenizer)
        return requests

    return encode


def encoding_class(base: Base) -> type[Any]:
    """Return HFLM, as a class that encodes texts without the tokens that the tokenizer appends to every text."""
    from lm_eval.models.huggingface import HFLM

    end = ending(base.tokenizer)

    class Encoding(HFLM):  # type: ignore[misc]
        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
            """Return a text's tokens without those that the tokenizer appends to every text."""
            tokens: list[int] = super().tok_encode(string, add_special_tokens, **options)
            return (
                tokens[: -len(end)]
                if end and tokens[-len(end) :] == end and self._adds_special(string, add_special_tokens)
                else tokens
            )

        def _adds_special(self, string: str, add_special_tokens: bool | None) -> bool:
            """Return whether HFLM lets the tokenizer add special tokens (by default yes, but not before BOS)."""
            begins_with_bos = string.startswith(self.tokenizer.decode(self.prefix_token_id))
            return not begins_with_bos if add_special_tokens is None else add_special_tokens

    return Encoding


def check_special(requests: Sequence[Continuation], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if the tokenizer has put a special token among the tokens of a choice.

    Args:
        requests: The tokenised requests.
        tokenizer: The tokenizer that was used.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for (_, text), _, continuation in requests:
        added = special.intersection(continuation)
        if added and not added <= set(tokenizer(text, add_special_tokens=False)["input_ids"]):
            raise UserError(
                f"the tokenizer puts {tokenizer.decode(sorted(added))} among the tokens of the choice {text[:50]!r}: "
                "its likelihood would be that of another text; turn this off in the model's tokenizer_config.json "
                "(add_eos_token: false)"
            )


def copied(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy for HFLM, which adds a pad token to a tokenizer that has none; the original must not change."""
    return copy.deepcopy(tokenizer)
