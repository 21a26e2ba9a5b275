"""Measure the demo's landscape for `partune bench search --problems demo`.

    python benchmarks/search_landscape.py [--configurations 2048] [--again 128] [--seeds 3] [--pack 16]

Train Sobol points of the demo's space in packs: each once, scored on the search and verdict items and, on the way, at
both rungs; some again with fresh seeds, for the noise. Every trial is a line of `landscape.csv`, written when it ends.
Trials that the file holds are not repeated, so the script can be stopped and started at will. When it holds all of
them, the surfaces are fitted (two minutes for 2000 rows) and the file that `partune.bench.search.landscape` reads is
written; rows that are left out in turn say how well the surfaces predict.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from partune import config
from partune.bench.search.landscape import FILE, error, fitted
from partune.demo import DIRECTORY
from partune.objectives.finetune import FineTune
from partune.optimizers.surrogate import tamed
from partune.space import SPACES, Float, Int
from partune.trial import Trial
from partune.trial.names import Rung
from partune.trial.rungs import SHARES

SPACE = SPACES["lora"]
PARTS = frozenset({"search", "verdict"})
SCORES = [*(str(Rung(k)) for k in range(len(SHARES))), "score"]
SMOOTH = ("margin", "loss")  # metrics of the search items that move with every bit of the model
HEAD = ["number", "seed", *SPACE.names, *SCORES, "stderr", *SMOOTH, "verdict", "seconds", "error"]
AGAIN = 1_000_000  # the distance between the seeds of one configuration
CHANCE = 0.25  # four choices
TASK = "factory_cloze"

Row = dict[str, Any]


class Watch:
    """A judge that stops no trial, so that each is scored at its rungs and at its end."""

    def report(self, rung: int, score: float) -> None:
        """Take no notice of a score.

        Args:
            rung: The rung's number.
            score: The score there.
        """

    def stops(self, rung: int) -> bool:
        """Return that a trial goes on."""
        return False


def trials(configurations: int, again: int, seeds: int) -> list[Trial]:
    """Return the trials: point i with seed i, and the first points with further seeds, i + AGAIN, ...

    Args:
        configurations: How many points there are.
        again: How many of them have further seeds.
        seeds: How many seeds those have.
    """
    # Seeds follow from numbers, so that a larger table holds every smaller one.
    points = qmc.Sobol(SPACE.dimension, rng=np.random.default_rng(0)).random(configurations)
    configs = [SPACE.decode(point.tolist()) for point in points]
    further = [AGAIN * k + i for k in range(1, seeds) for i in range(min(again, configurations))]
    return [Trial(seed % AGAIN, configs[seed % AGAIN], seed=seed) for seed in [*range(configurations), *further]]


def measured(tuner: FineTune, trial: Trial) -> Row:
    """Run a trial and return its row.

    Args:
        tuner: The demo's objective.
        trial: The trial.
    """
    found = tuner.evaluate_judged(trial, None, Watch(), PARTS)
    return {
        "number": trial.number,
        "seed": trial.seed,
        **trial.config,
        **{name: found.scores.get(name, "") for name in [*SCORES, "verdict"]},
        "stderr": "" if found.stderr is None else found.stderr,
        **{metric: found.scores.get(f"search/{TASK}/{metric}", "") for metric in SMOOTH},
        "seconds": found.cost["seconds"],
        "error": found.error or "",
    }


def collect(measure: Callable[[Trial], Row], left: Sequence[Trial], width: int, path: Path) -> None:
    """Run trials and write each one's line when it ends.

    When it is interrupted it begins no further trial, and writes those that run when they end.

    Args:
        measure: Called with a trial, returns its row.
        left: The trials to run.
        width: How many to run at once.
        path: The file to append to.
    """
    # A line counts as written just before it is: a line that is lost is measured again, but one that is written twice
    # would stay.
    with path.open("a", encoding="utf-8", newline="") as file, ThreadPoolExecutor(width) as pool:
        writer = csv.DictWriter(file, HEAD)
        unwritten = {pool.submit(measure, trial) for trial in left}
        try:
            for future in as_completed(set(unwritten)):
                unwritten.remove(future)
                writer.writerow(future.result())
                file.flush()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            writer.writerows(each.result() for each in unwritten if not each.cancelled() and each.exception() is None)
            raise


def read(path: Path) -> list[Row]:
    """Return the trials in a file, and remove a last line that was cut off."""
    if not path.is_file():
        path.write_text(",".join(HEAD) + "\n", encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(rows: Sequence[Row], name: str) -> Any:
    """Return a column's numbers, (n,); nan for what is missing, as in the row of a trial that diverged.

    Args:
        rows: The rows.
        name: The column.
    """
    return np.array([float(row[name]) if row[name] != "" else np.nan for row in rows])


def write(rows: Sequence[Row], path: Path) -> None:
    """Fit the surfaces and write the landscape's file.

    Args:
        rows: The trials.
        path: The file.
    """
    kinds = {name: int if parameter.values is not None else float for name, parameter in SPACE.hyperparameters.items()}
    points = np.array([SPACE.encode({name: kinds[name](row[name]) for name in SPACE.names}) for row in rows])
    search = np.stack([column(rows, name) for name in SCORES], axis=1)  # (n, f)
    verdict = column(rows, "verdict")
    axes, smoothing = [], []
    for name, values in (("search", search[:, -1]), ("verdict", verdict)):
        whole = np.nan_to_num(values, nan=CHANCE)
        found, smooth = fitted(SPACE, points, whole, sheared())
        axes.append(found)
        smoothing.append(smooth)
        missed = np.sqrt(error(points, tamed(whole), found, smooth))
        print(f"{name}: axes {found.round(2).tolist()}, smoothing {smooth:.3g}, off by {missed:.4f} at rows left out")
    noise = seed_noise(rows)
    print(f"standard deviation over seeds: {noise:.4f}; {np.isnan(verdict).sum()} of {len(rows)} diverged")
    np.savez_compressed(
        path,
        names=np.array(SPACE.names),
        points=points,
        seeds=column(rows, "seed").astype(np.int64),
        search=search,
        shares=np.array([*SHARES, 1.0]),
        stderr=column(rows, "stderr"),
        verdict=verdict,
        chance=CHANCE,
        noise=noise,
        axes=np.array(axes),
        smoothing=np.array(smoothing),
    )
    print(f"wrote {path}, {path.stat().st_size / 1024:.0f} KiB")


def sheared() -> Any:
    """Return the unit cube's axes, (d, d), with log(learning rate x alpha) instead of the learning rate's."""
    axes = np.eye(SPACE.dimension)
    alpha, rate = (SPACE.hyperparameters[name] for name in ("lora_alpha", "learning_rate"))
    assert isinstance(alpha, Int)
    assert isinstance(rate, Float)
    span = math.log(alpha.high / alpha.low) / math.log(rate.high / rate.low)
    axes[SPACE.names.index("lora_alpha"), SPACE.names.index("learning_rate")] = span
    return axes


def seed_noise(rows: Sequence[Row]) -> float:
    """Return the standard deviation over seeds, pooled over the better half of the configurations with several."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] != "":
            scores.setdefault(row["number"], []).append(float(row["score"]))
    several = sorted((each for each in scores.values() if len(each) > 1), key=statistics.fmean)
    better = several[len(several) // 2 :]
    return float(np.sqrt(np.mean([statistics.variance(each) for each in better]))) if better else float("nan")


def main() -> None:
    """Run the trials that are missing and, once there are all, fit and write the landscape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=2048)
    parser.add_argument("--again", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pack", type=int, default=16)
    parser.add_argument("--rows", type=Path, default=Path("landscape.csv"))
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()

    there = {int(row["seed"]) for row in read(options.rows)}
    left = [trial for trial in trials(options.configurations, options.again, options.seeds) if trial.seed not in there]
    print(f"{len(there)} trials there, {len(left)} to run", flush=True)
    if left:
        study = config.parse(config.load(DIRECTORY.parent / "study.yaml"))
        run = study.run.model_copy(update={"pack": options.pack})
        tuner = FineTune.of(study.model_copy(update={"run": run}))
        tuner.check(SPACE)
        collect(lambda trial: measured(tuner, trial), left, options.pack, options.rows)
    rows = read(options.rows)
    print(f"median seconds per trial: {np.median(column(rows, 'seconds')):.2f}", flush=True)
    write(rows, options.out)


if __name__ == "__main__":
    main()
