"""Check whether PEFT puts adapters on exactly the chosen layers of a model, and whether the model then runs.

PEFT refuses some layers (output projections of Mamba layers). In some mixtures of experts it adapts other layers than
it was asked for (the experts' layers instead of the shared expert's). It does the same when it loads an adapter.
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
    """Return the reason why PEFT cannot put adapters on exactly `layers`, or None if it can.

    Adapters of rank 1 are attached to the model to find out, and removed again.

    Args:
        model: The base model, with the layers as they were loaded.
        layers: Full names of the linear layers that should get adapters.
        modules: The names of the same layers in the adapter's file (`target_modules`).
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
                return (
                    f"PEFT would adapt {len(adapted)} layers and not exactly the {len(layers)} chosen ones; "
                    f"{min(odd)} is in one of the two lists only"
                )
            if device.type != "meta":
                with torch.no_grad():
                    read_text(model)
        except Exception as error:  # libraries refuse with exceptions of any type
            return one_line(error)
    return None
