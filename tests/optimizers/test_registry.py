import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from partune.errors import UserError
from partune.optimizers import ALGORITHMS, AUTO, Optimizer, optimizer
from partune.optimizers.bayes import GPBO
from partune.optimizers.sampling import RandomSearch
from partune.optimizers.soo import SOO
from partune.space import Float, Space

SPACE = Space(x=Float(0, 1))


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
        (RandomSearch(SPACE), {"k": 3}, "takes no options"),
        (RandomSearch(Space(y=Float(0, 1))), {}, "must have the study's space"),
    ],
)
def test_what_is_not_known_is_said_in_one_line(algorithm: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        optimizer(algorithm, SPACE, **options)


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


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_is_a_natural_number(seed: int) -> None:
    with pytest.raises(UserError, match="a seed is an integer >= 0"):
        optimizer("random", SPACE, seed=seed)


def test_importing_the_registry_loads_no_heavy_library() -> None:
    code = "import sys, partune.optimizers; print([m for m in ('torch', 'optuna', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
