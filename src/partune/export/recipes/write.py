"""The recipes of all tools by name, and a function that writes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from partune.export.chosen import Chosen
from partune.export.recipes import axolotl, litgpt, llamafactory, trl

RECIPES: Mapping[str, Callable[[Chosen], Mapping[str, str]]] = {
    "trl": trl.recipe,
    "litgpt": litgpt.recipe,
    "axolotl": axolotl.recipe,
    "llamafactory": llamafactory.recipe,
}


def write(chosen: Chosen, folder: Path, tools: Collection[str]) -> None:
    """Write the recipes for some tools into a new folder.

    Args:
        chosen: The trial whose training the recipes repeat.
        folder: The folder, which must not exist yet.
        tools: The names of the tools.
    """
    folder.mkdir()
    for tool in tools:
        for name, text in RECIPES[tool](chosen).items():
            (folder / name).write_text(text, encoding="utf-8")
