"""What the default baseline is called, and which settings the user has set."""

from __future__ import annotations

from partune import config


def test_changed_defaults_are_named() -> None:
    assert config.baseline({}) == "the field's defaults"
    assert config.baseline({"lora_r": 16, "learning_rate": 2e-4}) == "the field's defaults"
    assert config.baseline({"lora_r": 8, "steps": 5}) == "the field's defaults with lora_r=8 as given"


def test_a_setting_at_its_default_is_given_too() -> None:
    training, data = config.Training(lora_r=16), config.Data(path="d", max_length=64)
    assert config.given(training, data) == {"lora_r": 16, "max_length": 64}
    assert config.given(config.Training(), None) == {}


def test_the_names_of_recipes_stand_in_the_record() -> None:
    assert config.names_of({"baseline": [{"name": "peft"}, {"name": "ours"}]}) == ["peft", "ours"]
    assert config.names_of({"baseline": None}) == config.names_of({}) == []
