"""Read and write the record of a study: two Optuna studies in a journal or a database, and small files beside it.

    runs/first/
      study.yaml       the configuration, if the study was started from one
      journal.log      two Optuna studies: "search" (the optimiser's trials) and "anchors" (base, learning rate 0, ...)
      storage.json     instead of the journal: the URL of the database (without a password) and the study's name in it
      items/           per-item results, one packed file per trial
      adapters/        the adapters of the best trials

The journal or the database holds the state of the study (DESIGN: decisions 2 and 3). A trial is appended before it
runs. Its result is appended later, in several steps, and counts after the last one. A process may die at any moment.
Several processes may drive a study. They write in turns (`partune.record.drivers`), and each running trial names its
driver.

Baselines are in a separate Optuna study, with their configurations as attributes. Optuna refuses a learning rate of 0
on a log scale, and a trial without parameters would empty the space over which Optuna computes importances.
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
from partune.record.looks import Look
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


class Record:
    """The trials and baselines of one study, in a directory or in memory.

    The class is long because all access to a record goes through it. Each method reads or appends one thing.

    Args:
        storage: Optuna's storage at the place.
        place: The place of the record.
        directory: The study's directory, or None for a study in memory.
        drivers: This process as one of the study's drivers, or None if it only reads.

    Attributes:
        header: The study's settings (space, algorithm, seed, versions), which never change.
        space: The search space.
        noisy: Whether the user declared that scores are noisy; None if the user did not say.
        artifacts: The files beside the record.
        drivers: This process as one of the study's drivers.

    Raises:
        UserError: The place holds no study of partune, a newer partune wrote the study, or its header is damaged.
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
            raise UserError(f"{directory} holds an Optuna study that partune did not begin: choose another name")
        with self._undamaged("the study's header"):
            self.header: Mapping[str, Any] = forms.checked_header(attributes["partune"])
            self.space = Space.parse(self.header["space"])
        if self.header["format"] > FORMAT:
            raise UserError(
                f"{directory} was written by a newer partune (format {self.header['format']}; "
                f"this version reads formats up to {FORMAT}): update partune"
            )
        self.noisy: bool | None = self.header.get("noisy")
        # Do not refer to `self` here. In a reference cycle, the record would leave the study only at the next garbage
        # collection, and its driver's thread would run until then.
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
        """Create a record. Its directory appears complete or not at all.

        Args:
            directory: The study's directory, which does not exist yet; None for a record in memory.
            space: The search space.
            header: The study's settings, apart from its space and the versions of libraries.
            config: The text of study.yaml; None writes no such file.
            storage: The URL of a database; None for a journal in the directory.

        Raises:
            UserError: The directory exists or cannot be written, or the database does not answer.
        """
        complete = {"format": FORMAT, "space": space.describe(), **header, "versions": forms.versions()}
        if directory is None:
            if storage is not None:
                raise UserError("a study in a database also keeps files in a directory: pass a `directory`")
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
        """Check that a new record can be written, before any expensive work begins.

        Args:
            directory: The study's directory, which does not exist yet.
            storage: The URL of a database; None for a journal in the directory.

        Raises:
            UserError: The record cannot be written.
        """
        require_utf8(directory)
        parent = next(parent for parent in directory.absolute().parents if parent.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise UserError(f"cannot write {directory}: {parent} is not a folder with write permission")
        if storage is not None:
            database.opened(storage)

    @classmethod
    def open(
        cls, directory: Path, read_only: bool = False, *, join: bool = False, storage: str | None = None
    ) -> Record:
        """Open the record in a directory.

        Args:
            directory: The study's directory.
            read_only: Whether to open the record for reading only, even while another process leads the study.
            join: Whether to take part without leading. Otherwise this process becomes the leader.
            storage: The URL of the database, if it needs a password or has moved; None takes the recorded URL.

        Raises:
            UserError: There is no record, it is damaged, or this process cannot become the leader.
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
        """The data, models and versions that scores depend on; for an old record, only the versions."""
        versions = self.header.get("versions", {})
        known = {name: Content(versions[name], versions[name], False) for name in VERSIONS if name in versions}
        return {**known, **of_data(self.header.get("contents") or self._note("contents", {}))}

    @property
    def dated(self) -> bool:
        """Whether an older partune began the study and recorded neither its objective's name nor its contents."""
        return "function" not in self.header

    def adopt(self, contents: Contents) -> None:
        """Record the contents of a study that was begun without them."""
        self._set_note("contents", as_data(contents))

    def configure(self, config: str) -> None:
        """Replace the text of study.yaml; raise UserError if the file cannot be written."""
        assert self.directory is not None
        write_whole(self.directory / CONFIG, config)

    def close(self) -> None:
        """Leave the study, so that another process may lead it."""
        self.drivers.leave()

    @property
    def url(self) -> str | None:
        """The URL of the database as it was opened, with its password; None for a journal."""
        return self._place.url

    @property
    def given(self) -> str | None:
        """The URL of the database if the user passed it; None if only the study's folder names it."""
        return self._place.given

    # ----- several drivers

    def guarded(self) -> AbstractContextManager[None]:
        """Return a context that turns an error of a database into a UserError."""
        return self._place.guarded()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep other drivers from writing within the context, and turn errors of a database into UserErrors."""
        with self.guarded(), self.drivers.turn():
            yield

    def news(self, known: int, unfinished: Collection[int]) -> dict[int, Trial]:
        """Return the trials that other drivers proposed or finished.

        Args:
            known: The number of trials that the caller knows. Trials with this number or a higher one are new.
            unfinished: The numbers of the known trials that had not finished when the caller last looked.

        Returns:
            The trials by number.
        """
        frozen = self._storage.get_all_trials(self._studies["search"], deepcopy=False)
        final = [number for number in sorted(unfinished) if frozen[number].state.is_finished()]
        return {number: self._thawed(frozen[number]) for number in (*final, *range(known, len(frozen)))}

    def abandoned(self, number: int) -> bool:
        """Return whether no driver runs an unfinished trial any more. The caller must not be running the trial itself.

        This is so if the trial has no driver on record, or if its driver is dead or this process.
        """
        driver = self._driver(number)
        return driver is None or driver == self.drivers.name or not self.drivers.alive(driver)

    def mine(self, number: int) -> bool:
        """Return whether an unfinished trial still belongs to this driver. Others take the trials of dead drivers."""
        return self._driver(number) == self.drivers.name

    def _driver(self, number: int) -> str | None:
        driver: str | None = self._storage.get_trial(self._id("search", number)).user_attrs.get("driver")
        return driver

    # ----- notes on the study

    @property
    def loaded(self) -> Mapping[str, Any]:
        """What the objective last loaded: device, precision, counts of data and items, metric; empty if nothing."""
        loaded: Mapping[str, Any] = self._note("loaded", {})
        with self._undamaged("its note on what the objective loaded"):
            forms.of_type(loaded, dict, "loaded")
        return loaded

    def describe(self, loaded: Mapping[str, Any]) -> None:
        """Record what the objective loaded, if it differs from the last note."""
        plain = json.loads(json.dumps(loaded))
        if plain != self.loaded:
            self._set_note("loaded", plain)

    @property
    def budget(self) -> int | None:
        """The total number of trials that the study may reach; None if it has never run, or if only hours limit it."""
        budget: int | None = self._note("budget")
        with self._undamaged("its budget"):
            forms.of_type(budget, int | None, "budget")
        return budget

    @property
    def time_limits(self) -> Mapping[str, float]:
        """The limits in hours of the last run, by name, and "over": 1 if they ended its search."""
        limits: Mapping[str, float] = self._note("time_limits", {})
        with self._undamaged("its limits in hours"):
            return {name: float(forms.of_type(limit, int | float, name)) for name, limit in limits.items()}

    def plan(self, budget: int | None, time_limits: Mapping[str, float] | None = None) -> None:
        """Record what the study may spend, as far as it is not on record.

        Args:
            budget: The total number of trials; None for no limit.
            time_limits: The limits in hours; None for none.
        """
        for name, limit in (("budget", budget), ("time_limits", dict(time_limits or {}))):
            if limit != getattr(self, name):
                self._set_note(name, limit)

    @property
    def looks(self) -> list[Look]:
        """The runs on which each verdict was given, in order. Consecutive verdicts differ in their runs."""
        noted = self._note("looks", [])
        with self._undamaged("its earlier verdicts"):
            return [Look(**{name: forms.of_type(value, int, name) for name, value in look.items()}) for look in noted]

    def look(self, look: Look) -> None:
        """Record the runs of a new verdict, if they differ from those of the last one."""
        before = self.looks
        if before[-1:] != [look]:
            self._set_note("looks", [noted.form for noted in (*before, look)])

    @property
    def stopped(self) -> str | None:
        """Why the last run stopped early; None if it did not, or if a run has begun since."""
        with self._undamaged("its note on why it stopped"):
            why: str | None = forms.of_type(self._note("stopped"), str | None, "stopped")
        return why

    def stop(self, why: str | None) -> None:
        """Record why a run stopped early, or None when a run begins."""
        if why != self.stopped:
            self._set_note("stopped", why)

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
        """Return when each of the optimiser's trials was proposed, and when its result was recorded."""
        trials = self._storage.get_all_trials(self._studies["search"], deepcopy=False)
        return [(frozen.datetime_start, frozen.datetime_complete) for frozen in trials]

    def propose(self, trial: Trial) -> None:
        """Append a proposed trial before it runs."""
        from optuna.trial import TrialState, create_trial

        proposal = forms.proposal_form(trial)
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
        # Optuna numbers the trials. During the turn, no process of partune can have appended another one.
        if number != trial.number:
            raise RuntimeError(
                f"trial {trial.number} was recorded as {number}: another program is writing to this study"
            )

    def restart(self, trial: Trial) -> None:
        """Record that this driver starts an interrupted trial again."""
        with self.turn():
            trial_id = self._id("search", trial.number)
            self._storage.set_trial_user_attr(trial_id, "attempts", trial.attempts)
            self._storage.set_trial_user_attr(trial_id, "driver", self.drivers.name)

    def finish(self, trial: Trial) -> None:
        """Append the observation of a finished trial, after its per-item results are on disk."""
        self._commit("search", trial)

    # ----- baselines, which the record's format calls anchors

    def anchors(self) -> dict[RunName, Trial]:
        """Return the latest baseline of each name."""
        latest = {}
        for frozen in self._storage.get_all_trials(self._studies["anchors"]):
            if frozen.state.is_finished():
                with self._undamaged(f"baseline {frozen.user_attrs.get('name', frozen.number)}"):
                    name, trial = forms.thawed_baseline(frozen)
                    latest[name] = trial
        return latest

    def anchor(self, name: RunName, trial: Trial) -> Trial:
        """Append a finished baseline.

        Args:
            name: The name of the baseline.
            trial: The finished trial. Its number is ignored.

        Returns:
            The trial with its number on record.
        """
        from optuna.trial import TrialState, create_trial

        attributes = {"name": str(name), "config": dict(trial.config), "seed": trial.seed}
        if trial.order is not None:
            attributes["order"] = trial.order
        # The module's docstring says why this trial has no parameters in Optuna's sense.
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
        """Return the per-item results of a trial or baseline by name; empty if there are none.

        Args:
            shelf: "search" for a trial, "anchors" for a baseline.
            number: The number of the trial or baseline.

        Raises:
            UserError: The file of the results is damaged, or missing although the record says that there is one.
        """
        items = self.artifacts.read_items(shelf, number)
        if items is None and self.directory is not None:
            frozen = self._storage.get_trial(self._id(shelf, number))
            if forms.item_count(frozen):
                run = f"trial {number}" if shelf == "search" else f"baseline {frozen.user_attrs.get('name', number)}"
                path = self.artifacts.items_path(shelf, number)
                raise UserError(f"{path} is missing, which holds the per-item results of {run}: restore it from a copy")
        return items or {}

    def adapter(self, trial: int | RunName) -> Path:
        """Return the folder of the adapter of a trial (a number) or a baseline (a name), whether or not it exists."""
        return self.artifacts.adapter(trial)

    # ----- inside

    def _id(self, shelf: Shelf, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._studies[shelf], number)

    def _commit(self, shelf: Shelf, trial: Trial) -> None:
        observation = trial.observation
        assert observation is not None
        if observation.items:
            self.artifacts.write_items(shelf, trial.number, observation.items)
        # partune gives a failed trial an infinite score, which Optuna refuses as a value.
        values = [observation.score] if math.isfinite(observation.score) else None
        with self.turn():
            self.drivers.confirm()
            trial_id = self._id(shelf, trial.number)
            form = forms.observation_form(observation, trial.told)
            # The state is written last. If a crash comes before it, the trial still counts as running.
            self._storage.set_trial_user_attr(trial_id, "observation", form)
            self._storage.set_trial_state_values(trial_id, forms.state(observation.status), values)

    def _thawed(self, frozen: Any) -> Trial:
        if frozen.user_attrs.get("proposal") is None:
            raise UserError(
                f"trial {frozen.number} of {self.directory} was not written by partune: another program wrote to it"
            )
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
