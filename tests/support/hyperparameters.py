"""Strategies that draw hyperparameters, and a space with conditions."""

from __future__ import annotations

from hypothesis import strategies as st

from partune.space import Choice, Float, Int, Space

finite = st.floats(-1e9, 1e9, allow_nan=False)
positive = st.floats(1e-12, 1e12, allow_nan=False)
unit = st.floats(0, 1)


@st.composite
def floats(draw: st.DrawFn) -> Float:
    log = draw(st.booleans())
    low, high = sorted((draw(positive if log else finite), draw(positive if log else finite)))
    apart = high - low > 1e-10 * max(abs(low), abs(high))
    return Float(low, high if apart else low + abs(low) + 1, log=log)


@st.composite
def ints(draw: st.DrawFn) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -1000, 2000))
    return Int(low, low + draw(st.integers(1, 3000)), log=log)


choices = st.lists(
    st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["adamw", "sgd", "é"])),
    min_size=1,
    max_size=6,
    unique=True,
).map(Choice)


def counted(space: Space) -> int:
    """Every configuration, one by one."""
    return len(list(space.configurations({name: each.values or () for name, each in space.hyperparameters.items()})))
