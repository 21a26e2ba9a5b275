"""Optimisers by name: what is known, and how what is not is refused."""

import subprocess
import sys
from collections.abc import Sequence
from inspect import signature
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from partune.errors import UserError
from partune.optimizers import ALGORITHMS, AUTO, Optimizer, algorithm_of, optimizer
from partune.optimizers.bayes import GPBO
from partune.optimizers.sampling import RandomSearch
from partune.optimizers.soo import SOO
from partune.space import Float, Space

SPACE = Space(x=Float(0, 1))


def options_of(name: str) -> list[str]:
    return [each for each in signature(algorithm_of(name)).parameters if each not in ("space", "seed")]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_name_is_an_optimiser_with_a_line_and_a_source(name: str) -> None:
    assert isinstance(optimizer(name, SPACE), Optimizer)
    assert ALGORITHMS[name].summary
    assert ALGORITHMS[name].source[-4:].isdigit()


def test_auto_is_the_best_by_measurement_and_recorded_by_its_own_name(tmp_path: Path) -> None:
    from partune import Study

    assert isinstance(optimizer("auto", SPACE), GPBO)
    study = Study(SPACE, lambda config: 0.0, directory=tmp_path / "s", seed=1)
    assert study.record.header["algorithm"] == AUTO


def test_a_class_its_path_and_an_instance_are_as_good_as_a_name() -> None:
    for algorithm in ("soo", "partune.optimizers.soo:SOO", SOO):
        made = optimizer(algorithm, SPACE, seed=3, k=5)
        assert isinstance(made, SOO)
        assert (made.k, made.seed) == (5, 3)
    assert optimizer(made, SPACE) is made


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("bamso", {}, 'no algorithm "bamso"; did you mean "bamsoo"'),
        ("zzz", {}, "known: auto, random, lhs, "),
        ("soo", {"hmax": "sqrt"}, 'SOO has no option "hmax"; did you mean "h_max"'),
        ("bo", {"n_init": "x"}, "GPBO: n_init must be an integer, got 'x'"),
        ("bo", {"look": 2048.0}, "GPBO: look must be an integer, got 2048.0"),
        ("bo", {"rounds": True}, "GPBO: rounds must be an integer, got True"),
        ("bamsoo", {"patience": "None"}, "BaMSOO: patience must be an integer or null, got 'None'"),
        ("annealing", {"step": "big"}, "Annealing: step must be a number, got 'big'"),
        ("soo", {"h_max": None}, "SOO: h_max must be a text, got None"),
        ("partune.nowhere:X", {}, "cannot load the algorithm"),
        ("partune.optimizers.soo:Missing", {}, "cannot load the algorithm"),
        ("partune.space:Space", {}, "a name or a subclass of"),
        ("soo", {"k": 1}, "a cell is cut into 2 to 100 parts, got k=1"),
        ("bamsoo", {"k": 10**6}, "a cell is cut into 2 to 100 parts, got k=1000000"),
        ("sequool", {"k": 0}, "a cell is cut into 2 to 100 parts, got k=0"),
        ("stroquool", {"k": -3}, "a cell is cut into 2 to 100 parts, got k=-3"),
        ("bo", {"n_init": 10**9}, "n_init must be at most 1000000 in size, got 1000000000"),
        ("bo", {"n_init": 500_000}, "n_init <= 100000 must hold, got n_init=500000"),
        ("bo", {"n_init": 1e9}, "GPBO: n_init must be an integer, got 1000000000.0"),
        ("bo", {"look": 2**20}, "GPBO: look must be at most|power of two, at most 65536"),
        ("bo", {"rounds": 10**5}, "rounds <= 1000 must hold"),
        ("lhs", {"size": 10**6}, "size <= 100000 must hold"),
        ("grid", {"points": 10**6}, "points <= 100000 must hold"),
        ("annealing", {"n_init": 10**6}, "n_init <= 100000 must hold"),
        ("annealing", {"step": nan}, "Annealing: step must be a finite number, got nan"),
        ("genetic", {"eta_c": inf}, "Genetic: eta_c must be a finite number, got inf"),
        ("genetic", {"size": 10**6}, "size <= 100000 must hold"),
        ("direct", {"epsilon": nan}, "DIRECT: epsilon must be a finite number, got nan"),
        ("fda", {"levels": 1000}, "levels <= 50 must hold"),
        ("optuna-tpe", {"n_init": -1}, "n_init >= 1 must hold, got n_init=-1"),
        ("optuna-tpe", {"candidates": 0}, "candidates >= 1 must hold"),
        ("optuna-gp", {"n_init": 0}, "n_init >= 1 must hold"),
        ("optuna-cmaes", {"population": 1}, "population >= 2 must hold, got population=1"),
        ("optuna-nsga2", {"population": 10**6}, "population <= 100000 must hold"),
        ("partune.optimizers.optuna:OptunaSampler", {"settings": [1]}, "settings are a mapping"),
        ("partune.optimizers.optuna:OptunaSampler", {"settings": {"nothing": 1}}, "the sampler does not take"),
        (RandomSearch(SPACE), {"k": 3}, "takes no options"),
        (RandomSearch(Space(y=Float(0, 1))), {}, "must have the study's space"),
    ],
)
def test_what_is_not_known_is_said_in_one_line(algorithm: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        optimizer(algorithm, SPACE, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("option", ["seed", "space", "algorithm", "nothing", "", "a\nb"])
def test_options_that_no_algorithm_has_are_refused_in_one_line_before_a_folder_is_made(
    name: str, option: str, tmp_path: Path
) -> None:
    from partune import Study

    with pytest.raises(UserError, match=r"is not an option of an algorithm|has no option") as caught:
        Study(SPACE, lambda config: 0.0, name, directory=tmp_path / "s", options={option: 1})
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if options_of(name)])
@pytest.mark.parametrize("value", [nan, -(10**9), 10**30, [1], {"a": 1}, object(), "\ud800"], ids=type)
def test_no_option_of_any_algorithm_takes_just_anything(name: str, value: Any) -> None:
    for option in options_of(name):
        with pytest.raises(UserError) as caught:
            optimizer(name, SPACE, **{option: value})
        assert len(str(caught.value).splitlines()) == 1


