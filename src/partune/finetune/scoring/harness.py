"""The harness's own model for one trial's answers, and its way of making tokens of requests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from partune.errors import UserError
from partune.finetune.model import Base, ending
from partune.finetune.positions import frequencies
from partune.finetune.scoring.tasks import (
    Answer,
    LogLikelihoods,
    Request,
    distinct,
)
from partune.runtime.isolation import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def harness_model(base: Base, batch_size: int) -> LogLikelihoods:
    """Return what scores requests through lm-evaluation-harness's HFLM, on whatever adapter the base carries then.

    Args:
        base: The base model.
        batch_size: Requests per forward pass.
    """
    from lm_eval.models.huggingface import HFLM

    with quiet():
        model = HFLM(
            pretrained=base.model,
            tokenizer=_copy(base.tokenizer),
            max_length=base.context,
            batch_size=batch_size,
            softmax_dtype="float32",  # sums in bf16 would tie choices that are not alike
        )

    tell_apart = frequencies(base.model.config)

    def loglikelihoods(requests: Sequence[Request]) -> list[Answer]:
        """Return the answers to requests, equal ones computed once."""
        asked, places = distinct(requests)
        batches: dict[Hashable, list[int]] = {}  # requests whose lengths have the same rotary frequencies
        for index, (_, context, continuation) in enumerate(asked):
            length = min(len(context) + len(continuation) - 1, base.context)
            batches.setdefault(tell_apart and tell_apart(length), []).append(index)
        answers: dict[int, Answer] = {}
        with quiet():
            for batch in batches.values():
                scored = model._loglikelihood_tokens([asked[index] for index in batch], disable_tqdm=True)
                answers.update(zip(batch, scored, strict=True))
        return [answers[index] for index in places]

    return loglikelihoods


def encoder(base: Base) -> Callable[[list[Any]], list[Request]]:
    """Tokenise the harness's requests as HFLM does, but for what a tokenizer puts after every text.

    HFLM takes as many tokens off a text as its context has by itself, EOS included: the choice would lose its first
    token and gain EOS.
    """
    from lm_eval.models.huggingface import HFLM

    end = ending(base.tokenizer)

    class Encoder(HFLM):  # type: ignore[misc]
        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
            """Return a text's tokens without what the tokenizer puts after every text."""
            tokens: list[int] = super().tok_encode(string, add_special_tokens, **options)
            return (
                tokens[: -len(end)]
                if end and tokens[-len(end) :] == end and self._ends(string, add_special_tokens)
                else tokens
            )

        def _ends(self, string: str, add_special_tokens: bool | None) -> bool:
            """Return whether HFLM lets the tokenizer add tokens: by default where a text does not begin with BOS."""
            begun = string.startswith(self.tokenizer.decode(self.prefix_token_id))
            return not begun if add_special_tokens is None else add_special_tokens

        def _loglikelihood_tokens(self, requests: list[Request], **_: Any) -> list[Request]:
            """Return the requests where HFLM would compute their log-likelihoods."""
            return requests

    with quiet():
        model = Encoder(pretrained=base.model, tokenizer=_copy(base.tokenizer))

    def encode(instances: list[Any]) -> list[Request]:
        """Return the harness's requests with their tokens."""
        requests: list[Request] = model.loglikelihood(instances, disable_tqdm=True)
        check_special(requests, base.tokenizer)
        return requests

    return encode


def check_special(requests: Sequence[Request], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError where a choice's tokens hold a special one that its text has not: they are not the choice's.

    Args:
        requests: As they were tokenised.
        tokenizer: What tokenised them.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for (_, text), _, continuation in requests:
        added = special.intersection(continuation)
        if added and not added <= set(tokenizer(text, add_special_tokens=False)["input_ids"]):
            raise UserError(
                f"the tokenizer puts {tokenizer.decode(sorted(added))} among the tokens of the choice {text[:50]!r}: "
                "its likelihood would be another text's; take it off the tokenizer (add_eos_token: false)"
            )


def _copy(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy for HFLM, which gives a tokenizer without a pad token one; ours stays as it is."""
    return copy.deepcopy(tokenizer)
