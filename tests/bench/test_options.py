"""The benchmarks by name, spans of numbers, and the command that repeats a benchmark."""

from __future__ import annotations

import importlib
import inspect

import pytest

from partune import config
from partune.bench.options import BENCHMARKS, Packing, Searching, repeated_by, spans
from partune.cli import flags
from partune.cli.parser import build_parser


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_run_by_its_module_with_the_options_of_its_flags(name: str) -> None:
    benchmark = BENCHMARKS[name]
    run = importlib.import_module(benchmark.module).bench
    assert next(iter(inspect.signature(run, eval_str=True).parameters.values())).annotation is benchmark.options
    arguments = build_parser().parse_args(["bench", name, "--out", "somewhere"])
    assert arguments.what == name
    assert config.validated(benchmark.options, flags.given(arguments)).model_dump()["out"] == "somewhere"


def test_spans_are_the_numbers_between_their_ends() -> None:
    assert spans("1-4,7") == [1, 2, 3, 4, "7"]
    assert spans(["2-2", "9"]) == [2, "9"]
    assert spans(3) == 3
    assert spans("1-x") == ["1-x"]  # the type says what is wrong with it


def test_the_command_that_repeats_a_benchmark_has_what_is_not_the_default() -> None:
    assert repeated_by("packing", Packing(batch=2, packs=(2, 4), out="elsewhere")) == (
        "partune bench packing --batch 2 --packs 2,4"
    )
    options = Searching(first_seed=7, jobs=3)
    assert repeated_by("search", options, without=("out", "jobs")) == "partune bench search --first-seed 7"
