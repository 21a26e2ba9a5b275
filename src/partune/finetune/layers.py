"""The layers of a base model: which are linear, which of them a pass of text trains, and which mix tokens.

What a pass of text trains is asked of the model, not of names: towers for images or sound, projections whose weights a
kernel reads by itself (Mamba's `dt_proj`) and indexers that only choose positions have no part in it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from partune.runtime.isolation import own_generators, quiet

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")

PROBED = 8  # tokens of the pass that is looked at

# Classes of modules by what they do in a block, by their names in transformers and in models' own code.
ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
IN_ITS_PLACE = re.compile(r"mixer|deltanet|shortconv|mamba(layer|2)?$|recurrentblock|lstmlayer", re.IGNORECASE)
OTHERWISE = re.compile(r"(mlp|feed_?forward|ffn|moe|moe_?block|experts?|layer)$", re.IGNORECASE)


def once_per_model(function: Callable[[nn.Module], T]) -> Callable[[nn.Module], T]:
    """Remember a function's answer for each model, for as long as the model lives."""
    # By a weak reference: an answer must not keep a model's gigabytes in memory.
    known: WeakKeyDictionary[nn.Module, T] = WeakKeyDictionary()

    @wraps(function)
    def remembered(model: nn.Module) -> T:
        if model not in known:
            known[model] = function(model)
        return known[model]

    return remembered


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Let modules of a model be replaced; afterwards every one stands again where it stood.

    Layers are put back by identity, not by PEFT's `unload`: a failure half-way through attaching leaves nothing.
    """
    before = [(module, dict(module._modules)) for module in model.modules()]
    try:
        yield
    finally:
        for module, children in before:
            for name, child in children.items():
                if module._modules[name] is not child:
                    module._modules[name] = child
        if hasattr(model, "peft_config"):  # PEFT would warn that the next adapter is a second one
            del model.peft_config
        model.eval()


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every linear layer by full name, the head (output embeddings) too; GPT-2's Conv1D is one."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def body_layers(model: nn.Module) -> list[str]:
    """Return the linear layers' names without the head."""
    head = cast(Any, model).get_output_embeddings()
    return [name for name, module in linear_layers(model).items() if module is not head]


def has_expert_tensors(model: nn.Module) -> bool:
    """Return whether experts' weights are three-dimensional tensors, as in transformers' mixtures."""
    return any(parameter.dim() == 3 and "expert" in name for name, parameter in model.named_parameters())


# ----- what a pass of text trains


@once_per_model
def trained_layers(model: nn.Module) -> frozenset[str]:
    """Return the names of the linear layers through which the logits of a text have a gradient.

    An expert counts where its mixture does: which experts a few tokens reach is chance. A model that cannot be run like
    this (one without weights, for a start) is taken to train all its layers; what is wrong with it shows in training.
    """
    import torch

    linear = linear_layers(model)
    probes: list[tuple[str, torch.Tensor]] = []

    def probe(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        # A zero that is added and has a gradient tells whether logits depend on the layer, at no cost for its weights.
        def added(module: nn.Module, given: Any, output: Any) -> Any:
            if not isinstance(output, torch.Tensor):  # no adapter's product could be added to it
                return output
            probes.append((name, torch.zeros((), device=output.device, dtype=output.dtype, requires_grad=True)))
            return output + probes[-1][1]

        return added

    with contextlib.ExitStack() as stack:
        for name, layer in linear.items():
            stack.callback(layer.register_forward_hook(probe(name)).remove)
        try:
            with torch.enable_grad():
                total = read_text(model).float().sum()
                gradients = torch.autograd.grad(total, [added for _, added in probes], allow_unused=True)
        except Exception:  # models without weights, or of more than a text, cannot be run like this
            return frozenset(linear)
    reached = {name for (name, _), gradient in zip(probes, gradients, strict=True) if gradient is not None}
    mixtures = {name.partition(".experts.")[0] + "." for name in linear if ".experts." in name}
    mixtures = {mixture for mixture in mixtures if any(name.startswith(mixture) for name in reached)}
    return frozenset(reached | {name for name in linear if ".experts." in name and name.startswith(tuple(mixtures))})


def read_text(model: nn.Module) -> torch.Tensor:
    """Return the logits (1, T, V) of a few plain tokens: ids that the model's settings give no meaning."""
    import torch

    embeddings = cast(Any, model).get_input_embeddings().weight
    settings = cast(Any, model).config.to_dict()
    meant = {
        value for section in (settings, *settings.values()) if isinstance(section, dict) for value in _ids(section)
    }
    plain = [number for number in range(PROBED + len(meant)) if number not in meant and number < len(embeddings)]
    ids = torch.tensor([plain[:PROBED]], device=embeddings.device)
    eager = torch.compiler.set_stance("force_eager")  # blocks that are to be compiled wait for their own shapes
    with own_generators(embeddings.device), quiet(), eager:
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


def _ids(section: dict[str, Any]) -> set[int]:
    """Return the tokens that a section of a model's settings gives a meaning, such as where an image belongs."""
    return {
        value
        for name, value in section.items()
        if str(name).endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }


# ----- blocks, and what mixes tokens in them


@once_per_model
def block_names(model: nn.Module) -> tuple[str, ...]:
    """Return the full names of the blocks that a text passes through, in the model's order.

    A block is an element of an outermost list of modules, with linear layers that a pass of text trains.
    """
    from torch import nn

    linear, trained = linear_layers(model), trained_layers(model)
    lists = [f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = tuple(
        prefix for prefix in lists if not any(prefix != other and prefix.startswith(other) for other in lists)
    )
    blocks: dict[str, None] = {}  # a dictionary, to keep the order
    for name in linear:
        prefix = next((outer for outer in outermost if name.startswith(outer)), None)
        if prefix is not None and name in trained:
            block = prefix + name.removeprefix(prefix).partition(".")[0]
            if block != name:
                blocks[block] = None
    return tuple(blocks)


def block_of(model: nn.Module, layer: str) -> str | None:
    """Return the name of the block that a layer stands in; None where it stands in none.

    Args:
        model: The base model.
        layer: The layer's full name.
    """
    return next((block for block in block_names(model) if layer.startswith(f"{block}.")), None)


def mixing_layers(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the layers of attention, and of what a block without attention has in its place, to mix tokens.

    The innermost module about a layer, within its block, whose class is one of attention, of a state-space mixer, a
    gated delta net, a short convolution and so on, or of a feed-forward part, says what the layer is for.
    """
    trained = trained_layers(model)
    attention, others = list[str](), list[str]()
    for name in body_layers(model):
        if name in trained and (kind := _purpose(model, name)) is not None:
            (attention if kind is ATTENTION else others).append(name)
    with_attention = {block_of(model, name) for name in attention}
    return attention, [name for name in others if block_of(model, name) not in with_attention]


def _purpose(model: nn.Module, layer: str) -> re.Pattern[str] | None:
    """Return the pattern that the class of a module about the layer fits first, if it is one that mixes tokens."""
    block = block_of(model, layer) or ""
    module = layer.rpartition(".")[0]
    while module and module != block:
        kind = type(model.get_submodule(module)).__name__
        for pattern in (IN_ITS_PLACE, OTHERWISE, ATTENTION):
            if pattern.search(kind):
                return None if pattern is OTHERWISE else pattern
        module = module.rpartition(".")[0]
    return None
