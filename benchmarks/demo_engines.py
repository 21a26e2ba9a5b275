"""Run the whole demo study with PEFT's engine, with packs, and with packs and rungs: CPU-seconds and scores.

    python benchmarks/demo_engines.py --seeds 3 --budget 30 --out demo-engines.csv

Each study runs in a process of its own, baselines and verdict included. Its CPU time is counted once everything is
loaded (imports, base, tasks), which takes the same for all and is reported apart. Engines take turns within a seed.
`short` is another way to save time: a ninth of the epochs for every trial, then the best few in full.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ENGINES: dict[str, dict[str, Any]] = {
    "peft": {"engine": "peft"},
    "packed": {"engine": "packed"},
    "rungs": {"engine": "packed", "stop": "rungs", "pack": 8},  # wider, as rungs empty its slots
    "short": {"engine": "packed"},
}
SHORT, FULL = 1 / 9, 5  # the share of the steps, and how many of the best are trained in full


def run(name: str, seed: int, budget: int, algorithm: str) -> dict[str, float]:
    """Run one study and return its CPU-seconds and scores.

    Args:
        name: The engine.
        seed: The study's seed.
        budget: Its trials.
        algorithm: Its algorithm.
    """
    import time

    from partune import Study, config
    from partune.demo import DIRECTORY
    from partune.objectives.finetune import ALL, FineTune
    from partune.space import SPACES
    from partune.trial import Trial

    file = config.parse(config.load(DIRECTORY.parent / "study.yaml"))
    given = {"engine": "packed", "stop": "none"} | ENGINES[name]
    steps = file.training.steps or 100
    if name == "short":
        given["steps"] = round(SHORT * steps)
    training = file.training.model_copy(update={"steps": given.pop("steps", steps)})
    changed = file.model_copy(
        update={
            "run": file.run.model_copy(update=given),
            "training": training,
            "search": file.search.model_copy(update={"seed": seed}),
        }
    )
    objective = FineTune.of(changed)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(
            SPACES["lora"], objective, algorithm, seed, directory=Path(folder) / "study", stop=given.get("stop", "none")
        )
        loaded = time.process_time()
        study.run(budget)
        best, anchor = study.best, study.anchors["winner"]
        if name == "short":
            whole = FineTune.of(changed.model_copy(update={"training": file.training}))
            paused = time.process_time()
            whole.prepare()  # the same base once more: no part of what the study takes
            loaded += time.process_time() - paused
            leaders = sorted(study.trials, key=lambda trial: -trial.score)[:FULL]
            found = [whole.evaluate(Trial(t.number, t.config, seed=t.seed), None, ALL) for t in leaders]
            winner = max(found, key=lambda each: each.score)
            score, verdict = winner.score, winner.scores["verdict"]
        else:
            assert anchor.observation is not None
            score, verdict = best.score, anchor.observation.scores["verdict"]
        spent = time.process_time() - loaded
        study.close()
    return {"loading": loaded, "study": spent, "score": score, "verdict": verdict}


def main() -> None:
    """Run every engine with every seed, write the table and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=30)
    parser.add_argument("--algorithm", default="bo")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--out", default="demo-engines.csv")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, seed = arguments.one
        print(json.dumps(run(name, int(seed), arguments.budget, arguments.algorithm)))
        return
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for name in arguments.engines:
            command = [sys.executable, __file__, "--one", name, str(seed)]
            command += ["--budget", str(arguments.budget), "--algorithm", arguments.algorithm]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append({"engine": name, "seed": seed, **json.loads(answer.splitlines()[-1])})
            print(
                " ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in rows[-1].items()
                ),
                flush=True,
            )
    with open(arguments.out, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    first = arguments.engines[0]
    for name in arguments.engines:
        own = [row for row in rows if row["engine"] == name]
        ratios = [a["study"] / b["study"] for a, b in zip((r for r in rows if r["engine"] == first), own, strict=True)]
        cells = [statistics.mean(row[key] for row in own) for key in ("study", "score", "verdict")]
        print(
            f"{name}: {cells[0]:.1f} CPU-seconds, search score {cells[1]:.4f}, verdict score {cells[2]:.4f}; "
            f"{first} over it {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
