"""The benchmark of searches: its runs, its files, and that it goes on where it was cut."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from partune.bench.options import Searching
from partune.bench.search import peers, problems
from partune.bench.search import run as search
from partune.bench.search.peers import Contender, Race
from partune.bench.search.problems import Problem
from partune.bench.search.standings import (
    write,
)
from partune.cli import main
from partune.errors import UserError
from partune.space import Int, Space
from partune.trial import Config
from tests.support.races import CORE, SPHERE, value


def options(out: Path, **given: object) -> Searching:
    return Searching(**{"contenders": CORE, "seeds": 2, "budget": 6, "out": str(out), **given})


def test_the_benchmark_writes_tables_and_goes_on_where_it_was_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = ["bench", "search", "--contenders", ",".join(CORE), "--budget", "6", "--out", str(out)]
    assert main([*arguments, "--seeds", "1"]) == 0
    lines = (out / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 3 * len(CORE)
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert "- command: `partune bench search --contenders" in text
    assert "## bbob\n\nlog10 of the regret" in text

    (out / "runs.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])  # killed while it wrote
    started = []
    run = search.race
    monkeypatch.setattr(search, "race", lambda *job: started.append(job) or run(*job))
    assert main([*arguments, "--seeds", "2"]) == 0
    assert len(started) == 1 + 3 * len(CORE)
    again = (out / "runs.jsonl").read_text().splitlines()
    assert again[: len(lines) - 1] == lines[:-1]
    told = json.loads(again[len(lines) - 1])
    before = json.loads(lines[-1])
    assert {**told, "seconds": 0} == {**before, "seconds": 0}  # the same run, but for its time

    with (out / "regrets.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * len(CORE)
    for suite in ("bbob", "hpobench", "all"):
        ElementTree.parse(out / f"ranks-{suite}.svg")


def test_a_run_is_judged_by_the_truth_about_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run = search.race("hpobench/one", "random", 3, 12)
    assert run.regret(12, visited=True) == min(run.regrets) <= run.regret(12)
    assert run.regret(12) == run.regrets[int(np.argmax(run.scores))]
    assert run.regret(10) == run.regrets[int(np.argmax(run.scores[:10]))]
    assert search.race("hpobench/one", "random", 3, 12).scores == run.scores
    noise = np.array(run.scores) - [-10 * regret for regret in run.regrets]
    other = search.race("hpobench/two", "lhs", 3, 12)
    np.testing.assert_allclose(np.array(other.scores) + 10 * np.array(other.regrets), noise)  # common to all contenders
    assert not np.isclose(noise, [np.random.default_rng([3, n]).standard_normal() for n in range(12)]).any()

    named = SPHERE.decode([0.6, 0.5, 0.45])

    class Knowing(peers.Ours):
        def recommend(self) -> Config | None:
            return named

    monkeypatch.setattr(search, "contender", lambda name, race: Knowing(race, "random", {}))
    assert search.race("hpobench/one", "random", 3, 12).regret(12) == pytest.approx(-value(named) / 10)


def test_the_last_evaluations_confirm_under_noise() -> None:
    plain, confirmed = (search.race("hpobench/one", f"random{more}", 3, 20) for more in ("", ":confirm=4"))
    assert confirmed.scores[:14] == plain.scores[:14]
    leaders = np.argsort(plain.scores[:14])[::-1][:4]
    assert confirmed.regrets[14:18] == [plain.regrets[i] for i in leaders]
    means = {i: (plain.scores[i] + confirmed.scores[14 + place]) / 2 for place, i in enumerate(leaders)}
    better = sorted(leaders, key=lambda i: -means[i])[:2]
    assert confirmed.regrets[18:] == [plain.regrets[i] for i in better]
    means |= {i: (2 * means[i] + confirmed.scores[18 + place]) / 3 for place, i in enumerate(better)}
    assert confirmed.regret(20) == plain.regrets[max(means, key=lambda i: means[i])]
    assert confirmed.regret(10) == plain.regret(10)
    still = search.race("bbob/still", "random:confirm=4", 3, 20)
    assert still.scores == search.race("bbob/still", "random", 3, 20).scores


def test_a_contender_that_fails_or_ends_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Failing(Contender):
        def __init__(self, race: Race) -> None:
            self.asked = 0

        def ask(self) -> Config | None:
            self.asked += 1
            if self.asked == 3:
                raise RuntimeError("no\nmore")
            return SPHERE.decode([0.5] * 3)

        def tell(self, score: float) -> None:
            pass

    class Ended(peers.Ours):
        def recommend(self) -> Config | None:
            return {"x": 4}

    monkeypatch.setattr(search, "contender", lambda name, race: Failing(race))
    run = search.race("bbob/still", "random", 0, 12)
    assert run.error == "no more"
    assert len(run.regrets) == 2
    assert run.regret(10) == run.regret(12) == run.regrets[0]
    few = Problem(Space(x=Int(1, 6)), lambda config: config["x"] / 6, 1.0, lambda config, rng: rng.normal())  # type: ignore[operator]
    monkeypatch.setattr(problems, "problem", lambda name: few)
    monkeypatch.setattr(search, "contender", lambda name, race: Ended(race, "random", {}))
    ended = search.race("hpobench/few", "random", 0, 12)
    assert len(ended.regrets) == 6
    assert ended.regret(10) == ended.regret(12) == 1 - 4 / 6  # what it recommends at the end
    write(tmp_path, [], [run], 12)
    assert "- bbob/still, random, seed 0: no more" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_processes_give_the_runs_of_one(tmp_path: Path) -> None:
    pytest.importorskip("ioh")
    jobs = [(f"bbob-mixint/f{function}/i1/d5", "optuna-tpe", seed, 15) for function in (1, 2) for seed in (0, 1)]
    one = {search.key(run): run.scores for run in search.results(jobs, 1)}
    assert {search.key(run): run.scores for run in search.results(jobs, 2)} == one


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--contenders", "optuna-tpee"], 'no contender "optuna-tpee"; did you mean "optuna-tpe"?'),
        (["--contenders", "bo:n_int=3"], 'GPBO has no option "n_int"; did you mean "n_init"?'),
        (["--contenders", "bo:n_init=x"], "GPBO: n_init must be an integer, got 'x'"),
        (["--contenders", "bo:n_init=0"], "n_init >= 1 must hold"),
        (["--contenders", "bo:confirm=x"], "bo:confirm=x: confirm >= 0 must hold, got 'x'"),
        (
            ["--contenders", "bo:confirm=8", "--budget", "14"],
            "confirm=8 leaves no evaluations for the search, got a budget of 14",
        ),
        (["--functions", "1-x"], "--functions"),
        (["--problems", "bob"], "--problems"),
        (["--budget", "1"], "--budget"),
        (["--problem", "bbob"], "unknown argument --problem; did you mean"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "search", "--out", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"partune: error: {message}")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(UserError, match="is not a file of runs"):
        search.bench(options(tmp_path))


def test_the_first_seed_and_the_order_of_runs(tmp_path: Path) -> None:
    jobs = search.list_jobs(options(tmp_path, first_seed=1000), ["p", "q"], ["a", "b"])
    assert [job[:3] for job in jobs[:5]] == [
        ("p", "a", 1000),
        ("p", "b", 1000),
        ("q", "a", 1000),
        ("q", "b", 1000),
        ("p", "a", 1001),
    ]
