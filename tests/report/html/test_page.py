"""The page's text: complete, self-contained, and nothing of a study's is markup in it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from partune.optimizers.surrogate import Surrogate
from partune.record.record import Record
from partune.report.facts import Facts
from partune.report.html.page import page
from partune.report.markdown import markdown
from partune.runtime import rounding
from partune.runtime.markdown import plain
from partune.verdict import winner
from tests.support.studies import HOSTILE, STUDIES

SECTIONS = (
    "verdict",
    "comparison",
    "scores",
    "hyperparameters",
    "parallel",
    "importance",
    "slices",
    "partition",
    "overfitting",
    "cost",
    "failures",
    "repeat",
    "trials",
)


class Reader(HTMLParser):
    """Elements, the ids of sections, the scripts, and the text that a person sees."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.shown = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.shown += data

    def ids(self, tag: str) -> list[str | None]:
        return [attributes.get("id") for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def pages(facts: dict[str, Facts]) -> dict[str, str]:
    return {name: page(each) for name, each in facts.items()}


@pytest.fixture(scope="module")
def readers(pages: dict[str, str]) -> dict[str, Reader]:
    return {name: Reader(text) for name, text in pages.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_section_is_there_in_the_order_of_reading(readers: dict[str, Reader], name: str) -> None:
    family = name in ("soo", "bamsoo", "fda")
    assert readers[name].ids("section") == [each for each in SECTIONS if family or each != "partition"]


def section(text: str, name: str) -> str:
    """What a person sees of it."""
    found = re.search(f'<section id="{name}">.*?</section>', text, re.DOTALL)
    assert found is not None
    return Reader(found[0]).shown


def test_trials_that_ran_again_have_their_first_and_their_further_scores(
    facts: dict[str, Facts], pages: dict[str, str]
) -> None:
    each = facts["tested"]
    shown = section(pages["tested"], "scores")
    assert each.again
    for number, runs in each.again.items():
        first, *further = (
            rounding.measured(t.score, t.observation.stderr) for t in (each.trials[number], *runs) if t.observation
        )
        assert f"trial {number}{first}{', '.join(further)}" in shown


def test_the_versions_are_in_the_section_that_repeats_it(facts: dict[str, Facts], pages: dict[str, str]) -> None:
    versions = "".join(f"{name}{version}" for name, version in facts["tuned"].summary["versions"].items())
    assert versions
    assert section(pages["tuned"], "repeat").endswith(f"packageversion{versions}")


def test_the_page_has_every_trials_place_on_every_axis(facts: dict[str, Facts], readers: dict[str, Reader]) -> None:
    each = facts["conditional"]
    places = json.loads(readers["conditional"].scripts[2])
    assert list(places) == list(each.space.names)
    for name, axis in each.space.hyperparameters.items():
        for place, trial in zip(places[name], each.trials, strict=True):
            assert place == (pytest.approx(axis.encode(trial.config[name]), abs=1e-4) if name in trial.config else None)


@pytest.mark.parametrize("name", STUDIES)
def test_nothing_is_loaded_from_elsewhere(readers: dict[str, Reader], name: str) -> None:
    reader = readers[name]
    assert {tag for tag, _ in reader.elements} & {"link", "img", "iframe", "object", "base"} == set()
    assert all("src" not in attributes for _, attributes in reader.elements)
    links = [attributes["href"] for tag, attributes in reader.elements if tag == "a"]
    assert all(link is not None and link.startswith("#") for link in links)


@pytest.mark.parametrize("name", STUDIES)
def test_only_the_scripts_of_the_page_can_run(readers: dict[str, Reader], name: str) -> None:
    reader = readers[name]
    assert len(reader.scripts) == 5  # three of data, Plotly as text and the page's own
    (policy,) = [a["content"] for tag, a in reader.elements if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    named = set(re.findall(r"'sha256-([^']+)'", policy))
    assert named == {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in reader.scripts[3:]}
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert all(isinstance(json.loads(data), (dict, list)) for data in reader.scripts[:3])
    handlers = [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert handlers == []


def test_names_data_files_and_errors_are_shown_as_text(readers: dict[str, Reader]) -> None:
    tuned, conditional = readers["tuned"].shown, readers["conditional"].shown
    assert "Study tuned<script>window.pwned = 1" in tuned
    assert f"data: '{HOSTILE}.json'" in tuned
    assert f"kind{HOSTILE}" in conditional
    assert f"sgd{HOSTILE}" in conditional
    assert re.search(rf"loss diverged at step \d+ {HOSTILE}", conditional)


@pytest.mark.parametrize("name", STUDIES)
def test_a_report_without_trials_to_speak_of_is_small(pages: dict[str, str], name: str) -> None:
    assert len(pages[name].encode()) < 2_000_000


def test_only_a_running_study_is_read_again(facts: dict[str, Facts]) -> None:
    assert '<body data-refresh="0">' in page(facts["soo"])
    assert '<body data-refresh="5">' in page(facts["soo"], refresh=5)


# ----- Markdown


@pytest.mark.parametrize("name", STUDIES)
def test_markdown_says_what_the_page_says(facts: dict[str, Facts], name: str) -> None:
    text = markdown(facts[name])
    assert text.startswith("# Study ")
    for title in ("What matters", "Validation against test", "Time and cost", "Failures", "Repeat it"):
        assert f"## {title}" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    for header, rule in itertools.pairwise(tables):
        if set(rule) <= {"|", "-"}:
            assert cells(header) == cells(rule)


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_a_winner_at_a_bound_is_told_in_both(facts: dict[str, Facts], pages: dict[str, str]) -> None:
    (hint,) = facts["conditional"].hints
    assert f"\n- {hint}\n" in markdown(facts["conditional"])
    assert hint in section(pages["conditional"], "hyperparameters")


def test_markdown_has_the_numbers(facts: dict[str, Facts]) -> None:
    each = facts["tuned"]
    text = markdown(each)
    assert "| winner over | gain | 95 % interval, two-sided | p, one-sided | test |" in text
    assert "| base | 0." in text
    assert each.config is not None
    assert each.config in text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("lora_r", "lora_r"),
        ("_x_ *y* `z`", r"\_x\_ \*y\* \`z\`"),
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("two\nlines", "two lines"),
        (r"C:\runs", r"C:\\runs"),
    ],
)
def test_markdown_shows_text_as_it_is(given: str, shown: str) -> None:
    assert plain(given) == shown


def test_a_fence_in_the_configuration_does_not_end_the_block(facts: dict[str, Facts]) -> None:
    each: Any = Facts.__new__(Facts)
    each.__dict__.update({**facts["single"].__dict__, "config": "a: |\n  ```\n  x\n"})
    lines = markdown(each).splitlines()
    assert "````yaml" in lines
    assert lines.count("````") == 1


@pytest.mark.slow
def test_a_gaussian_process_is_fitted_once_for_the_winner_and_the_page(
    recorded: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    fit = Surrogate._fit
    monkeypatch.setattr(Surrogate, "_fit", lambda self, known: (fits.append(self), fit(self, known))[1])
    record = Record.open(recorded["tested"].directory, read_only=True)
    winner._fitted.cache_clear()
    page(Facts(record))
    assert len(fits) == 1
