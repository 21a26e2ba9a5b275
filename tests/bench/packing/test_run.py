"""The benchmark of packs: its order, its command and its files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from partune.bench.meter import Cost
from partune.bench.packing import run as packing
from partune.bench.packing.contenders import Measurement, Packed
from partune.bench.packing.run import LITGPT, TUNED, bench, turns
from partune.bench.packing.table import Line
from partune.bench.packing.workload import Workload
from partune.cli import main
from tests.support.packing import TINY


def test_repetitions_go_forwards_and_backwards() -> None:
    lines = {name: Line(name) for name in "abc"}
    lines["b"].note = "out of memory"
    assert turns(lines, 0) == ["a", "c"]
    assert turns(lines, 1) == ["c", "a"]


@pytest.mark.slow
def test_the_benchmark_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{name}={getattr(TINY, name)}" for name in ("batch", "steps", "items", "configurations", "repetitions")]
    out = str(tmp_path / "out")
    arguments = ["bench", "packing", *flags, "--packs", "2,4", "--without", "subprocess", "--out", out]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "repetition 2 of 2: pack of 4" in output
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["line"].partition(":")[0] for row in written] == [LITGPT, TUNED, "pack of 2", "pack of 4"]
    assert [row["trials"] for row in written] == ["-", "2", "2", "4"]
    for row in written[2:]:
        assert float(row[f"{TUNED} (least)"]) <= float(row[TUNED]) <= float(row[f"{TUNED} (most)"])
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "- command: `partune bench packing --batch 2 --steps 3 --items 6 --configurations 2 --packs 2,4" in text
    assert f"torch {torch.__version__}" in text
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error == f"partune: error: {out} exists already: choose another folder with `--out`\n"


@pytest.mark.slow
def test_a_line_out_of_memory_says_so_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(work: Workload) -> Measurement:
        raise torch.OutOfMemoryError

    def warm(work: Workload, K: int) -> Packed:
        found = Packed.__new__(Packed)
        object.__setattr__(found, "run", full if K == 4 else lambda work: Measurement(scores=[0.0], train=Cost(1, 1)))
        return found

    monkeypatch.setattr(packing.Packed, "warm", warm)
    options = TINY.model_copy(
        update={"packs": (2, 4), "without": ("subprocess", "tuned"), "out": str(tmp_path / "out")}
    )
    bench(options)
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8") as file:
        found = {row["line"]: row["seconds"] for row in csv.DictReader(file)}
    assert found == {f"{LITGPT}: not installed": "-", "pack of 2": "1", "pack of 4: out of memory": "-"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--packs", "3"], "`--packs` must be multiples or divisors of `--configurations`"),
        (["--packs", "two"], "--packs: input should be a valid integer"),
        (["--batch", "0"], "--batch: input should be greater than 0"),
        (["--without", "lora"], "--without: input should be 'subprocess' or 'tuned'"),
        (["--length", "64"], "`--length 64` cannot change the demo's own data"),
        (["--model", "1M", "--length", "3"], "`--length` must be >= 16 with this tokenizer, got 3"),
        (["--model", "./nowhere"], "no model folder ./nowhere"),
        (["--litgpt", "no-such-command"], "there is no command no-such-command: set `--litgpt`"),
        (["--repetition", "3"], 'unknown argument --repetition; did you mean "--repetitions"?'),
    ],
)
def test_bad_input_is_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "packing", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"partune: error: {message}")
    assert error.count("\n") == 1
