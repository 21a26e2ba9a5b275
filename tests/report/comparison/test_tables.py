"""The tables of a comparison say what is in its data, and no more than that shows."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from partune.report.comparison import curves, tables
from partune.report.comparison import data as compare
from partune.report.plain_data import Summary
from tests.support.compared import made, opened, table


def test_the_cost_is_that_of_the_record(repeated: list[Path], found: Summary) -> None:
    costs = [[trial.observation.cost["seconds"] for trial in f.trials if trial.observation] for f in opened(*repeated)]
    for own, row, repeats in zip(
        found["algorithms"], table(found, "Time and cost"), (costs[4:], costs[:4]), strict=True
    ):
        trials, each = np.mean([sum(cost) for cost in repeats]), np.mean([np.mean(cost) for cost in repeats])
        assert own["seconds"]["trials"] == pytest.approx(trials)
        assert own["seconds_a_trial"] == pytest.approx(each)
        assert row["algorithm"] == own["algorithm"]
        assert (row["trials"], row["per trial"]) == (f"{trials:.1f} s", f"{each:.1f} s")
        assert row["in all"] == f"{sum(own['seconds'].values()):.1f} s"


def test_few_repeats_are_told_from_no_difference(repeated: list[Path]) -> None:
    two = compare.compare(opened(*repeated[:2], *repeated[4:6]))
    assert "too few repeats to tell" in tables.markdown(two)
    assert "It takes 4 repeats of each algorithm" in tables.markdown(two)
    one = compare.compare(opened(repeated[0], repeated[4]))
    assert one["differences"] == []
    assert one["algorithms"][0]["result"]["low"] is None
    assert "No significance test" in tables.markdown(one)


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    paths = [made(tmp_path / f"<b>|{seed}*", seed=seed) for seed in range(2)]
    found = compare.compare(opened(*paths))
    assert "\\<b\\>\\|0\\*" in tables.markdown(found)
    ElementTree.fromstring(curves.picture(found))
