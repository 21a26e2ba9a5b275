"""Find out which model a path or name means: an adapter, the winner of a study, a model, or the base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from partune import config
from partune.errors import UserError
from partune.finetune.scoring.models import Candidate
from partune.record.record import Record
from partune.runtime.paths import as_path, command_on, suggestion_beside
from partune.trial.contents import differences
from partune.trial.names import WinnerScoring
from partune.verdict.models.kinds import kind_of
from partune.verdict.winner import best, scoring, ships_fresh, worths

IN = {"none": "in full precision", "nf4": "in 4 bits (nf4)"}


@dataclass(frozen=True)
class Named:
    """A model that the user named.

    Attributes:
        candidate: The model to score.
        words: A description of the model.
        notes: Sentences that a reader should know about it.
        data: Section `data` of the study that trained the adapter; None for other models.
        chosen_by: The tasks, or the file of validation rows, whose search items chose the adapter among others.
    """

    candidate: Candidate
    words: str
    notes: tuple[str, ...] = ()
    data: config.Data | None = None
    chosen_by: tuple[str, ...] = ()


def named(place: str | Path, base: config.Model | None) -> Named:
    """Return the model that a path or a name stands for.

    Args:
        place: The folder of an adapter, a study's directory, the folder or id of a model, or "base".
        base: The base model of adapters; None if the user named none.

    Raises:
        UserError: There is no such model, or its base model is not known.
    """
    kind, text = kind_of(place), str(place)
    if kind == "samples":
        raise UserError(f"{text} is neither an adapter's folder, nor a study's directory, nor a model's folder")
    if kind == "study":
        return _winner(as_path(place), base)
    if kind in ("base", "adapter") and base is None:
        raise UserError(f"{text} needs its base model: name it with `--model`")
    if kind == "base":
        assert base is not None
        return Named(Candidate(base), base.path)
    if kind == "adapter":
        assert base is not None
        return Named(Candidate(base, as_path(place)), f"an adapter on {base.path}")
    if kind is None and (text.startswith((".", "~", "/")) or text.count("/") > 1):
        raise UserError(f"no folder {text}{suggestion_beside(as_path(place))}")
    trust = {} if base is None else {"trust_remote_code": base.trust_remote_code, "safetensors": base.safetensors}
    return Named(Candidate(config.validated(config.Model, {"path": text, **trust})), "a model")


def _winner(directory: Path, base: config.Model | None) -> Named:
    """Return the adapter that a study would export."""
    from partune.finetune.digests import of_model

    record = Record.open(directory, read_only=True)
    trials, runs = record.trials(), record.anchors()
    winner = best(trials, runs, worths(trials, record.space, record.noisy))
    if winner is None:
        raise UserError(
            f"{directory}: no trial has finished yet; continue the study with `{command_on('resume', directory)}`"
        )
    own = record.header["objective"].get("model")
    if own is None:
        raise UserError(f"{directory} is not a fine-tuning study, so it has no model")
    model = base or config.validated(config.Model, own)
    judged = scoring(winner, runs) is not None and ships_fresh(runs)
    adapter = record.adapter(WinnerScoring.JUDGED if judged else winner.number)
    if not adapter.is_dir():
        raise UserError(f"{directory} has no adapter of its winner, trial {winner.number}")
    changed, _ = differences(record.contents, of_model(model))
    if changed:
        raise UserError(
            f"{model.path} is not the base model of {directory}: it has other contents than {' and '.join(changed)} "
            "on record"
        )
    quantized = own.get("quantize", "none")
    notes = (
        [f"{directory} trained its adapters on the base model {IN[quantized]}, and here it is {IN[model.quantize]}."]
        if quantized != model.quantize
        else []
    )
    data = config.validated(config.Data, record.header["objective"]["data"])
    words = f"trial {winner.number}, the winner, on {model.path}"
    validation = record.header["objective"]["validation"]
    rows = validation.get("data")
    chosen_by = tuple(validation["tasks"]) or (() if rows is None else (rows,))
    return Named(Candidate(model, adapter), words, tuple(notes), data, chosen_by)
