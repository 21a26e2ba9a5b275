"""Read and write YAML, and refuse in one line any file that could be misread or takes very long to read.

Scalars follow YAML 1.2: 1e-6 is a number, while 12:30:00 (a number of seconds in YAML 1.1) and 2024-01-01 (a date in
YAML 1.1) are texts. The words yes and no also mean true and false, as in YAML 1.1.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from partune.errors import UserError, shown

LARGEST = 2**18  # bytes of a file
DEEPEST = 50  # levels of nested collections
MOST = 100_000  # values; a value that aliases repeat counts each time
BOOLEANS = {"yes", "no", "on", "off"}  # true and false in YAML 1.1, texts in 1.2
TAG = "tag:yaml.org,2002:"


def read(path: Path) -> Any:
    """Return the content of a YAML file, or None if it is empty.

    Raises:
        UserError: The file is not YAML, is too large or nested too deeply, or holds more than one document.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST // 1024} KiB: a study's file holds only settings")
    return parse(content, path)


def parse(content: bytes, path: Path) -> Any:
    """Return the data in the bytes of a YAML file, or None if it is empty.

    Args:
        content: The bytes of the file.
        path: The path of the file in messages.

    Raises:
        UserError: The content is not valid YAML.
    """
    try:
        return yaml.load(content.decode(), _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: byte {error.start} is {content[error.start]:#04x}") from None
    except (
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:  # PyYAML raises these for a tag that does not fit its value
        raise UserError(f"{path} is not valid YAML: {error}") from None


def check(path: Path) -> None:
    """Check a file that another loader will read.

    Raises:
        YAMLError: The file is not YAML, is nested too deeply, or its aliases stand for too many values.
    """
    _Loader(path.read_bytes().decode()).get_single_node()


def dump(value: Any, ascii_only: bool = False) -> str:
    """Return the YAML text of plain data, from which `read` restores the same data.

    Args:
        value: The data: mappings, lists, texts, numbers, booleans and None.
        ascii_only: Whether to write all characters outside ASCII as escapes.
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=not ascii_only)
    return text


class _Loader(yaml.SafeLoader):
    """A loader that refuses ambiguous content and content that takes very long to read."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own form)
        first: [(tag, form) for tag, form in resolvers if tag.removeprefix(TAG) not in ("int", "float", "timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node; raise YAMLError if it is nested too deeply."""
        # Count the depth while PyYAML recurses, because it could raise a RecursionError before the tree is complete.
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(problem=f"it is nested more than {DEEPEST} deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Return the document's node; raise YAMLError if its aliases stand for too many values."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping; raise YAMLError for a key that is not a text or appears twice."""
        # Check only the mapping's own keys. They may override those of a merged mapping (<<).
        seen: set[str] = set()
        for key, _ in node.value:
            text = key.value if key.tag == f"{TAG}merge" else self.construct_object(key, deep=True)
            if not isinstance(text, str):
                raise yaml.constructor.ConstructorError(
                    problem=f"a key must be a text, got {shown(text)}: put it in quotes", problem_mark=key.start_mark
                )
            if text in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f'the key "{text}" appears twice', problem_mark=key.start_mark
                )
            seen.add(text)
        return super().construct_mapping(node, deep)

    def construct_sequence(self, node: yaml.SequenceNode, deep: bool = False) -> list[Any]:
        """Return a list; raise YAMLError for an unquoted yes, no, on or off among texts, as it may be meant as text."""
        texts = [part for part in node.value if part.tag == f"{TAG}str"]
        for part in node.value:
            if texts and part.tag == f"{TAG}bool" and part.value.lower() in BOOLEANS:
                raise yaml.constructor.ConstructorError(
                    problem=f"{part.value} among texts means true or false: put it in quotes, or write true or false",
                    problem_mark=part.start_mark,
                )
        return super().construct_sequence(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return an integer; raise YAMLError for leading zeros, which mean octal in YAML 1.1 and decimal in 1.2."""
        text = node.value.replace("_", "")
        if re.fullmatch(r"[-+]?0[0-9]+", text):
            raise yaml.constructor.ConstructorError(
                problem=f"{node.value} begins with a zero: remove the zero, or put the value in quotes if it is a text",
                problem_mark=node.start_mark,
            )
        return int(text, 0)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the number of values in a node, with aliases counted at each use, and the depth of their nesting.

    Args:
        node: A node of the tree that PyYAML composed. An alias is the same object as the node that it names.
        known: The results so far, so that each node is measured once. A key is the `id` of a node; the value is None
            while that node is being measured.

    Raises:
        YAMLError: The values are too many or nested too deeply, or a node contains itself.
    """
    if id(node) in known:
        if (measure := known[id(node)]) is None:
            raise yaml.composer.ComposerError(problem="an alias is inside the value that it stands for")
        return measure
    known[id(node)] = None
    parts: Iterable[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else ()
    if isinstance(node, yaml.MappingNode):
        parts = itertools.chain(*node.value)
    measures = [_measure(part, known) for part in parts]
    count, depth = 1 + sum(count for count, _ in measures), 1 + max((depth for _, depth in measures), default=0)
    if count > MOST:
        raise yaml.composer.ComposerError(problem=f"its aliases stand for more than {MOST} values")
    if depth > DEEPEST:
        raise yaml.composer.ComposerError(problem=f"its aliases are nested more than {DEEPEST} deep")
    known[id(node)] = count, depth
    return count, depth


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes each text that YAML 1.1 or YAML 1.2 would read as another type."""


for _tag, _form in (
    ("int", r"[-+]?[0-9][0-9_]*|[-+]?0x[0-9a-fA-F_]+|0o[0-7_]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(TAG + _tag, re.compile(rf"(?:{_form})\Z"), list("-+0123456789."))
_Loader.add_constructor(f"{TAG}int", _Loader.construct_yaml_int)
