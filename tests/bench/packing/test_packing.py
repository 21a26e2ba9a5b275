"""The benchmark of packs: pairing, tables, and that all contenders do the same work."""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from partune.bench.meter import Cost, number
from partune.bench.options import Packing
from partune.bench.packing import run as packing
from partune.bench.packing.contenders import Packed, Run, Shipped, Tuned, fastest, in_process, processes
from partune.bench.packing.run import LITGPT, TUNED, bench, turns
from partune.bench.packing.table import Line, Spread, ratios, rows, write
from partune.bench.packing.workload import Workload, make, shape
from partune.cli import main
from tests.support.litgpt import install

TINY = Packing(model="demo", batch=2, steps=3, items=6, configurations=2, packs=(2,), repetitions=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """Trials without dropout, whose masks every contender draws in its own way."""
    made = make(tmp_path_factory.mktemp("work"), TINY)
    still = tuple(each.model_copy(update={"lora_dropout": 0.0}) for each in made.configurations)
    return dataclasses.replace(made, configurations=still)


def line(name: str, seconds: list[float], trials: int = 1, baseline: bool = False) -> Line:
    """One whose runs took so many seconds a trial, of the processor; twice that by the wall, a quarter to score."""
    runs = [
        Run(
            train=Cost(1.5 * each * trials, 0.75 * each * trials),
            score=Cost(0.5 * each * trials, 0.25 * each * trials),
            tokens=75,
            peak=2.0**20,
            scores=[0.0] * trials,
        )
        for each in seconds
    ]
    return Line(name, baseline, runs)


def test_ratios_are_taken_within_repetitions() -> None:
    assert ratios([10.0, 30.0, 8.0], [5.0, 10.0, 8.0]) == Spread(median=2.0, least=1.0, most=3.0)
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


def test_a_line_is_compared_with_the_baselines_above_it_by_seconds_a_trial() -> None:
    first, second, pack = rows(
        [line("a", [8.0, 4.0], baseline=True), line("b", [2.0, 2.0], 4, baseline=True), line("pack", [1.0, 0.5], 2)],
        "cpu",
    )
    assert first.ratios == {}
    assert {key for key, _ in second.ratios} == {"a"}
    assert second.ratios["a", "whole"] == Spread(3.0, 2.0, 4.0)
    assert pack.ratios["a", "whole"] == pack.ratios["a", "train"] == Spread(8.0, 8.0, 8.0)
    assert pack.ratios["b", "score"] == Spread(3.0, 2.0, 4.0)
    assert pack.seconds["whole"] == 0.75
    assert pack.wall == 1.5
    assert pack.tokens == pytest.approx(np.median([75 / 1.5, 75 / 0.75]))
    assert rows([line("a", [8.0])], "cuda")[0].seconds["whole"] == 16.0  # the wall's there


def test_what_was_not_measured_is_a_dash() -> None:
    assert [number(value) for value in (1.2, 12345.6, math.nan)] == ["1.2", "12300", "-"]


def test_csv_and_markdown_have_the_same_numbers(tmp_path: Path) -> None:
    lines = [Line("c", True, note="not installed"), line("a", [8.0, 4.0], baseline=True), line("pack", [1.0, 2.0])]
    write(tmp_path, ["machine: one"], rows(lines, "cpu"))
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["line"] for row in written] == ["c: not installed", "a", "pack"]
    assert {row["seconds"] for row in written[:1]} == {"-"}
    head, costs, gains = (tmp_path / "table.md").read_text(encoding="utf-8").split("\n\n")
    assert head == "- machine: one"
    names, _, *cells = [text[2:-2].split(" | ") for text in costs.splitlines()]
    for row, texts in zip(written, cells, strict=True):
        assert [row[name] for name in names] == texts
    assert gains.splitlines()[-1].startswith("| pack | 5 (2..8) | ")
    pack = written[-1]
    assert (pack["a"], pack["a (least)"], pack["a (most)"]) == ("5", "2", "8")


def test_repetitions_go_forwards_and_backwards() -> None:
    lines = {name: Line(name) for name in "abc"}
    lines["b"].note = "out of memory"
    assert turns(lines, 0) == ["a", "c"]
    assert turns(lines, 1) == ["c", "a"]


# ----- the contenders


def assert_same(found: Run, expected: Run, tolerance: float) -> None:
    np.testing.assert_allclose(found.losses, expected.losses, rtol=tolerance)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-9)
    assert found.tokens == expected.tokens


