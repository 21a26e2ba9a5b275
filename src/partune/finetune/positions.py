"""What a model's configuration says about positions: how far back layers see, and what a row's length changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

# Layers that see all tokens before one, or a window of them that a configuration names; others keep a state.
SEEING = frozenset({"full_attention", "attention", "sliding_attention", "chunked_attention"})
PLAIN = frozenset({"dense", "sparse", "mlp", "moe"})  # layers of `layer_types` that mix no tokens
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size", "sliding_window_size")
# Rotary embeddings with the same frequencies whatever a row's length; None: no scaling.
STATIC = frozenset({None, "default", "linear", "yarn", "llama3", "proportional", "mrope"})
LONG = frozenset({"longrope", "su"})

Frequencies = Callable[[int], Hashable]


def deepest(config: Any) -> float:
    """Return how many positions a row may have for all of its tokens to see all tokens before them.

    Infinity where nothing limits it; 0 where tokens reach others by more than attention by position: a state, or a bias
    by the distance of two tokens in the row.
    """
    config = config.get_text_config()
    kinds = frozenset(getattr(config, "layer_types", None) or ()) - PLAIN
    if kinds - SEEING or _biased_by_distance(config):
        return 0
    if kinds and kinds <= {"full_attention", "attention"}:
        return math.inf
    if "local" not in (getattr(config, "attention_layers", None) or ("local",)):  # GPT-Neo's kinds of layers
        return math.inf
    widths = [getattr(config, name, None) for name in WINDOWS]
    return min((width for width in widths if isinstance(width, int) and width > 0), default=math.inf)


def _biased_by_distance(config: Any) -> bool:
    """Return whether attention has ALiBi, which transformers computes from places in the row."""
    nested = getattr(config, "attn_config", None)
    return getattr(config, "model_type", None) == "bloom" or any(
        getattr(settings, "alibi", False) is True for settings in (config, nested)
    )


def frequencies(config: Any) -> Frequencies | None:
    """Return what tells apart the lengths for which rotary embeddings take different frequencies.

    These are chosen by the largest position in a forward pass, so that only rows of the same frequencies may share one:
    LongRoPE has two sets, dynamic NTK scaling one for every length beyond the original; of a scaling not known here,
    every length may have its own. None where the length does not matter.
    """
    config = config.get_text_config()
    rules = [rule for scaling in _scalings(config) if (rule := _rule(scaling, config)) is not None]
    if getattr(config, "use_dynamic_ntk", False):
        rules.append(_length)
    return (lambda length: tuple(rule(length) for rule in rules)) if rules else None


def _scalings(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of every rotary embedding: one, or one for each kind of layers."""
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(given := getattr(config, name, None), Mapping):
            nested = [value for value in given.values() if isinstance(value, Mapping)]
            yield from nested or [given]
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
