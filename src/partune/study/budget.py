"""What a study may spend: trials, hours of the clock, or hours of its workers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

from partune.errors import UserError, shown
from partune.record.record import Record
from partune.report.words import limits

MOST_HOURS = 1_000_000


@dataclass(frozen=True)
class Budget:
    """What a study may spend. The search ends at the first limit that it reaches.

    Attributes:
        trials: The total number of trials, including those of earlier runs; None for no limit.
        hours: The hours of the clock from now until the study ends with its verdict; None for no limit.
        device_hours: The hours of all workers together, busy or idle, including those of earlier runs; None for no
            limit.
        deadline: When the hours end, in seconds since 1970. It is computed from `hours` if it is not passed.
    """

    trials: int | None = None
    hours: float | None = None
    device_hours: float | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.hours is None and self.device_hours is None:
            raise UserError("a budget needs a limit: trials, hours or device_hours")
        if self.trials is not None:
            _check_trials(self.trials)
        for name in ("hours", "device_hours"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value, (int, float)) and 0 < value <= MOST_HOURS):
                raise UserError(
                    f"{name} must be a number greater than 0 and at most {MOST_HOURS:,}, got {shown(value)}"
                )
        if self.hours is not None and self.deadline is None:
            object.__setattr__(self, "deadline", time.time() + 3600 * self.hours)

    @classmethod
    def of(cls, budget: Any) -> Budget:
        """Return a budget, or the budget of a number of trials.

        Raises:
            UserError: The value is neither.
        """
        if isinstance(budget, cls):
            return budget
        _check_trials(budget)
        return cls(budget)

    @classmethod
    def recorded(cls, record: Record, trials: int) -> Self:
        """Return the budget on record, with its deadline.

        Args:
            record: The study's record.
            trials: The number of trials if the record has no budget.
        """
        limits = record.time_limits
        if record.budget is None and not limits:
            return cls(trials)
        return cls(record.budget, limits.get("hours"), limits.get("device_hours"), limits.get("deadline"))

    @property
    def time_limits(self) -> dict[str, float]:
        """The limits in hours, and the deadline, as they are recorded."""
        limits = {"hours": self.hours, "device_hours": self.device_hours, "deadline": self.deadline}
        return {name: value for name, value in limits.items() if value is not None}

    @property
    def words(self) -> str:
        """The limits, such as "50 trials" or "50 trials or 2 h 00 min"."""
        return limits(self.trials, self.hours, self.device_hours)


def _check_trials(trials: Any) -> None:
    if not _is_number(trials, int) or trials < 1:
        raise UserError(f"budget must be an integer, and budget >= 1 must hold, got {shown(trials)}")


def _is_number(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
