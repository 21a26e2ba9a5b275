"""`partune data` prints what a user should know about rows before training on them."""

from __future__ import annotations

import io
import json
import re
from html import unescape
from pathlib import Path

import pytest

from partune import config
from partune.cli import inspection, main
from partune.demo import DIRECTORY
from partune.runtime.console import Console
from tests.support.full import files_of_at_most
from tests.support.tiny import write_jsonl

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
    assert "3 training examples are cut at max_length (5 tokens).\n" in out
    assert "Tokens per example: " in out
    assert main(["data", str(path), "--model", "demo", "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert "No example is cut at 256 tokens, the most that the base model reads (max_length is 512).\n" in out
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


def test_a_disk_that_fills_up_leaves_no_half_of_a_page(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with files_of_at_most(1000):
        assert main(["data", str(leaky), "--rows", "0", "--html", str(tmp_path / "rows.html")]) == 2
    assert f"cannot write {tmp_path / 'rows.html'}: " in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.glob(".partune-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "instruction=Questions"], 'has no column "Questions"; did you mean "Question"?'),
        (
            ["--format", "chat"],
            "has the columns Question, Answer, Source and no messages: no column has lists of messages; say which is "
            "which with --columns messages=COLUMN",
        ),
        (
            ["--format", "text"],
            "has the columns Question, Answer, Source and no text: which columns are meant cannot be told; say which "
            "is which, for example --columns text=Question",
        ),
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


TASK = DIRECTORY / "tasks" / "factory_questions.yaml"


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Rows of which two ask what the demo's test asks, and one what a validation row asks."""
    items = [json.loads(line) for line in TASK.with_suffix(".jsonl").read_text().splitlines()[:20]]
    asked = [item["question"] for item in items if len(item["question"].split()) >= 8][:2]
    rows = [{"instruction": text.upper(), "output": "x"} for text in asked] + [{"instruction": "Why?", "output": "y"}]
    write_jsonl(
        tmp_path / "more.jsonl", [{"instruction": "why", "output": "z"}, {"instruction": "How?", "output": "y"}]
    )
    return write_jsonl(tmp_path / "rows.jsonl", rows)


def test_validation_rows_among_the_rows_are_told(leaky: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(leaky), "--rows", "0", "--validation-data", str(leaky.with_name("more.jsonl"))]) == 0
    out = capsys.readouterr().out
    assert "1 of the 2 validation rows asks what a training row asks (row 3): " in out
    assert "  row 3: why\n" in out
    assert "It does not find rewordings" in out


def test_the_file_of_validation_rows_is_described_as_the_data_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"instruction": f"Why {number}?", "output": "x"} for number in range(4)]
    other = [*rows[:2], rows[0], {"instruction": "Who?", "output": ""}, {"instruction": "", "output": ""}]
    other += [{"instruction": "How?", "output": "oil " * 300, "topic": "oil"}]
    data, file = write_jsonl(tmp_path / "rows.jsonl", rows), write_jsonl(tmp_path / "other.jsonl", other)
    assert main(["data", str(data), "--rows", "0", "--model", "demo", "--validation-data", str(file)]) == 0
    noted = [line for line in capsys.readouterr().out.splitlines() if line.startswith("other.jsonl: ")]
    assert main(["data", str(file), "--rows", "0", "--model", "demo"]) == 0
    alone = capsys.readouterr().out.replace("training example is cut", "validation row is cut").splitlines()
    assert noted == [f"other.jsonl: {line}" for line in alone]
    for note in ("1 answer is empty.", "1 row without any text", "not used: topic", "1 row repeats", "is cut at 256"):
        assert any(note in line for line in noted)


def test_validation_rows_of_another_form_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "Why?", "output": "x"}] * 2)
    chats = [{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "x"}]}]
    file = write_jsonl(tmp_path / "chats.jsonl", chats)
    assert main(["data", str(data), "--rows", "0", "--validation-data", str(file)]) == 0
    out = capsys.readouterr().out
    assert "chats.jsonl: These rows are chats, but the training rows are instructions with answers: " in out


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--task", "--test-task"])
def test_items_of_a_task_among_the_rows_are_told(leaky: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(leaky), "--rows", "0", flag, str(TASK)]) == 0
    out = capsys.readouterr().out
    found = re.search(
        r"(\d+) of the 512 items of factory_questions ask what a training row asks \((?:such as )?rows 1, 2\)", out
    )
    assert found is not None
    assert int(found[1]) >= 2
    assert main(["data", "demo", "--rows", "0", flag, str(TASK)]) == 0
    assert "None of the 512 items of factory_questions occurs in the training rows.\n" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_is_written_and_never_over_a_file(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.html"
    flags = ["--model", "demo", "--rows", "1", "--validation-data", str(leaky.with_name("more.jsonl"))]
    assert main(["data", str(leaky), *flags, "--html", str(out)]) == 0
    printed, text = capsys.readouterr().out, out.read_text(encoding="utf-8")
    assert printed.endswith(f"wrote {out}\n")
    assert printed.count("-" * 40) == 1
    assert text.count('<pre class="example">') == 3
    for line in printed.split("\n\n")[0].splitlines():
        if not line.startswith("  "):
            assert line in unescape(text)
    assert main(["data", str(leaky), "--html", str(out)]) == 2
    assert "exists already and is never overwritten: choose another name with `--html`\n" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--validation-data", "gone.jsonl"], "no data file gone.jsonl"),
        (["--validation-data", "demo:none"], "the demo has the rows demo, demo:labels"),
        (["--task", "gone.yaml"], "no task file gone.yaml"),
        (["--test-task", "./gone.yaml"], "no task file ./gone.yaml"),
        (["--html", "none/rows.html"], "cannot write none/rows.html: there is no folder none"),
        (["--html", "."], "exists already and is never overwritten"),
        (["--html", ""], "exists already and is never overwritten"),
        (["--html", "x" * 300], "a name in a path can have at most 255 bytes"),
        (
            ["--html", "a.html", "--write", "b.jsonl"],
            "--write converts the rows and shows nothing, so --html has no effect",
        ),
        (["--write", "b.jsonl", "--validation-data", "c.jsonl"], "so --validation-data has no effect"),
    ],
)
def test_bad_input_is_refused_before_anything_is_read(
    leaky: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(leaky.parent)
    before = sorted(leaky.parent.iterdir())
    assert main(["data", str(leaky), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(leaky.parent.iterdir()) == before
