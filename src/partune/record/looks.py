"""Define what a record keeps of a verdict that was given."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Look:
    """The runs on which a verdict was given. Each verdict on new runs is one look at the study.

    Attributes:
        trial: The number of the winner.
        seeds: The number of the winner's fresh runs.
        defaults: The number of the defaults' fresh runs.
        others: The number of fresh runs of each further baseline that has fresh runs.
    """

    trial: int
    seeds: int
    defaults: int = 0
    others: int = 0

    @property
    def form(self) -> dict[str, int]:
        """The attributes as they are recorded. With one baseline, this is the form of older versions."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value or name != "others"}
