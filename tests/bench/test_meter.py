"""Costs add up, the watch reads laps, the peak is of its context, and versions name what is not there."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")

from partune.bench.meter import Cost, Stopwatch, number, versions  # noqa: E402


def test_costs_add_up_and_the_device_decides_which_seconds_count() -> None:
    cost = Cost(3.0, 2.0) + Cost(1.0, 0.5) - Cost(0.5, 0.25)
    assert cost == Cost(3.5, 2.25)
    assert (cost.on("cpu"), cost.on("cuda")) == (2.25, 3.5)


def test_a_lap_is_what_passed_since_the_one_before() -> None:
    watch = Stopwatch(torch.device("cpu"))
    time.sleep(0.05)
    first, second = watch.lap(), watch.lap()
    assert first.wall >= 0.05 > second.wall
    assert first.cpu < first.wall  # asleep, no processor time passes


@pytest.mark.slow
def test_the_peak_counts_what_was_freed_within() -> None:
    # In a process of its own: one that has run for long may give memory back while this is measured.
    script = (
        "import torch\n"
        "from partune.bench.meter import peak_memory\n"
        "with peak_memory(torch.device('cpu')) as peak:\n"
        "    before = peak()\n"
        "    block = bytearray(b'x') * (80 * 2**20)\n"
        "    del block\n"
        "    print(peak() - before)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    grown = float(said)
    assert math.isnan(grown) or grown > 60 * 2**20


def test_versions_name_what_is_not_installed() -> None:
    assert versions(["numpy", "no-such-package"]).endswith(", no-such-package ?")


def test_what_was_not_measured_is_a_dash() -> None:
    assert [number(value) for value in (1.2, 12345.6, math.nan)] == ["1.2", "12300", "-"]
