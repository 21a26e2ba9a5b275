"""Refuse a study, before any work, whose settings have no effect or whose validation rows are trained on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from partune.config import Data, StudyConfig, unused
from partune.errors import UserError


def vet(study: StudyConfig, searched: Collection[str]) -> None:
    """Refuse a study whose settings cannot mean what the user wants.

    Args:
        study: The settings of a study that is about to begin.
        searched: The names of the study's hyperparameters.

    Raises:
        UserError: A setting would have no effect, or the validation rows are rows of the training data.
    """
    unused.refuse(study, searched)
    if study.data is None or study.validation is None or study.validation.data is None:
        return
    held_out = study.data.model_copy(update={"path": study.validation.data})
    if (shared := _shared(study.data, held_out)) is not None:
        trained, scored = shared
        linked = "" if trained == scored else f", which is {trained}"
        raise UserError(
            f"validation.data names rows that are trained on: {scored}{linked}; name other rows, or leave out "
            "`--validation-data`, so that a share of the data is held out (`--validation-split`)"
        )


def _shared(data: Data, other: Data) -> tuple[str, str] | None:
    """Return the first path or id in `data`, and that in `other`, that name the same file, folder or data set.

    A data set of the Hub is the same if its id is, because validation rows are read with the configuration and the
    split of the data.
    """
    pairs = ((ours, theirs) for ours in data.paths for theirs in other.paths)
    return next(((ours, theirs) for ours, theirs in pairs if ours == theirs or _is_same_file(ours, theirs)), None)


def _is_same_file(path: str, other: str) -> bool:
    """Return whether two paths, which may be links, lead to the same file or folder."""
    try:
        return Path(path).expanduser().samefile(Path(other).expanduser())
    except (OSError, RuntimeError, ValueError):  # no such file, no such user, or not the name of a file
        return False