class Own(RandomSearch):
    """An algorithm of a user's, that takes any option and fails with some."""

    def __init__(self, space: Space, seed: int = 0, **others: Any) -> None:
        super().__init__(space, seed)
        if "bad" in others:
            raise KeyError("no\nsuch")


class NoSeed(RandomSearch):
    def __init__(self, space: Space) -> None:
        super().__init__(space)


def test_a_class_of_a_users_that_cannot_be_made_is_one_line() -> None:
    assert isinstance(optimizer(Own, SPACE, anything=1), Own)
    for algorithm, options in ((Own, {"bad": 1}), (NoSeed, {}), (Optimizer, {})):
        with pytest.raises(UserError, match="cannot be made") as caught:
            optimizer(algorithm, SPACE, **options)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("options", [{"a": nan}, {"a": [inf]}, {"a": object()}, {"a": {1, 2}}, [1], 3, "x"])
def test_options_that_a_record_cannot_hold_are_refused_before_a_folder_is_made(options: Any, tmp_path: Path) -> None:
    from partune import Study

    with pytest.raises(UserError, match=r"options are recorded|a valid dictionary"):
        Study(SPACE, lambda config: 0.0, Own, directory=tmp_path / "s", options=options)
    assert not list(tmp_path.iterdir())


def test_an_integer_is_a_number_and_options_of_other_types_are_the_algorithms_own() -> None:
    class Mine(RandomSearch):
        def __init__(
            self,
            space: Space,
            seed: int = 0,
            rate: float | None = None,
            layers: Sequence[int] = (),
            later: "Unknown" = None,  # type: ignore[name-defined]  # noqa: F821
        ) -> None:
            super().__init__(space, seed)
            self.given = rate, layers, later

    for rate in (1, 0.5, None):
        made = optimizer(Mine, SPACE, rate=rate, layers="any", later=3)
        assert isinstance(made, Mine)
        assert made.given == (rate, "any", 3)


@pytest.mark.slow
def test_importing_the_registry_loads_no_heavy_library() -> None:
    code = "import sys, partune.optimizers; print([m for m in ('torch', 'optuna', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
