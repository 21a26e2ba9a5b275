"""What PEFT takes: whether it puts adapters on these very layers of a model, and runs with them.

It refuses some layers (the output projections of Mamba's kind) and puts others in their place (a mixture's experts for
the shared one's layers), as it does when an adapter is loaded from disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from partune.finetune.layers import put_back, read_text
from partune.runtime.failures import one_line
from partune.runtime.isolation import own_generators, quiet

if TYPE_CHECKING:
    from torch import nn


def refusal(model: nn.Module, layers: Sequence[str], modules: Sequence[str]) -> str | None:
    """Return why PEFT does not put adapters on `layers` and nowhere else; None where it does.

    The model is asked itself, with adapters of rank 1, and is untouched afterwards.

    Args:
        model: The base, its layers as they were loaded.
        layers: Full names of the linear layers that are to have adapters.
        modules: What the adapter's file calls them (`target_modules`).
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    device = next(model.parameters()).device
    with put_back(model), own_generators(device), quiet():
        try:
            get_peft_model(cast(Any, model), LoraConfig(r=1, target_modules=list(modules), task_type="CAUSAL_LM"))
            adapted = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
            if odd := adapted.symmetric_difference(layers):
                return f"PEFT would have {len(adapted)} layers for these {len(layers)}, and not the same, as {min(odd)}"
            if device.type != "meta":
                with torch.no_grad():
                    read_text(model)
        except Exception as error:  # a library's way to say no
            return one_line(error)
    return None
