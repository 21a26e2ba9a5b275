"""Write the study file with which `partune tune` repeats a study, for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partune import config
from partune.errors import UserError
from partune.export.chosen import name_of
from partune.record.record import CONFIG, Record
from partune.report.plain_data import Summary
from partune.trial.names import WinnerScoring
from partune.verdict.winner import shipped, ships_fresh

# The settings of `run` that decide what a study does. The others say where it runs, with paths and addresses.
REPEATED = ("engine", "pack", "stop", "compile", "keep")
NEEDS_TRUST = "trust_task_code"  # the only setting of `validation` that is not recorded, since it changes no score


def study_file(record: Record, summary: Summary) -> dict[str, Any]:
    """Return the content of a study file that repeats a study, without default values and with paths cut to names.

    The settings that decide the trials are read from the record, the other settings from the study's own file. A study
    that was begun from Python has no file; its other settings are inferred from its record.

    Args:
        record: The record of a fine-tuning study.
        summary: The summary of the study.
    """
    header, file = record.header, _file_of(record)
    objective = _with_names_only(header["objective"], summary["space"])
    engine = {"engine": objective.pop("engine")} if "engine" in objective else {}
    end = _end_on_record(record, summary) if file is None else _end_of(file.search)
    run = {} if file is None else {name: getattr(file.run, name) for name in REPEATED}
    if file is not None and file.validation is not None:
        objective["validation"][NEEDS_TRUST] = file.validation.trust_task_code
    study = {
        "version": 1,
        **objective,
        "space": summary["space"],
        "search": {
            "algorithm": summary["algorithm"],
            "budget": summary["budget"] or len(summary["trials"]) or 1,
            "seed": summary["seed"],
            "options": header.get("options", {}),
            **end,
        },
        "run": {**run, **engine, "stop": header.get("stop", "none")},
    }
    return {"version": 1, **config.parse(study).model_dump(mode="json", exclude_defaults=True)}


def _file_of(record: Record) -> config.StudyConfig | None:
    """Return the settings in a study's file; None if there is no file, or if it is no longer valid."""
    if record.directory is None or not (record.directory / CONFIG).is_file():
        return None
    try:
        return config.parse(config.load(record.directory / CONFIG))
    except UserError:
        return None


def _with_names_only(recorded: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's objective with each path cut to its last part, and without the searched settings.

    recorded: The objective on record.
    space: The study's space.
    """
    objective = {name: dict(value) if isinstance(value, Mapping) else value for name, value in recorded.items()}
    for section in ("training", "data"):  # the record has defaults for searched settings too, which would fix them
        objective[section] = {key: value for key, value in objective[section].items() if key not in space}
    objective["model"]["path"] = name_of(objective["model"]["path"])
    data, validation = objective["data"], objective["validation"]
    data["path"] = _names_of(data["path"])
    if (template := data.get("chat_template")) is not None and "{" not in template:
        data["chat_template"] = name_of(template)
    for section in ("validation", "test"):
        objective[section]["tasks"] = [name_of(task) for task in objective[section]["tasks"]]
    if (rows := validation.get("data")) is not None:
        validation["data"] = _names_of(rows)
    return objective


def _names_of(paths: str) -> str:
    """Return comma-separated paths, each cut to its last part."""
    return ",".join(map(name_of, paths.split(",")))


def _end_of(search: config.Search) -> dict[str, Any]:
    """Return the settings of what happens after the search."""
    return {"confirm": search.confirm, "seeds": search.seeds, "ship": search.ship}


def _end_on_record(record: Record, summary: Summary) -> dict[str, Any]:
    """Return the settings of what happened after the search, as the runs on record show them.

    record: The record of the study.
    summary: The summary of the study.
    """
    runs, best, looks = record.anchors(), summary["best"], record.looks
    end: dict[str, Any] = {"confirm": len(summary["confirmed"])}
    if looks:
        end["seeds"] = looks[-1].seeds
    if best is not None and ships_fresh(runs):
        winner = record.trials()[best["trial"]]
        of_best = shipped(winner, runs, "best").seed == runs[WinnerScoring.JUDGED].seed
        end["ship"] = "best" if of_best else "median"
    return end
