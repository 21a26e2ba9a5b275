"""Write texts for people safely to a terminal or file, even if it takes only ASCII, is full, or is closed.

Texts of users and of exceptions are shown unchanged, except that control characters are written out. A failed write to
a log does not end a study: the log is dropped from then on.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all except the tab and the line feed
PLAINER = str.maketrans(
    {"±": "+-", "–": "-", "−": "-", "…": "...", "×": "x", "≤": "<=", "≥": ">=", "→": "->", "\u00a0": " "}
)


class OutputError(Exception):
    """Standard output cannot be written.

    Args:
        cause: The error of the stream.

    Attributes:
        silent: Whether the reader closed the stream, as `head` does, so that no message is needed.
    """

    def __init__(self, cause: OSError | ValueError) -> None:
        super().__init__(getattr(cause, "strerror", None) or str(cause))
        self.silent = isinstance(cause, OSError) and cause.errno == errno.EPIPE


def visible(text: object) -> str:
    r"""Return a text with its control characters written out as JSON does, such as `\u001b`."""
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def as_encoded(text: str, encoding: str) -> str:
    """Return a text with only characters that an encoding can write.

    Args:
        text: Any text.
        encoding: The encoding. A character that it lacks is replaced with a plainer one or a question mark.
    """
    return text if _encodable(text, encoding) else text.translate(PLAINER).encode(encoding, "replace").decode(encoding)


def output_can_show(text: str) -> bool:
    """Return whether the stream for data can write a text unchanged."""
    return _encodable(text, _encoding(data_stream()))


def _encodable(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _encoding(stream: Any) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


class Stream:
    """A wrapper of a text stream that makes texts safe to show. It has all other attributes of that stream.

    Args:
        beneath: The stream to write to.
        lenient: Whether to drop all texts after a failed write, instead of raising an OutputError.
        styled: Whether to keep control characters, because they come from a library that formats the text.
    """

    def __init__(self, beneath: TextIO, lenient: bool = False, styled: bool = False) -> None:
        self.beneath: TextIO = beneath.beneath if isinstance(beneath, Stream) else beneath
        self._lenient = lenient
        self._styled = styled
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)

    def write(self, text: str) -> int:
        """Write a text in the encoding of the stream beneath, and return its length."""
        shown = as_encoded(text if self._styled else visible(text), _encoding(self.beneath))
        self._attempt(lambda: self.beneath.write(shown))
        return len(text)

    def flush(self) -> None:
        """Flush the stream beneath."""
        self._attempt(self.beneath.flush)

    def _attempt(self, use: Any) -> None:
        if self._lost and self._lenient:
            return
        try:
            use()
        except (OSError, ValueError) as error:  # a closed stream raises ValueError
            self._lost = True
            if not self._lenient:
                raise OutputError(error) from None


class Diverted(Stream):
    """A standard output that writes to standard error, and keeps the true one for data.

    Args:
        kept: The stream for data.
    """

    def __init__(self, kept: TextIO) -> None:
        super().__init__(sys.stderr, lenient=True)
        self.kept = kept


def data_stream() -> TextIO:
    """Return the stream for data: what `output_for_data` keeps, or else standard output."""
    return sys.stdout.kept if isinstance(sys.stdout, Diverted) else sys.stdout


@contextmanager
def output_for_data() -> Iterator[None]:
    """Keep standard output for `data_stream` within the context; all else goes to standard error.

    What a user's function prints, also from another process or in C, would otherwise stand within the data.

    Raises:
        OutputError: Standard output cannot be written.
    """
    before = sys.stdout
    with _descriptor_for_data(before) as kept:
        sys.stdout = cast(TextIO, Diverted(kept))
        try:
            yield
            kept.flush()
        finally:
            sys.stdout = before


@contextmanager
def _descriptor_for_data(output: TextIO) -> Iterator[TextIO]:
    """Give file descriptor 1 to standard error within the context, and yield a stream to what it was before.

    If standard output is another object, such as that of a test or a notebook, yield it unchanged.
    """
    try:
        true = output.fileno() == sys.__stdout__.fileno() == 1  # type: ignore[union-attr]
    except (OSError, ValueError, AttributeError):
        true = False
    if not true:
        yield output
        return
    output.flush()
    kept = os.dup(1)
    stream = open(kept, "w", encoding=output.encoding, errors=output.errors)  # noqa: SIM115 - closed below
    os.dup2(2, 1)
    try:
        yield cast(TextIO, Stream(stream))
    finally:
        os.dup2(kept, 1)
        with suppress(OSError):  # its flush has failed before, which was reported
            stream.close()


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Write to standard output and error through `Stream` within the context.

    Raises:
        OutputError: Standard output cannot be written.
    """
    _occupy()
    before = sys.stdout, sys.stderr
    output = Stream(sys.stdout)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, Stream(sys.stderr, lenient=True))
    try:
        try:
            yield
        finally:
            output.flush()
    except OutputError:
        _abandon(before[0])
        raise
    finally:
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """Open the null device for each standard stream that is closed.

    Otherwise the next file that is opened would get the number of the stream. The output of a library would then go
    into that file, which may be a study's record.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - open until the process ends
            setattr(sys, name, opened)


def _abandon(stream: TextIO) -> None:
    """Discard the buffer of a stream, which the interpreter would otherwise try to write when it exits."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
