"""Split a causal language model into two parts: hidden states for all tokens, and logits for chosen tokens only.

With a vocabulary of 128,000, the logits of all tokens would not fit in memory, and would take as much time as several
layers. Training needs logits only to predict trained tokens, and scoring only to predict continuations.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.packed.adapters import PackedLinear
from partune.runtime.failures import is_out_of_memory, one_line

if TYPE_CHECKING:
    from transformers import Cache

ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 27}  # the number of logits held in memory at once
PROBE = "A model is taken apart here, and has to say the same of this sentence as it says when it is whole."
LONGEST = 32  # the largest number of tokens of the probe
# Logits count as equal up to this mean difference, relative to their spread. It is larger than rounding errors and
# smaller than the effect of a forgotten factor.
TOLERANCE, TOLERANCE_HALF = 1e-4, 5e-2

log = logging.getLogger(__name__)


class Head:
    """The hidden states and logits of a base model.

    Logits are head(hidden). Some models then multiply them by a factor (Cohere, Granite) or cap them softly (Gemma).

    Args:
        base: The base model.

    Raises:
        UserError: The two parts do not give the logits of the model.
    """

    def __init__(self, base: Base) -> None:
        self.base = base
        settings = base.model.config.get_text_config()
        self.factor = 1.0
        if isinstance(scale := getattr(settings, "logit_scale", None), (int, float)):
            self.factor *= scale
        if isinstance(scaling := getattr(settings, "logits_scaling", None), (int, float)):
            self.factor /= scaling
        cap = getattr(settings, "final_logit_softcapping", None)
        self.cap = float(cap) if isinstance(cap, (int, float)) else None
        self._check()  # a model may change its logits in other ways, which only a comparison shows

    def hidden(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return the hidden states before the head, (R, T, d).

        Args:
            ids: (R, T), rows of token ids.
            mask: (R, 1, T, T), which tokens each token sees; or (R, n + T), which tokens are not padding, if n tokens
                are in the cache. If it is None, a token sees itself and all earlier tokens, so padding must be on the
                right, where no real token sees it.
            positions: (R, T), the tokens' positions; None counts from 0 in each row.
            cache: The keys and values of earlier tokens, to which those of these tokens are added.
        """
        body = self.base.model.base_model
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        cached = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        states: Tensor = body(input_ids=ids, attention_mask=mask, position_ids=positions, **cached)[0]
        return states.to(ids.device)  # the last block is on another device if the base is spread over several

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., d)."""
        logits: Tensor = cast(nn.Module, self.base.model.get_output_embeddings())(hidden)
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits.to(hidden.device)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropies (K, n) of hidden states with the tokens that follow them, in at least fp32.

        If there are too many logits for one pass, they are computed in chunks of positions, and again in the backward
        pass. If the head itself has adapters, there is only one chunk, because the adapters' dropout masks are made
        for all positions.

        Args:
            hidden: (K, n, d), the hidden states.
            targets: (K, n), the tokens that follow them.
        """
        size = self.chunk(len(hidden))
        if hidden.shape[1] <= size or isinstance(self.base.model.get_output_embeddings(), PackedLinear):
            return self._losses(hidden, targets)
        parts = zip(torch.split(hidden, size, 1), torch.split(targets, size, 1), strict=True)
        chunks = [checkpoint(self._losses, *part, use_reentrant=False) for part in parts]
        return torch.cat(cast(list[Tensor], chunks), 1)

    def chunk(self, trials: int) -> int:
        """Return the number of positions per trial whose logits fit in memory at once."""
        elements = ELEMENTS.get(self.base.device.type, ELEMENTS["cpu"])
        return max(1, elements // (trials * int(self.base.model.config.get_text_config().vocab_size)))

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(hidden)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def _check(self) -> None:
        """Raise UserError if the two parts give other logits than the model, or if a token sees later tokens."""
        model, ids = self.base.model, self.sentence()
        with torch.no_grad():
            try:
                expected = model(input_ids=ids, use_cache=False).logits.float()
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise UserError(
                    f"{type(model).__name__} does not run in {self.base.dtype} on {self.base.device}: {one_line(error)}"
                ) from error
            if expected.isnan().any():
                raise UserError(
                    f"{type(model).__name__} gives logits that are not numbers (NaN) in {self.base.dtype}: "
                    "try another --dtype; if that does not help, its weights are broken"
                )
            half = ids.shape[1] // 2
            # Reorder the second half only: the logits of the first half must not change. The length stays the same,
            # because some models compute differently for another length.
            reordered = torch.cat([ids[:, :half], ids[:, half:].flip(1)], 1)
            if not self.same(model(input_ids=reordered, use_cache=False).logits[:, :half].float(), expected):
                raise UserError(
                    f"{type(model).__name__}, as it is configured, lets a token see later tokens: "
                    "it is not a causal language model"
                )
            try:
                by_parts = self.logits(self.hidden(ids)).float()
            except Exception as error:  # models raise exceptions of any type
                if is_out_of_memory(error):
                    raise
                log.debug("%s cannot be split into hidden states and logits: %s", type(model).__name__, one_line(error))
                by_parts = expected[..., :0]
        if by_parts.shape != expected.shape or not self.same(by_parts, expected):
            raise UserError(
                f"{type(model).__name__} computes its logits in a way that the packed engine does not support: "
                "use --engine peft"
            )

    def sentence(self) -> Tensor:
        """Return the tokens of the probe sentence that have an embedding, (1, T)."""
        known = int(cast(Any, self.base.model.get_input_embeddings()).weight.shape[0])
        tokens = [token for token in self.base.tokenizer(PROBE)["input_ids"] if token < known]
        tokens = tokens[: min(LONGEST, self.base.context)]
        return torch.tensor([tokens if len(tokens) > 2 else [0, 1, 2]], device=self.base.device)

    def same(self, logits: Tensor, expected: Tensor) -> bool:
        """Return whether logits equal expected logits, up to rounding.

        Args:
            logits: (1, t, V), or (t, V).
            expected: (t, V); or (1, T, V), and then only the first t rows are compared.
        """
        expected = expected[:, : logits.shape[1]]
        finite = expected[expected.isfinite()]
        difference = torch.where(logits == expected, 0.0, (logits - expected).abs()).mean()
        tolerance = TOLERANCE_HALF if self.base.model.dtype in (torch.float16, torch.bfloat16) else TOLERANCE
        return bool(difference <= tolerance * (finite - finite.mean()).abs().mean())
