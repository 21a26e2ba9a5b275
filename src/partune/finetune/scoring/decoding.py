"""The rules of generation: which token comes next, when an answer ends, and what its text is.

All engines generate by these rules. Without sampling, lm-evaluation-harness's HFLM has the same rules for requests of
type `generate_until`. Sampling differs from HFLM's in two ways. HFLM draws from torch's generator, so an answer depends
on its batch; here, the draw for a token is a function of (seed, prompt, position) only. And HFLM takes `top_k` and
`top_p` from transformers and from the model if the task does not name them; here, all tokens can then be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from partune.errors import UserError, shown, suggestion

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from partune.finetune.model import Base

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MAX_NEW_TOKENS = 256  # the harness's default
# Names for the token limit in `generation_kwargs`; the first one present counts.
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
OTHERS = ("until", "do_sample", "temperature", "top_p", "top_k")
SALT = 0x5851F42D4C957F2D  # keeps the draws apart from dropout's masks, which are made from seeds in the same way
PARTIAL = "\ufffd"  # what an incomplete character decodes to


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are generated.

    Attributes:
        max_new_tokens: The largest number of tokens of an answer. Prompt and answer together must fit into the model's
            context.
        until: Stop strings. An answer is the text before the first of them.
        temperature: The temperature of sampling; 0 always takes the most likely token (greedy decoding).
        top_p: Sample only among the most likely tokens whose probabilities add up to this number.
        top_k: Sample only among this many of the most likely tokens; 0 means all.
        seed: The seed of sampling.

    Raises:
        UserError: A value is out of its range, or a setting of sampling is given and the temperature is 0.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    until: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if "" in self.until:
            raise UserError("until has an empty text, which would stop every answer at once: leave it out")
        if not (0 <= self.temperature < math.inf):
            raise UserError(f"temperature must be finite and at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"0 < top_p <= 1 must hold, got {self.top_p}")
        if self.top_k < 0:
            raise UserError(f"top_k must be at least 0 (0: all tokens), got {self.top_k}")
        if self.temperature == 0 and (self.top_p != 1 or self.top_k != 0):
            name = "top_p" if self.top_p != 1 else "top_k"
            raise UserError(f"{name} has no effect at temperature 0: set a temperature, or leave it out")

    @classmethod
    def of(cls, kwargs: Mapping[str, Any], seed: int = 0) -> GenerationSettings:
        """Return the settings that a harness task asks for with its `generation_kwargs`.

        Args:
            kwargs: The task's `generation_kwargs`.
            seed: The seed of sampling.

        Raises:
            UserError: A name is unknown, or a value is out of its range.
        """
        for name in kwargs:
            if name not in (*LIMITS, *OTHERS):
                raise UserError(f'generation_kwargs: "{name}" is not supported{suggestion(name, (*OTHERS, *LIMITS))}')
        until = kwargs.get("until") or ()
        until = tuple(until) if isinstance(until, (list, tuple)) else (until,)
        try:
            most = next((int(kwargs[name]) for name in LIMITS if kwargs.get(name) is not None), MAX_NEW_TOKENS)
            temperature = float(kwargs.get("temperature") or 0.0)
            top_p, top_k = (
                float(1.0 if (given := kwargs.get("top_p")) is None else given),
                int(kwargs.get("top_k") or 0),
            )
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"generation_kwargs has a value that is not a number: {shown(dict(kwargs))}") from None
        if not all(isinstance(stop, str) for stop in until):
            raise UserError(f"generation_kwargs: until must be a text or a list of texts, got {shown(kwargs['until'])}")
        sampled = kwargs.get("do_sample")
        if sampled and temperature == 0:
            raise UserError("generation_kwargs: do_sample needs a temperature above 0")
        if sampled is False or temperature == 0:  # as in the harness, do_sample: false turns sampling off
            temperature, top_p, top_k = 0.0, 1.0, 0
        return cls(most, until, temperature, top_p, top_k, seed)

    @property
    def samples(self) -> bool:
        """Whether tokens are sampled."""
        return self.temperature > 0

    def room(self, context: int) -> int:
        """Return the largest number of tokens of a prompt.

        Args:
            context: The number of tokens that the model reads.

        Raises:
            UserError: No token of a prompt would be left.
        """
        if self.max_new_tokens >= context:
            raise UserError(
                f"max_new_tokens must be less than the {context} tokens that the model reads, got {self.max_new_tokens}"
            )
        return context - self.max_new_tokens


def fitted(prompts: Sequence[Sequence[int]], room: int) -> tuple[list[list[int]], int]:
    """Return the prompts cut on the left to fit, and how many were cut.

    Args:
        prompts: The tokens of the prompts.
        room: The largest number of tokens of a prompt.

    Raises:
        UserError: A prompt has no token.
    """
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {index} has no token, so that nothing can follow it: give it a text")
    return [list(prompt[-room:]) for prompt in prompts], sum(len(prompt) > room for prompt in prompts)


def end_tokens(base: Base) -> tuple[int, ...]:
    """Return the tokens that end an answer: those of the model's generation settings, and the tokenizer's EOS."""
    named = getattr(base.model.generation_config, "eos_token_id", None)
    listed = [] if named is None else [named] if isinstance(named, int) else list(named)
    end = base.tokenizer.eos_token_id
    return tuple(dict.fromkeys([*listed, *([] if end is None else [end])]))


class Ends:
    """Find the answers that end: with an end token, or with a stop string in their text.

    A stop string may begin and end inside tokens, and a model may write it with other tokens than the tokenizer. So the
    text of an answer's last tokens is searched, but only after a token that could complete a stop string.

    Args:
        base: The base model, whose tokenizer is used.
        until: The stop strings.
    """

    def __init__(self, base: Base, until: Sequence[str]) -> None:
        self.tokenizer, self.tokens = base.tokenizer, end_tokens(base)
        self.strings = (*until, *_end_text(self.tokenizer, until))
        lengths = [len(self.tokenizer.encode(stop, add_special_tokens=False)) for stop in self.strings]
        # The harness searches 2 more tokens than a stop string has. A model may write a text with more tokens than the
        # tokenizer, at most one for each byte.
        self._last = 2 + max(
            (max(n, len(stop.encode())) for n, stop in zip(lengths, self.strings, strict=True)), default=0
        )
        self._completing: dict[int, bool] = {}

    def ended(self, written: Ints) -> Bools:
        """Return whether each answer ends with its last token, (R,).

        Args:
            written: (R, t), the tokens of the answers until now.
        """
        last = written[:, -1]
        ended: Bools = np.isin(last, self.tokens)
        if not self.strings:
            return ended
        completing = [token for token in np.unique(last).tolist() if self._completes(token)]
        rows = np.flatnonzero(np.isin(last, completing) & ~ended)
        texts = self.tokenizer.batch_decode(written[rows, -self._last :].tolist())
        ended[rows] = [any(stop in text for stop in self.strings) for text in texts]
        return ended

    def lengths(self, written: Ints) -> Ints:
        """Return the number of tokens of each answer up to and including the token that ends it, (R,).

        Args:
            written: (R, t), the tokens of the answers, and any tokens after an answer's end.
        """
        lengths = np.full(len(written), written.shape[1])
        for step in range(written.shape[1] - 1, -1, -1):
            lengths[self.ended(written[:, : step + 1])] = step + 1
        return lengths

    def _completes(self, token: int) -> bool:
        """Return whether a token may contain a stop string's last character; decoded alone, it may lose a space."""
        if token not in self._completing:
            text = self.tokenizer.decode([token])
            last = {stop[-1] for stop in self.strings}
            self._completing[token] = PARTIAL in text or " " in last or not last.isdisjoint(text)
        return self._completing[token]


