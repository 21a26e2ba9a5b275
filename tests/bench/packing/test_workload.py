"""The trials, data and bases that all contenders share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from partune.bench.options import Packing
from partune.bench.packing.workload import make, shape


@pytest.mark.slow
@pytest.mark.parametrize("length", [16, 64])
def test_synthetic_data_has_the_length_asked_for(tmp_path: Path, length: int) -> None:
    made = make(tmp_path, Packing(model="1M", length=length, items=3))
    assert set(made.examples.lengths) == {length}
    assert set(made.examples.trained_lengths) == {length // 2}
    assert {len(context) + len(ending) for _, context, ending in made.requests} == {length}
    assert 0.8e6 < made.base.model.num_parameters() < 1.2e6
    assert (Path(made.model_path) / "config.json").is_file()


@pytest.mark.parametrize(("size", "parameters"), [("1B", 1_235_814_400), ("3B", 3_212_749_824)])
def test_large_bases_have_the_shape_of_llama_3_2(size: str, parameters: int) -> None:
    with torch.device("meta"):
        assert AutoModelForCausalLM.from_config(shape(size)).num_parameters() == parameters
