"""The report in a real browser, headless Chromium, as a reader opens it: from a file, without a network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partune import Study
from partune.report.facts import Facts
from partune.report.page import page
from partune.space import SPACES
from partune.trial import Config, Observation
from tests.report.studies import HOSTILE, STUDIES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

DRAWN = ".plot:not(details .plot):not([data-drawn=yes])"

# Pairs of labels of one axis or legend that lie upon each other, and labels that the figure's edge cuts.
CROWDED = """() => {
  const found = [];
  const box = (e) => e.getBoundingClientRect();
  for (const plot of document.querySelectorAll('.plot[data-drawn=yes]')) {
    const frame = box(plot);
    for (const kind of ['.xtick text', '.ytick text', '.legendtext', '.xtitle, .ytitle']) {
      const boxes = [...plot.querySelectorAll(kind)].map((e) => [e.textContent, box(e)]);
      for (const [i, [a, p]] of boxes.entries()) {
        if (p.left < frame.left - 2 || p.right > frame.right + 2) found.push(`${plot.dataset.figure}: ${a} is cut`);
        for (const [b, q] of boxes.slice(i + 1))
          if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2)
            found.push(`${plot.dataset.figure}: ${a} on ${b}`);
      }
    }
  }
  return found;
}"""

# Contrast of text with what lies behind it, WCAG 2.1; the least of some.
CONTRAST = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const ratios = [...document.querySelectorAll('h1, h2, p, td, th, a, summary, figcaption, .badge, pre')].map((e) => {
    const [a, b] = [light(numbers(getComputedStyle(e).color).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
  const axis = document.querySelector('.plot .xtick text, .plot .ytick text');
  const [a, b] = [light(numbers(axis.style.fill).slice(0, 3)), light(behind(axis))].sort((x, y) => y - x);
  return Math.min(...ratios, (a + 0.05) / (b + 0.05));
}"""


class Tab:
    """A page that notes what it logs and asks for."""

    def __init__(self, browser: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        self.logged: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.logged.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.logged.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.logged.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path) -> None:
        self.logged.clear()
        self.asked.clear()
        self.page.goto(path.as_uri())
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector(DRAWN, state="detached", timeout=30_000)

    def look(self, width: int, scheme: str) -> None:
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)
        self.page.wait_for_timeout(400)  # the figures follow the window's size a moment later


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def tab(browser: Any) -> Tab:
    return Tab(browser)


@pytest.fixture(scope="module")
def written(facts: dict[str, Facts], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in facts}
    for name, path in paths.items():
        path.write_text(page(facts[name]), encoding="utf-8")
    return paths


@pytest.mark.parametrize("name", STUDIES)
def test_it_opens_without_a_complaint_and_fits(tab: Tab, written: dict[str, Path], name: str) -> None:
    """No error, no request but for the file, all figures, no label upon another; wide and light, narrow and dark."""
    tab.open(written[name])
    for width, scheme in ((1280, "light"), (390, "dark")):
        tab.look(width, scheme)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        assert tab.page.evaluate(CROWDED) == []
        assert tab.page.evaluate(CONTRAST) >= 4.5
    tab.look(1280, "light")
    assert tab.logged == []
    assert tab.asked == [written[name].as_uri()]
    assert tab.page.locator("section").count() >= 12
    assert all(box["height"] > 20 for box in (each.bounding_box() for each in tab.page.locator("section").all()))
    assert tab.page.evaluate("window.pwned") is None


def test_hostile_names_are_text_on_the_page_and_in_the_figures(tab: Tab, written: dict[str, Path]) -> None:
    tab.open(written["tuned"])
    assert tab.page.title() == "tuned<script>window.pwned = 1: partune report"
    assert tab.page.locator("h1").inner_text() == "Study tuned<script>window.pwned = 1"
    assert f"{HOSTILE}.json" in tab.page.locator("#repeat").inner_text()
    tab.open(written["conditional"])
    assert f"kind{HOSTILE}" in tab.page.locator("#hyperparameters h3").first.inner_text()
    shown = tab.page.locator("#importance .ytick text").all_inner_texts() or tab.page.evaluate(
        "[...document.querySelectorAll('#importance .ytick text')].map((e) => e.textContent)"
    )
    assert any("<script>" in text for text in shown)
    assert HOSTILE in tab.page.locator("#failures").inner_text()
    assert tab.page.evaluate("window.pwned") is None


def test_a_mark_says_which_trial_it_is(tab: Tab, written: dict[str, Path], facts: dict[str, Facts]) -> None:
    tab.open(written["conditional"])
    tab.page.locator("[data-figure=scores] .trace.scatter .points path").first.hover(force=True)
    shown = tab.page.locator("[data-figure=scores] .hoverlayer text").first
    shown.wait_for(timeout=5000)
    text = shown.evaluate("(e) => e.textContent")
    assert "trial " in text
    assert "learning_rate" in text


def test_more_pairs_are_drawn_when_they_are_unfolded(tab: Tab, written: dict[str, Path]) -> None:
    tab.open(written["conditional"])
    more = tab.page.locator("#slices details")
    assert more.locator(".plot[data-drawn=yes]").count() == 0
    more.locator("summary").click()
    more.locator(".plot[data-drawn=yes]").first.wait_for(timeout=10_000)
    assert tab.logged == []


def test_a_running_study_is_read_again(tab: Tab, facts: dict[str, Facts], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(facts["empty"], refresh=0.5), encoding="utf-8")
    tab.open(path)
    path.write_text(page(facts["single"], refresh=0.0), encoding="utf-8")
    tab.page.wait_for_selector("h1:has-text('single')", timeout=20_000)


def noisy(config: Config) -> Observation:
    score = 0.8 - 0.001 * int(config["lora_r"]) - 0.2 * float(config["lora_dropout"])
    return Observation({"score": score + float(config["weight_decay"]) / 7}, stderr=0.015)


@pytest.mark.parametrize("algorithm", ["soo"])
def test_a_thousand_trials_open_within_three_seconds(browser: Any, tmp_path: Path, algorithm: str) -> None:
    found = Facts(Study(SPACES["lora"], noisy, algorithm).run(1000).record)
    path = tmp_path / "report.html"
    path.write_text(page(found), encoding="utf-8")
    assert path.stat().st_size < 6_000_000
    seconds = []
    for _ in range(3):  # the machine may be busy with something else
        tab = Tab(browser)
        began = time.monotonic()
        tab.page.goto(path.as_uri())
        tab.page.wait_for_selector("[data-figure=scores][data-drawn=yes]", timeout=30_000)
        seconds.append(time.monotonic() - began)
        if seconds[-1] < 3:
            break
    assert min(seconds) < 3
    tab.settle()
    assert tab.logged == []
