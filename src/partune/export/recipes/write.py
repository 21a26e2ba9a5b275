"""Files that train a study's winner with other tools, by the tool's name."""

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
    """Write the files of some tools into a new folder.

    Args:
        chosen: The trial.
        folder: The folder, which must not exist yet.
        tools: The tools' names.
    """
    folder.mkdir()
    for tool in tools:
        for name, text in RECIPES[tool](chosen).items():
            (folder / name).write_text(text, encoding="utf-8")
