"""Find the layers of a base model that get adapters, for each value of the setting `targets`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from partune.errors import UserError, suggestion
from partune.finetune.acceptance import refusal
from partune.finetune.layers import (
    block_names,
    block_of,
    body_layers,
    has_expert_tensors,
    linear_layers,
    mixing_layers,
    once_per_model,
    trained_layers,
)

if TYPE_CHECKING:
    from torch import nn


def find_targets(model: nn.Module, targets: str) -> list[str]:
    """Return the full names of the layers that `targets` means, in the model's order.

    Layers that training on text does not reach, such as those of a tower for images, are left out.

    Args:
        model: The base model, with the layers as they were loaded.
        targets: "attention" means the projections of attention. In a block without attention, it means the projections
            of its replacement (linear attention, a state-space mixer, a short convolution). "all-linear" means every
            linear layer except the output head. Both leave out what PEFT cannot adapt. Any other value is a list of
            names separated by commas, each the full name of a layer or its last parts ("q_proj", "mlp.up_proj"). Only
            such a list can include the head.

    Raises:
        UserError: A name fits no linear layer, or only layers that training on text does not reach.
    """
    linear, trained = linear_layers(model), trained_layers(model)
    # An adapter on a layer without a gradient would stay zero and cost memory in every trial.
    if targets == "all-linear":
        layers = all_linear_layers(model)
    elif targets == "attention":
        layers = attention_layers(model)
    else:
        wanted = [name.strip() for name in targets.split(",") if name.strip()]
        for name in wanted:
            if name in ("attention", "all-linear") and len(wanted) > 1:
                raise UserError(f"targets: {name} cannot be combined with names: use it alone, or name all layers")
            fitting = [layer for layer in linear if _fits(layer, name)]
            if not fitting:
                known = ["attention", "all-linear", *dict.fromkeys(layer.rpartition(".")[2] for layer in linear)]
                raise UserError(f'targets: the model has no linear layer "{name}"{_offer(name, known)}')
            if trained.isdisjoint(fitting):
                raise UserError(
                    f'targets: training on text does not reach the layers named "{name}" (such as {fitting[0]}): '
                    "leave this name out"
                )
        layers = [layer for layer in linear if layer in trained and any(_fits(layer, name) for name in wanted)]
    if not layers:
        known = list(dict.fromkeys(layer.rpartition(".")[2] for layer in linear))
        raise UserError(f'targets: "{targets}" fits no linear layer; the model has {", ".join(known[:8]) or "none"}')
    return layers


@once_per_model
def attention_layers(model: nn.Module) -> list[str]:
    """Return the layers that `targets: attention` means; see `find_targets`."""
    attention, others = mixing_layers(model)
    if others:  # PEFT refuses some of these layers, which should not make `targets: attention` fail
        others = [layer for _, layers in _accepted(model, others) for layer in layers]
    return [name for name in linear_layers(model) if name in {*attention, *others}]


@once_per_model
def all_linear_layers(model: nn.Module) -> list[str]:
    """Return the layers that `targets: all-linear` means; see `find_targets`."""
    trained = trained_layers(model)
    layers = [name for name in body_layers(model) if name in trained]
    # PEFT refuses some layers of state-space mixers and of experts. Models without these need no check.
    if mixing_layers(model)[1] or has_expert_tensors(model) or any("expert" in name for name in layers):
        accepted = {layer for _, own in _accepted(model, layers) for layer in own}
        return [name for name in layers if name in accepted]
    return layers


def check_accepted(model: nn.Module, targets: str) -> None:
    """Raise UserError if PEFT would not load an adapter on these layers; the message names targets that work.

    Args:
        model: The base model, with the layers as they were loaded.
        targets: A value of the setting `targets`, as for `find_targets`.
    """
    layers = find_targets(model, targets)
    # Checked before anything trains, because an adapter that PEFT cannot load again would be useless.
    if (reason := refusal(model, layers, short_targets(model, layers))) is None:
        return
    left = ",".join(name for name, _ in _accepted(model, layers))
    way_out = f"--targets {left}" if left else "other layers, such as --targets attention"
    raise UserError(f"targets {targets}: PEFT could not load the adapters ({reason.rstrip('.')}); use {way_out}")


def _accepted(model: nn.Module, layers: list[str]) -> list[tuple[str, list[str]]]:
    """Return the layers of a list that PEFT accepts, grouped by the shortest name that means no layer off the list."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(_shortest_name(model, layer, layers), []).append(layer)
    if refusal(model, layers, short_targets(model, layers)) is None:
        return list(groups.items())
    return [pair for pair in groups.items() if refusal(model, pair[1], short_targets(model, pair[1])) is None]


def _shortest_name(model: nn.Module, layer: str, among: list[str]) -> str:
    """Return the shortest end of a layer's name that means only layers of a list."""
    parts = layer.split(".")
    trained = trained_layers(model)
    ends = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
    return next(end for end in ends if all(other in among for other in trained if _fits(other, end)))


def coverage(model: nn.Module, targets: str) -> dict[str, Any]:
    """Return which layers `targets` covers, for the record.

    Args:
        model: The base model, with the layers as they were loaded.
        targets: A value of the setting `targets`, as for `find_targets`.

    Returns:
        layers: The number of layers with adapters.
        blocks: The number of blocks with adapters.
        of: The number of all blocks.
        names: The last names of the layers with adapters.
        left_out: The layers that `targets` means and that get no adapter. Each key is a reason, and its value the last
            names of the layers that it concerns.
    """
    layers = find_targets(model, targets)
    blocks = {block_of(model, layer) for layer in layers} - {None}
    return {
        "layers": len(layers),
        "blocks": len(blocks),
        "of": len(block_names(model)),
        "names": _last_names(layers),
        "left_out": _left_out(model, targets, layers),
    }


def _left_out(model: nn.Module, targets: str, layers: list[str]) -> dict[str, list[str]]:
    """Return `left_out` of `coverage`: reasons, each with the last names of the layers that get no adapter for it."""
    trained = trained_layers(model)
    if targets == "attention":
        meant = [name for kind in mixing_layers(model) for name in kind]
    elif targets == "all-linear":
        meant = body_layers(model)
    else:
        ends = [name.strip() for name in targets.split(",")]
        meant = [layer for layer in linear_layers(model) if any(_fits(layer, end) for end in ends)]
    absent = [name for name in meant if name not in layers]
    reasons = {
        "a pass of text does not train": [name for name in absent if name not in trained],
        "PEFT does not take": [name for name in absent if name in trained],
    }
    left_out = {reason: _last_names(names) for reason, names in reasons.items() if names}
    if targets == "all-linear" and has_expert_tensors(model):
        left_out["have no layers of their own"] = ["a mixture's experts"]
    return left_out


def _last_names(layers: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(layer.rpartition(".")[2] for layer in layers))


def short_targets(model: nn.Module, layers: list[str]) -> list[str]:
    """Return names for an adapter's file: the layers' last names if these mean no other layers, otherwise full names.

    Args:
        model: The base model, with the layers as they were loaded.
        layers: Full names of layers.
    """
    # Last names also fit the model inside a wrapper. They may mean further layers, such as those of an image tower.
    short = _last_names(layers)
    meant = [layer for layer, _ in model.named_modules() if any(_fits(layer, name) for name in short)]
    return short if meant == layers else layers


def _fits(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")


def _offer(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return suggestion(name, close) + f"; it has {', '.join(known[2:10])}"
