"""What a person reads: nothing that is not ours is obeyed, and no stream that fails ends a study."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rich.console

from partune import Choice, Float, Space, Study
from partune.cli import main
from partune.cli.progress import Terminal
from partune.experiment.progress import Terminal as Experiment
from partune.record.record import Record
from partune.report import tables
from partune.report.facts import Facts
from partune.report.html.page import page
from partune.report.markdown import markdown
from partune.report.terminal import show
from partune.runtime.console import Console
from partune.runtime.markdown import code, fenced, plain
from partune.runtime.terminal import OutputError, Stream, data_stream, output_for_data, visible
from partune.trial import Config
from tests.support import ROOT
from tests.support.waiting import PATIENCE

MARKUP = ("[/INST]", "[bold]", "[link=https://x.example]here[/link]", ":smile:", "\\[", "[")
CONTROL = ("\x1b]8;;https://x.example\x1b\\", "\x1b[2J", "\x07", "\x9b31m", "\x7f", "\r")
HOSTILE = "".join((*MARKUP, *CONTROL, "<script>|`"))
NAME = "".join((*MARKUP, "<script>|`"))
SPACE = Space({f"x{NAME}": Float(0, 1), "tag": Choice([f"{each}{k}" for k, each in enumerate((*MARKUP, HOSTILE))])})


def hostile(config: Config) -> float:
    score = float(config[f"x{NAME}"])
    if score > 0.7:
        raise ValueError(f"no template for {HOSTILE} here")
    return score


def harmless(text: str) -> bool:
    return not any(each in text for each in ("\x1b", "\x07", "\x9b", "\x7f"))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    directory = tmp_path_factory.mktemp("hostile") / "s[/INST]"
    Study(SPACE, hostile, "random", directory=directory).run(12).close()
    return Record.open(directory, read_only=True)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("kind", [rich.console.Console, None], ids=["a user's console", "ours"])
def test_a_study_is_followed_whatever_its_texts_are(tmp_path: Path, kind: Any, terminal: bool) -> None:
    """A console of the user's own reads markup; nothing of a study is given to it as markup."""
    stream = io.StringIO()
    console = kind(file=stream, width=500) if kind else Console(stream, soft_wrap=True)
    console._force_terminal = terminal
    Study(SPACE, hostile, "random", directory=tmp_path / "s[/INST]", watcher=Terminal(console)).run(12)
    assert "no template for [/INST][bold][link=https://x.example]here[/link]:smile:" in stream.getvalue()
    if not terminal:
        assert harmless(stream.getvalue())


@pytest.mark.slow
def test_every_place_that_prints_a_study_shows_its_texts_as_they_are(record: Record) -> None:
    facts = Facts(record)
    stream = io.StringIO()
    console = rich.console.Console(file=stream, width=1000)
    show(facts.summary, console)
    tables.tell([tables.Section(HOSTILE, [HOSTILE], [[HOSTILE]], [HOSTILE])], console)
    follower = Experiment(console)
    follower.began(HOSTILE)
    follower.ended(HOSTILE, facts)
    shown = stream.getvalue()
    assert harmless(shown)
    for each in MARKUP:
        assert each in shown
    assert "\\u001b]8;;" in shown
    written = markdown(facts)
    assert harmless(written)
    assert "<script>" not in written.split("```")[0].replace("\\<script\\>", "")
    assert "<script>|" not in page(facts)


@pytest.mark.parametrize("text", [HOSTILE, *CONTROL])
def test_markdown_holds_no_control_character(text: str) -> None:
    assert all(map(harmless, (plain(text), code(text), fenced(text))))


@pytest.mark.slow
def test_the_command_line_shows_texts_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], record: Record
) -> None:
    monkeypatch.chdir(tmp_path)
    assert record.directory is not None
    for arguments in (["report"], ["report", "--markdown"], ["report", "--json"], ["report", "--quiet"]):
        assert main([*arguments, str(record.directory)]) == 0
        assert harmless(capsys.readouterr().out)
    for refused in (["tune", HOSTILE], ["report", HOSTILE], ["tune", "--objective", HOSTILE], [f"--{HOSTILE}"]):
        assert main(refused) == 2
        errors = capsys.readouterr().err
        assert harmless(errors)
        assert errors.count("\n") == 1
        assert "[bold]" in errors


def test_visible_text_reads_back_in_json() -> None:
    assert json.loads('"' + visible("a\x1b\x9bb") + '"') == "a\x1b\x9bb"
    assert visible("a\tb\nc ± é") == "a\tb\nc ± é"
    assert visible("\udcff") == "\\udcff"


# ----- streams that cannot hold it


class Failing(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, os.strerror(28))


