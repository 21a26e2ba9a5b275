"""In which order files of tests run, and in how many processes, so that all cores are busy until the end."""

from __future__ import annotations

import os

import pytest

from tests.support import ROOT

# Those that take longest, by the clock, before all others: one that began last would be waited for.
LONGEST = (
    "whole/test_slurm.py",
    "whole/test_demo_study.py",
    "experiment/test_run.py",
    "workers/test_cluster.py",
    "record/test_drivers.py",
    "report/test_dashboard.py",
    "whole/test_docs.py",
    "optimizers/test_contract.py",
    "report/html/test_browser.py",
    "finetune/packed/test_adapters.py",
    "finetune/packed/test_packer.py",
    "finetune/packed/test_engine.py",
    "whole/test_real_data.py",
    "integrations/test_optuna_conformance.py",
    "finetune/packed/test_generation.py",
    "finetune/test_training.py",
    "record/test_database.py",
    "finetune/test_engines.py",
    "optimizers/test_bamsoo.py",
    "verdict/test_fresh_runs.py",
    "integrations/test_optuna.py",
    "demo/test_files.py",
    "whole/test_examples.py",
    "workers/test_local.py",
    "finetune/litgpt/test_engine.py",
    "study/test_slots.py",
    "bench/packing/test_run.py",
)
FILES = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process per core. Slow tests also wait, for schedulers, databases and browsers: then one more."""
    return (os.cpu_count() or 1) + (config.getoption("markexpr") != "not slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files first, and of the others those with slow tests."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (FILES.get(item.path, len(FILES)), item.path not in slow))
