"""Paths that no file can have are refused in one line, wherever a path is given, and ~ is somebody's home."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from partune import Float, Space, Study, UserError, config
from partune.cli import main
from partune.export.export import export
from partune.record.record import Record
from partune.runtime.paths import as_path, command_on

BRANIN = ["tune", "--objective", "branin", "--budget", "1", "--algorithm", "random"]
BAD = {
    "a" * 300: "a name in a path can have at most 255 bytes, got 300",
    "é" * 200: "a name in a path can have at most 255 bytes, got 400",
    "x/" * 2500: "a path can have at most 4095 bytes, got 4999",
    "~nosuchuser/x": "~nosuchuser is the home of a user who does not exist",
    "a\0b": "a path cannot have a zero byte",
    "\ud800": "is not a possible file name on this machine",
}
GIVEN = {
    "--runs": lambda bad: [*BRANIN, "--runs", bad],
    "--space": lambda bad: [*BRANIN, "--space", bad],
    "--cluster": lambda bad: [*BRANIN, "--cluster", bad],
    "--tls": lambda bad: [*BRANIN, "--scheduler", "tls://127.0.0.1:1", "--tls", bad],
    "--storage": lambda bad: [*BRANIN, "--storage", f"sqlite:///{bad}"],
    "--model": lambda bad: ["tune", "--model", bad, "--data", "rows.jsonl", "--task", "t.yaml"],
    "--data": lambda bad: ["demo", "--data", bad],
    "--task": lambda bad: ["demo", "--task", bad],
    "--test-task": lambda bad: ["demo", "--test-task", bad],
    "tune": lambda bad: ["tune", bad],
    "report": lambda bad: ["report", bad],
    "resume": lambda bad: ["resume", bad],
    "join": lambda bad: ["join", bad],
    "export": lambda bad: ["export", bad, "out"],
    "compare": lambda bad: ["compare", bad, bad],
    "dashboard": lambda bad: ["dashboard", bad],
    "gallery": lambda bad: ["gallery", bad],
    "certificates": lambda bad: ["certificates", bad],
    "bench": lambda bad: ["bench", "chaos", "--out", bad],
    "experiment": lambda bad: ["experiment", "report", "--objective", "branin", "--out", bad],
}


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD, ids=["long", "long in bytes", "deep", "no user", "zero byte", "surrogate"])
@pytest.mark.parametrize("where", GIVEN)
def test_a_path_that_cannot_be_is_one_line(
    where: str, bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(GIVEN[where](bad)) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("partune: error: ")
    assert len(err) < 2000
    if (where, bad) != ("--storage", "\ud800"):
        assert BAD[bad] in err
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", BAD)
def test_so_it_is_in_python(bad: str, tmp_path: Path) -> None:
    space = Space(x=Float(0, 1))
    for call in (
        lambda: Study(space, lambda config: 0.0, "random", directory=bad),
        lambda: Record.open(Path(bad)),
        lambda: export(tmp_path, Path(bad)),
        lambda: config.load(bad),
    ):
        with pytest.raises(UserError, match=BAD[bad]):
            call()


def test_a_home_is_what_a_tilde_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In --runs=~/x no shell has replaced it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert as_path("~/x") == tmp_path / "home" / "x"
    assert main([*BRANIN, "--runs=~/runs", "--name", "s", "--quiet"]) == 0
    assert main(["report", "~/runs/s", "--quiet"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("name", ["loop/s", "file/s", "/proc/s"])
def test_a_place_that_cannot_be_written_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    runs, _, study = name.rpartition("/")
    assert main([*BRANIN, "--runs", runs, "--name", study]) == 2
    assert main(["report", name]) == 2
    assert main(["gallery", name]) == 2
    assert main(["certificates", name]) == 2
    for what in ("chaos", "scaling", "search"):
        assert main(["bench", what, "--out", name]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 7


@pytest.mark.parametrize("name", ["runs/first", "my runs/it's $HOME", "a;b", "~/x"])
def test_a_shell_reads_the_directory_of_a_command_as_it_is(name: str) -> None:
    assert shlex.split(command_on("resume", Path(name))) == ["partune", "resume", name]
