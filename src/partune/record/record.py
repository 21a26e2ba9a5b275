"""The record of a study: Optuna studies in an append-only journal, or a database, and small files beside it.

    runs/first/
      study.yaml       the configuration, where the study was started from one
      journal.log      two Optuna studies: "search" (the optimiser's trials) and "anchors" (base, learning rate 0, ...)
      storage.json     in the journal's place: which database holds these studies, and their name there; no password
      items/           per-item results, one packed file a trial
      adapters/        what the best trials left behind

The journal, or the database, is the state (DESIGN: decisions 2 and 3): a trial is appended before it runs, and its
result is one more append whose last step commits it, so that a process may die at any moment. Several processes may
drive a study; they write in turns (`partune.record.drivers`), and every trial under way names its driver.

Optuna refuses a learning rate of 0 on a log scale, and a trial without parameters would empty the space that its
importances are computed over: anchors live in a study of their own, their configurations as attributes.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partune.errors import UserError, shown
from partune.record import database
from partune.record.drivers import Alone, Drivers
from partune.record.place import JOURNAL, SHELVES, STORAGE, Shelf, _begin, _check_name, _journal, _mend, _Place, log
from partune.runtime import paths
from partune.runtime.disk import draft_of, kept, persistent, replace
from partune.space import Space
from partune.space.distributions import distribution
from partune.trial import Observation, Status, Trial
from partune.trial.contents import VERSIONS, Content, Contents, as_data, of_data

if TYPE_CHECKING:
    from datetime import datetime

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

FORMAT = 1
CONFIG = "study.yaml"
AGAIN = re.compile(
    r"(confirm|fresh)\.(\d+|defaults)\.\d+"
)  # the name of a further run's adapter, which goes once it is scored
FOLDERS = re.compile(  # in adapters/: an adapter's own, its checkpoint or draft, its checkpoint's draft
    r"([^.].*)|\.([^.].*)-(?:checkpoint|[0-9a-f]{32})|\.\.(.+)-checkpoint-[0-9a-f]{32}"
)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a verdict was given on: the winner's number, the number of its fresh runs, and of those of the defaults."""

    trial: int
    seeds: int
    defaults: int = 0


