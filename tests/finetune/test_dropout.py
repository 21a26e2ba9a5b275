"""Dropout's masks: their definition, their statistics, and what they do and do not depend on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partune.finetune.dropout import Dropout, Place, keep, thresholds
from tests.support.peft_oracle import kept
from tests.support.thorough import share


def masks(place: Place, rate: float, d: int, layer: int = 0) -> torch.Tensor:
    return keep(place, layer, thresholds([rate] * len(place.seeds)), d)


@settings(max_examples=share(0.6))
@given(
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**6),
    layer=st.integers(0, 500),
    row=st.integers(0, 2**20),
    rate=st.floats(0, 1, exclude_max=True),
    d=st.integers(1, 9),
)
def test_masks_are_those_of_the_definition(seed: int, step: int, layer: int, row: int, rate: float, d: int) -> None:
    found = masks(Place([seed], [step], [row], (2, 3)), rate, d, layer)
    expected = [[kept(seed, step, layer, row + i, j, f, rate) for f in range(d)] for i in range(2) for j in range(3)]
    assert found.tolist() == [expected]


def test_a_mask_does_not_depend_on_neighbours_padding_or_micro_batches() -> None:
    together = masks(Place([5, 6, 7], [2, 9, 4], [0, 0, 0], (8, 12)), 0.3, 10).view(3, 8, 12, 10)
    alone = masks(Place([6], [9], [0], (8, 7)), 0.3, 10).view(8, 7, 10)
    assert torch.equal(together[1, :, :7], alone)
    parts = [masks(Place([6], [9], [row], (2, 12)), 0.3, 10).view(2, 12, 10) for row in range(0, 8, 2)]
    assert torch.equal(torch.cat(parts), together[1])


def test_chosen_tokens_have_their_own_masks() -> None:
    place = Place([3, 4], [0, 0], [0, 0], (2, 5))
    chosen = torch.tensor([[0, 7, 9], [4, 4, 1]])
    whole, some = masks(place, 0.5, 8), masks(place.of(chosen), 0.5, 8)
    assert torch.equal(some, torch.stack([whole[k, chosen[k]] for k in range(2)]))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_the_share_of_dropped_features_is_the_rate(rate: float) -> None:
    found = masks(Place([11], [0], [0], (64, 128)), rate, 65)
    n = found.numel()
    assert abs(float((~found).double().mean()) - rate) <= 5 * (rate * (1 - rate) / n) ** 0.5


@pytest.mark.slow
def test_masks_look_independent() -> None:
    """Correlations of features, tokens, trials, steps and layers, and of the corners of parallelograms (a linear
    generator would show there), as large as chance makes them: |z| < 5.5 for up to 30,000 pairs."""
    place = Place([1, 2], [0, 0], [0, 0], (64, 256))
    signs = masks(place, 0.5, 128).double() * 2 - 1
    one, n = signs[0], signs.shape[1]

    def largest(x: torch.Tensor) -> float:
        products = x.T @ x / len(x) ** 0.5
        return float((products - torch.diag(products.diag())).abs().max())

    assert largest(one) < 5.5
    assert largest(one[:250].T) < 5.5
    assert largest(one[: n // 2] * one[n // 2 :]) < 5.5
    others = [signs[1], masks(dataclasses.replace(place, steps=[1, 0]), 0.5, 128)[0].double() * 2 - 1]
    others.append(masks(place, 0.5, 128, layer=1)[0].double() * 2 - 1)
    assert all(abs(float((one * other).sum())) < 5.5 * one.numel() ** 0.5 for other in others)


def test_the_module_keeps_the_mean_and_is_silent_when_it_should_be() -> None:
    module, x = Dropout(0.25, layer=3), torch.ones(4, 50, 40)
    assert torch.equal(module(x), x)  # nobody told it where it stands
    module.place = Place([1], [0], [0], (4, 50))
    dropped = module(x)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(Dropout(0.0, 3)(x), x)
