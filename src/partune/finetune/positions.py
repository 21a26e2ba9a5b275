"""Read from a model's configuration how far back its layers see, and how rotary embeddings depend on row length."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

# Kinds of layers that see all earlier tokens, or a window of them whose width is in the configuration. Other kinds keep
# a state.
SEEING = frozenset({"full_attention", "attention", "sliding_attention", "chunked_attention"})
PLAIN = frozenset({"dense", "sparse", "mlp", "moe"})  # kinds in `layer_types` that do not mix tokens
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size", "sliding_window_size")
# Types of rotary embeddings whose frequencies do not depend on the length of a row; None means no scaling.
STATIC = frozenset({None, "default", "linear", "yarn", "llama3", "proportional", "mrope"})
LONG = frozenset({"longrope", "su"})

Frequencies = Callable[[int], Hashable]


def deepest(config: Any) -> float:
    """Return the largest number of positions at which each token of a row still sees all tokens before it.

    This is infinity if nothing limits it. It is 0 if a layer keeps a state, or if attention adds a bias that depends on
    how far apart two tokens are in the row.
    """
    config = config.get_text_config()
    kinds = frozenset(getattr(config, "layer_types", None) or ()) - PLAIN
    if kinds - SEEING or _biased_by_distance(config):
        return 0
    if kinds and kinds <= {"full_attention", "attention"}:
        return math.inf
    if "local" not in (getattr(config, "attention_layers", None) or ("local",)):  # GPT-Neo's name for `layer_types`
        return math.inf
    widths = [getattr(config, name, None) for name in WINDOWS]
    return min((width for width in widths if isinstance(width, int) and width > 0), default=math.inf)


def _biased_by_distance(config: Any) -> bool:
    """Return whether attention uses ALiBi, which transformers computes from the tokens' indices in the row."""
    nested = getattr(config, "attn_config", None)
    return getattr(config, "model_type", None) == "bloom" or any(
        getattr(section, "alibi", False) is True for section in (config, nested)
    )


def frequencies(config: Any) -> Frequencies | None:
    """Return a function from a row's length to a key that is equal for lengths with the same rotary frequencies.

    A model chooses its frequencies by the largest position in a forward pass, so only rows with equal keys may share a
    forward pass. LongRoPE has two sets of frequencies. Dynamic NTK scaling has one set for all lengths up to the
    original one, and another set for each greater length. For an unknown scaling, every length gets its own key. None
    is returned instead of a function if the length does not matter.
    """
    config = config.get_text_config()
    rules = [rule for scaling in _scalings(config) if (rule := _rule(scaling, config)) is not None]
    if getattr(config, "use_dynamic_ntk", False):
        rules.append(_length)
    return (lambda length: tuple(rule(length) for rule in rules)) if rules else None


def _scalings(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of every rotary embedding: one mapping for all layers, or one for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(section := getattr(config, name, None), Mapping):
            nested = [value for value in section.values() if isinstance(value, Mapping)]
            yield from nested or [section]
            return


def _rule(scaling: Mapping[str, Any], config: Any) -> Frequencies | None:
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in STATIC:
        return None
    longest = getattr(config, "max_position_embeddings", None)
    original = scaling.get(
        "original_max_position_embeddings", getattr(config, "original_max_position_embeddings", longest)
    )
    if kind in LONG and isinstance(original, int):
        return lambda length: length > original
    if kind == "dynamic" and isinstance(longest, int):
        return lambda length: max(length, longest)
    return _length


def _length(length: int) -> int:
    return length
