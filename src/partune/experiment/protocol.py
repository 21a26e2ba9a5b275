"""Plan an experiment: the studies that it consists of, their settings, and the folder that holds them.

An experiment's file is a study's file with one more section, `protocol`. A folder holds one experiment:

    experiment/
      experiment.yaml   the complete file of the experiment
      calibration/      an ordinary study: configurations trained for 1, 2, ... epochs
      bo-0/, soo-0/     ordinary studies, one per algorithm and seed
      experiment.html   the results; also as experiment.md, which shows two pictures, and as experiment.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from partune import config
from partune.config import StudyConfig, vetting
from partune.demo import DIRECTORY
from partune.errors import UserError
from partune.experiment.calibration import EPOCHS
from partune.experiment.options import Experiment, Protocol
from partune.optimizers import optimizer, resolved
from partune.report.comparison.bounds import samples
from partune.runtime import strict_yaml
from partune.runtime.disk import write_whole
from partune.space import Int, Space
from partune.study import from_config as configured
from partune.trial.contents import first_difference

FILE = "experiment.yaml"
CALIBRATION = "calibration"
CALIBRATING = ("most_epochs", "sufficient")  # settings of the protocol that only a calibration reads


@dataclass(frozen=True)
class Plan:
    """The studies of an experiment.

    Attributes:
        experiment: The settings in the experiment's file.
    """

    experiment: Experiment

    @property
    def protocol(self) -> Protocol:
        """The section `protocol` of the experiment's file."""
        return self.experiment.protocol

    @property
    def directory(self) -> Path:
        """The experiment's folder."""
        return Path(self.protocol.out)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the repeats."""
        return self.protocol.seeds or tuple(range(self.protocol.repeats or 5))

    @cached_property
    def base(self) -> StudyConfig:
        """The settings that all studies share."""
        whole = self.experiment.model_dump(exclude={"protocol"}, exclude_unset=True)
        if not self.experiment.test.tasks:
            whole.get("test", {}).pop("every_trial", None)  # the preset sets it, but it needs test tasks
        return configured.with_space(config.parse(whole))

    @property
    def fixed(self) -> Mapping[str, Any]:
        """The hyperparameters of the space that have a fixed value, so that they are not searched."""
        return configured.fixed(config.parse(self.experiment.model_dump(exclude={"protocol"}, exclude_unset=True)))

    @cached_property
    def space(self) -> Space:
        """The space that all studies search."""
        return Space.parse(self.base.space or {})

    @property
    def calibrated(self) -> bool:
        """Whether a calibration finds the number of epochs.

        This is so in a fine-tuning, unless protocol.calibration is 0, training.steps is set, or the space contains
        epochs or steps.
        """
        counted = self.base.training.steps is not None or {EPOCHS, "steps"} & set(self.space.names)
        return self.base.objective == "finetune" and self.protocol.calibration > 0 and not counted

    def calibration(self) -> StudyConfig:
        """Return the settings of the study that finds the number of epochs; it has no test tasks."""
        count, most = self.protocol.calibration, self.protocol.most_epochs
        space = Space({**self.space.hyperparameters, EPOCHS: Int(1, most)})
        training = self.base.training.model_dump(exclude_unset=True, exclude={EPOCHS})
        search = {
            "algorithm": "partune.experiment.calibration:Ladder",
            "options": {"configurations": count},
            "budget": count * most,
            "seeds": 0,
            "seed": self.seeds[0],
        }
        return self._with(space=space.describe(), training=training, search=search, test={"tasks": ()})

    def studies(self, epochs: int | None) -> dict[str, StudyConfig]:
        """Return the settings of each study by the name of its folder, ordered by seed and then by algorithm.

        Args:
            epochs: The number of epochs of each training; None leaves the user's setting as it is.
        """
        training = (
            {}
            if epochs is None
            else {"training": {**self.base.training.model_dump(exclude_unset=True), EPOCHS: epochs}}
        )
        return {
            f"{name}-{seed}": self._with(
                **training,
                search={**self.base.search.model_dump(), **self._options(name), "algorithm": name, "seed": seed},
                run={**self.base.run.model_dump(), **({} if self._packed(name) else {"pack": 1})},
            )
            for seed in self.seeds
            for name in self.protocol.algorithms
        }

    def _with(self, **sections: Any) -> StudyConfig:
        return config.parse({**self.base.model_dump(exclude_unset=True), **sections})

    def _options(self, name: str) -> dict[str, Any]:
        """Return an algorithm's options: a Latin hypercube has as many points as the budget, to stratify all trials."""
        budget = self.base.search.budget
        return {"options": {"size": budget}} if name == "lhs" and budget != 50 else {}

    def _packed(self, name: str) -> bool:
        """Return whether an algorithm's trials may be trained together (as a pack).

        An algorithm that learns from scores runs one trial at a time, as in its paper, unless the user set run.pack.
        """
        return self.base.objective != "finetune" or samples(name) or "pack" in self.base.run.model_fields_set

    # ----- checks before any work

    def check(self) -> None:
        """Check the settings and the folder before any work begins.

        Raises:
            UserError: A setting cannot work, or the folder holds files of something else.
        """
        vetting.vet(self.base, self.space.names)
        if self.calibrated and self.base.training.epochs != 1:
            raise UserError(
                f"training.epochs {self.base.training.epochs:g} would have no effect, because the calibration finds "
                "the number of epochs: leave it out, or add `--calibration 0`"
            )
        for name in self.protocol.algorithms:
            if resolved(name) != name or Path(name).name != name:
                raise UserError(f"algorithms must be names that `partune algorithms` lists, got {name!r}")
            optimizer(name, self.space)
        if len(self.seeds) * len(self.protocol.algorithms) < 2:
            raise UserError("an experiment compares at least two studies: add more `--algorithms` or `--repeats`")
        self.upper()
        entries = {path.name for path in self.directory.iterdir()} if self.directory.is_dir() else set()
        # A name with a dot in front is a file that an interrupted run did not finish writing.
        if any(name != FILE and not name.startswith(".") for name in entries):
            self._check_recorded()

    def _check_recorded(self) -> None:
        if not (self.directory / FILE).is_file():
            raise UserError(f"{self.directory} holds something other than an experiment: choose another `--out`")
        recorded = Plan(parse(config.load(self.directory / FILE)))
        if (difference := first_difference(recorded._identity, self._identity)) is not None:
            raise UserError(
                f"{self.directory} holds another experiment: {difference.key} differs; choose another `--out`, or "
                f"keep {difference.key} as it was"
            )

    @property
    def _identity(self) -> Mapping[str, Any]:
        """The settings that must stay the same when an experiment is continued.

        The machines that the experiment runs on may change, and so may its numbers of algorithms and repeats.
        """
        plain = self.experiment.model_dump(mode="json", exclude={"run", "protocol"})
        kept = self.protocol.model_dump(mode="json", include={"calibration", "most_epochs"})
        kept["first seed"] = self.seeds[0]  # the calibration uses this seed
        return {**plain, "space": self.base.space, "protocol": kept}

    def begin(self) -> None:
        """Write the experiment's file to its folder; raise UserError if that fails."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {self.directory}: {error.strerror or error}") from None
        write_whole(self.directory / FILE, dump(self.experiment))

    def upper(self) -> dict[str, float]:
        """Return the user's scores of the upper bound by task; empty if there are none.

        Raises:
            UserError: A task is not one of the experiment's, or a score is not a number.
        """
        if self.protocol.upper is None:
            return {}
        given, tasks = config.load(self.protocol.upper), self.tasks
        for name, score in given.items():
            if name not in tasks:
                raise UserError(f"{self.protocol.upper}: {name} is not one of the tasks {', '.join(tasks)}")
            if isinstance(score, bool) or not isinstance(score, (int, float)):
                raise UserError(f"{self.protocol.upper}: the score of {name} must be a number, got {score!r}")
        return {name: float(score) for name, score in given.items()}

    @property
    def tasks(self) -> list[str]:
        """The names of all validation and test tasks."""
        validation = () if self.base.validation is None else self.base.validation.tasks
        return [Path(name).stem for name in (*validation, *self.base.test.tasks)]


def parse(value: Any) -> Experiment:
    """Return an experiment from its file's mapping; raise UserError with one line if it is wrong."""
    return config.validated(Experiment, value)


