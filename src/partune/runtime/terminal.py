"""What a person reads: texts that no terminal obeys, on streams that may be ASCII only, full, or closed.

Texts of users and of exceptions are shown as they are, but for control characters, which are written out. A stream that
cannot be written any more ends no study: its log goes nowhere from then on.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but the tab and the end of a line
PLAINER = str.maketrans(
    {"±": "+-", "–": "-", "−": "-", "…": "...", "×": "x", "≤": "<=", "≥": ">=", "→": "->", "\u00a0": " "}
)


class OutputError(Exception):
    """Standard output cannot be written.

    Args:
        cause: The error of the stream.

    Attributes:
        silent: Whether its reader has gone, as `head` does, and wants to hear no more.
    """

    def __init__(self, cause: OSError | ValueError) -> None:
        super().__init__(getattr(cause, "strerror", None) or str(cause))
        self.silent = isinstance(cause, OSError) and cause.errno == errno.EPIPE


def visible(text: object) -> str:
    r"""Return a text with its control characters written out, such as `\u001b`, which JSON reads back."""
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def as_encoded(text: str, encoding: str) -> str:
    """Return a text as an encoding can write it.

    Args:
        text: Any text.
        encoding: Which may lack some of its characters: plainer ones stand for them then, or a question mark.
    """
    return text if _encodable(text, encoding) else text.translate(PLAINER).encode(encoding, "replace").decode(encoding)


def output_can_show(text: str) -> bool:
    """Return whether standard output can write a text as it is."""
    return _encodable(text, _encoding(sys.stdout))


def _encodable(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _encoding(stream: Any) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


class Stream:
    """A text stream for people to read, in front of another stream, whose other attributes it shows as its own.

    Args:
        beneath: The stream to write to.
        lenient: Whether what cannot be written is dropped, from the first failure on, instead of being an OutputError.
        styled: Whether control characters are a library's own, to be obeyed by the terminal.
    """

    def __init__(self, beneath: TextIO, lenient: bool = False, styled: bool = False) -> None:
        self.beneath: TextIO = beneath.beneath if isinstance(beneath, Stream) else beneath
        self._lenient = lenient
        self._styled = styled
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)

    def write(self, text: str) -> int:
        """Write a text as the stream beneath can; return its length."""
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

    Otherwise the next file that is opened gets the stream's number, and what a library prints goes into that file,
    which may be a study's record.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
            setattr(sys, name, opened)


def _abandon(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere; at its end the interpreter would try to write it, and complain."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
