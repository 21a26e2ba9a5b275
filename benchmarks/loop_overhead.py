"""Measure what the study loop costs per trial, with Dask and without, by trials that do nothing (docs/cluster.md).

    OMP_NUM_THREADS=1 python benchmarks/loop_overhead.py

Studies are real (`Study.run`, `random`, recorded on disk). They alternate between this process and Dask's worker
processes on this machine, which have loaded everything before. The first trials of a study are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from partune.space import Float, Space
from partune.study import Study, Watcher
from partune.trial import Config, Trial
from partune.workers import local
from partune.workers.base import Inline, Workers

SPACE = Space(x=Float(0.0, 1.0))
WARM = 20  # trials not counted


class Clock(Watcher):
    """A watcher that notes when each trial ended.

    Attributes:
        times: The times, in seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self.times: list[float] = []

    def finished(self, trial: Trial) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def nothing(config: Config) -> float:
    """Return a score at once."""
    return config["x"]


def cost(workers: Workers, trials: int) -> float:
    """Return the milliseconds per trial.

    Args:
        workers: What runs the trials.
        trials: How many to count.
    """
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        Study(SPACE, nothing, "random", 0, Path(folder) / "s", workers=workers, watcher=clock).run(WARM + trials)
    return (clock.times[-1] - clock.times[-1 - trials]) / trials * 1000


def main() -> None:
    """Measure every kind of workers in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with Inline() as here, local.local(1) as one, local.local(2) as two:
        rows: dict[str, tuple[Workers, list[float]]] = {
            "in process": (here, []),
            "Dask, 1 worker": (one, []),
            "Dask, 2 workers": (two, []),
        }
        for workers, costs in [*rows.values()] * options.repeats:
            costs.append(cost(workers, options.trials))
    print("| trials run | ms per trial, median | least | most |\n|---|---|---|---|")
    for name, (_, costs) in rows.items():
        print(f"| {name} | {median(costs):.1f} | {min(costs):.1f} | {max(costs):.1f} |")


if __name__ == "__main__":
    main()