def dump(experiment: Experiment, ascii_only: bool = False) -> str:
    """Return the YAML text of an experiment, without defaults; `parse` returns the same experiment from it.

    Args:
        experiment: The experiment.
        ascii_only: Whether to write characters that are not ASCII as escapes.
    """
    return strict_yaml.dump(experiment.model_dump(mode="json", exclude_unset=True), ascii_only)


def composed(file: Mapping[str, Any], flags: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a file, flags and the preset make together.

    Flags override the file, and both override the preset. If neither sets a model, data or tasks, those of the demo
    are used. An experiment on a function has no preset.

    Args:
        file: The mapping of the experiment's file.
        flags: The mapping of the flags, in the same form.

    Raises:
        UserError: The file or the flags are wrong; the error's message is one line.
    """
    given = config.merged(file, flags, Experiment)
    if given.get("objective", "finetune") != "finetune":
        return parse(given)
    below = preset()
    if not any(
        _names(given.get(name), key) for name, key in (("model", "path"), ("data", "path"), ("validation", "tasks"))
    ):
        below = config.merged(below, embedded(), Experiment)
    if (given.get("run") or {}).get("engine") == "litgpt":
        del below["training"]["max_grad_norm"]  # LitGPT has no such setting, and never clips
    below = configured.beneath(below, given)
    whole = config.merged(below, given, Experiment)
    if not _names(whole.get("data"), "path"):
        del whole["data"]  # without a path, this section holds only what the preset set
    experiment = parse(whole)
    unused_here = [name for name in CALIBRATING if name in (given.get("protocol") or {})]
    if unused_here and not Plan(experiment).calibrated:
        raise UserError(
            f"protocol.{unused_here[0]} would have no effect, because there is no calibration: leave it out"
        )
    return experiment


def _names(section: Any, key: str) -> bool:
    """Return whether a section sets a key. A bare value in place of a section counts as setting it."""
    return section is not None and (not isinstance(section, Mapping) or key in section)


def load(path: str | Path) -> dict[str, Any]:
    """Return the mapping in an experiment's file, not validated yet.

    `config.load` makes paths absolute; this does the same for protocol.upper.
    """
    value = config.load(path)
    given = value.get("protocol")
    if isinstance(given, Mapping) and isinstance(given.get("upper"), str):
        upper = Path(path).absolute().parent / given["upper"]
        if upper.is_file():
            value["protocol"] = {**given, "upper": str(upper)}
    return value


def preset() -> dict[str, Any]:
    """Return the protocol of the original study (see docs/experiment.md), as the mapping of a study's settings file."""
    return config.load(Path(__file__).parent / "protocol.yaml")


def embedded() -> dict[str, Any]:
    """Return the mapping of the demo's experiment file."""
    return config.load(DIRECTORY.parent / "experiment.yaml")
