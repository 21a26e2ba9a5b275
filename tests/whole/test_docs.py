"""The documentation: its code runs, its commands are commands, its files are valid, its pages build and ask nobody.

What a page's blocks are for is said by their language and title, and by a comment on the line above, which is in the
source only:

- `python` runs, the blocks of a page in order, in one namespace and in a folder of the page's own. `text` that follows
  is what it prints.
- `sh`: every `partune` command is parsed by the real parser. `<!-- run -->`: and runs.
- A block with a title (```yaml title="study.yaml"```) is a file of that name in the page's folder.
- `yaml` is a study's, an experiment's or a batch system's file where it looks like one, and valid then.
- `<!-- not run: why -->`: a `python` block that needs what a test has not. `<!-- run slow -->`: the page takes a while.
  `<!-- run slow, with: --limit 40 -->`: and `partune tune` has these flags as well, for a study that is shorter than a
  reader's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import partune
from partune import config
from partune.cli import main
from partune.cli.parser import build_parser
from partune.experiment.protocol import composed, load
from tests.support import ROOT
from tests.support.waiting import PATIENCE

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("**/*.md"))]
NOTEBOOK = DOCS / "notebook.ipynb"
BLOCK = re.compile(
    r'(?:^ *<!-- (?P<mark>(?:not )?run[^>]*) -->\n)?^(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n'
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
LOOP = re.compile(r"^ *for (\w+) in (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """mark: the comment above; line: of the text's beginning in the page; follows: whether nothing but the block before
    it is above it."""

    language: str
    title: str | None
    mark: str
    text: str
    line: int
    follows: bool


def blocks(page: Path) -> list[Block]:
    found, end = [], -1
    content = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(content):
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = content.count("\n", 0, match.start("text"))
        follows = end >= 0 and not content[end : match.start()].strip()
        found.append(Block(match["language"], match["title"], match["mark"] or "", text, line, follows))
        end = match.end()
    return found


def commands(text: str) -> Iterator[tuple[list[str], str | None]]:
    """The arguments of every `partune` command of a script, and the file that its output goes to.

    A loop's variable has its first value.
    """
    for name, value in LOOP.findall(text):
        text = text.replace(f"${name}", value)
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and (words[0] == "exec" or re.match(r"[A-Z_]+=", words[0])):
            words.pop(0)
        if words[:1] == ["partune"]:
            target = words.index(">") if ">" in words else len(words)
            yield words[1:target], "".join(words[target + 1 :]) or None


def identity(page: Path) -> str:
    return str(page.relative_to(ROOT))


def is_slow(page: Path) -> bool:
    return any(block.mark.startswith("run slow") for block in blocks(page))


def by_page(pages: list[Path]) -> Any:
    marked = [pytest.param(page, id=identity(page), marks=[pytest.mark.slow] * is_slow(page)) for page in pages]
    return pytest.mark.parametrize("page", marked)


# ----- blocks


def test_the_blocks_of_a_page_are_read_as_they_are_marked(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '<!-- run -->\n```sh\npartune a\n```\n- x\n\n  ```yaml title="a/b.yaml"\n  k:\n    - 1\n  ```\n'
        "```python\nprint(1)\n```\n\n```text\n1\n```\nand\n<!-- not run: why -->\n```python\nx\n```\n"
    )
    assert [(b.language, b.title, b.mark, b.text, b.follows) for b in blocks(page)] == [
        ("sh", None, "run", "partune a\n", False),
        ("yaml", "a/b.yaml", "", "k:\n  - 1\n", False),
        ("python", None, "", "print(1)\n", True),
        ("text", None, "", "1\n", True),
        ("python", None, "not run: why", "x\n", False),
    ]
    assert [block.line for block in blocks(page)] == [2, 7, 11, 15, 20]


def test_the_commands_of_a_script() -> None:
    script = (
        "for s in 3 4; do\n  partune tune --seed $s\ndone\nA=b exec partune x \\\n  'y z' > out  # why\npip install\n"
    )
    assert list(commands(script)) == [(["tune", "--seed", "3"], None), (["x", "y z"], "out")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_every_block_is_closed(page: Path) -> None:
    assert len(re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)) == 2 * len(blocks(page))


@pytest.mark.slow
@by_page([page for page in PAGES if any(block.language in ("python", "sh") for block in blocks(page))])
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, Python and marked commands, as a reader goes through them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = set(sys.modules)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    try:
        for block in blocks(page):
            place = f"{identity(page)}, line {block.line}"
            if block.title is not None:
                path = tmp_path / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                code = compile("\n" * block.line + block.text, str(page), "exec")
                if not block.mark:
                    sys.path.insert(0, "")  # as Python does
                    with contextlib.redirect_stdout(io.StringIO()) as output:
                        exec(code, names)
                    printed = output.getvalue()
            elif block.language == "sh":
                printed = "".join(run(block, place))
            elif block.language == "text" and block.follows:
                assert printed == block.text, place
    finally:
        for name in set(sys.modules) - loaded:
            if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def run(block: Block, place: str) -> Iterator[str]:
    """Parses every command, and runs them where the block says so; yields what they print."""
    for arguments, target in commands(block.text):
        if "--help" not in arguments:
            build_parser().parse_args(arguments)
        if not block.mark.startswith("run"):
            continue
        if arguments[0] == "tune":
            arguments = [*arguments, *block.mark.partition("with: ")[2].split()]
        sys.path[:] = [place for place in sys.path if place]  # as of the entry point: without the current folder
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = main(arguments)
        assert status == 0, f"{place}: partune {shlex.join(arguments)}: {errors.getvalue()}"
        if target is None:
            yield output.getvalue()
        else:
            Path(target).write_text(output.getvalue(), encoding="utf-8")
    if block.mark.startswith("run"):
        assert all(re.match(r"(partune|for|do|done| )", line) for line in block.text.splitlines()), (
            f"{place}: not all ran"
        )


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_the_files_of_a_page_are_valid(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language != "yaml":
            continue
        value = yaml.safe_load(block.text)
        if "system" in value:
            config.validated(config.Batch, value)
        elif {"version", "objective", "model"} & set(value):
            path = tmp_path / "study.yaml"
            path.write_text(block.text, encoding="utf-8")
            (composed(load(path), {}) if "protocol" in value else config.parse(config.load(path)))


def test_extending_takes_no_more_lines_than_its_headings_promise() -> None:
    """Of the first block below each, imports and comments aside."""
    page = (DOCS / "extending.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (An \w+) in (\d+) lines\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    assert [what for what, _, _ in found] == ["An objective", "An optimiser"]
    for what, most, section in found:
        block = BLOCK.search(section)
        assert block is not None
        lines = [line for line in block["text"].splitlines() if re.match(r" *(?!import |from |#)[^ ]", line)]
        assert 0 < len(lines) <= int(most), what


# ----- the notebook


@pytest.mark.slow
def test_the_notebook_runs_and_prints_what_is_stored_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
        stored = ["".join(each["text"]) for each in cell["outputs"] if each["output_type"] == "stream"]
        assert output.getvalue() == "".join(stored)


# ----- the pages as a browser gets them


class Requests(HTMLParser):
    """What a browser asks for by itself when it opens a page; links that a reader may follow are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("a", "meta"):
            self.found += [value for name, value in attributes if value and name in ("src", "srcset", "href", "data")]


