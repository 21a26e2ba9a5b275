"""Which layers of a base adapters are put on: by name, or the attention's."""

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

    Never one that a pass of text does not train, such as those of a tower for images.

    Args:
        model: The base, its layers as they were loaded.
        targets: "attention": the projections of attention, and in a block without attention those of what it has in
            its place (linear attention, a state-space mixer, a short convolution), as far as PEFT takes them.
            "all-linear": every linear layer but the head. Else names with commas between; a name is a full one or its
            end ("q_proj", "mlp.up_proj"), and the head gets an adapter only like this.

    Raises:
        UserError: With some layers, where a name fits none, or only such as no text trains.
    """
    linear, trained = linear_layers(model), trained_layers(model)
    # An adapter on a layer that no text trains would keep its zeros and cost memory in every trial.
    if targets == "all-linear":
        layers = [name for name in body_layers(model) if name in trained]
    elif targets == "attention":
        layers = attention_layers(model)
    else:
        wanted = [name.strip() for name in targets.split(",") if name.strip()]
        for name in wanted:
            fitting = [layer for layer in linear if _fits(layer, name)]
            if not fitting:
                known = ["attention", "all-linear", *dict.fromkeys(layer.rpartition(".")[2] for layer in linear)]
                raise UserError(f'targets: the model has no linear layer "{name}"{_offer(name, known)}')
            if trained.isdisjoint(fitting):
                raise UserError(f'targets: a pass of text trains no layer "{name}" ({fitting[0]}): leave it out')
        layers = [layer for layer in linear if layer in trained and any(_fits(layer, name) for name in wanted)]
    if not layers:
        known = list(dict.fromkeys(layer.rpartition(".")[2] for layer in linear))
        raise UserError(f'targets: "{targets}" fits no linear layer; the model has {", ".join(known[:8]) or "none"}')
    return layers


@once_per_model
def attention_layers(model: nn.Module) -> list[str]:
    """Return what `targets: attention` means; see `find_targets`."""
    attention, others = mixing_layers(model)
    if others:  # PEFT refuses some of these layers, and a study over attention should not fail for them
        others = [layer for _, layers in _taken(model, others) for layer in layers]
    return [name for name in linear_layers(model) if name in {*attention, *others}]


def check_accepted(model: nn.Module, targets: str) -> None:
    """Raise UserError, with the targets that remain, where PEFT would not load an adapter on these layers.

    Args:
        model: The base, its layers as they were loaded.
        targets: As `find_targets` takes them.
    """
    layers = find_targets(model, targets)
    # Asked before anything trains: an adapter that PEFT does not load again would be worth nothing.
    if (reason := refusal(model, layers, short_targets(model, layers))) is None:
        return
    left = ",".join(name for name, _ in _taken(model, layers))
    way_out = f"--targets {left}" if left else "other layers, such as --targets attention"
    raise UserError(f"targets {targets}: PEFT could not load the adapters ({reason.rstrip('.')}); it takes {way_out}")


def _taken(model: nn.Module, layers: list[str]) -> list[tuple[str, list[str]]]:
    """Return those of the layers that PEFT takes, kind by kind: a name that means them, and the layers."""
    kinds: dict[str, list[str]] = {}
    for layer in layers:
        kinds.setdefault(_kind(model, layer, layers), []).append(layer)
    if refusal(model, layers, short_targets(model, layers)) is None:
        return list(kinds.items())
    return [pair for pair in kinds.items() if refusal(model, pair[1], short_targets(model, pair[1])) is None]


def _kind(model: nn.Module, layer: str, among: list[str]) -> str:
    """Return the shortest end of a layer's name that means none but layers of a list."""
    parts = layer.split(".")
    trained = trained_layers(model)
    ends = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
    return next(end for end in ends if all(name in among for name in trained if _fits(name, end)))


def coverage(model: nn.Module, targets: str) -> dict[str, Any]:
    """Return what `targets` covers, for the record.

    Args:
        model: The base, its layers as they were loaded.
        targets: As `find_targets` takes them.

    Returns:
        layers: how many have adapters; blocks, of: in how many blocks, of how many; names: the layers' last names;
        left_out: last names of what was meant and has none, by the reason.
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
    """Return the last names of the layers that `targets` means by its words and leaves out, by the reason."""
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
    """Return the layers' last names, as adapter files have them, where these mean exactly the same; else full names.

    Args:
        model: The base, its layers as they were loaded.
        layers: Full names of layers.
    """
    # Short names fit the same model under other wrappers too; they may mean other layers beside, such as a tower's.
    short = _last_names(layers)
    meant = [layer for layer, _ in model.named_modules() if any(_fits(layer, name) for name in short)]
    return short if meant == layers else layers


def _fits(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")


def _offer(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return suggestion(name, close) + f"; it has {', '.join(known[2:10])}"
