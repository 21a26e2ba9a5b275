"""What an experiment can be told: its file's sections, which are its flags too."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from partune import config
from partune.config import StudyConfig, Where

ALGORITHMS = ("lhs", "bo", "soo", "bamsoo")

OWN = {  # a study's settings that an experiment has in hand, and what to give instead
    "search.algorithm": "give --algorithms",
    "search.seed": "give --seeds",
    "search.options": "algorithms run with their defaults",
    "run.storage": "its studies keep their records in its folder",
    **{f"run.{name}": "it runs in processes of this machine, give --processes" for name in Where.model_fields},
}

FLAGLESS = ("search.seeds",)  # --seeds are those of the studies

Names = Annotated[tuple[str, ...], BeforeValidator(config.parts)]
Seeds = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(config.parts)]


class Protocol(config.Section):
    """The experiment: how many studies of which algorithms, and how the number of epochs is found."""

    repeats: PositiveInt | None = None
    """Number of studies of each algorithm, which differ in the seed. By default it is 5, with which the tests can
    show a difference between four algorithms."""
    seeds: Seeds = ()
    """Seeds of these studies, separated by commas; by default 0, 1, and so on."""
    algorithms: Annotated[Names, Field(min_length=1)] = ALGORITHMS
    """Algorithms to compare, separated by commas."""
    calibration: Annotated[int, Field(ge=0)] = 6
    """Number of configurations that the number of epochs is calibrated with, at least three; 0 takes the epochs as
    they are given."""
    most_epochs: Annotated[int, Field(ge=2)] = 5
    """Number of epochs of the full training, which the calibration compares shorter ones with."""
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
                raise ValueError(f"{name} are given twice: {','.join(map(str, given))}")
        if self.seeds and self.repeats not in (None, len(self.seeds)):
            raise ValueError(f"{len(self.seeds)} seeds are given for {self.repeats} repeats: leave one of them out")
        if self.calibration in (1, 2):
            raise ValueError(f"a rank correlation takes three configurations at least: calibration {self.calibration}")
        return self


class Experiment(StudyConfig):
    """An experiment's file, whole."""

    protocol: Protocol = Protocol()

    @model_validator(mode="after")
    def _apart(self) -> Experiment:
        for name, instead in OWN.items():
            section, key = name.split(".")
            if key in getattr(self, section).model_fields_set:
                raise ValueError(f"{name} is the experiment's own: {instead}")
        return self
