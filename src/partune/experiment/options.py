"""Define the settings of an experiment. Each can be set in the experiment's file, in its section, or by a flag."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from partune import config
from partune.config import StudyConfig, Where

ALGORITHMS = ("lhs", "bo", "soo", "bamsoo")

OWN = {  # settings of a study that an experiment decides itself, and what to do instead
    "search.algorithm": "use `--algorithms`",
    "search.seed": "use `--seeds`",
    "search.options": "its algorithms run with their defaults",
    **{f"search.{name}": "its studies have equally many trials; use `--budget`" for name in ("hours", "device_hours")},
    "run.storage": "its studies keep their records in its folder",
    **{f"run.{name}": "its studies run in processes of this machine; use `--processes`" for name in Where.model_fields},
}

FLAGLESS = ("search.seeds",)  # `--seeds` sets the seeds of the studies

Names = Annotated[tuple[str, ...], BeforeValidator(config.parts)]
Seeds = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(config.parts)]


class Protocol(config.Section):
    """The studies of an experiment, and how it finds the number of epochs."""

    repeats: PositiveInt | None = None
    """Number of studies of each algorithm, which differ in the seed. By default it is 5, with which the tests can
    show a difference between four algorithms."""
    seeds: Seeds = ()
    """Seeds of these studies, separated by commas; by default 0, 1, and so on."""
    algorithms: Annotated[Names, Field(min_length=1)] = ALGORITHMS
    """Algorithms to compare, separated by commas."""
    calibration: Annotated[int, Field(ge=0)] = 6
    """Number of configurations to calibrate the number of epochs with, at least three; 0 keeps the epochs that are
    set."""
    most_epochs: Annotated[int, Field(ge=2)] = 5
    """Number of epochs of the full training, with which the calibration compares shorter trainings."""
    sufficient: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Smallest rank correlation with the full training at which a number of epochs counts as enough."""
    upper: str | None = None
    """YAML file of scores by task, for instance those of a published model; the report shows them as the upper
    bound."""
    processes: PositiveInt = 1
    """Number of studies that run at once; each has a process of its own."""
    out: config.FolderText = "runs/experiment"
    """Folder of the experiment. An experiment that was interrupted there is continued."""

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        for name in ("seeds", "algorithms"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} must not repeat, got {','.join(map(str, given))}")
        if self.seeds and self.repeats not in (None, len(self.seeds)):
            raise ValueError(f"{len(self.seeds)} seeds do not fit {self.repeats} repeats: set only one of the two")
        if self.calibration in (1, 2):
            raise ValueError(f"calibration must be 0 or at least 3 configurations, got {self.calibration}")
        return self


class Experiment(StudyConfig):
    """All settings of an experiment's file."""

    protocol: Protocol = Protocol()

    @model_validator(mode="after")
    def _apart(self) -> Experiment:
        for name, instead in OWN.items():
            section, key = name.split(".")
            if key in getattr(self, section).model_fields_set:
                raise ValueError(f"{name} cannot be set in an experiment: {instead}")
        return self
