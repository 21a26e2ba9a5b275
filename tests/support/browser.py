"""A real browser, headless Chromium, and what is looked at in every page: complaints, requests, contrast, labels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

DRAWN = ".plot:not(details .plot):not([data-drawn=yes])"

SETTLED = """() => [...document.querySelectorAll('.plot[data-drawn=yes]')].every(
  (plot) => Math.abs(plot.querySelector('.main-svg').getBoundingClientRect().width - plot.clientWidth) < 2)"""

# Pairs of labels of one figure that lie upon each other, and labels that the figure's edge cuts.
CROWDED = """() => {
  const found = [];
  const box = (e) => e.getBoundingClientRect();
  for (const plot of document.querySelectorAll('.plot[data-drawn=yes]')) {
    const frame = box(plot);
    const boxes = [...plot.querySelectorAll('.main-svg text')].map((e) => [e.textContent, box(e)]);
    for (const [i, [a, p]] of boxes.entries()) {
      if (p.left < frame.left - 2 || p.right > frame.right + 2) found.push(`${plot.dataset.figure}: ${a} is cut`);
      for (const [b, q] of boxes.slice(i + 1))
        if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2)
          found.push(`${plot.dataset.figure}: ${a} on ${b}`);
    }
  }
  return found;
}"""

# Of what is written, the least contrast with what lies behind it, WCAG 2.1; letters that are half transparent count so.
CONTRAST = """(written) => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.unshift(numbers(getComputedStyle(e).backgroundColor));
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return Math.min(...[...document.querySelectorAll(written)].map((e) => {
    const below = behind(e);
    const ink = getComputedStyle(e)[e instanceof SVGElement ? "fill" : "color"];
    const pair = [light(over(numbers(ink), below)), light(below)].sort((x, y) => y - x);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  }));
}"""
REPORTED = "h1, h2, p, td, th, a, summary, figcaption, .badge, pre, .plot .main-svg text"
# Two frames later the colours are those of the scheme.
PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


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
        """A report's file, until its figures are drawn."""
        self.logged.clear()
        self.asked.clear()
        self.page.goto(path.as_uri())
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector(DRAWN, state="detached", timeout=30_000)

    def look(self, width: int, scheme: str) -> None:
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)
        self.page.evaluate(PAINTED)
        for _ in range(100):  # the figures follow the window's size a moment later
            if self.page.evaluate(SETTLED):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("the figures do not follow the window's size")

    def contrast(self, written: str = REPORTED) -> float:
        return float(self.page.evaluate(CONTRAST, written))


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
