"""Rich's console, for texts that are not ours."""

from __future__ import annotations

import io

import pytest

from partune.runtime.console import Console, line, log_console, table, text


def shown(content: object) -> str:
    stream = io.StringIO()
    Console(stream).print(content)
    return stream.getvalue()


@pytest.mark.parametrize("content", ["[bold]x[/bold]", ":smile:", "[/]", "[link=https://x]y[/link]"])
def test_no_text_is_markup(content: str) -> None:
    assert shown(content) == f"{content}\n"
    assert shown(text(content)) == f"{content}\n"
    rows = table([content])
    rows.add_row(text(content))
    assert shown(rows).count(content) == 2


def test_control_characters_are_written_out() -> None:
    assert shown(line("a\x1b[2J", ("b\x07", "bold"))) == "a\\u001b[2Jb\\u0007\n"


def test_a_log_keeps_a_line_whole_and_survives_its_stream() -> None:
    stream = io.StringIO()
    log_console(stream).print("word " * 100)
    assert stream.getvalue().count("\n") == 1
    closed = io.StringIO()
    console = log_console(closed)
    closed.close()
    console.print("nobody hears this")
