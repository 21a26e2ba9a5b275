"""Store the files of a record: per-item results, packed in one file per trial, and the adapters of runs."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from partune.errors import UserError
from partune.record.place import Shelf
from partune.runtime.disk import draft_of, retry_while_full, writing_to
from partune.trial.names import RunName, WinnerScoring, adapter_folder, is_further_runs

FOLDERS = re.compile(  # what a folder in adapters/ may be: an adapter, its checkpoint, or a draft of one of the two
    r"([^.].*)|\.([^.].*)-(?:checkpoint|[0-9a-f]{32})|\.\.(.+)-checkpoint-[0-9a-f]{32}"
)

log = logging.getLogger(__name__)


class Artifacts:
    """The files of one record. A study in memory keeps only per-item results.

    Args:
        directory: The study's directory, or None for a study in memory.
        count: A function that returns the number of trials on record. A trial's number names the folder of its adapter.
    """

    def __init__(self, directory: Path | None, count: Callable[[], int]) -> None:
        self._directory = directory
        self._count = count
        self._memory: dict[tuple[Shelf, int], Mapping[str, np.ndarray[Any, Any]]] = {}
        self._warned = False  # whether the user knows that adapters/ is a link

    # ----- per-item results

    def items_path(self, shelf: Shelf, number: int) -> Path:
        """Return the path of the per-item results of a trial or baseline.

        Args:
            shelf: "search" for a trial, "anchors" for a baseline.
            number: The number of the trial or baseline.
        """
        assert self._directory is not None
        return self._directory / "items" / f"{'' if shelf == 'search' else 'anchor-'}{number:04d}.npz"

    def read_items(self, shelf: Shelf, number: int) -> Mapping[str, np.ndarray[Any, Any]] | None:
        """Return the per-item results of a trial or baseline by name, or None if none were written.

        Args:
            shelf: "search" for a trial, "anchors" for a baseline.
            number: The number of the trial or baseline.

        Raises:
            UserError: The file is damaged.
        """
        if self._directory is None:
            return self._memory.get((shelf, number))
        path = self.items_path(shelf, number)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as packed:
                return {name: packed[name] for name in packed.files}
        except (OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is damaged: restore it from a copy ({' '.join(str(error).split())})") from None

    def write_items(self, shelf: Shelf, number: int, items: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Write the per-item results of a trial or baseline completely or not at all.

        Args:
            shelf: "search" for a trial, "anchors" for a baseline.
            number: The number of the trial or baseline.
            items: The arrays by name.

        Raises:
            UserError: The directory cannot be written.
        """
        if self._directory is None:
            self._memory[shelf, number] = dict(items)
            return
        with writing_to(self._directory):
            retry_while_full(lambda: _pack(self.items_path(shelf, number), items))

    # ----- adapters

    def adapter(self, trial: int | RunName) -> Path:
        """Return the folder of an adapter, whether or not it exists.

        Args:
            trial: The number of a trial, or the name of a baseline.

        Raises:
            UserError: The study is in memory.
        """
        if self._directory is None:
            raise UserError("a study in memory keeps no adapters: pass a `directory`")
        return self._directory / "adapters" / (f"{trial:04d}" if isinstance(trial, int) else adapter_folder(trial))

    def adapters(self) -> list[int]:
        """Return the numbers of the trials whose adapters exist."""
        return [number for number in range(self._count()) if self.adapter(number).is_dir()]

    def prune(self, keep: Iterable[int]) -> None:
        """Delete the adapters of trials, confirmations and fresh runs, with their drafts and checkpoints.

        Folders with other names were made by somebody else and stay. Nothing is deleted through a link.

        Args:
            keep: The numbers of the trials whose adapters stay.
        """
        if self._directory is not None:
            kept = set(keep)
            unneeded = {self.adapter(number).name for number in range(self._count()) if number not in kept}
            # Confirmations and fresh runs are needed only for their scores.
            self._delete(self._directory, lambda name: name in unneeded or is_further_runs(name))

    def discard(self, baseline: RunName) -> None:
        """Delete the adapter of a baseline with its drafts and checkpoint.

        Args:
            baseline: The name of the baseline.
        """
        if self._directory is not None:
            self._delete(self._directory, lambda name: name == self.adapter(baseline).name)

    def ship(self, baseline: RunName) -> None:
        """Rename a fresh run's adapter, so that it is the one to export. Do nothing if it was renamed before.

        Args:
            baseline: The name of the fresh run.
        """
        if self._directory is not None and (source := self.adapter(baseline)).is_dir():
            self.discard(WinnerScoring.JUDGED)
            source.rename(self.adapter(WinnerScoring.JUDGED))

    def _delete(self, directory: Path, is_unneeded: Callable[[str], bool]) -> None:
        """Delete the folders in adapters/ of all adapters whose names satisfy a condition."""
        folder = directory / "adapters"
        # A link leads to a folder that may hold other people's adapters too: delete nothing there.
        if folder.is_symlink():
            if not self._warned:
                log.warning("%s is a link, so partune deletes nothing there. Delete unneeded adapters by hand.", folder)
            self._warned = True
            return
        if not folder.is_dir():
            return
        with writing_to(directory):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                match = FOLDERS.fullmatch(entry.name)
                if entry.is_dir(follow_symlinks=False) and match and is_unneeded(next(filter(None, match.groups()))):
                    shutil.rmtree(entry.path)


def _pack(path: Path, items: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write a file of per-item results completely or not at all; raise OSError if that fails."""
    path.parent.mkdir(exist_ok=True)
    draft = draft_of(path)
    try:
        with draft.open("xb") as file:
            # np.savez takes the arrays as keyword arguments, so it could not save an array named "file".
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
                for name, values in items.items():
                    with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, values, allow_pickle=False)
            # Sync before the rename. Otherwise a power cut may leave an empty file under the final name.
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
