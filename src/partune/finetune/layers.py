"""Find the layers of a base model that are linear, those that training on text reaches, and those that mix tokens.

Training on text reaches a layer if the logits of a text have a gradient through the layer's output. This is measured
on the model, because names do not show it. It leaves out towers for images or sound, projections whose weights are read
directly by a kernel (Mamba's `dt_proj`), and indexers that only choose positions.
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

PROBED = 8  # tokens of the forward pass that is examined

# Patterns for the class names of modules, in transformers and in models' own code: attention, layers that mix tokens
# in place of attention, and modules that do not mix tokens.
ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
INSTEAD_OF_ATTENTION = re.compile(r"mixer|deltanet|shortconv|mamba(layer|2)?$|recurrentblock|lstmlayer", re.IGNORECASE)
NOT_MIXING = re.compile(r"(mlp|feed_?forward|ffn|moe|moe_?block|experts?|layer)$", re.IGNORECASE)


def once_per_model(function: Callable[[nn.Module], T]) -> Callable[[nn.Module], T]:
    """Cache a function's result for each model, for as long as the model exists."""
    # Weak references, so that the cache does not keep a model's gigabytes in memory.
    cache: WeakKeyDictionary[nn.Module, T] = WeakKeyDictionary()

    @wraps(function)
    def cached(model: nn.Module) -> T:
        if model not in cache:
            cache[model] = function(model)
        return cache[model]

    return cached


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Allow modules of a model to be replaced, and put the original modules back afterwards.

    The original modules are stored and put back directly, not by PEFT's `unload`. So nothing is left over even if
    attaching an adapter fails half-way.
    """
    before = [(module, dict(module._modules)) for module in model.modules()]
    try:
        yield
    finally:
        for module, children in before:
            for name, child in children.items():
                if module._modules[name] is not child:
                    module._modules[name] = child
        if hasattr(model, "peft_config"):  # otherwise PEFT would warn that the next adapter is a second one
            del model.peft_config
        model.eval()


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return all linear layers by full name, including the output head and GPT-2's Conv1D."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def body_layers(model: nn.Module) -> list[str]:
    """Return the names of all linear layers except the output head."""
    head = cast(Any, model).get_output_embeddings()
    return [name for name, module in linear_layers(model).items() if module is not head]


def has_expert_tensors(model: nn.Module) -> bool:
    """Return whether the weights of experts are three-dimensional tensors, as in transformers' mixtures of experts."""
    return any(parameter.dim() == 3 and "expert" in name for name, parameter in model.named_parameters())


# ----- the layers that training on text reaches


@once_per_model
def trained_layers(model: nn.Module) -> frozenset[str]:
    """Return the names of the linear layers through which the logits of a text have a gradient.

    All experts of a mixture count if one of them is reached, because a few tokens use only some experts. If the model
    cannot be run on text alone (it has no weights, for example), all of its linear layers are returned, and a real
    error will appear in training.
    """
    import torch

    linear = linear_layers(model)
    probes: list[tuple[str, torch.Tensor]] = []

    def probe(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        # Add a zero to the layer's output. Whether the zero gets a gradient tells whether logits depend on the layer,
        # without computing the gradient of its weights.
        def add_zero(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not isinstance(output, torch.Tensor):  # an adapter adds a tensor to the output, which is impossible here
                return output
            probes.append((name, torch.zeros((), device=output.device, dtype=output.dtype, requires_grad=True)))
            return output + probes[-1][1]

        return add_zero

    with contextlib.ExitStack() as stack:
        for name, layer in linear.items():
            stack.callback(layer.register_forward_hook(probe(name)).remove)
        try:
            with torch.enable_grad():
                total = read_text(model).float().sum()
                gradients = torch.autograd.grad(total, [zero for _, zero in probes], allow_unused=True)
        except Exception:  # models without weights, or with inputs beside text, cannot be run like this
            return frozenset(linear)
    reached = {name for (name, _), gradient in zip(probes, gradients, strict=True) if gradient is not None}
    mixtures = {name.partition(".experts.")[0] + "." for name in linear if ".experts." in name}
    mixtures = {prefix for prefix in mixtures if any(name.startswith(prefix) for name in reached)}
    return frozenset(reached | {name for name in linear if ".experts." in name and name.startswith(tuple(mixtures))})


def read_text(model: nn.Module) -> torch.Tensor:
    """Return the logits (1, T, V) of a few plain tokens: the smallest ids without a special role in the settings."""
    import torch

    embeddings = cast(Any, model).get_input_embeddings().weight
    settings = cast(Any, model).config.to_dict()
    special = {
        token for section in (settings, *settings.values()) if isinstance(section, dict) for token in _special(section)
    }
    plain = [token for token in range(PROBED + len(special)) if token not in special and token < len(embeddings)]
    ids = torch.tensor([plain[:PROBED]], device=embeddings.device)
    eager = torch.compiler.set_stance("force_eager")  # compiling blocks for these few tokens would be wasted
    with own_generators(embeddings.device), quiet(), eager:
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


def _special(section: dict[str, Any]) -> set[int]:
    """Return the tokens with a special role in a section of a model's settings, such as the one for an image."""
    return {
        value
        for name, value in section.items()
        if str(name).endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }


# ----- blocks, and the layers in them that mix tokens


@once_per_model
def block_names(model: nn.Module) -> tuple[str, ...]:
    """Return the full names of the blocks that a text passes through, in the model's order.

    A block is an element of an outermost `ModuleList` that contains linear layers reached by training on text.
    """
    from torch import nn

    linear, trained = linear_layers(model), trained_layers(model)
    lists = [f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = tuple(name for name in lists if not any(name != other and name.startswith(other) for other in lists))
    blocks: dict[str, None] = {}  # a dictionary, to keep the order
    for name in linear:
        prefix = next((prefix for prefix in outermost if name.startswith(prefix)), None)
        if prefix is not None and name in trained:
            block = prefix + name.removeprefix(prefix).partition(".")[0]
            if block != name:
                blocks[block] = None
    return tuple(blocks)


def block_of(model: nn.Module, layer: str) -> str | None:
    """Return the name of the block that contains a layer, or None if no block does.

    Args:
        model: The base model.
        layer: The layer's full name.
    """
    return next((block for block in block_names(model) if layer.startswith(f"{block}.")), None)


def mixing_layers(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the layers of attention, and the layers that mix tokens in blocks without attention.

    The modules that enclose a layer within its block tell what it is for. The innermost one of a known class decides:
    attention, a replacement for attention (a state-space mixer, a gated delta net, a short convolution), or a
    feed-forward part.
    """
    trained = trained_layers(model)
    attention, others = list[str](), list[str]()
    for name in body_layers(model):
        if name in trained and (kind := _purpose(model, name)) is not None:
            (attention if kind is ATTENTION else others).append(name)
    with_attention = {block_of(model, name) for name in attention}
    return attention, [name for name in others if block_of(model, name) not in with_attention]


def _purpose(model: nn.Module, layer: str) -> re.Pattern[str] | None:
    """Return the pattern that fits the innermost enclosing module of a known class.

    None if that module does not mix tokens, or if no enclosing module is of a known class.
    """
    block = block_of(model, layer) or ""
    module = layer.rpartition(".")[0]
    while module and module != block:
        kind = type(model.get_submodule(module)).__name__
        for pattern in (INSTEAD_OF_ATTENTION, NOT_MIXING, ATTENTION):
            if pattern.search(kind):
                return None if pattern is NOT_MIXING else pattern
        module = module.rpartition(".")[0]
    return None