def test_a_log_that_cannot_be_written_ends_no_study(tmp_path: Path) -> None:
    console = Console(Failing(), lenient=True)
    study = Study(SPACE, hostile, "random", directory=tmp_path / "s", watcher=Terminal(console)).run(8)
    assert len(study.trials) == 8
    closed = io.StringIO()
    closed.close()
    Stream(closed, lenient=True).write("x")
    with pytest.raises(OutputError, match="closed"):
        Stream(closed).write("x")


@pytest.mark.parametrize(
    ("encoding", "expected"), [("ascii", "+- ? ..."), ("latin-1", "± ? ..."), ("utf-8", "± → 語 …")]
)
def test_what_an_encoding_lacks_is_replaced(encoding: str, expected: str) -> None:
    beneath = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Stream(beneath).write("± 語 …" if encoding != "utf-8" else "± → 語 …")
    beneath.flush()
    assert isinstance(beneath.buffer, io.BytesIO)
    shown = beneath.buffer.getvalue().decode(encoding)
    assert shown == (expected if encoding != "latin-1" else "+- ? ...")


TUNE = ("tune", "--objective", "branin", "--algorithm", "random", "--budget", "6", "--name", "b")


def thorough(*values: str) -> list[Any]:
    """Mark cases that a harder one covers: both streams closed, an output that ends, an encoding of as many letters."""
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]


@pytest.mark.slow
@pytest.mark.parametrize("redirected", [">/dev/full", ">&- 2>&-", *thorough("| head -n 1", ">&-", "2>/dev/full")])
def test_a_study_outlives_its_standard_streams(tmp_path: Path, redirected: str) -> None:
    """Its record is what it is anyway; the exit status says whether the output could be written."""
    line = f"{sys.executable} -m partune {' '.join(TUNE)} {redirected}; echo ${{PIPESTATUS[0]}} >status"
    told = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Traceback" not in told.stderr
    assert "Exception ignored" not in told.stderr
    assert (tmp_path / "runs/b/report.html").is_file()
    trials = Record.open(tmp_path / "runs/b", read_only=True).trials()
    assert [trial.status.final for trial in trials] == [True] * 6
    status = (tmp_path / "status").read_text().strip()
    if "full" in redirected and not redirected.startswith("2"):
        assert status == "1"
        assert told.stderr == "partune: error: standard output cannot be written: No space left on device\n"
    else:
        assert status in ("0", "1" if "head" in redirected else "0")
        assert told.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", *thorough("latin-1", "cp1252")])
def test_any_encoding_will_do(tmp_path: Path, encoding: str) -> None:
    """A study with a standard error and base, which its log and tables tell with a sign that ASCII lacks."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from partune import Float, Space, Study\n"
        "from partune.cli import main\n"
        "from partune.cli.progress import Terminal\n"
        "from tests.support.simulated import SimulatedTuning\n"
        "space = Space(learning_rate=Float(1e-6, 1e-2, log=True))\n"
        "Study(space, SimulatedTuning(), 'random', directory=Path('s'), watcher=Terminal()).run(4).close()\n"
        "sys.exit(main(['report', 's']) or main(['report', '--markdown', 's']) or main(['report', '--json', 's'])\n"
        "         or main(['tune', '--help']))\n",
        encoding="utf-8",
    )
    root = str(ROOT)
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": root}
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=PATIENCE
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert (
        " +- " in ran.stdout.decode("ascii") if encoding == "ascii" else "\u00a0±\u00a0" in ran.stdout.decode(encoding)
    )


def test_only_data_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with output_for_data():
        print("a user's function")
        print("data", file=data_stream())
    print("later")
    assert capsys.readouterr() == ("data\nlater\n", "a user's function\n")


NOISY = """\
import os, subprocess
print("imported")
def f(config):
    print("printed")
    os.write(1, b"written\\n")
    subprocess.run(["echo", "echoed"])
    return config["x"]
"""


@pytest.mark.slow
def test_what_a_users_function_prints_is_not_in_the_json(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "space.yaml").write_text("x: {float: [0, 1]}\n")
    line = [
        "tune",
        "--objective",
        "noisy:f",
        "--space",
        "space.yaml",
        "--algorithm",
        "random",
        "--budget",
        "2",
        "--json",
    ]
    told = subprocess.run(
        [sys.executable, "-m", "partune", *line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(json.loads(told.stdout)["trials"]) == 2
    for what in ("imported", "printed", "written", "echoed"):
        assert what in told.stderr


@pytest.mark.slow
def test_json_for_a_full_disk_is_refused_in_one_line(tmp_path: Path) -> None:
    line = f"{sys.executable} -m partune algorithms --json >/dev/full"
    told = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr == "partune: error: standard output cannot be written: No space left on device\n"
