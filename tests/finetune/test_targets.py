"""What `targets` means: the layers of a model that get an adapter."""

from __future__ import annotations

import pytest
from torch import nn

from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.targets import find_targets, short_targets
from tests.support.tiny import KINDS


def last_names(names: list[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("qwen2", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("neox", {"query_key_value", "dense"}),
        ("gpt2", {"c_attn", "c_proj"}),
    ],
)
def test_attention_means_all_projections_of_attention_and_nothing_else(
    bases: dict[str, Base], kind: str, expected: set[str]
) -> None:
    found = find_targets(bases[kind].model, "attention")
    assert last_names(found) == expected
    assert len(found) == 2 * len(expected)
    assert not any("mlp" in name for name in found)


@pytest.mark.parametrize("targets", ["all-linear,lm_head", "attention,gate_proj"])
def test_a_group_of_layers_is_no_name_in_a_list(bases: dict[str, Base], targets: str) -> None:
    with pytest.raises(UserError, match="cannot be combined with names: use it alone, or name all layers"):
        find_targets(bases["llama"].model, targets)


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_means_every_layer_but_the_head(bases: dict[str, Base], kind: str) -> None:
    base = bases[kind].model
    found = find_targets(base, "all-linear")
    assert len(found) == {"llama": 14, "qwen2": 14, "neox": 8, "gpt2": 8}[kind]
    assert not any(base.get_submodule(name) is base.get_output_embeddings() for name in found)


def test_layers_can_be_named_by_their_ends(bases: dict[str, Base]) -> None:
    llama, gpt2 = bases["llama"].model, bases["gpt2"].model
    assert last_names(find_targets(llama, "q_proj, mlp.up_proj")) == {"q_proj", "up_proj"}
    assert find_targets(gpt2, "mlp.c_proj") == ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]
    assert find_targets(llama, "model.layers.1.self_attn.q_proj") == ["model.layers.1.self_attn.q_proj"]


def test_short_names_only_where_they_mean_the_same_layers(bases: dict[str, Base]) -> None:
    llama, gpt2 = bases["llama"].model, bases["gpt2"].model
    found = find_targets(llama, "attention")
    assert short_targets(llama, found) == ["q_proj", "k_proj", "v_proj", "o_proj"]
    attention = find_targets(gpt2, "attention")
    assert short_targets(gpt2, attention) == attention  # "c_proj" would be the MLP's too


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("q_porj", 'no linear layer "q_porj"; did you mean "q_proj"'),
        ("attentoin", 'did you mean "attention"'),
        ("zzz", "it has q_proj, k_proj, v_proj, o_proj"),
        ("proj", 'no linear layer "proj"'),
        (" , ", "fits no linear layer"),
    ],
)
def test_unknown_targets_are_answered_with_known_ones(base: Base, targets: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_targets(base.model, targets)


def test_a_model_without_attention_says_so() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(2, 2)

        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(UserError, match='"attention" fits no linear layer; the model has up'):
        find_targets(Plain(), "attention")