def test_packs_and_tuned_peft_train_and_score_the_same_trials(work: Workload) -> None:
    tuned = Tuned.find(work).run(work)
    assert tuned.trials == 2
    assert tuned.train.wall > 0
    assert tuned.score.wall > 0
    for K in (1, 2):
        assert_same(Packed.warm(work, K).run(work), tuned, 1e-4)


@pytest.mark.slow
def test_a_process_trains_and_scores_the_same_trials(work: Workload) -> None:
    run = processes(work)
    assert_same(run, Packed.warm(work, 2).run(work), 1e-4)
    assert run.setup.cpu > run.train.cpu  # at three steps
    assert run.peak > 1e8


def test_a_pack_of_more_trials_repeats_the_configurations_with_new_seeds(work: Workload) -> None:
    trials = work.trials(4)
    assert sorted(trial.seed for trial in trials) == [0, 1, 2, 3]
    ranks = [trial.settings.lora_r for trial in trials]
    assert ranks == sorted(2 * [each.lora_r for each in work.configurations])
    assert Packed.warm(work, 4).run(work).trials == 4


def test_the_fastest_size_is_found_and_one_without_memory_is_out() -> None:
    def call(size: int) -> None:
        if size == 1:
            raise MemoryError
        sum(range(size))

    assert fastest((1, 1000, 1_000_000), call, torch.device("cpu")) == 1000


def test_a_failing_process_says_why_and_a_killed_one_had_no_memory() -> None:
    with pytest.raises(RuntimeError, match="ValueError: no"):
        in_process([sys.executable, "-c", "raise ValueError('no')"])
    with pytest.raises(packing.OutOfMemoryError):
        in_process([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


# ----- the command


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
    assert capsys.readouterr().err == f"partune: error: {out} exists already: give another folder with --out\n"


def test_a_line_out_of_memory_says_so_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(work: Workload) -> Run:
        raise torch.OutOfMemoryError

    def warm(work: Workload, K: int) -> Packed:
        found = Packed.__new__(Packed)
        object.__setattr__(found, "run", full if K == 4 else lambda work: Run(scores=[0.0], train=Cost(1, 1)))
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
        (["--packs", "3"], "a pack is a multiple or a divisor of the configurations, got 3 and 4"),
        (["--packs", "two"], "packs.0: input should be a valid integer"),
        (["--batch", "0"], "batch: input should be greater than 0"),
        (["--without", "lora"], "without.0: input should be 'subprocess' or 'tuned'"),
        (["--length", "64"], "the demo has its own data: give --length with another --model"),
        (["--model", "1M", "--length", "3"], "length >= 16 must hold with this tokenizer, got length=3"),
        (["--model", "./nowhere"], "no model folder ./nowhere"),
        (["--litgpt", "no-such-command"], "no command no-such-command"),
        (["--repetition", "3"], 'unknown argument --repetition; did you mean "--repetitions"?'),
    ],
)
def test_bad_input_is_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "packing", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"partune: error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("length", [16, 64])
def test_synthetic_data_has_the_length_asked_for(tmp_path: Path, length: int) -> None:
    made = make(tmp_path, Packing(model="1M", length=length, items=3))
    assert set(made.examples.lengths) == {length}
    assert set(made.examples.trained_lengths) == {length // 2}
    assert {len(context) + len(ending) for _, context, ending in made.requests} == {length}
    assert 0.8e6 < made.base.model.num_parameters() < 1.2e6
    assert (Path(made.model_path) / "config.json").is_file()


@pytest.mark.parametrize(("size", "parameters"), [("1B", 1_235_814_400), ("3B", 3_212_749_824)])
def test_large_bases_have_the_shape_of_llama_3_2(size: str, parameters: int) -> None:
    with torch.device("meta"):
        assert AutoModelForCausalLM.from_config(shape(size)).num_parameters() == parameters


def test_litgpt_as_shipped_has_a_line_of_its_own(tmp_path: Path) -> None:
    """With a stand-in for its command: its processes' time counts, and its scores are of all items."""
    command = install(tmp_path / "bin")
    (tmp_path / "work").mkdir()
    made = make(tmp_path / "work", TINY)
    shipped = Shipped.convert(made, str(command))
    run = shipped.run(made)
    assert run.trials == 2
    assert all(0 <= score <= 1 for score in run.scores)
    assert run.train.cpu > 0.01
    assert run.score.cpu > 0.01
    assert run.train.wall >= 0.01
    assert run.tokens == sum(made.tokens(trial) for trial in made.trials(2))
