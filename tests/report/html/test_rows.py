"""The page of training data: what it says, that it is self-contained, and that nothing of the rows is markup in it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from partune import config
from partune.finetune.contamination import Seen
from partune.finetune.inspection import Inspection
from partune.report.html.rows import BARS, bar_width, bars, page

HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></main><h1>x",
    '"><img src=x onerror=alert(1)>',
    "<!-- ",
    "&lt;b&gt;",
    "]]></style>",
    "{{ 7 * 7 }}",
    "\u202edesrever",
    "\u2028line",
    "a" * 5000,
]


def inspection(text: str = "why?", **more: object) -> Inspection:
    summary = {
        "layout": "alpaca",
        "fields": {"instruction": text},
        "untrainable": 0,
        "unused": {text: 1},
        "cut_at": 9,
        "max_length": 9,
    }
    found = Inspection(
        summary={**summary, "rows_with_unused": 1},
        rows=2,
        empty=0,
        same_rows=1,
        same_prompts=0,
        first=[{"instruction": text, "output": text}],
        texts=[[(f"{text}\n", False), (f"{text}</s>", True)]],
        lengths=[1, 2, 3, 4, 5],
        counts={1: 1, 5: 1},
        seen=[Seen(text, 9, 1, 1, ((3, text), (4, text)))],
    )
    return Inspection(**{**found.__dict__, **more})


class Elements(HTMLParser):
    """The elements of a page, those that are still open at the end, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1
        self.links += [value for name, value in attributes if name in ("src", "href") and value]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_nothing_of_the_rows_is_markup(text: str) -> None:
    plain = Elements(page(inspection(), config.Data(path="a.csv"), "m"))
    found = Elements(page(inspection(text), config.Data(path=f"{text[:20].replace('/', '')}.csv"), text))
    assert found.counts == plain.counts
    assert found.open == []
    assert text in found.text


def test_the_page_needs_no_script_and_no_network() -> None:
    text = page(inspection(), config.Data(path="a.csv"), "m")
    found = Elements(text)
    assert found.counts["script"] == 0
    assert "script-src 'none'" in unescape(text)
    assert all(link.startswith("#") for link in found.links)
    assert {link.removeprefix("#") for link in found.links} == set(re.findall(r'<section id="(\w+)"', text))
    assert len(text) < 20_000


def test_what_is_trained_on_is_marked_by_an_element_that_also_has_brackets() -> None:
    text = page(inspection(), config.Data(path="a.csv"), "m")
    assert '<pre class="example">why?\n<mark class="trained">why?&lt;/s&gt;</mark></pre>' in text
    assert re.search(r'mark\.trained::before \{ content: "', text)
    assert re.search(r'mark\.trained::after \{ content: "', text)


def test_without_a_model_the_rows_are_shown_as_they_are() -> None:
    text = page(inspection(texts=(), lengths=(), counts={}, seen=()), config.Data(path="a.csv"), None)
    assert "read without a model: no tokens are counted" in text
    assert "<mark" not in text
    assert '"instruction": "why?"' in unescape(text)
    assert re.findall(r'<section id="(\w+)"', text) == ["rows", "examples"]


def test_rows_that_are_scored_by_are_listed_with_what_they_share() -> None:
    text = Elements(page(inspection(), config.Data(path="a.csv"), "m")).text
    assert "1 of the 9 items of why? asks what a training row asks" in text
    assert "3the samewhy?413 wordswhy?" in text
    many = Seen("arc", 99, 60, 0, tuple((i, f"q{i}") for i in range(60)))
    assert "and 10 more items." in page(inspection(seen=[many]), config.Data(path="a.csv"), "m")


@pytest.mark.parametrize(
    "lengths", [[7], [1, 1], [3, 900], [*range(1, 40)], [10] * 99 + [10_000], [1, 10, 100, 1000], [2**20, 2**20 + 3]]
)
@pytest.mark.parametrize("max_length", [1, 8, 512])
def test_every_example_is_in_one_bar(lengths: list[int], max_length: int) -> None:
    text = bars(Counter(lengths), max_length)
    rows = re.findall(
        r'<th scope="row" class="n">([\d,]+)(?: to ([\d,]+))?</th>.*?<td>([\d,]+)( \([^<]* cut\))?</td>', text
    )
    ends = [(int(low.replace(",", "")), int((high or low).replace(",", ""))) for low, high, _, _ in rows]
    assert len(rows) <= BARS
    assert ends[0][0] <= min(lengths)
    assert ends[-1][1] >= max(lengths)
    assert all(low == before + 1 for (_, before), (low, _) in itertools.pairwise(ends))
    for (low, high), (_, _, count, cut) in zip(ends, rows, strict=True):
        within = [tokens for tokens in lengths if low <= tokens <= high]
        assert int(count.replace(",", "")) == len(within)
        beyond = sum(tokens > max_length for tokens in within)
        told = "all" if beyond == len(within) else f"{beyond:,}"
        assert cut == (f" ({told} cut)" if beyond else "")


def test_bars_have_round_widths() -> None:
    rng = np.random.default_rng(0)
    for low, high in np.sort(rng.integers(1, 10**6, (200, 2)), axis=1).tolist():
        width = bar_width(low, high)
        assert str(width).rstrip("0") in ("1", "2", "5")
        assert high // width - low // width < BARS
        assert width == 1 or high - low >= BARS * width / 2.5 - width
