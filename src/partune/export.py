"""What a study hands over: the winner's adapter in PEFT's format, or the whole model with it merged in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from partune import config
from partune.errors import UserError
from partune.storage import CONFIG, Record
from partune.winner import winner_of


def export(
    directory: Path,
    out: Path,
    trial: int | Literal["defaults"] | None = None,
    merge: bool = False,
    storage: str | None = None,
) -> Path:
    """Writes an adapter, the best trial's by default, or the model with it merged in, to `out`.

    `out` must not exist yet. storage: the URL of the study's database, where it needs a password or has moved.
    Raises UserError where the study has no such adapter.
    """
    record = Record.open(directory, read_only=True, storage=storage)
    if out.exists():
        raise UserError(f"{out} exists already and is never overwritten: choose another folder")
    if trial is None:
        winner = winner_of(record)
        if winner is None:
            raise UserError(f"{directory}: no trial has finished yet")
        trial = winner.number
    adapter = record.adapter(trial)
    if not adapter.is_dir():
        kept = sorted(int(each.name) for each in adapter.parent.glob("[0-9]*"))
        names = ", ".join(map(str, kept)) or "none"
        whose = trial if isinstance(trial, str) else f"trial {trial}"
        raise UserError(f"{directory} keeps no adapter of {whose}; kept: {names} (--keep keeps more)")
    if merge:
        _merge(directory, adapter, out)
    else:
        _copy(adapter, out)
    return out


def _merge(directory: Path, adapter: Path, out: Path) -> None:
    from partune.finetune.adapter import merge

    study = config.parse(config.load(directory / CONFIG))
    if study.model is None:
        raise UserError(f"{directory} fine-tuned no model")
    merge(study.model, adapter, out)


def _copy(adapter: Path, out: Path) -> None:
    draft = out.with_name(f".{out.name}.draft")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(adapter, draft)
        draft.rename(out)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
