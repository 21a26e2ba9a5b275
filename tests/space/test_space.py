"""The unit cube and configurations: conditions, cells, and the form in a file."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partune.errors import UserError
from partune.space import SPACES, Choice, Float, Int, Space
from tests.support.hyperparameters import choices, floats, ints, unit

CONDITIONAL = Space(
    optimizer=Choice(["adamw", "sgd"]),
    momentum=Float(0, 0.99, when={"optimizer": "sgd"}),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
    warmup=Int(0, 3),
    ramp=Float(0, 1, when={"warmup": [1, 2, 3], "nesterov": True}),
)


@given(st.lists(unit, min_size=5, max_size=5))
def test_conditional_configurations_round_trip(point: list[float]) -> None:
    config = CONDITIONAL.decode(point)
    canonical = CONDITIONAL.encode(config)
    assert CONDITIONAL.decode(canonical) == config
    assert ("momentum" in config) == (config["optimizer"] == "sgd")
    assert ("ramp" in config) == (config.get("nesterov") is True and config["warmup"] != 0)
    for name, u in zip(CONDITIONAL.names, canonical, strict=True):
        assert name in config or u == 0.5


@given(st.lists(unit, min_size=5, max_size=5))
def test_equal_configurations_have_one_canonical_point(point: list[float]) -> None:
    other = list(CONDITIONAL.encode(CONDITIONAL.decode(point)))
    if "momentum" not in CONDITIONAL.decode(point):
        other[1] = 0.123
    assert CONDITIONAL.encode(CONDITIONAL.decode(other)) == CONDITIONAL.encode(CONDITIONAL.decode(point))


def test_many_points_snap_as_each_does() -> None:
    points = np.concatenate([np.random.default_rng(0).random((300, 5)), np.zeros((1, 5)), np.ones((1, 5))])
    plain = Space(
        rank=Int(2, 64, log=True),
        shift=Int(-3, 4),
        kind=Choice(["a", 2, True]),
        only=Choice(["one"]),
        rate=Float(1e-6, 1e-2, log=True),
    )
    for space in (CONDITIONAL, plain):
        each = [space.encode(space.decode(point)) for point in points]
        assert space.snap(points) == pytest.approx(np.array(each), abs=1e-11)


def test_a_condition_may_be_declared_before_its_parent() -> None:
    space = Space(momentum=Float(0, 1, when={"optimizer": "sgd"}), optimizer=Choice(["adamw", "sgd"]))
    assert space.decode((0.25, 0.9)) == {"momentum": 0.25, "optimizer": "sgd"}
    assert space.decode((0.25, 0.1)) == {"optimizer": "adamw"}


@given(st.one_of(floats(), ints(), choices), unit, unit)
def test_a_side_with_one_value_cannot_be_split(parameter: Float | Int | Choice, a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    inside = {parameter.decode(low + (high - low) * share) for share in (0.01, 0.25, 0.5, 0.75, 0.99)}
    if len(inside) > 1:
        assert Space(x=parameter).splittable((low,), (high,), 0)


def test_cells_split_down_to_single_values_and_no_further() -> None:
    space = Space(rank=Int(1, 9))
    assert space.splittable((0,), (1 / 3,), 0)
    assert not space.splittable((0,), (1 / 9,), 0)  # touches 2 with its edge only
    assert not space.splittable((4 / 9,), (5 / 9,), 0)
    assert not Space(only=Choice(["a"])).splittable((0,), (1,), 0)


def test_a_side_that_is_inactive_throughout_the_cell_cannot_be_split() -> None:
    whole = [0.0] * 5, [1.0] * 5
    assert CONDITIONAL.splittable(*whole, axis=1)
    assert CONDITIONAL.splittable(*whole, axis=4)
    adamw = [0.0] * 5, [0.5, 1, 1, 1, 1]
    assert not CONDITIONAL.splittable(*adamw, axis=1)
    assert not CONDITIONAL.splittable(*adamw, axis=4)  # its parent's parent is not there
    cold = [0.0] * 5, [1, 1, 1, 0.25, 1]
    assert not CONDITIONAL.splittable(*cold, axis=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Int(0, 2**63), "an integer has fewer than 2^63 values"),
        (lambda: Int(-(2**63), 2**63 - 1), "an integer has fewer than 2^63 values"),
        (lambda: Int(10**400, 10**400 + 3), "all below 2^63 in size"),
        (lambda: Int(0, 10**5000), "high=int too long to show"),
        (lambda: Int(1, 2**60, log=True), "needs high <= 2^46, got high=1152921504606846976: use a float"),
        (lambda: Int(1.0, 4.0), "a bound must be an integer, got 1.0"),  # type: ignore[arg-type]
        (lambda: Int(False, True), "a bound must be an integer, got False"),
        (lambda: Float(False, True), "a bound must be a finite number, got False"),
        (lambda: Float(-1e308, 1e308), "high - low must be a finite number, got low=-1e+308, high=1e+308"),
        (lambda: Float(1e-300, 1e300, log=True), "high / low must be a finite number, got low=1e-300"),
        (lambda: Float(5e-324, 1, log=True), "high / low must be a finite number"),
        (lambda: Float(0, 10**400), "a bound must be a finite number, got 1000"),
        (lambda: Float(1, 1 + 1e-14), "low and high must differ in 12 digits, got low=1, high=1.00000000000001"),
        (lambda: Float(math.nan, 1), "a bound must be a finite number, got nan"),
        (lambda: Float(0, math.inf), "a bound must be a finite number, got inf"),
        (lambda: Float(None, 1), "a bound must be a finite number, got None"),  # type: ignore[arg-type]
        (lambda: Choice([1, math.nan]), "an option must be a finite number, got nan"),
        (lambda: Choice([-math.inf, 1]), "an option must be a finite number, got -inf"),
        (lambda: Choice([10**400, 1]), "an option must be a finite number, got 1000"),
        (lambda: Choice([1, "a", 1.0]), "options must differ"),
        (lambda: Choice([0, False]), "options must differ"),
        (lambda: Choice(["\ud800"]), "an option must be valid Unicode"),
        (lambda: Choice(b"ab"), "a choice needs a list of options, got b'ab'"),
        (lambda: Choice(range(2**62)), "a choice has at most 10000 options"),
        (lambda: Space(), "a space needs at least one hyperparameter"),
        (lambda: Space({"": Int(0, 1)}), "printable characters, without spaces at its ends, got ''"),
        (lambda: Space({"a\nb": Int(0, 1)}), r"got 'a\nb'"),
        (lambda: Space({" a": Int(0, 1)}), "got ' a'"),
        (lambda: Space({"\ud800": Int(0, 1)}), "a hyperparameter's name has 1 to 500 printable characters"),
        (lambda: Space({"a" * 501: Int(0, 1)}), "aaa..."),
        (lambda: Space({1: Int(0, 1)}), "a hyperparameter's name is a text, got 1"),  # type: ignore[dict-item]
        (lambda: Space.parse({1: {"int": [0, 1]}, "1": {"int": [0, 2]}}), "a hyperparameter's name is a text, got 1"),
        (lambda: Space({"a": Int(0, 1)}, a=Int(0, 2)), 'the hyperparameter "a" is defined twice'),
        (lambda: Space({"a": 3}), "a must be a Float, an Int or a Choice, got 3"),  # type: ignore[dict-item]
        (lambda: Space("lora"), "a space is a mapping of names to"),  # type: ignore[arg-type]
        (lambda: Space(a=Int(0, 1, when={"a": 1})), "conditions form a cycle: a"),
        (lambda: Space(a=Int(0, 1, when="b"), b=Int(0, 1)), "when is a mapping of names to values, got 'b'"),  # type: ignore[arg-type]
        (lambda: Space(a=Int(0, 1, when={"b": []}), b=Int(0, 1)), "a value, or a list of 1 to 10000, got []"),
        (lambda: Space(a=Int(0, 1, when={"b": None}), b=Int(0, 1)), "a value, or a list of"),  # type: ignore[dict-item]
        (lambda: Space(a=Int(0, 1, when={"b": range(2**62)}), b=Int(0, 2**62)), "a value, or a list of"),
        (lambda: Space.parse({"x": {"int": [0, 1], "a\nb": 1}}), "x: unknown key"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("space", [*SPACES.values(), CONDITIONAL], ids=[*SPACES, "conditional"])
def test_a_space_is_read_from_its_own_description(space: Space) -> None:
    assert Space.parse(space.describe()) == space


def test_ready_made_spaces_are_the_design_tables() -> None:
    lora = SPACES["lora"].describe()
    assert lora == {
        "lora_r": {"int": [2, 64], "log": True},
        "lora_alpha": {"int": [1, 64], "log": True},
        "lora_dropout": {"float": [0.0, 0.5]},
        "learning_rate": {"float": [1e-6, 1e-2], "log": True},
        "weight_decay": {"float": [1e-5, 1e-1], "log": True},
    }
    assert SPACES["lora-report"].describe()["lora_alpha"] == {"int": [16, 64]}
    assert SPACES["lora-article"].describe()["learning_rate"] == {"float": [1e-10, 1e-1], "log": True}


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("lorra", 'no ready-made space "lorra"; did you mean "lora"?'),
        ({"x": {"float": [4, 4]}}, "x: low < high must hold, got low=4, high=4"),
        ({"x": {"int": [5, 2]}}, "x: low < high must hold, got low=5, high=2"),
        ({"x": {"float": [0, 1], "log": True}}, "x: a log scale needs low > 0, got low=0"),
        ({"x": {"int": [0, 8], "log": True}}, "x: a log scale of integers needs low >= 1, got low=0"),
        ({"x": {"int": [1, 2.5]}}, "x: a bound must be an integer, got 2.5"),
        ({"x": {"float": [0, math.inf]}}, "x: a bound must be a finite number, got inf"),
        ({"x": {"float": [0, 1], "lgo": True}}, 'x: unknown key "lgo"; did you mean "log"?'),
        ({"x": {"choice": ["a", "b"], "log": True}}, 'x: unknown key "log"; known: choice, when'),
        ({"x": {"choice": []}}, "x: a choice needs a list of options, got []"),
        ({"x": {"choice": ["a", "a"]}}, "x: options must differ, got ['a', 'a']"),
        ({"x": {"choice": [1, 1.0]}}, "x: options must differ, got [1, 1.0]"),
        ({"x": {"choice": [1, True]}}, "x: options must differ, got [1, True]"),
        ({"x": [0, 1]}, "x: use one of float: [low, high], int: [low, high] or choice: [...], got [0, 1]"),
        ({"x": {"float": [0, 1], "when": {"y": 1}}}, 'x depends on "y", which is not in the space; known: x'),
        (
            {"x": {"float": [0, 1], "when": {"y": 0.5}}, "y": {"float": [0, 1]}},
            "x depends on y: a condition needs a choice or an integer, not a float",
        ),
        (
            {"x": {"float": [0, 1], "when": {"y": 9}}, "y": {"int": [0, 3]}},
            "x exists when y is 9, which is not a value of y",
        ),
        (
            {"x": {"int": [0, 1], "when": {"y": 1}}, "y": {"int": [0, 1], "when": {"x": 1}}},
            "conditions form a cycle: x, y",
        ),
        ({}, "a space needs at least one hyperparameter"),
    ],
)
def test_a_bad_space_is_one_clear_line(form: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Space.parse(form)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"optimizer": "adam", "warmup": 0}, "optimizer='adam' is not in {'choice': ['adamw', 'sgd']}"),
        ({"optimizer": "adamw"}, "warmup is missing in {'optimizer': 'adamw'}"),
        ({"optimizer": "adamw", "warmup": 1, "warmp": 1}, 'no hyperparameter "warmp"; did you mean "warmup"?'),
        ({"optimizer": "adamw", "warmup": 1, "momentum": 0.5}, "momentum exists only when optimizer is sgd"),
        ({"optimizer": "adamw", "warmup": True}, "warmup=True is not in {'int': [0, 3]}"),
    ],
)
def test_encoding_refuses_what_is_not_of_the_space(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match="^.*" + message.replace("[", r"\[").replace("?", r"\?").replace("{", r"\{")):
        CONDITIONAL.encode(config)  # type: ignore[arg-type]


@pytest.mark.parametrize("point", [(0.5,), (0.5, 1.5), (0.5, math.nan)])
def test_decoding_refuses_points_outside_the_cube(point: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="2 coordinates in"):
        Space(x=Int(0, 1), y=Int(0, 1)).decode(point)


def test_configurations_of_given_values_are_those_that_conditions_leave_each_once() -> None:
    space = Space(
        momentum=Float(0, 1, when={"optimizer": "sgd"}),
        optimizer=Choice(["adamw", "sgd"]),
        nesterov=Choice([True, False], when={"optimizer": "sgd"}),
    )
    values = {"momentum": [0.0, 0.9], "optimizer": ["sgd", "adamw"], "nesterov": [True, False]}
    found = list(space.configurations(values))
    for config in found:
        space.check(config)
    assert found == [
        {"optimizer": "sgd", "momentum": momentum, "nesterov": nesterov}
        for momentum in (0.0, 0.9)
        for nesterov in (True, False)
    ] + [{"optimizer": "adamw"}]
