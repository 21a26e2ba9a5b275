"""YAML with comments, safe for whatever is in its values."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

WIDTH = 110


def commented(head: Sequence[str], differences: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Return a YAML file with comments.

    The comments are our own words; names of a study are in the values only, where YAML quotes them.

    Args:
        head: Lines on what the file is.
        differences: Sentences on what is not as in the study.
        settings: The settings in their order; those that are None are left out.
    """
    lines = [f"# {line}".rstrip() for line in head]
    if differences:
        lines += ["#", "# Other than in the study:", *bullets(differences, "# ")]
    given = {name: value for name, value in settings.items() if value is not None}
    return (
        "\n".join(lines) + "\n\n" + yaml.dump(given, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    )


def bullets(texts: Sequence[str], margin: str = "") -> list[str]:
    """Return texts as a list, broken into lines.

    Args:
        texts: The texts.
        margin: What every line begins with.
    """
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, WIDTH, initial_indent=f"{margin}- ", subsequent_indent=f"{margin}  ")
    ]


class _Dumper(yaml.SafeDumper):
    """A writer that sets texts of several lines as blocks, where YAML can hold them so."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
