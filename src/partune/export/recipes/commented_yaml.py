"""Write YAML with comments, in a way that is safe for arbitrary values."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

WIDTH = 110


def commented(head: Sequence[str], differences: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Return the text of a YAML file with comments at its head.

    Args:
        head: Lines that describe the file.
        differences: Sentences about what differs from the study.
        settings: The settings, in the order in which they are written; those that are None are left out.
    """
    lines = [f"# {line}".rstrip() for line in head]
    if differences:
        lines += ["#", "# Differences from the study:", *bullets(differences, "# ")]
    used = {name: value for name, value in settings.items() if value is not None}
    return "\n".join(lines) + "\n\n" + yaml.dump(used, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)


def bullets(texts: Sequence[str], margin: str = "") -> list[str]:
    """Return the lines of a bulleted list.

    Args:
        texts: The texts of the bullets, which are wrapped at WIDTH.
        margin: A prefix for every line.
    """
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, WIDTH, initial_indent=f"{margin}- ", subsequent_indent=f"{margin}  ")
    ]


class _Dumper(yaml.SafeDumper):
    """A YAML writer that writes multi-line texts as blocks if YAML can represent them in this form."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML folds these line breaks into spaces, unless they are written as escapes.
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
