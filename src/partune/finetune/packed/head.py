"""A causal language model in two parts: hidden states, and the logits of those that are asked for.

A vocabulary of 128,000 at every position would fill the memory many times over, and costs as much as several layers;
training needs logits where a token is trained on, scoring where a continuation is.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.packed.adapters import PackedLinear
from partune.runtime.failures import is_out_of_memory, one_line

ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 27}  # logits held at once
PROBE = "A model is taken apart here, and has to say the same of this sentence as it says when it is whole."
LONGEST = 32  # tokens of it
# The mean difference of logits that are the same, as a share of their spread: above rounding, below a forgotten factor.
TOLERANCE, TOLERANCE_HALF = 1e-4, 5e-2

log = logging.getLogger(__name__)


class Head:
    """Hidden states and logits of a base.

    Logits are head(hidden), then what some models do to them: a factor (Cohere, Granite), or a soft cap (Gemma).

    Args:
        base: The base model.

    Raises:
        UserError: The model cannot be taken apart like this.
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
        self._check()  # nothing tells beforehand whether a model does more to its logits than is known here

    def hidden(self, ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Return the states before the head, (R, T, d).

        Args:
            ids: Rows of tokens, (R, T).
            mask: (R, 1, T, T), who sees whom. Without one a token sees those before it, so padding belongs on the
                right, where no real token sees it.
            positions: (R, T); None counts each row from 0.
        """
        body = self.base.model.base_model
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        states: Tensor = body(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)[0]
        return states.to(ids.device)  # a base that is spread over several devices has its last block elsewhere

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of states (..., d)."""
        logits: Tensor = cast(nn.Module, self.base.model.get_output_embeddings())(hidden)
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits.to(hidden.device)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropies (K, n) of states with the tokens that follow them, in at least fp32.

        Chunks of positions are recomputed in the backward pass where all logits at once would be many; not where the
        head itself carries adapters, whose dropout knows all positions.

        Args:
            hidden: (K, n, d).
            targets: (K, n).
        """
        size = self.chunk(len(hidden))
        if hidden.shape[1] <= size or isinstance(self.base.model.get_output_embeddings(), PackedLinear):
            return self._losses(hidden, targets)
        parts = zip(torch.split(hidden, size, 1), torch.split(targets, size, 1), strict=True)
        chunks = [checkpoint(self._losses, *part, use_reentrant=False) for part in parts]
        return torch.cat(cast(list[Tensor], chunks), 1)

    def chunk(self, trials: int) -> int:
        """Positions of each of so many trials whose logits are held at once."""
        elements = ELEMENTS.get(self.base.device.type, ELEMENTS["cpu"])
        return max(1, elements // (trials * int(self.base.model.config.get_text_config().vocab_size)))

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(hidden)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    def _check(self) -> None:
        """Raise UserError unless logits by parts are the model's own, on a sentence, and no token sees later ones."""
        model, ids = self.base.model, self._sentence()
        with torch.no_grad():
            try:
                whole = model(input_ids=ids, use_cache=False).logits.float()
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise UserError(
                    f"{type(model).__name__} does not run in {self.base.dtype} on {self.base.device}: {one_line(error)}"
                ) from error
            if whole.isnan().any():
                raise UserError(
                    f"{type(model).__name__} gives logits that are no numbers in {self.base.dtype}: "
                    "try another --dtype; if that does not help, its weights are broken"
                )
            half = ids.shape[1] // 2
            otherwise = torch.cat([ids[:, :half], ids[:, half:].flip(1)], 1)  # as long, as a length may matter
            if not self._same(model(input_ids=otherwise, use_cache=False).logits[:, :half].float(), whole):
                raise UserError(
                    f"{type(model).__name__}, as it is configured, sees the tokens after one: "
                    "it is no causal language model"
                )
            try:
                by_parts = self.logits(self.hidden(ids)).float()
            except Exception as error:  # a model can refuse in any way
                if is_out_of_memory(error):
                    raise
                log.debug("%s cannot be taken apart: %s", type(model).__name__, one_line(error))
                by_parts = whole[..., :0]
        if by_parts.shape != whole.shape or not self._same(by_parts, whole):
            raise UserError(
                f"{type(model).__name__} computes its logits in a way that packs do not know: use --engine peft"
            )

    def _sentence(self) -> Tensor:
        """Return tokens to try the model on, (1, T): a sentence's, less what the embeddings do not know."""
        known = int(cast(Any, self.base.model.get_input_embeddings()).weight.shape[0])
        tokens = [token for token in self.base.tokenizer(PROBE)["input_ids"] if token < known]
        tokens = tokens[: min(LONGEST, self.base.context)]
        return torch.tensor([tokens if len(tokens) > 2 else [0, 1, 2]], device=self.base.device)

    def _same(self, logits: Tensor, whole: Tensor) -> bool:
        """Return whether logits (1, t, V) are the first of (1, T, V) others, but for rounding."""
        whole = whole[:, : logits.shape[1]]
        known = whole[whole.isfinite()]
        apart = torch.where(logits == whole, 0.0, (logits - whole).abs()).mean()
        share = TOLERANCE_HALF if self.base.model.dtype in (torch.float16, torch.bfloat16) else TOLERANCE
        return bool(apart <= share * (known - known.mean()).abs().mean())
