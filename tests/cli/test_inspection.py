"""`partune data` prints what a user should know about rows before training on them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from partune import config
from partune.cli import inspection, main
from partune.runtime.console import Console

CSV = 'Question;Answer;Source\n"Who oils ""it""; when?";Anna;manual\nWhy?;NA;\n"Who oils ""it""; when?";Ben;\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "faq.csv").write_text(CSV)
    return tmp_path / "faq.csv"


def test_rows_are_shown_without_a_model(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(path), "--rows", "1"]) == 0
    assert capsys.readouterr().out == (
        "3 rows, read as qa (columns: Question, Answer)\n"
        "The columns are separated by semicolons.\n"
        "The rows are read as questions with answers (instruction is Question, output is Answer).\n"
        "1 row has fields that are not used: Source.\n"
        "1 row repeats the prompt of an earlier row, with another answer.\n"
        "\nThe first rows in the form in which they are trained on (with --model, as the model reads them):\n"
        '{"instruction": "Who oils \\"it\\"; when?", "input": "", "output": "Anna"}\n'
    )


@pytest.mark.slow
def test_with_a_model_tokens_are_counted_and_what_is_trained_on_is_marked(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", str(path), "--model", "demo", "--rows", "2", "--max-length", "5"]) == 0
    out = capsys.readouterr().out
    assert "3 examples are cut at max_length 5.\n" in out
    assert "Tokens per example: " in out
    assert main(["data", str(path), "--model", "demo", "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert "No example is cut at max_length 512.\n" in out
    assert "### Response:\n[[NA<eos>]]\n" in out


@pytest.mark.slow
def test_a_terminal_shows_it_in_colour(path: Path) -> None:
    stream = io.StringIO()
    console = Console(stream)
    console._force_terminal = True
    console._color_system = console._color_system or None
    inspection.show(config.Data(path=str(path)), config.Model(path="demo"), 1, console)
    assert "[[" not in stream.getvalue()
    assert "what is trained on is in colour" in stream.getvalue()


def test_rows_are_converted(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.jsonl"
    assert main(["data", str(path), "--data-limit", "1", "--write", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote 1 row to {out}\n"
    assert out.read_text() == '{"instruction": "Who oils \\"it\\"; when?", "input": "", "output": "Anna"}\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "instruction=Questions"], 'has no column "Questions"; did you mean "Question"?'),
        (["--format", "chat"], 'row 1: "messages" is missing; it has Question, Answer, Source'),
        (["--format", "text"], "has the columns Question, Answer, Source and no text: say which is which, for example"),
        (["--columns", "Question"], "columns: expected FIELD=COLUMN, such as instruction=question"),
        (["--format", "csv"], "format: input should be 'auto', 'alpaca'"),
        (["--model", "no/such/model/here"], "no/such/model/here"),
    ],
)
def test_bad_input_is_one_line(
    path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", str(path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
