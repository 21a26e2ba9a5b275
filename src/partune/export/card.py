"""Write the model card: the README.md of an export, in the Hugging Face Hub's format, without local paths."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from partune.export.check import Check
from partune.export.chosen import Chosen, is_file, name_of
from partune.export.usage import Tokenizer, usage
from partune.report.data_notes import loss_notes
from partune.report.plain_data import Summary
from partune.report.verdict_words import advice, defaults_called, lost_words, small_print, sources
from partune.report.words import (
    baseline_rows,
    coverage_words,
    heading_of_test,
    loss_words,
    score_of,
    span,
    tests_of,
    value,
)
from partune.runtime import strict_yaml
from partune.runtime.markdown import code, fenced, plain, table
from partune.trial import Trial
from partune.trial.goals import goal_of, goal_on_test

NEVER_JUDGED = (
    "**The scores below are not those of this model.** The study trained and scored the adapter on the base model in "
    "4 bits (nf4). Here it is merged into the base model in full precision, and this combination was never scored."
)
NEVER_SCORED = (
    "**The scores below are not those of this model.** They are those of the adapter in the study. Here the adapter is "
    "merged and the model is quantized; the result was never scored. `partune export --check` scores it."
)
BITS = {"nf4": "4 bits (nf4)", "int8": "8 bits (int8)"}


@dataclass(frozen=True)
class Exported:
    """What an export contains.

    Attributes:
        merged: Whether it is a model with the adapter merged in.
        quantized: The form of the merged model's weights, nf4 or int8; None if they are not quantized.
        tokenizer: The tokenizer; None if there is none.
        check: The result of scoring the export; None if it was not scored.
    """

    merged: bool = False
    quantized: str | None = None
    tokenizer: Tokenizer | None = None
    check: Check | None = None


def card(
    summary: Summary,
    study: Mapping[str, Any] | None,
    trial: Trial | str,
    chosen: Chosen | None,
    exported: Exported,
) -> str:
    """Return the text of the card.

    Args:
        summary: The summary of the study.
        study: The content of a file that repeats the study (`partune.export.repeat`); None if there is none.
        trial: The trial that is exported, or the name of a baseline; "defaults" is the first one.
        chosen: The settings with which that trial was trained; None if they are not known.
        exported: What the export contains.
    """
    parts = [_front(chosen, exported), *_opening(summary, trial, chosen, exported), *_scores(summary, trial)]
    if (check := exported.check) is not None:
        parts += ["## Does this export score as the adapter?", plain(check.sentence)]
    if chosen is not None:
        parts += usage(chosen, exported.merged, exported.tokenizer, exported.quantized is not None)
        parts += ["## How it was trained", table([("setting", "value"), *_settings(chosen)])]
        parts += [plain(note) for note in loss_notes(summary["loaded"].get("data", {}))]
    parts += ["## What the search cost", _cost(summary)]
    parts += ["## How to repeat it", *_repeating(summary, study)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(chosen: Chosen | None, exported: Exported) -> str:
    """Return the metadata at the head of the card, which the Hub reads."""
    data: dict[str, Any] = {}
    merged = exported.merged
    tags = ["lora", "partune", *(["bitsandbytes"] if exported.quantized is not None else [])]
    if chosen is not None:
        if chosen.has_id:
            data["base_model"] = chosen.model.path
            tags.append(f"base_model:{'finetune' if merged else 'adapter'}:{chosen.model.path}")
        if not is_file(chosen.data.path):
            data["datasets"] = [chosen.data.path]
    data |= {
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---"


def _opening(summary: Summary, trial: Trial | str, chosen: Chosen | None, exported: Exported) -> list[str]:
    what = "Model with a LoRA adapter merged in" if exported.merged else "LoRA adapter"
    for_model = f" for {code(name_of(chosen.model.path))}" if chosen is not None else ""
    for_model += "" if exported.quantized is None else f", in {BITS[exported.quantized]}"
    which = _called(summary, trial) if isinstance(trial, str) else f"trial {trial.number} of {len(summary['trials'])}"
    warning = []
    if exported.merged and exported.check is None and chosen is not None:
        warning += [NEVER_JUDGED] if chosen.model.quantize != "none" else []
        warning += [NEVER_SCORED] if exported.quantized is not None else []
    return [
        f"# {what}{for_model}",
        *warning,
        f"Found by partune {importlib.metadata.version('partune')}, which searches LoRA's hyperparameters: {which}.",
    ]


def _called(summary: Summary, name: str) -> str:
    """Return a baseline's name for use in sentences.

    Args:
        summary: The summary of the study.
        name: The name of the baseline; "defaults" is the first one.
    """
    return next((row["called"] for row in summary["baselines"] if row["name"] == name), defaults_called(summary))


# ----- is it better?


def _scores(summary: Summary, trial: Trial | str) -> list[str]:
    rows = baseline_rows(summary)
    best = summary["best"]
    is_best = best is not None and not isinstance(trial, str) and best["trial"] == trial.number
    ships = is_best and isinstance(trial, Trial) and (best["ships"] == "first" or trial.order is not None)
    if ships:
        rows["this one"] = {**best, **(best["shipped"] if best["ships"] == "fresh" else {})}
    elif isinstance(trial, Trial) and trial.observation is not None:
        score = {"score": trial.score, "stderr": trial.observation.stderr}
        rows["this one"] = {**score, "verdict": None, "test": {}, "error": None}
    else:
        first = list(rows)[1]
        rows["this one"] = rows.pop(trial if trial in rows else first)
    tests = tests_of(rows.values())
    goal = goal_of(summary["loaded"])
    cells = [
        (
            name,
            plain(str(row["error"])) if row["score"] is None else score_of(row, goal),
            score_of(row["verdict"], goal),
            *(score_of(row["test"].get(test), goal_on_test(summary["loaded"], test)) for test in tests),
        )
        for name, row in rows.items()
        if row is not None
    ]
    metric = summary["loaded"].get("scoring", {}).get("metric")
    paragraphs = ["## Is it better?"]
    if is_best and (verdict := summary["verdict"]) is not None:
        paragraphs += [f"**{plain(verdict['sentence'])}**", small_print(summary)]
        paragraphs += [f"**{plain(lost.strip())}**"] if (lost := lost_words(summary)) else []
        paragraphs += advice(summary)
        paragraphs += (
            [] if ships else ["This adapter is from the winner's first run; the study ships another run's adapter."]
        )
    elif is_best:
        paragraphs.append("No verdict: the winner has no scores on the held-out items.")
    else:
        paragraphs.append("The study's verdict is about its winner, which is another trial.")
    names = (
        "",
        "search items",
        "held-out items",
        *(heading_of_test(summary, test, code(name_of(test))) for test in tests),
    )
    paragraphs.append(table([names, *cells]))
    paragraphs += [plain(note) for note in sources(summary)]
    if goal.lower_is_better:
        paragraphs.append("The table shows losses ± one standard error. The search saw only the search items.")
    elif metric is not None:
        paragraphs.append(f"Scores are {code(str(metric))} ± one standard error. The search saw only the search items.")
    return [*paragraphs, *(plain(sentence) for sentence in loss_words(summary))]


# ----- how it was trained


def _settings(chosen: Chosen) -> list[tuple[str, str]]:
    model, data, training = chosen.model, chosen.data, chosen.training
    length = f"{training.steps} steps" if training.steps is not None else f"{training.epochs:g} epochs"
    optimizer = training.optimizer + (f", momentum {value(training.momentum)}" if training.optimizer == "sgd" else "")
    revision = "" if model.revision is None else f", revision {code(model.revision)}"
    decay, clip = value(training.weight_decay), value(training.max_grad_norm)
    quantized = "" if model.quantize == "none" else f", kept in 4 bits ({model.quantize})"
    return [
        ("base", f"{code(name_of(model.path))}{revision}, {chosen.dtype}{quantized}"),
        ("data", f"{code(', '.join(map(name_of, data.paths)))}, {chosen.examples} examples, {chosen.rows} rows"),
        ("loss on", "the answers" if data.loss_on == "answer" else "prompts and answers"),
        ("maximum length", f"{data.max_length} tokens"),
        ("rank r", f"{training.lora_r}"),
        ("alpha", value(training.lora_alpha)),
        ("dropout", value(training.lora_dropout)),
        ("adapted layers", _adapted(chosen)),
        ("learning rate", f"{value(training.learning_rate)} at its peak, {training.schedule} schedule"),
        ("warm-up", f"{chosen.warmup} steps"),
        ("length", length if training.steps is not None else f"{length}, {chosen.steps} steps"),
        ("batch", f"{training.batch_size} examples per step"),
        (
            "optimiser",
            f"{optimizer}, weight decay {decay}, gradient norm clipped at {clip}",
        ),
        ("seed", f"{chosen.seed}; the data's order: {chosen.order_seed}"),
    ]


def _adapted(chosen: Chosen) -> str:
    """Return the names of the layers with adapters, in PEFT's form, and a description of where they are."""
    names = ", ".join(code(target) for target in chosen.targets)
    return names if chosen.covered is None else f"{names}: {plain(coverage_words(chosen.covered))}"


# ----- what it cost, how to repeat it


def _cost(summary: Summary) -> str:
    seconds, loaded = summary["seconds"], summary["loaded"]
    on = f" on {code(str(loaded['device']))}" if "device" in loaded else ""
    return (
        f"{len(summary['trials'])} trials by {code(str(summary['algorithm']))}{on}: {span(seconds['trials'])} of "
        f"device time (training {span(seconds['training'])}, scoring {span(seconds['scoring'])}); "
        f"base, defaults and verdict: {span(seconds['anchors'])}."
    )


def _repeating(summary: Summary, study: Mapping[str, Any] | None) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    libraries = f"Versions: {plain(versions)}."
    if study is None:
        return [libraries]
    return [
        "Save this file as `study.yaml`, correct its paths, and run `partune tune study.yaml`. It leaves out where the "
        "study ran: workers, devices and a database.",
        fenced(strict_yaml.dump(study), "yaml"),
        "The folder `recipes/`, if it is beside this file, contains files that repeat the training with other tools.",
        libraries,
    ]