def answer_text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], until: Sequence[str]) -> str:
    """Return the text of an answer: its tokens decoded without special tokens, and cut before the first stop string.

    Args:
        tokenizer: The tokenizer.
        tokens: The answer's tokens.
        until: The stop strings.
    """
    text = cast(str, tokenizer.decode(list(tokens), skip_special_tokens=True))
    for stop in (*until, *_end_text(tokenizer, until)):
        text = text.split(stop)[0]
    return text


def _end_text(tokenizer: PreTrainedTokenizerBase, until: Sequence[str]) -> tuple[str, ...]:
    """Return the text of EOS, which the harness adds to the stop strings, if it is not one of them already."""
    end = tokenizer.eos_token_id
    text = "" if end is None else cast(str, tokenizer.decode([end]))
    return (text,) if text and text not in until else ()


# ----- the next token


def next_tokens(logits: Tensor, settings: GenerationSettings, draws: npt.NDArray[np.float64] | None) -> Tensor:
    """Return the next token of each answer, (R,).

    Args:
        logits: (R, V), the logits.
        settings: How answers are generated.
        draws: (R,), the draws of `Draws`; not used without sampling.
    """
    import torch

    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if not settings.samples:
        return logits.argmax(-1)
    assert draws is not None
    # The inverse of the distribution function: the first token at which the sum of probabilities exceeds the draw.
    sums = filtered(logits, settings).double().softmax(-1).cumsum(-1)
    drawn = torch.from_numpy(draws).to(sums.device).unsqueeze(-1) * sums[:, -1:]
    return torch.searchsorted(sums, drawn, right=True).squeeze(-1).clamp_(max=logits.shape[-1] - 1)


