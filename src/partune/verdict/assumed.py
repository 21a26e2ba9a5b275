"""What is assumed of the variation of scores before a study has measured it: what the demo's studies measured.

docs/plan.md says how. With `partune plan --like DIRECTORY`, the variation is that of a study on record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from partune.verdict.variation import Shape, Variation

Kind = Literal["choices", "labels", "answers", "losses", "likelihoods", "margins"]

MEASURED: dict[Kind, Variation] = {
    "choices": Variation(same=0.96, alike=0.93, base=0.83, seeds=0.02, shape="answers"),
    "labels": Variation(same=0.36, alike=0.15, base=0.05, seeds=0.16, shape="answers"),
    "answers": Variation(same=0.90, alike=0.88, base=0.70, seeds=0.25, shape="answers"),
    "losses": Variation(same=0.85, alike=0.67, base=0.48, seeds=0.15, shape="losses"),
    "likelihoods": Variation(same=0.88, alike=0.79, base=0.71, seeds=0.11, shape="losses"),
    "margins": Variation(same=0.89, alike=0.82, base=0.70, seeds=0.03, shape="numbers"),
}


class Yardstick(NamedTuple):
    """What scores a study.

    Attributes:
        metric: The name of the metric.
        rows: Whether validation rows are scored, not the items of tasks.
    """

    metric: str
    rows: bool

    def kind(self, shape: Shape) -> Kind:
        """Return which of the demo's scores vary as those of this metric are assumed to vary."""
        if self.metric == "margin":
            return "margins"
        if shape == "answers":
            return ("labels" if self.rows else "choices") if self.metric.startswith("acc") else "answers"
        if self.metric == "loss" and not self.rows:
            return "likelihoods"
        return "losses"  # those that differ most between runs

    @property
    def shape(self) -> Shape:
        """What the scores are, as far as the name of the metric shows it."""
        name = self.metric.partition(",")[0]
        if name.startswith("acc") or name == "exact_match":
            return "answers"
        return "losses" if name == "loss" or "perplexity" in name or name == "bits_per_byte" else "numbers"

    def assumed(self, shape: Shape | None = None) -> Variation:
        """Return the variation that is assumed, for scores of a spread of 1 and answers of which half are right.

        Args:
            shape: What the scores are, if some are known. Otherwise nothing is assumed of the mean of numbers.
        """
        assumed = MEASURED[self.kind(shape or self.shape)]
        return replace(assumed, shape=shape or ("answers" if assumed.answers else "numbers"))
