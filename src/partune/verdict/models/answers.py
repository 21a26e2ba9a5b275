"""Answer whether one model is better than another, from paired scores: per task, per group, and for the mean of tasks.

Nobody says beforehand which of the two models should be better, so the test of a difference is two-sided: p is twice
the smaller p-value of the two sides. If items are right or wrong and each model has one run, the test is McNemar's,
which is exact. Other scores are tested as in a study (`paired.compare`) and also by Gaffke's test (see `bounded`), and
the larger p counts. The study's test alone is not enough: it flips signs, so it tests symmetry, and calls many small
gains "better" even if rare large losses outweigh them.

Whether A is no worse than B within a margin is a second question, one-sided: p is that of "A is worse by the margin or
more", by Gaffke's test.

If there are several answers, their p-values are corrected with Holm's method (1979), in Shaffer's form (1986) if there
is a margin. Shaffer's form applies because at most one of an answer's two null hypotheses is true: a gain cannot be 0
and a loss of the margin or more. The chance of any false answer is at most LEVEL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from partune.verdict.models import bounded
from partune.verdict.models.pairing import Measure, Paired
from partune.verdict.paired import LEVEL, Comparison, compare
from partune.verdict.runs import Runs

GAFFKE = "Gaffke's test of the items' differences"

Array = np.ndarray[Any, Any]
Kind = Literal["task", "group", "mean"]
Relation = Literal["better", "worse", "no worse", "open"]


@dataclass(frozen=True)
class Answer:
    """The answer to "is A better than B?" for a task, a group of tasks, or the mean of tasks.

    Attributes:
        name: The name of the task or group; "mean" for the mean of tasks.
        kind: What the name stands for.
        tasks: The tasks whose items were compared.
        measures: What was compared: one measure if it is the same for all tasks.
        scores: The mean scores of A and of B on the compared items, in the metric's own direction.
        comparison: The gain of A over B with its error and one-sided tests. A gain is positive if A is better, even if
            lower is better for the metric.
        interval: The two-sided 95 % confidence interval of the gain.
        won: The number of items on which A is better, by its mean over runs.
        lost: The number of items on which B is better.
        p: The two-sided p-value of the difference.
        corrected: The same after the correction for the number of answers.
        test: The name of the test of the difference.
        margin: The margin within which A may be worse; None if the user set none.
        p_margin: The p-value of "A is worse by the margin or more"; None without a margin.
        corrected_margin: The same after the correction.
        margin_test: The name of the test of the margin; empty without a margin.
    """

    name: str
    kind: Kind
    tasks: tuple[str, ...]
    measures: tuple[Measure, ...]
    scores: tuple[float, float]
    comparison: Comparison
    interval: tuple[float, float]
    won: int
    lost: int
    p: float
    corrected: float
    test: str
    margin: float | None = None
    p_margin: float | None = None
    corrected_margin: float | None = None
    margin_test: str = ""

    @property
    def gain(self) -> float:
        """The mean score of A minus that of B, with the sign changed if lower is better for the metric."""
        return self.comparison.gain

    @property
    def items(self) -> int:
        """The number of different items that were compared."""
        return self.comparison.items

    @property
    def within_margin(self) -> bool:
        """Whether A is shown to be worse than B by less than the margin, or not worse at all."""
        return self.corrected_margin is not None and self.corrected_margin <= LEVEL

    @property
    def relation(self) -> Relation:
        """What is shown: A is "better", "worse", "no worse" within the margin, or none of these ("open")."""
        if self.corrected <= LEVEL:
            return "better" if self.gain > 0 else "worse"  # a small p agrees with the sign of the gain
        return "no worse" if self.within_margin else "open"


class Question(NamedTuple):
    """What an answer is about.

    Attributes:
        name: The name of the task or group; "mean" for the mean of tasks.
        kind: What the name stands for.
        parts: The paired items of each task.
        shares: The weight of each task; they sum to 1.
    """

    name: str
    kind: Kind
    parts: Sequence[Paired]
    shares: Sequence[float]


def answers(questions: Sequence[Question], margin: float | None = None) -> list[Answer]:
    """Answer questions about the same two models.

    Args:
        questions: The questions.
        margin: The margin of "no worse"; None to leave this test out.
    """
    joined = [_Joined(question) for question in questions]
    compared = [compare(each.a, each.b, LEVEL / 2) for each in joined]
    ps = [each.chances(comparison, margin) for each, comparison in zip(joined, compared, strict=True)]
    return [
        Answer(
            name=question.name,
            kind=question.kind,
            tasks=tuple(dict.fromkeys(part.task for part in question.parts)),
            measures=tuple(dict.fromkeys(part.measure for part in question.parts)),
            scores=each.scores,
            comparison=comparison,
            interval=each.interval(comparison),
            won=each.counts[0],
            lost=each.counts[1],
            p=p[0],
            corrected=corrected[0],
            test=each.test(comparison),
            margin=margin,
            p_margin=p[1] if margin is not None else None,
            corrected_margin=corrected[1] if margin is not None else None,
            margin_test=each.margin_test if margin is not None else "",
        )
        for question, each, comparison, p, corrected in zip(questions, joined, compared, ps, correct(ps), strict=True)
    ]


def correct(questions: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Correct p-values for the number of questions. Each question may have several p-values.

    The smallest p is multiplied by the number of questions, and each further one by the number of questions that still
    have a p-value left (Holm 1979; Shaffer, Modified Sequentially Rejective Multiple Test Procedures, 1986).

    Args:
        questions: The p-values of each question. At most one of the hypotheses behind them can be true.
    """
    left = [len(ps) for ps in questions]
    corrected = [list(ps) for ps in questions]
    most = 0.0
    for p, i, j in sorted((p, i, j) for i, ps in enumerate(questions) for j, p in enumerate(ps)):
        most = corrected[i][j] = max(most, min(1.0, sum(map(bool, left)) * p))
        left[i] -= 1
    return [tuple(ps) for ps in corrected]


