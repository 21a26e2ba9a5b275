"""Makes a page of docs/notebook.ipynb, with the outputs that are stored in it, when the documentation is built.

To store them anew: run all cells in Jupyter with PLOTLY_RENDERER=plotly_mimetype, and save.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOK = "notebook.ipynb"
PLOTLY = "plotly.min.js"
BUNDLE = Path(__file__).parents[2] / "src/partune/report/plotly/plotly-cartesian.min.js"  # as in reports
FIGURE = "application/vnd.plotly.v1+json"
DRAW = "Plotly.newPlot({name}, {data}, {layout}, {{responsive: true, displayModeBar: false}})"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    notebook = json.loads((Path(config.docs_dir) / NOTEBOOK).read_text(encoding="utf-8"))
    files.append(File.generated(config, "notebook.md", content=page(notebook["cells"])))
    files.append(File.generated(config, PLOTLY, content=BUNDLE.read_text(encoding="utf-8")))
    return files


def page(cells: list[dict[str, Any]]) -> str:
    """The notebook in Markdown."""
    first, *rest = cells
    lines = ["".join(first["source"]), f"[The notebook itself]({NOTEBOOK}) runs in Jupyter."]
    lines.append(f'<script src="{PLOTLY}"></script>')
    for number, cell in enumerate(rest):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines.append(source)
            continue
        lines.append(f"```python\n{source}\n```")
        for place, output in enumerate(cell["outputs"]):
            lines += shown(output, f"figure-{number}-{place}")
    return "\n\n".join(lines)


def shown(output: dict[str, Any], name: str) -> Iterator[str]:
    """An output: text, or a figure of Plotly's."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if FIGURE in data:
        figure = {key: json.dumps(data[FIGURE][key]).replace("</", "<\\/") for key in ("data", "layout")}
        yield f'<div id="{name}"></div><script>{DRAW.format(name=json.dumps(name), **figure)}</script>'
    else:
        text = html.escape("".join(data["text/plain"]).rstrip("\n"), quote=False)
        yield f'<pre class="output">{text}</pre>'
