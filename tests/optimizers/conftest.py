"""Where PyTorch is not installed, cases of Optuna's Gaussian process, which computes with it, skip."""

from importlib.util import find_spec

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("torch") is None:
        for item in items:
            if "optuna-gp" in item.name:
                item.add_marker(pytest.mark.skip(reason="Optuna's Gaussian process needs torch"))
