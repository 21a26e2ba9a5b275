"""The file that describes a batch system, as a frozen class that refuses unknown keys."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from partune.config.base import Section


class Batch(Section):
    """The file that describes a batch system and the jobs to submit to it."""

    system: Literal["slurm", "oar", "pbs", "lsf", "htcondor", "sge"]
    """The batch system."""
    minimum: PositiveInt = 1
    """Smallest number of workers while the study runs."""
    maximum: PositiveInt
    """Largest number of workers, rounded down to a multiple of workers_per_job."""
    workers_per_job: PositiveInt = 1
    """Number of worker processes per job, usually one for each GPU of a node."""
    devices_per_worker: PositiveInt = 1
    """Number of GPUs that each worker sees."""
    prologue: tuple[str, ...] = ()
    """Shell commands to run before the workers start, such as module load or source .venv/bin/activate."""
    job: dict[str, Any] = Field(default_factory=dict)
    """Options of dask-jobqueue's class for the system: queue, walltime, memory, job_extra_directives, ..."""

    @model_validator(mode="after")
    def _in_order(self) -> Batch:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum <= maximum must hold, got minimum={self.minimum}, maximum={self.maximum}")
        if self.workers_per_job > self.maximum:
            got = f"workers_per_job={self.workers_per_job}, maximum={self.maximum}"
            raise ValueError(f"workers_per_job <= maximum must hold, got {got}")
        return self