FOREIGN = re.compile(r"^(?:https?:)?//")


def test_requests_are_found_and_links_are_not() -> None:
    reader = Requests()
    reader.feed('<a href="https://a/"></a><script src="//b/c.js"></script><link rel="icon" href="d.png"><img src="x">')
    assert reader.found == ["//b/c.js", "d.png", "x"]
    assert [each for each in reader.found if FOREIGN.match(each)] == ["//b/c.js"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as by `make docs`: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_no_page_asks_another_host(site: Path) -> None:
    pages = [path for path in site.glob("**/*.html") if path.name != "404.html"]
    assert len(pages) >= 20
    for page in pages:
        reader = Requests()
        reader.feed(page.read_text(encoding="utf-8"))
        assert [each for each in reader.found if FOREIGN.match(each)] == [], page.name
        for local in reader.found:
            if not local.startswith(("#", "data:")):
                assert (page.parent / local.partition("#")[0].partition("?")[0]).exists(), (page.name, local)
    for sheet in site.glob("**/*.css"):
        assert not re.search(r"(url\([\"']?|@import [\"'])(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.slow
def test_the_reference_has_every_public_name(site: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    assert [name for name in partune.__all__ if f'id="partune.{name}"' not in pages] == ["SPACES"]
    assert "<code>partune.SPACES</code>" in pages
    for section, fields in (("Training", config.Training), ("Run", config.Run), ("Where", config.Where)):
        for field in fields.__annotations__:
            assert f'id="partune.config.{section}.{field}"' in pages, field


def test_the_readme_names_files_that_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_code_of_tasks_is_told_of_where_code_of_models_is() -> None:
    for page in ("README.md", "docs/own.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert "--trust-remote-code" in text, page
        assert "--trust-task-code" in text, page


@pytest.mark.parametrize(("name", "draw"), [("packing.svg", "packing"), ("search-log.svg", "search_log")])
def test_a_picture_shows_the_numbers_of_its_page(name: str, draw: str) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "pictures.py"))
    assert (DOCS / name).read_text(encoding="utf-8") == script[draw](), "python benchmarks/pictures.py draws it again"