class Record:
    """The trials and anchors of one study, in a directory or (directory None) in memory.

    header: what the study is (space, algorithm, seed, versions); it never changes.
    drivers: this process among those that drive the study; None where it only reads.
    """

    def __init__(
        self, storage: BaseStorage, directory: Path | None, drivers: Drivers | None = None, place: _Place | None = None
    ) -> None:
        self._storage = storage
        self.drivers = drivers or Alone()
        self.directory = directory
        self._place = place or _Place()
        self._studies = {shelf: self._place.find(storage, shelf) for shelf in SHELVES}
        attributes = storage.get_study_user_attrs(self._studies["search"])
        if "partune" not in attributes:
            raise UserError(f"{directory} holds a study of Optuna's that partune did not begin: give it another name")
        with self._undamaged("the study's own description"):
            self.header: Mapping[str, Any] = _checked(attributes["partune"])
            self.space = Space.parse(self.header["space"])
        if self.header["format"] > FORMAT:
            raise UserError(
                f"{directory} was written by a newer partune (format {self.header['format']}, "
                f"this one reads up to {FORMAT}): update partune"
            )
        self.noisy: bool | None = self.header.get("noisy")  # as the user said; None: not said
        self._distributions = {name: distribution(each) for name, each in self.space.hyperparameters.items()}
        self._warned = False  # that adapters/ is a link
        self._memory: dict[tuple[Shelf, int], Mapping[str, Any]] = {}

    # ----- begin, open, close

    @classmethod
    def create(
        cls,
        directory: Path | None,
        space: Space,
        header: Mapping[str, Any],
        config: str | None = None,
        storage: str | None = None,
    ) -> Record:
        """A new record; raises UserError where the directory exists or cannot be written.

        config: the text of study.yaml. The directory appears whole or not at all.
        storage: the URL of a database; None for a journal in the directory.
        """
        complete = {"format": FORMAT, "space": space.describe(), **header, "versions": _versions()}
        if directory is None:
            if storage is not None:
                raise UserError("a study in a database keeps files beside it: give it a directory")
            from optuna.storages import InMemoryStorage

            return cls(_begin(InMemoryStorage(), complete), None)
        _check_name(directory)
        if directory.exists():
            raise UserError(f"{directory} exists already and is never overwritten: choose another name")
        draft = draft_of(directory)
        place = _Place() if storage is None else _Place.new(directory, storage)
        try:
            draft.mkdir(parents=True)
            if config is not None:
                (draft / CONFIG).write_text(config, encoding="utf-8")
            place.begin(draft, complete)
            draft.rename(directory)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise UserError(f"cannot write {directory}: {error.strerror or error}") from None
        except UserError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return cls.open(directory, storage=storage)

    @staticmethod
    def check(directory: Path, storage: str | None = None) -> None:
        """Raises UserError where a new record could not be written, before the work that it is for."""
        _check_name(directory)
        place = next(parent for parent in directory.absolute().parents if parent.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise UserError(f"cannot write {directory}: {place} is no folder that can be written in")
        if storage is not None:
            database.opened(storage)

    @classmethod
    def open(
        cls, directory: Path, read_only: bool = False, *, join: bool = False, storage: str | None = None
    ) -> Record:
        """The record in a directory; raises UserError where there is none or another process leads it.

        join: take part in what another process leads, or may lead.
        storage: the database's URL, where it needs a password or has moved since.
        """
        directory = paths.place(directory)
        if (directory / STORAGE).is_file():
            place = _Place.recorded(directory, storage)
        elif not (directory / JOURNAL).is_file():
            raise UserError(f"no study in {directory}: {JOURNAL} is missing")
        elif storage is not None:
            raise UserError(f"{directory} keeps its record in {JOURNAL}, in no database: leave --storage out")
        else:
            place = _Place()
        with database.guarded(place.url, place.named):
            if read_only:
                return cls(place.reader(directory), directory, None, place)
            opened = place.opened(directory)
            drivers = place.drivers(directory, opened, join)
            try:
                if not (join or drivers.lead()):
                    raise UserError(place.refusal(directory))
                if place.url is None:
                    with drivers.turn():
                        _mend(directory / JOURNAL)
                return cls(opened or _journal(directory / JOURNAL), directory, drivers, place)
            except BaseException:
                drivers.leave()
                raise

    @property
    def contents(self) -> Contents:
        """What the study stands on, with the versions that it was begun with; of an old record these alone."""
        attributes = self._storage.get_study_user_attrs(self._studies["search"])
        versions = self.header.get("versions", {})
        known = {name: Content(versions[name], versions[name], False) for name in VERSIONS if name in versions}
        return {**known, **of_data(self.header.get("contents") or attributes.get("contents", {}))}

    @property
    def dated(self) -> bool:
        """Whether an older partune began the study, which noted neither its objective's name nor what it stands on."""
        return "function" not in self.header

    def adopt(self, contents: Contents) -> None:
        """Note what a study stands on that was begun without."""
        with self.turn():
            self._storage.set_study_user_attr(self._studies["search"], "contents", as_data(contents))

    def configure(self, config: str) -> None:
        """Replaces the text of study.yaml; raises UserError where it cannot be written."""
        assert self.directory is not None
        replace(self.directory / CONFIG, config)

    def close(self) -> None:
        """Ends this process's part; another may lead the study."""
        self.drivers.leave()

    @property
    def url(self) -> str | None:
        """Of the database, as it was opened, with its password; None for a journal."""
        return self._place.url

    @property
    def given(self) -> str | None:
        """The database's URL as the user gave it; None where only the study's folder names it."""
        return self._place.url if self._place.named else None

    # ----- several drivers

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else writes within. What a database refuses becomes a UserError."""
        with database.guarded(self._place.url), self.drivers.turn():
            yield

    def news(self, known: int, unfinished: Collection[int]) -> dict[int, Trial]:
        """What others did: trials beyond the first so many, and those that are final now; by number.

        unfinished: the numbers of those among the first `known` that are not known to be final.
        """
        there = self._storage.get_all_trials(self._studies["search"], deepcopy=False)
        final = [number for number in sorted(unfinished) if there[number].state.is_finished()]
        return {number: self._thaw(there[number]) for number in (*final, *range(known, len(there)))}

    def abandoned(self, number: int) -> bool:
        """Whether nobody runs a trial that is not final: its driver is dead, or this one, which knows of no run."""
        driver = self._driver(number)
        return driver is None or driver == self.drivers.name or not self.drivers.alive(driver)

    def mine(self, number: int) -> bool:
        """Whether a trial that is not final is this driver's: one that was taken for dead may have lost it."""
        return self._driver(number) == self.drivers.name

    def _driver(self, number: int) -> str | None:
        found: str | None = self._storage.get_trial(self._id("search", number)).user_attrs.get("driver")
        return found

    @property
    def loaded(self) -> Mapping[str, Any]:
        """What the objective last loaded: device, precision, counts of the data, items and metric; empty before."""
        found: Mapping[str, Any] = self._storage.get_study_user_attrs(self._studies["search"]).get("loaded", {})
        with self._undamaged("what the study loaded"):
            _of_type(found, dict, "loaded")
        return found

    def describe(self, loaded: Mapping[str, Any]) -> None:
        """Notes what the objective loaded, where that is news."""
        plain = json.loads(json.dumps(loaded))
        if plain != self.loaded:
            with self.turn():
                self._storage.set_study_user_attr(self._studies["search"], "loaded", plain)

    @property
    def budget(self) -> int | None:
        """The trials in all that the last run was to make; None before the first."""
        found: int | None = self._storage.get_study_user_attrs(self._studies["search"]).get("budget")
        with self._undamaged("the study's budget"):
            _of_type(found, int | None, "budget")
        return found

    def plan(self, budget: int) -> None:
        """Notes the budget of a run, where that is news."""
        if budget != self.budget:
            with self.turn():
                self._storage.set_study_user_attr(self._studies["search"], "budget", budget)

    @property
    def looks(self) -> list[Look]:
        """The verdicts that were given, in their order, each on other runs than the one before."""
        found = self._storage.get_study_user_attrs(self._studies["search"]).get("looks", [])
        with self._undamaged("its looks"):
            return [Look(**{name: _of_type(value, int, name) for name, value in each.items()}) for each in found]

    def look(self, look: Look) -> None:
        """Note a verdict that is given now, where it is not the one that was given last."""
        before = self.looks
        if before[-1:] != [look]:
            with self.turn():
                noted = [dataclasses.asdict(each) for each in (*before, look)]
                self._storage.set_study_user_attr(self._studies["search"], "looks", noted)

    # ----- trials

    def trials(self) -> list[Trial]:
        """The optimiser's trials in the order of their numbers, without per-item results."""
        return [self._thaw(frozen) for frozen in self._storage.get_all_trials(self._studies["search"])]

    def times(self) -> list[tuple[datetime | None, datetime | None]]:
        """When each of the optimiser's trials was proposed, and when its result was recorded, by number."""
        found = self._storage.get_all_trials(self._studies["search"], deepcopy=False)
        return [(each.datetime_start, each.datetime_complete) for each in found]

    def propose(self, trial: Trial) -> None:
        """Appends a proposal, before it runs."""
        from optuna.trial import TrialState, create_trial

        proposal = {
            "point": list(trial.point),
            "seed": trial.seed,
            "fidelity": trial.fidelity,
            "told_before": trial.told_before,
            "notes": [dict(note) for note in trial.notes],
        }
        frozen = create_trial(
            state=TrialState.RUNNING,
            params=dict(trial.config),
            distributions={name: self._distributions[name] for name in trial.config},
            user_attrs={"proposal": proposal, "attempts": trial.attempts, "driver": self.drivers.name},
        )
        with self.turn():
            self.drivers.confirm()
            trial_id = self._storage.create_new_trial(self._studies["search"], frozen)
            number = self._storage.get_trial(trial_id).number
        if number != trial.number:
            raise RuntimeError(f"trial {trial.number} was recorded as {number}: another process writes this study")

    def restart(self, trial: Trial) -> None:
        """Notes that an interrupted trial is started once more, by this driver."""
        with self.turn():
            trial_id = self._id("search", trial.number)
            self._storage.set_trial_user_attr(trial_id, "attempts", trial.attempts)
            self._storage.set_trial_user_attr(trial_id, "driver", self.drivers.name)

    def finish(self, trial: Trial) -> None:
        """Appends a final trial's observation; its last line commits it. Per-item results are on disk before."""
        self._commit("search", trial)

    # ----- anchors

    def anchors(self) -> dict[str, Trial]:
        """The anchors by name, the latest of each."""
        found = {}
        for frozen in self._storage.get_all_trials(self._studies["anchors"]):
            attributes = frozen.user_attrs
            if frozen.state.is_finished():
                with self._undamaged(f"anchor {attributes.get('name', frozen.number)}"):
                    trial = Trial(
                        frozen.number,
                        _of_type(attributes["config"], dict, "config"),
                        seed=_of_type(attributes["seed"], int, "seed"),
                        order=_of_type(attributes.get("order"), int | None, "order"),
                    )
                    found[_of_type(attributes["name"], str, "name")] = _observed(trial, frozen)
        return found

    def anchor(self, name: str, trial: Trial) -> Trial:
        """Appends a final anchor under a name; returns it with its number."""
        from optuna.trial import TrialState, create_trial

        attributes = {"name": name, "config": dict(trial.config), "seed": trial.seed}
        if trial.order is not None:
            attributes["order"] = trial.order
        frozen = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
        with self.turn():
            trial_id = self._storage.create_new_trial(self._studies["anchors"], frozen)
        numbered = dataclasses.replace(trial, number=self._storage.get_trial(trial_id).number)
        assert trial.observation is not None
        final = numbered.finished(trial.observation, told=numbered.number)
        self._commit("anchors", final)
        return final

    # ----- files beside the journal

    def items(self, shelf: Shelf, number: int) -> Mapping[str, np.ndarray[Any, Any]]:
        """Per-item results of a trial or anchor; empty where it has none."""
        if self.directory is None:
            return self._memory.get((shelf, number), {})
        path = self._items_path(shelf, number)
        if not path.exists():
            if self._recorded_items(shelf, number):
                of = f"trial {number}" if shelf == "search" else f"anchor {self._name_of(number)}"
                raise UserError(f"{path} is missing, the per-item results of {of}: restore it from a copy")
            return {}
        try:
            with np.load(path, allow_pickle=False) as packed:
                return {name: packed[name] for name in packed.files}
        except (OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is damaged: restore it from a copy ({' '.join(str(error).split())})") from None

    def adapter(self, trial: int | str) -> Path:
        """Where the adapter of a trial, by its number, or of an anchor, by its name, is kept, or would be."""
        if self.directory is None:
            raise UserError("a study in memory keeps no adapters: give it a directory")
        return self.directory / "adapters" / (trial.replace("/", ".") if isinstance(trial, str) else f"{trial:04d}")

    def adapters(self) -> list[int]:
        """Return the numbers of the trials whose adapters are there."""
        return [number for number in range(self._count) if self.adapter(number).is_dir()]

    def prune(self, keep: Iterable[int]) -> None:
        """Delete the adapters of trials and of runs again, with drafts and checkpoints, but those of the given trials.

        What has another name was made by somebody else, and stays; so does what a link leads to.
        """
        if self.directory is not None:
            spared = set(keep)
            made = {self.adapter(number).name for number in range(self._count) if number not in spared}
            self._delete_adapters(self.directory, lambda name: name in made or AGAIN.fullmatch(name) is not None)

    def discard(self, anchor: str) -> None:
        """Deletes the adapter of an anchor, its drafts and checkpoint."""
        if self.directory is not None:
            self._delete_adapters(self.directory, lambda name: name == self.adapter(anchor).name)

    def ship(self, anchor: str) -> None:
        """Make the adapter of an anchor the winner's; nothing where that has happened."""
        if self.directory is not None and (source := self.adapter(anchor)).is_dir():
            self.discard("winner")
            source.rename(self.adapter("winner"))

    # ----- inside

    @property
    def _count(self) -> int:
        """How many trials are on record."""
        return self._storage.get_n_trials(self._studies["search"])

    def _delete_adapters(self, directory: Path, which: Callable[[str], bool]) -> None:
        folder = directory / "adapters"
        if folder.is_symlink():
            if not self._warned:
                log.warning("%s is a link: what is there stays, adapters that are not needed any more too.", folder)
            self._warned = True
            return
        if not folder.is_dir():
            return
        with kept(directory):
            for entry in sorted(os.scandir(folder), key=lambda each: each.name):
                made = FOLDERS.fullmatch(entry.name)
                if entry.is_dir(follow_symlinks=False) and made and which(next(filter(None, made.groups()))):
                    shutil.rmtree(entry.path)

    def _id(self, shelf: Shelf, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._studies[shelf], number)

    def _items_path(self, shelf: Shelf, number: int) -> Path:
        assert self.directory is not None
        return self.directory / "items" / f"{'' if shelf == 'search' else 'anchor-'}{number:04d}.npz"

    def _commit(self, shelf: Shelf, trial: Trial) -> None:
        observation = trial.observation
        assert observation is not None
        if observation.items:
            self._write_items(shelf, trial.number, observation.items)
        form = {
            "scores": dict(observation.scores),
            "stderr": observation.stderr,
            "status": str(observation.status),
            "cost": dict(observation.cost),
            "fidelity": observation.fidelity,
            "error": observation.error,
            "told": trial.told,
            "items": len(observation.items),
        }
        values = [observation.score] if math.isfinite(observation.score) else None
        with self.turn():
            self.drivers.confirm()
            trial_id = self._id(shelf, trial.number)
            self._storage.set_trial_user_attr(trial_id, "observation", form)
            self._storage.set_trial_state_values(trial_id, state(observation.status), values)

    def _write_items(self, shelf: Shelf, number: int, items: Mapping[str, np.ndarray[Any, Any]]) -> None:
        if self.directory is None:
            self._memory[shelf, number] = dict(items)
            return
        with kept(self.directory):
            persistent(lambda: _pack(self._items_path(shelf, number), items))

    def _thaw(self, frozen: FrozenTrial) -> Trial:
        proposal = frozen.user_attrs.get("proposal")
        if proposal is None:
            raise UserError(f"trial {frozen.number} of {self.directory} is not partune's: another program wrote to it")
        with self._undamaged(f"trial {frozen.number}"):
            config = {name: frozen.params[name] for name in self.space.names if name in frozen.params}
            self.space.check(config)
            trial = Trial(
                number=frozen.number,
                config=config,
                point=tuple(_of_type(each, float | int, "point") for each in proposal["point"]),
                seed=_of_type(proposal["seed"], int, "seed"),
                fidelity=_of_type(proposal["fidelity"], float | int, "fidelity"),
                status=Status.RUNNING,
                notes=tuple(_of_type(each, dict, "notes") for each in proposal["notes"]),
                told_before=_of_type(proposal["told_before"], int, "told_before"),
                attempts=_of_type(frozen.user_attrs["attempts"], int, "attempts"),
            )
            return _observed(trial, frozen) if frozen.state.is_finished() else trial

    def _recorded_items(self, shelf: Shelf, number: int) -> int:
        """Return how many arrays of per-item results a final trial was recorded with; 0 where that is not on record."""
        form = self._storage.get_trial(self._id(shelf, number)).user_attrs.get("observation")
        count = form.get("items") if isinstance(form, dict) else None
        return count if isinstance(count, int) else 0

    def _name_of(self, anchor: int) -> str:
        return str(self._storage.get_trial(self._id("anchors", anchor)).user_attrs.get("name", anchor))

    @contextmanager
    def _undamaged(self, what: str) -> Iterator[None]:
        """Raises UserError that names the record and what in it is not as it was written."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            where = "the record in memory" if self.directory is None else self._place.holder(self.directory)
            said = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)
            raise UserError(f"{where} is damaged at {what}: restore it from a copy ({said})") from error


def _of_type(value: Any, kind: Any, name: str) -> Any:
    """Return a value of a record; raises ValueError where it is of another kind than what was written."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}")
    return value


def _checked(header: Any) -> Mapping[str, Any]:
    """Return a study's header; raises ValueError or KeyError where it is not what was written."""
    _of_type(header, dict, "it")
    kinds = {"format": int, "algorithm": str, "options": dict, "seed": int, "objective": dict, "versions": dict}
    for name, kind in kinds.items():
        _of_type(header.get(name, {}) if kind is dict else header[name], kind, name)
    found: Mapping[str, Any] = header
    return found


def _observed(trial: Trial, frozen: FrozenTrial) -> Trial:
    """Return a final trial of a record; raises LookupError, TypeError or ValueError where it is damaged."""
    form = dict(frozen.user_attrs["observation"])
    told, status = _of_type(form.pop("told"), int, "told"), Status(form["status"])
    form.pop("items", None)
    if status is not Status.FAILED and frozen.value != form["scores"]["score"]:
        raise ValueError(f"its score is {form['scores']['score']} and its value {frozen.value}")
    return trial.finished(Observation(**{**form, "status": status}), told)


def _pack(path: Path, items: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Writes a file of per-item results whole, or not at all; raises OSError."""
    path.parent.mkdir(exist_ok=True)
    draft = draft_of(path)
    try:
        with draft.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:  # as np.savez has it, whatever the names
                for name, values in items.items():
                    with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, values, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def state(status: Status) -> TrialState:
    """Optuna's word for where a trial of a record stands."""
    from optuna.trial import TrialState

    return {
        Status.RUNNING: TrialState.RUNNING,
        Status.DONE: TrialState.COMPLETE,
        Status.FAILED: TrialState.FAIL,
        Status.STOPPED: TrialState.PRUNED,
    }[status]


def _versions() -> dict[str, str]:
    names = ("partune", "torch", "transformers", "peft", "lm-eval", "optuna", "numpy", "scipy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
