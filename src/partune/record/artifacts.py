"""The files beside a record: per-item results, one packed file per trial, and the adapters of trials and baselines."""

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

FOLDERS = re.compile(  # in adapters/: an adapter's own, its checkpoint or draft, its checkpoint's draft
    r"([^.].*)|\.([^.].*)-(?:checkpoint|[0-9a-f]{32})|\.\.(.+)-checkpoint-[0-9a-f]{32}"
)

log = logging.getLogger(__name__)


class Artifacts:
    """The files of one record, in its directory, or per-item results in memory.

    Args:
        directory: The study's; None for a study in memory, which keeps no adapters.
        count: Returns how many trials are on record: adapters are named by the trials' numbers.
    """

    def __init__(self, directory: Path | None, count: Callable[[], int]) -> None:
        self._directory = directory
        self._count = count
        self._memory: dict[tuple[Shelf, int], Mapping[str, np.ndarray[Any, Any]]] = {}
        self._warned = False  # that adapters/ is a link

    # ----- per-item results

    def items_path(self, shelf: Shelf, number: int) -> Path:
        """Return the file of the per-item results of a trial or baseline.

        Args:
            shelf: Whether the number is a trial's or a baseline's.
            number: The trial's, or the baseline's.
        """
        assert self._directory is not None
        return self._directory / "items" / f"{'' if shelf == 'search' else 'anchor-'}{number:04d}.npz"

    def read_items(self, shelf: Shelf, number: int) -> Mapping[str, np.ndarray[Any, Any]] | None:
        """Return per-item results by name, None where there is no file of them.

        Args:
            shelf: Whether the number is a trial's or a baseline's.
            number: The trial's, or the baseline's.

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
        """Write per-item results whole, or not at all.

        Args:
            shelf: Whether the number is a trial's or a baseline's.
            number: The trial's, or the baseline's.
            items: Arrays by name.

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
        """Return where an adapter is kept, or would be.

        Args:
            trial: The number of a trial, or the name of a baseline.

        Raises:
            UserError: The study is in memory.
        """
        if self._directory is None:
            raise UserError("a study in memory keeps no adapters: give it a directory")
        return self._directory / "adapters" / (f"{trial:04d}" if isinstance(trial, int) else adapter_folder(trial))

    def adapters(self) -> list[int]:
        """Return the numbers of the trials whose adapters exist."""
        return [number for number in range(self._count()) if self.adapter(number).is_dir()]

    def prune(self, keep: Iterable[int]) -> None:
        """Delete the adapters of trials and of runs again, with drafts and checkpoints.

        What has another name was made by somebody else, and stays; so does what a link leads to.

        Args:
            keep: The numbers of the trials whose adapters stay.
        """
        if self._directory is not None:
            spared = set(keep)
            unneeded = {self.adapter(number).name for number in range(self._count()) if number not in spared}
            # A further run's adapter goes once the run is scored: only its score is needed.
            self._delete(self._directory, lambda name: name in unneeded or is_further_runs(name))

    def discard(self, baseline: RunName) -> None:
        """Delete the adapter of a baseline, its drafts and checkpoint.

        Args:
            baseline: Its name.
        """
        if self._directory is not None:
            self._delete(self._directory, lambda name: name == self.adapter(baseline).name)

    def ship(self, baseline: RunName) -> None:
        """Make the adapter of a baseline the winner's, unless that has happened already.

        Args:
            baseline: Its name.
        """
        if self._directory is not None and (source := self.adapter(baseline)).is_dir():
            self.discard(WinnerScoring.JUDGED)
            source.rename(self.adapter(WinnerScoring.JUDGED))

    def _delete(self, directory: Path, which: Callable[[str], bool]) -> None:
        """Delete the folders in adapters/ that belong to the adapters of some names."""
        folder = directory / "adapters"
        # Whoever made a link put the adapters elsewhere on purpose, perhaps beside other people's: nothing goes there.
        if folder.is_symlink():
            if not self._warned:
                log.warning("%s is a link: what is there stays, adapters that are no longer needed too.", folder)
            self._warned = True
            return
        if not folder.is_dir():
            return
        with writing_to(directory):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                match = FOLDERS.fullmatch(entry.name)
                if entry.is_dir(follow_symlinks=False) and match and which(next(filter(None, match.groups()))):
                    shutil.rmtree(entry.path)


def _pack(path: Path, items: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write a file of per-item results whole, or not at all; raise OSError where that fails."""
    path.parent.mkdir(exist_ok=True)
    draft = draft_of(path)
    try:
        with draft.open("xb") as file:
            # np.savez would do, but takes the arrays as keyword arguments: an array named "file" could not be saved.
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
                for name, values in items.items():
                    with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, values, allow_pickle=False)
            # On disk before the name is: a power cut may otherwise leave the name with an empty file.
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
