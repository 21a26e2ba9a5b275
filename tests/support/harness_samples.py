"""Files as lm-evaluation-harness writes them with `--log_samples`: made up, and by the harness itself."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

DATE = "2026-01-02T03-04-05.678901"

Line = dict[str, Any]


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def lines(
    scores: Sequence[Any], metric: str = "acc", filter: str = "none", start: int = 0, task: str = "t"
) -> list[Line]:
    """The lines of a samples file, one for each score; documents are numbered from `start`."""
    return [
        {
            "doc_id": number,
            "doc": {"question": f"{task} {number}"},
            "target": "0",
            "arguments": {},
            "resps": [],
            "filtered_resps": [],
            "filter": filter,
            "metrics": [metric],
            "doc_hash": hashed(f"{task} {number}"),
            "prompt_hash": hashed(f"prompt of {task} {number}"),
            "target_hash": hashed("0"),
            metric: score,
        }
        for number, score in enumerate(scores, start)
    ]


def header(tasks: Mapping[str, Sequence[Line]], higher: bool = True) -> dict[str, Any]:
    """The results file of a run, with the means of all metrics that are numbers."""
    results: dict[str, dict[str, float]] = {}
    for task, samples in tasks.items():
        values: dict[str, list[float]] = {}
        for sample in samples:
            for metric in sample["metrics"]:
                if isinstance(sample.get(metric), (int, float)):
                    values.setdefault(f"{metric},{sample['filter']}", []).append(sample[metric])
        results[task] = {key: math.fsum(each) / len(each) for key, each in values.items()}
    sizes = {task: len({sample["doc_id"] for sample in samples}) for task, samples in tasks.items()}
    metrics = {
        task: {metric: higher for sample in samples for metric in sample["metrics"]} for task, samples in tasks.items()
    }
    return {
        "results": results,
        "versions": dict.fromkeys(tasks, 1.0),
        "n-shot": dict.fromkeys(tasks, 0),
        "n-samples": {task: {"original": size, "effective": size} for task, size in sizes.items()},
        "higher_is_better": metrics,
        "config": {"gen_kwargs": None},
        "lm_eval_version": "0.4.13",
        "model_name": "made-up",
        "system_instruction_sha": None,
        "chat_template_sha": None,
    }


def write_run(
    folder: Path, tasks: Mapping[str, Sequence[Line]], results: Mapping[str, Any] | None = None, date: str = DATE
) -> Path:
    """Write one run; results: of `header`, or {} for no results file."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, samples in tasks.items():
        text = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / f"samples_{task}_{date}.jsonl").write_text(text, encoding="utf-8")
    if results is None or results:
        data = header(tasks) if results is None else results
        (folder / f"results_{date}.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def scored(folder: Path, scores: Sequence[Any], metric: str = "acc", **options: Any) -> Path:
    """Write a run of one task, t."""
    return write_run(folder, {"t": lines(scores, metric, **options)})


def evaluated(folder: Path, model: Path, tasks: Path, names: Sequence[str], **options: Any) -> Path:
    """Let the harness itself score a model on local tasks, as its command line does with --log_samples."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from partune.runtime.isolation import quiet

    for path in tasks.glob("*.yaml"):  # the harness looks for data files in the working directory
        text = re.sub(r"test: (\w+\.jsonl)", lambda match: f"test: {tasks}/{match[1]}", path.read_text())
        path.write_text(text)
    tracker = EvaluationTracker(output_path=str(folder))
    # The harness lists what pip and others know of the machine, which takes longer than the models.
    with quiet(), patch("torch.utils.collect_env.get_pretty_env_info", return_value=""):
        found = lm_eval.simple_evaluate(
            "hf",
            model_args=f"pretrained={model},dtype=float32",
            tasks=list(names),
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            evaluation_tracker=tracker,
            log_samples=True,
            device="cpu",
            bootstrap_iters=0,
            **options,
        )
        samples = found.pop("samples")
        tracker.save_results_aggregated(results=found, samples=samples)
        for task in found["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
    return folder
