"""Look names up in the text of the harness's task files.

The harness ("lm-evaluation-harness") has thousands of files. Parsing them takes a quarter of a minute. Searching their
text takes about a second, and is enough to refuse a name that none of them has.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

from partune.errors import UserError, suggestion

SUFFIXES = ("", ".yaml")  # files that others include have no suffix
CLOSE = 0.75  # the least similarity of a name to offer: among thousands of names, some is a little similar to any text
# A line `task: NAME`, or `tag: [NAME, NAME]`; and a line `- NAME` of a list, such as that of tags.
_KEY = re.compile(r"""^["']?(?:task|group|tag)["']?:[ \t]*(.*)$""", re.MULTILINE)
_ENTRY = re.compile(r"""^[ \t]*-[ \t]*["']?([^\s"':]+)["']?[ \t]*(?:#.*)?$""", re.MULTILINE)


class Names(NamedTuple):
    """The names in a folder of task files.

    Attributes:
        named: The names that files give to tasks, groups and tags.
        listed: All entries of lists. Some of them are tags.
    """

    named: frozenset[str]
    listed: frozenset[str]


def check_name(name: str, known: Names) -> None:
    """Raise UserError if no file has a name.

    Args:
        name: The name of a task, group or tag.
        known: The names in the harness's task files.
    """
    if name not in known.named | known.listed:
        offer = suggestion(name, difflib.get_close_matches(name, sorted(known.named), n=1, cutoff=CLOSE))
        raise UserError(f'no task "{name}"{offer or "; name a task of lm-evaluation-harness or a YAML file"}')


@functools.cache
def names_in(folder: Path) -> Names:
    """Return the names in a folder of task files."""
    named, listed = set[str](), set[str]()
    for directory, _, files in os.walk(folder):
        for file in files:
            if os.path.splitext(file)[1] in SUFFIXES:
                text = Path(directory, file).read_text(encoding="utf-8", errors="replace")
                for value in _KEY.findall(text):
                    named.update(part.strip("\"'") for part in re.split(r"[\[\],\s]+", value))
                listed.update(_ENTRY.findall(text))
    return Names(frozenset(named - {""}), frozenset(listed))
