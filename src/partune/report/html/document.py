"""Write the frame of a self-contained HTML file for light and dark mode, and for screens of any size.

Texts are escaped. In case escaping ever fails, the page also has a security policy, which allows only the page's two
scripts, by their hashes, and nothing from the network.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from partune.report.figures import Figure
from partune.report.plain_data import finite

LONG = 45  # a longer text in a table's cell is broken into lines


def document(
    title: str,
    heading: str,
    below: str,
    sections: Mapping[str, tuple[str, str]],
    footer: str,
    figures: Mapping[str, Figure],
    trials: Sequence[str] = (),
    places: Mapping[str, Sequence[float | None]] | None = None,
    refresh: float | None = None,
) -> str:
    """Return the text of the HTML file.

    Args:
        title: The title in the browser.
        heading: The heading of the page.
        below: The line below the heading.
        sections: The title and the HTML of each section, by the section's id.
        footer: The last line of the page.
        figures: The figure of each `figure_slot`, by the slot's name.
        trials: The hover text of each trial (`partune.report.figures`).
        places: For each hyperparameter, its value in [0, 1] in each trial; None for a trial that does not have it.
        refresh: The seconds after which a browser reloads the page; None for never.
    """
    body = "".join(
        f'<section id="{name}"><h2>{escape(words)}</h2>{inside}</section>' for name, (words, inside) in sections.items()
    )
    links = "".join(f'<a href="#{name}">{escape(words)}</a>' for name, (words, _) in sections.items())
    data = {"figures": figures, "trials": trials, "places": places or {}}
    stored = "".join(
        f'<script type="application/json" id="{name}-data">{_json(value)}</script>' for name, value in data.items()
    )
    # A page with nothing to draw or to reload has no script.
    scripts = [_asset("plotly/plotly-cartesian.min.js"), _asset("html/page.js")] if figures or refresh else []
    drawn = (
        f'{stored}\n<script type="text/plain" id="plotly">{scripts[0]}</script>\n<script>{scripts[1]}</script>\n'
        if scripts
        else ""
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_asset('html/page.css')}</style>\n</head>\n"
        f'<body data-refresh="{refresh or 0:g}">\n'
        f'<header><h1>{escape(heading)}</h1><div class="soft">{escape(below)}</div></header>\n'
        f'<nav aria-label="Sections">{links}</nav>\n<main>{body}</main>\n'
        f'<footer class="soft">{escape(footer)}</footer>\n{drawn}</body>\n</html>\n'
    )


# ----- pieces


def figure_slot(name: str, height: int, label: str, caption: str = "", wide: int = 0) -> str:
    """Return the element in which the page's script draws a figure.

    Args:
        name: The name of the figure.
        height: The height of the figure, in pixels.
        label: The description of the figure for screen readers.
        caption: The line below the figure; empty for none.
        wide: The smallest width of the figure, in pixels; on a narrower screen, it scrolls. 0 for no limit.
    """
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    style = f"height:{height}px" + (f";min-width:{wide}px" if wide else "")
    plot = f'<div class="plot" data-figure="{name}" role="img" aria-label="{escape(label)}" style="{style}"></div>'
    scrolling = f'<div class="scroll">{plot}</div>' if wide else plot
    return f"<figure>{scrolling}{below}</figure>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph.

    Args:
        text: The text of the paragraph, not escaped yet.
        kind: The paragraph's class in the stylesheet; empty for none.
    """
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def details(title: str, body: str) -> str:
    """Return a part of the page that opens when its title is clicked.

    Args:
        title: The title.
        body: The HTML of the part.
    """
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Iterable[int] = (),
    kinds: Iterable[str] | None = None,
) -> str:
    """Return a table.

    Args:
        headers: The headings of the columns.
        rows: The cells of each row, which are converted to text and escaped.
        numbers: The indices of the columns that are aligned to the right.
        kinds: The class of each row in the stylesheet; None for no classes.
    """
    right = set(numbers)

    def row(cells: Sequence[object], tag: str, kind: str = "") -> str:
        texts = [str(cell) for cell in cells]
        looks = ["n" if k in right else "long" if len(text) > LONG else "" for k, text in enumerate(texts)]
        inside = "".join(
            f'<{tag} class="{look}">{escape(text)}</{tag}>' if look else f"<{tag}>{escape(text)}</{tag}>"
            for text, look in zip(texts, looks, strict=True)
        )
        return f'<tr class="{kind}">{inside}</tr>' if kind else f"<tr>{inside}</tr>"

    body = "".join(row(cells, "td", kind) for cells, kind in zip(rows, kinds or itertools.repeat(""), strict=False))
    return f'<div class="scroll"><table><thead>{row(headers, "th")}</thead><tbody>{body}</tbody></table></div>'


# ----- data, policy and assets


def _json(data: Any) -> str:
    """Return data as JSON for a script element, escaped so that nothing in it can end the element."""
    text = json.dumps(finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_number)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _number(value: Any) -> Any:
    """Return a NumPy number as a Python number."""
    return value.item()


def _policy(scripts: Sequence[str]) -> str:
    """Return a security policy that allows only these scripts, and nothing from the network."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    allowed = hashes or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def _asset(name: str) -> str:
    return resources.files("partune.report").joinpath(name).read_text(encoding="utf-8")