class _Joined:
    """The items of all tasks of a question. A document that is in several tasks is one item.

    Args:
        question: The question.
    """

    def __init__(self, question: Question) -> None:
        self._parts = question.parts
        documents = sorted({key for part in question.parts for key in part.documents})
        places = {key: place for place, key in enumerate(documents)}
        weights, spans = np.zeros(len(documents)), np.zeros(len(documents))
        values = [np.zeros((len(side), len(documents))) for side in (question.parts[0].a, question.parts[0].b)]
        within: list[tuple[int, ...]] = [()] * len(documents)
        for number, (part, share) in enumerate(zip(question.parts, question.shares, strict=True)):
            indices = np.array([places[key] for key in part.documents])
            weight = share * part.copies / part.copies.sum()
            weights[indices] += weight
            spans[indices] = np.maximum(spans[indices], part.span)
            for sums, side in zip(values, (part.a, part.b), strict=True):
                sums[:, indices] += weight * side
            for index in indices:
                within[index] = (*within[index], number)
        kinds = {key: number for number, key in enumerate(sorted(set(within)))}
        strata = np.array([kinds[key] for key in within])
        self.a, self.b = (Runs(sums / weights, weights, strata) for sums in values)
        self._spans = spans
        self._differences = self.a.values.mean(axis=0) - self.b.values.mean(axis=0)  # (n,)

    @property
    def scores(self) -> tuple[float, float]:
        """The mean scores of A and B, in the metric's own direction."""
        sign = 1.0 if self._parts[0].measure.higher else -1.0
        a, b = (sign * float(side.values.mean(axis=0) @ side.weights) for side in (self.a, self.b))
        return a, b

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of items on which A and B are better."""
        clear = np.abs(self._differences) > 1e-12 * self._spans
        return int((clear & (self._differences > 0)).sum()), int((clear & (self._differences < 0)).sum())

    @property
    def _effects(self) -> tuple[Array, float]:
        """The gains of the items, scaled so that their mean is the total gain, and the largest gain of one item."""
        scale = len(self._differences) * self.a.weights
        return scale * self._differences, float((scale * self._spans).max())

    @property
    def _alone(self) -> bool:
        """Whether there is one run of each model, and all items have the same weight."""
        return len(self.a) == len(self.b) == 1 and float(np.ptp(self.a.weights)) <= 1e-12

    @property
    def _right_or_wrong(self) -> bool:
        """Whether McNemar's test alone is enough."""
        return self._alone and bool(np.isin(self._differences, (-1.0, 0.0, 1.0)).all())

    @property
    def _distribution_free(self) -> bool:
        """Whether Gaffke's test alone is enough for margin and interval: one run of each, and scores from 0 to 1."""
        return self._alone and all(part.bounded for part in self._parts)

    def interval(self, comparison: Comparison) -> tuple[float, float]:
        """Return the two-sided 95 % confidence interval of the gain.

        If Gaffke's interval alone is not enough, it is widened to contain the interval of the comparison.
        """
        effects, most = self._effects
        if most == 0.0:  # all scores of both models are equal, and their range is unknown
            return math.nan, math.nan
        low, high = bounded.interval(effects, -most, most, LEVEL)
        if self._distribution_free:
            return low, high
        lower, upper = comparison.interval
        return float(np.fmin(low, lower)), float(np.fmax(high, upper))

    def test(self, comparison: Comparison) -> str:
        """Return the name of the test of the difference."""
        name = comparison.test.removesuffix(", one-sided")
        return name if self._right_or_wrong else f"{name}, and {GAFFKE}"

    @property
    def margin_test(self) -> str:
        """The name of the test of a margin."""
        if self._distribution_free:
            return GAFFKE
        test = "Student's t over items" if self._alone else "Behrens-Fisher test over runs and items"
        return f"{test}, and {GAFFKE}"

    def chances(self, comparison: Comparison, margin: float | None) -> tuple[float, ...]:
        """Return the p-values of the difference and, if there is a margin, of the margin, before any correction.

        Args:
            comparison: The comparison of A with B.
            margin: The margin.
        """
        p = self.chance_of_difference(comparison)
        return (p,) if margin is None else (p, self.chance_of_margin(comparison, margin))

    def chance_of_difference(self, comparison: Comparison) -> float:
        """Return the two-sided p-value of "A and B are equally good".

        Args:
            comparison: The comparison of A with B.
        """
        better, worse = comparison.p, comparison.p_worse
        if not self._right_or_wrong:
            effects, most = self._effects
            better = max(better, bounded.chance_at_most(0.0, effects, -most))
            worse = max(worse, bounded.chance_at_most(0.0, -effects, -most))
        return min(1.0, 2 * min(better, worse))

    def chance_of_margin(self, comparison: Comparison, margin: float) -> float:
        """Return the p-value of "A is worse than B by the margin or more".

        Args:
            comparison: The comparison of A with B.
            margin: The margin.
        """
        effects, most = self._effects
        if most == 0.0:
            return 1.0
        p = bounded.chance_at_most(-margin, effects, -most)
        if self._distribution_free:
            return p
        if math.isfinite(comparison.stderr):
            p = max(p, comparison.variance.error.sf(comparison.gain + margin))
        return max(p, 0.5 ** len(effects))
