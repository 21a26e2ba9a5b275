"""The record of a study: Optuna studies in an append-only journal, or a database, and small files beside it.

    runs/first/
      study.yaml       the configuration, where the study was started from one
      journal.log      two Optuna studies: "search" (the optimiser's trials) and "anchors" (base, learning rate 0, ...)
      storage.json     instead of the journal: which database holds these studies, and their name there; no password
      items/           per-item results, one packed file per trial
      adapters/        what the best trials left behind

The journal, or the database, is the state (DESIGN: decisions 2 and 3): a trial is appended before it runs, and its
result is one more append whose last step commits it, so that a process may die at any moment. Several processes may
drive a study; they write in turns (`partune.record.drivers`), and every trial under way names its driver.

Optuna refuses a learning rate of 0 on a log scale, and a trial without parameters would empty the space that its
importances are computed over: baselines live in a study of their own, their configurations as attributes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partune.errors import UserError
from partune.record import database, forms
from partune.record.artifacts import Artifacts
from partune.record.drivers import Alone, Drivers
from partune.record.place import (
    SHELVES,
    DatabasePlace,
    JournalPlace,
    MemoryPlace,
    Place,
    Shelf,
    find_study,
    place_of,
    require_utf8,
)
from partune.runtime import paths
from partune.runtime.disk import draft_of, write_whole
from partune.space import Space
from partune.space.distributions import distribution
from partune.trial import Trial
from partune.trial.contents import VERSIONS, Content, Contents, as_data, of_data
from partune.trial.names import RunName

if TYPE_CHECKING:
    from datetime import datetime

    from optuna.storages import BaseStorage

FORMAT = 1
CONFIG = "study.yaml"


@dataclasses.dataclass(frozen=True)
class Look:
    """What a verdict was given on: the winner's number, the number of its fresh runs, and of those of the defaults."""

    trial: int
    seeds: int
    defaults: int = 0