def filtered(logits: Tensor, settings: GenerationSettings) -> Tensor:
    """Return logits divided by the temperature, with minus infinity for excluded tokens: by top-k, then by top-p.

    Args:
        logits: (R, V), the logits.
        settings: How answers are generated.
    """
    logits = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        least = logits.topk(settings.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if settings.top_p < 1:
        ascending, order = logits.sort(-1)
        left_out = ascending.softmax(-1).cumsum(-1) <= 1 - settings.top_p
        left_out[:, -1] = False
        logits = logits.masked_fill(left_out.scatter(-1, order, left_out), -math.inf)
    return logits


def chooser(
    settings: GenerationSettings, draws: Draws | None, length: int, before_pass: Callable[[], None] = lambda: None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a logits processor that makes the greedy `generate` of transformers take the token that we choose.

    Args:
        settings: How answers are generated.
        draws: The draws of the answers; None without sampling.
        length: The number of tokens of each prompt, including padding.
        before_pass: Called before each token. It may raise an exception to interrupt the generation.
    """
    import torch

    def choose(ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (R, V) that are 0 for the next token and minus infinity for all others."""
        before_pass()
        drawn = None if draws is None else draws.at(ids.shape[1] - length)
        chosen = next_tokens(scores, settings, drawn).unsqueeze(1)
        return torch.full_like(scores, -math.inf).scatter_(1, chosen, 0.0)

    return choose


class Draws:
    """Draw numbers in [0, 1) for the tokens of answers, each a function of (seed, prompt, position) alone.

    Args:
        seeds: (R,), the seed of each answer.
        prompts: (R,), the number of each answer's prompt.
    """

    def __init__(self, seeds: Sequence[int], prompts: Sequence[int]) -> None:
        from partune.finetune.dropout import WORD, begun

        keys = [begun((seed + SALT) & WORD, prompt) for seed, prompt in zip(seeds, prompts, strict=True)]
        self._keys = np.array(keys, np.uint64)

    def at(self, position: int, rows: Ints | None = None) -> npt.NDArray[np.float64]:
        """Return the draws for one position of the answers, (R,), or of some of them.

        Args:
            position: The position in the answer, from 0.
            rows: The answers; None means all.
        """
        from partune.finetune.dropout import GOLDEN, M1, M2, WORD

        keys = self._keys if rows is None else self._keys[rows]
        x = keys + np.uint64((position + 1) * GOLDEN & WORD)
        for shift, factor in ((30, M1), (27, M2)):  # `dropout.mix` of many words
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
        return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
