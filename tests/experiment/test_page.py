"""An experiment's page in a real browser, headless Chromium, opened from a file without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from partune import Study
from partune.experiment.findings import Outcome
from partune.experiment.page import page
from partune.experiment.protocol import Plan, composed
from tests.support.browser import CROWDED, NEEDED, Tab
from tests.support.outcomes import tuned
from tests.support.studies import CONDITIONAL, HOSTILE, failing

pytestmark = [pytest.mark.slow, NEEDED]


def hostile(folder: Path) -> Outcome:
    """Failures, conditions, one seed; names and errors that are marks."""
    given: dict[str, Any] = {
        "objective": "a:b",
        "space": CONDITIONAL.describe(),
        "protocol": {"algorithms": ["random", "soo"], "repeats": 1, "out": str(folder)},
    }
    plan = Plan(composed(given, {}))
    for name, own in plan.studies(None).items():
        Study(CONDITIONAL, failing, own.search.algorithm, seed=own.search.seed, directory=folder / name).run(8).close()
    return Outcome.read(plan)


@pytest.mark.parametrize("name", ["tuned", "<script>window.pwned = 1"])
def test_it_opens_without_a_complaint_and_fits(tab: Tab, tmp_path: Path, name: str) -> None:
    """No error, no request but for the file, all figures, no label upon another; wide and light, narrow and dark."""
    folder = tmp_path / name
    outcome = tuned(folder, {"lhs": 0.1, "soo": 0.4}, seeds=(0, 1)) if name == "tuned" else hostile(folder)
    path = tmp_path / "experiment.html"
    path.write_text(page(outcome), encoding="utf-8")
    tab.open(path)
    for width, scheme in ((1280, "light"), (390, "dark")):
        tab.look(width, scheme)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        assert tab.page.evaluate(CROWDED) == []
        assert tab.contrast() >= 4.5
    sections = [section.get_attribute("id") for section in tab.page.locator("section").all()]
    whole = ["result", "bounds", "algorithms", "tests", "course-0", "calibration", "cost", "studies", "repeat"]
    assert sections == [each for each in whole if name == "tuned" or each not in ("tests", "calibration")]
    assert tab.page.locator("h1").inner_text() == f"Experiment {name}"
    if name != "tuned":
        assert f"kind{HOSTILE}" in tab.page.locator("#course-0 h3").first.inner_text()
    assert tab.page.evaluate("window.pwned") is None
    assert tab.logged == []
    assert tab.asked == [path.as_uri()]


def test_the_pointer_tells_of_the_study_that_it_is_on(tab: Tab, tmp_path: Path) -> None:
    """Figures of several studies share one list of trials: each mark has its own."""
    outcome = tuned(tmp_path / "two", {"soo": 0.1, "bo": 0.4}, seeds=(0,))
    path = tmp_path / "experiment.html"
    path.write_text(page(outcome), encoding="utf-8")
    tab.open(path)
    tab.page.set_viewport_size({"width": 1280, "height": 900})
    read = """(name) => document.querySelector(`[data-figure=${name}]`).data.filter((t) => t.meta?.trials)
        .map((t) => t.text.map((text, i) => [t.y[i], text]))"""
    for k, study in enumerate(outcome.courses.values()):
        told = [pair for trace in tab.page.evaluate(read, f"scores-{k}") for pair in trace]
        rates = [pair for trace in tab.page.evaluate(read, f"over-0-{k}") for pair in trace]
        assert {text.split("<br>")[0].split("</b>")[0] for _, text in told} == {
            f"<b>trial {trial.number}" for trial in study.done
        }
        for u, text in rates:
            (trial,) = [each for each in study.done if f"<b>trial {each.number}</b>" in text]
            place = study.space.hyperparameters["learning_rate"].encode(trial.config["learning_rate"])
            assert u == pytest.approx(place, abs=1e-4)