class Record:
    """The trials and baselines of one study, in a directory or in memory.

    The class is long because it is the one face of a record: each method reads or appends one thing.

    Args:
        storage: Optuna's storage at the place.
        place: Where the record is.
        directory: The study's; None for one in memory.
        drivers: This process among those that drive the study; None where it only reads.

    Attributes:
        header: What the study is (space, algorithm, seed, versions); it never changes.
        space: The space that is searched.
        noisy: Whether the user said that scores are noisy; None where nothing was said.
        artifacts: The files beside the record.
        drivers: This process among those that drive the study.

    Raises:
        UserError: The place holds no study of partune's, or one of a newer partune, or its header is damaged.
    """

    def __init__(
        self, storage: BaseStorage, place: Place, directory: Path | None, drivers: Drivers | None = None
    ) -> None:
        self._storage = storage
        self._place = place
        self.directory = directory
        self.drivers = drivers or Alone()
        self._studies = {shelf: find_study(storage, place, shelf) for shelf in SHELVES}
        attributes = storage.get_study_user_attrs(self._studies["search"])
        if "partune" not in attributes:
            raise UserError(f"{directory} holds a study of Optuna's that partune did not begin: give it another name")
        with self._undamaged("the study's own description"):
            self.header: Mapping[str, Any] = forms.checked_header(attributes["partune"])
            self.space = Space.parse(self.header["space"])
        if self.header["format"] > FORMAT:
            raise UserError(
                f"{directory} was written by a newer partune (format {self.header['format']}, "
                f"this one reads up to {FORMAT}): update partune"
            )
        self.noisy: bool | None = self.header.get("noisy")
        # Without `self` in it: a record that refers to itself would keep its driver's thread alive until the next
        # garbage collection, instead of leaving the study when the record goes.
        self.artifacts = Artifacts(directory, functools.partial(storage.get_n_trials, self._studies["search"]))
        self._distributions = {name: distribution(parameter) for name, parameter in self.space.hyperparameters.items()}

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
        """Create a record; its directory appears whole or not at all.

        Args:
            directory: The study's, which does not exist yet; None for a record in memory.
            space: The space to be searched.
            header: What the study is, beside its space and the versions of libraries.
            config: The text of study.yaml.
            storage: The URL of a database; None for a journal in the directory.

        Raises:
            UserError: The directory exists, or cannot be written, or the database does not answer.
        """
        complete = {"format": FORMAT, "space": space.describe(), **header, "versions": forms.versions()}
        if directory is None:
            if storage is not None:
                raise UserError("a study in a database keeps files beside it: give it a directory")
            memory = MemoryPlace()
            memory.begin(Path(), complete)
            return cls(memory.read(), memory, None)
        require_utf8(directory)
        if directory.exists():
            raise UserError(f"{directory} exists already and is never overwritten: choose another name")
        draft = draft_of(directory)
        place = JournalPlace(directory) if storage is None else DatabasePlace.new(directory, storage)
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
        """Check that a new record could be written, before the work that it is for.

        Args:
            directory: The study's, which does not exist yet.
            storage: The URL of a database; None for a journal in the directory.

        Raises:
            UserError: It could not.
        """
        require_utf8(directory)
        parent = next(parent for parent in directory.absolute().parents if parent.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise UserError(f"cannot write {directory}: {parent} is no folder that can be written in")
        if storage is not None:
            database.opened(storage)

    @classmethod
    def open(
        cls, directory: Path, read_only: bool = False, *, join: bool = False, storage: str | None = None
    ) -> Record:
        """Open the record in a directory.

        Args:
            directory: The study's.
            read_only: Whether nothing is to be written; other processes may lead the study all the same.
            join: Whether to take part in what another process leads, or may lead.
            storage: The database's URL, where it needs a password or has moved since.

        Raises:
            UserError: There is no record, it is damaged, or another process leads the study.
        """
        directory = paths.as_path(directory)
        place = place_of(directory, storage)
        if read_only:
            with place.guarded():
                return cls(place.read(), place, directory)
        opened, drivers = place.drive(join)
        try:
            with place.guarded():
                return cls(opened, place, directory, drivers)
        except BaseException:
            drivers.leave()
            raise

    @property
    def contents(self) -> Contents:
        """What the study stands on, with the versions that it was begun with; of an old record these alone."""
        versions = self.header.get("versions", {})
        known = {name: Content(versions[name], versions[name], False) for name in VERSIONS if name in versions}
        return {**known, **of_data(self.header.get("contents") or self._note("contents", {}))}

    @property
    def dated(self) -> bool:
        """Whether an older partune began the study, which noted neither its objective's name nor what it stands on."""
        return "function" not in self.header

    def adopt(self, contents: Contents) -> None:
        """Note what a study stands on that was begun without."""
        self._set_note("contents", as_data(contents))

    def configure(self, config: str) -> None:
        """Replace the text of study.yaml; raise UserError where it cannot be written."""
        assert self.directory is not None
        write_whole(self.directory / CONFIG, config)

    def close(self) -> None:
        """End this process's part in the study; another may lead it then."""
        self.drivers.leave()

    @property
    def url(self) -> str | None:
        """The URL of the database as it was opened, with its password; None for a journal."""
        return self._place.url

    @property
    def given(self) -> str | None:
        """The database's URL as the user gave it; None where only the study's folder names it."""
        return self._place.given

    # ----- several drivers

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that turns what a database refuses into a UserError."""
        return self._place.guarded()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep everybody else from writing within the context; raise UserError where a database refuses something."""
        with self.guarded(), self.drivers.turn():
            yield

    def news(self, known: int, unfinished: Collection[int]) -> dict[int, Trial]:
        """Return what other drivers did: new trials, and trials that have become final.

        Args:
            known: How many trials the caller knows; all with a higher number are new.
            unfinished: The numbers of the trials among these that the caller does not know to be final.

        Returns:
            The trials by number.
        """
        frozen = self._storage.get_all_trials(self._studies["search"], deepcopy=False)
        final = [number for number in sorted(unfinished) if frozen[number].state.is_finished()]
        return {number: self._thawed(frozen[number]) for number in (*final, *range(known, len(frozen)))}

    def abandoned(self, number: int) -> bool:
        """Return whether nobody runs a trial that is not final: its driver is dead, or this one, which knows no run."""
        driver = self._driver(number)
        return driver is None or driver == self.drivers.name or not self.drivers.alive(driver)

    def mine(self, number: int) -> bool:
        """Return whether a trial that is not final is this driver's: one that was taken for dead may have lost it."""
        return self._driver(number) == self.drivers.name

    def _driver(self, number: int) -> str | None:
        driver: str | None = self._storage.get_trial(self._id("search", number)).user_attrs.get("driver")
        return driver

    # ----- notes on the study

    @property
    def loaded(self) -> Mapping[str, Any]:
        """What the objective last loaded: device, precision, counts of the data, items and metric; empty before."""
        loaded: Mapping[str, Any] = self._note("loaded", {})
        with self._undamaged("what the study loaded"):
            forms.of_type(loaded, dict, "loaded")
        return loaded

    def describe(self, loaded: Mapping[str, Any]) -> None:
        """Note what the objective loaded, where that is news."""
        plain = json.loads(json.dumps(loaded))
        if plain != self.loaded:
            self._set_note("loaded", plain)

    @property
    def budget(self) -> int | None:
        """The total number of trials that the last run was to reach; None before the first."""
        budget: int | None = self._note("budget")
        with self._undamaged("the study's budget"):
            forms.of_type(budget, int | None, "budget")
        return budget

    def plan(self, budget: int) -> None:
        """Note the budget of a run, where that is news."""
        if budget != self.budget:
            self._set_note("budget", budget)

    @property
    def looks(self) -> list[Look]:
        """The verdicts that were given, in their order, each on other runs than the one before."""
        noted = self._note("looks", [])
        with self._undamaged("its looks"):
            return [Look(**{name: forms.of_type(value, int, name) for name, value in look.items()}) for look in noted]

    def look(self, look: Look) -> None:
        """Note a verdict that is given now, where it is not the one that was given last."""
        before = self.looks
        if before[-1:] != [look]:
            self._set_note("looks", [dataclasses.asdict(noted) for noted in (*before, look)])

    def _note(self, name: str, default: Any = None) -> Any:
        return self._storage.get_study_user_attrs(self._studies["search"]).get(name, default)

    def _set_note(self, name: str, value: Any) -> None:
        with self.turn():
            self._storage.set_study_user_attr(self._studies["search"], name, value)

    # ----- trials

    def trials(self) -> list[Trial]:
        """Return the optimiser's trials in the order of their numbers, without per-item results."""
        return [self._thawed(frozen) for frozen in self._storage.get_all_trials(self._studies["search"])]

    def times(self) -> list[tuple[datetime | None, datetime | None]]:
        """Return when each of the optimiser's trials was proposed, and when its result was recorded, by number."""
        trials = self._storage.get_all_trials(self._studies["search"], deepcopy=False)
        return [(frozen.datetime_start, frozen.datetime_complete) for frozen in trials]

    def propose(self, trial: Trial) -> None:
        """Append a proposal, before it runs."""
        from optuna.trial import TrialState, create_trial

        frozen = create_trial(
            state=TrialState.RUNNING,
            params=dict(trial.config),
            distributions={name: self._distributions[name] for name in trial.config},
            user_attrs={
                "proposal": forms.proposal_form(trial),
                "attempts": trial.attempts,
                "driver": self.drivers.name,
            },
        )
        with self.turn():
            self.drivers.confirm()
            trial_id = self._storage.create_new_trial(self._studies["search"], frozen)
            number = self._storage.get_trial(trial_id).number
        # Optuna numbers the trials. In a turn nobody of partune's can have appended one in between.
        if number != trial.number:
            raise RuntimeError(f"trial {trial.number} was recorded as {number}: another process writes this study")

    def restart(self, trial: Trial) -> None:
        """Note that this driver starts an interrupted trial once more."""
        with self.turn():
            trial_id = self._id("search", trial.number)
            self._storage.set_trial_user_attr(trial_id, "attempts", trial.attempts)
            self._storage.set_trial_user_attr(trial_id, "driver", self.drivers.name)

    def finish(self, trial: Trial) -> None:
        """Append a final trial's observation; its last line commits it. Per-item results are on disk before."""
        self._commit("search", trial)

    # ----- baselines, which the record's format calls anchors

    def anchors(self) -> dict[RunName, Trial]:
        """Return the baselines by name, the latest of each."""
        latest = {}
        for frozen in self._storage.get_all_trials(self._studies["anchors"]):
            if frozen.state.is_finished():
                with self._undamaged(f"baseline {frozen.user_attrs.get('name', frozen.number)}"):
                    name, trial = forms.thawed_baseline(frozen)
                    latest[name] = trial
        return latest

    def anchor(self, name: RunName, trial: Trial) -> Trial:
        """Append a final baseline.

        Args:
            name: Its name.
            trial: Final; its number is ignored.

        Returns:
            The trial with the number that it has on record.
        """
        from optuna.trial import TrialState, create_trial

        attributes = {"name": str(name), "config": dict(trial.config), "seed": trial.seed}
        if trial.order is not None:
            attributes["order"] = trial.order
        # Without Optuna's own parameters: see the beginning of this module.
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
        """Return per-item results by name; empty where there are none.

        Args:
            shelf: "search" for a trial, "anchors" for a baseline.
            number: The trial's, or the baseline's.

        Raises:
            UserError: Their file is damaged, or missing although the result says that there is one.
        """
        items = self.artifacts.read_items(shelf, number)
        if items is None and self.directory is not None:
            frozen = self._storage.get_trial(self._id(shelf, number))
            if forms.item_count(frozen):
                whose = f"trial {number}" if shelf == "search" else f"baseline {frozen.user_attrs.get('name', number)}"
                path = self.artifacts.items_path(shelf, number)
                raise UserError(f"{path} is missing, the per-item results of {whose}: restore it from a copy")
        return items or {}

    def adapter(self, trial: int | RunName) -> Path:
        """Return where the adapter of a trial, by its number, or of a baseline, by its name, is kept, or would be."""
        return self.artifacts.adapter(trial)

    # ----- inside

    def _id(self, shelf: Shelf, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._studies[shelf], number)

    def _commit(self, shelf: Shelf, trial: Trial) -> None:
        observation = trial.observation
        assert observation is not None
        if observation.items:
            self.artifacts.write_items(shelf, trial.number, observation.items)
        # A failed trial's score is infinite here, which Optuna takes for no value: there it has none.
        values = [observation.score] if math.isfinite(observation.score) else None
        with self.turn():
            self.drivers.confirm()
            trial_id = self._id(shelf, trial.number)
            form = forms.observation_form(observation, trial.told)
            # The state comes last: until it is written the trial runs, whatever a crash leaves of the rest.
            self._storage.set_trial_user_attr(trial_id, "observation", form)
            self._storage.set_trial_state_values(trial_id, forms.state(observation.status), values)

    def _thawed(self, frozen: Any) -> Trial:
        if frozen.user_attrs.get("proposal") is None:
            raise UserError(f"trial {frozen.number} of {self.directory} is not partune's: another program wrote to it")
        with self._undamaged(f"trial {frozen.number}"):
            return forms.thawed_trial(frozen, self.space)

    @contextmanager
    def _undamaged(self, what: str) -> Iterator[None]:
        """Turn an error that a damaged record causes into a UserError that names the record and the damaged part."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            cause = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)
            raise UserError(f"{self._place.holder} is damaged at {what}: restore it from a copy ({cause})") from error
