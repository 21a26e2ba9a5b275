"""The command compares, prints and writes, and overwrites nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partune.cli import main
from tests.support.full import files_of_at_most


@pytest.mark.slow
def test_the_command(repeated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(path) for path in repeated]
    out = tmp_path / "out"
    assert main(["compare", *names, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "lhs is better" in said
    assert {path.name for path in out.iterdir()} == {"compare.md", "compare.svg", "compare.json"}
    assert "](compare.svg)" in (out / "compare.md").read_text(encoding="utf-8")
    assert main(["compare", *names, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert main(["compare", names[0]]) == 2
    assert "at least two studies" in capsys.readouterr().err
    assert main(["compare", *names, "--out", str(out)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["compare", *names, "--out", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_disk_that_fills_up_leaves_no_part_of_the_files(
    repeated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(path) for path in repeated]
    assert main(["compare", *names, "--out", str(tmp_path / "whole")]) == 0
    sizes = [(tmp_path / "whole" / name).stat().st_size for name in ("compare.md", "compare.svg")]
    assert sizes[0] < sizes[1]
    out = tmp_path / "out"
    with files_of_at_most(sizes[1] - 1):
        assert main(["compare", *names, "--out", str(out)]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert list(out.iterdir()) == []
    assert main(["compare", *names, "--out", str(out)]) == 0
