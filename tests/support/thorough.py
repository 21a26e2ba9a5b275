"""How much of each random or statistical test runs: little in the ordinary run, much with `pytest --thorough`.

Hypothesis' examples follow from a profile, and simulations from `thorough` (a fixture). What only repeats a cheaper
test with real tools, or goes through more cases of the same, is marked `thorough` and left out of the ordinary run.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

ORDINARY, THOROUGH = 25, 400  # examples of a property


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="many examples, and the tests marked thorough")


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("ordinary", max_examples=ORDINARY, deadline=None)
    settings.register_profile("thorough", max_examples=THOROUGH, deadline=None)
    settings.load_profile("thorough" if config.getoption("--thorough") else "ordinary")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--thorough"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    items[:] = [item for item in items if item not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether much is to run."""
    return bool(request.config.getoption("--thorough"))


def share(part: float) -> int:
    """Return a part of the profile's examples, one at least, for a property that is dearer than others."""
    return max(1, round(part * settings().max_examples))
