"""Ask and tell: how every optimiser is driven, and how its state is rebuilt from a record.

Two forms of optimiser share one protocol:

- `Sampler`: proposal n is a function of the seed, n, the results told and the proposals pending (random search,
  Latin hypercube, GP-BO). A replay restores the history and nothing else.
- `Sequential`: the paper's loop, written as a generator that yields the points it wants scored and resumes with their
  scores (SOO, BaMSOO). A replay feeds the recorded scores to the same loop. Where the algorithm can, it goes ahead of
  results that are pending, exactly as far as the caller asks.

Both answer a configuration that was already proposed from the record: it is no proposal and costs no budget.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, ClassVar

from partune.errors import UserError, shown
from partune.space import Space
from partune.trial import Config, Observation, Point, Proposal, Status, Trial
from partune.trial.trial import RUNG

Search = Generator[list[Point], list[float], None]


BATCH = 100_000  # proposals that one ask can be for


class ReplayError(UserError):
    """The record is not what this optimiser, space and seed would have proposed."""


class Optimizer(ABC):
    """Sees the space and the observations, never the objective. Higher scores are better.

    seeded: False for a deterministic algorithm, whose points are the same under every seed.
    learns: False where what is proposed does not depend on results.
    n_init: proposals of an initial design, in which no result counts yet.
    """

    seeded: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    n_init: int = 0

    def __init__(self, space: Space, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UserError(f"a seed is an integer >= 0, got {seed!r}")
        self.space = space
        self.seed = seed
        self.proposals: list[Proposal] = []
        self._scores: dict[int, float] = {}
        self._errors: dict[int, float] = {}
        self._done: list[Observation] = []
        self._number: dict[Point, int] = {}
        self._size = space.size

    # ----- the protocol

    def ask(self, n: int = 1) -> list[Proposal]:
        """Up to n new proposals; fewer, or none, while pending results are needed or when the search is finished."""
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= BATCH:
            raise UserError(f"an ask is for 1 to {BATCH} proposals, an integer n >= 1, got n={shown(n)}")
        asked: list[Proposal] = []
        while len(asked) < n and (proposal := self._propose()) is not None:
            asked.append(self._register(proposal))
        return asked

    def tell(self, proposal: Proposal, result: Observation | float) -> None:
        """The result of a proposal, in any order. Raises ValueError where it is not pending."""
        if not isinstance(proposal, Proposal):
            raise UserError(f"a result is told of a Proposal that ask() gave, got {shown(proposal)}")
        number = proposal.number
        if not 0 <= number < len(self.proposals) or self.proposals[number].point != proposal.point:
            raise ValueError(f"proposal {number} at {proposal.point} is none of this optimiser's")
        if number in self._scores:
            raise ValueError(f"proposal {number} was already told, with score {self._scores[number]}")
        observation = Observation.of(result).blinded()
        self._scores[number] = self._worth(observation)
        self._errors[number] = math.nan if observation.stderr is None else observation.stderr
        if observation.status is Status.DONE:
            self._done.append(observation)

    def _worth(self, observation: Observation) -> float:
        """The score that an observation counts as; -inf for a failure (imputed only where a model is fitted).

        A stopped trial counts as its score at its last rung, plus the mean of what the trials done so far gained after
        that rung, but no more than the best of them.
        """
        if observation.status is not Status.STOPPED or not observation.scores:
            return observation.score if observation.scores else -math.inf
        rung = f"{RUNG}{sum(name.startswith(RUNG) for name in observation.scores) - 1}"
        gains = [each.score - each.scores[rung] for each in self._done if rung in each.scores]
        expected = observation.score + (sum(gains) / len(gains) if gains else 0.0)
        return min(expected, max((each.score for each in self._done), default=expected))

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Nothing will ever be proposed again, and nothing is pending."""

    def replay(self, trials: Iterable[Trial]) -> None:
        """Rebuilds the state from a record, on an optimiser that was asked nothing yet.

        Proposals are made again in order of number, each after exactly the results that were told before it. Trials
        that are not final stay pending, to be told later through `trial.proposal`. Raises ReplayError where the record
        disagrees with what this optimiser proposes.
        """
        if self.proposals:
            raise ValueError(f"a replay needs a fresh optimiser, this one made {len(self.proposals)} proposals")
        self.follow(trials)

    def follow(self, trials: Iterable[Trial]) -> None:
        """As `replay`, from where this optimiser stands: what it proposed and was told is the record's beginning.

        A `Sequential` optimiser follows results only, as it may have gone on beyond its last proposal.
        """
        record = sorted(trials, key=lambda trial: trial.number)
        if [trial.number for trial in record] != list(range(len(record))):
            raise ReplayError(f"a record has proposals 0, 1, ..., got {[trial.number for trial in record]}")
        told = deque(sorted((trial for trial in record if trial.told is not None), key=lambda trial: trial.told or 0))
        if [trial.told for trial in told] != list(range(len(told))):
            raise ReplayError(f"a record has results 0, 1, ..., got {[trial.told for trial in told]}")
        for _ in range(len(self._scores)):
            told.popleft()
        for trial in record[len(self.proposals) :]:
            while len(self._scores) < trial.told_before:
                self._retell(told, before=trial)
            try:
                self._repropose(trial)
            except UserError:
                raise
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                said = f"{type(error).__name__}: {error}"
                raise ReplayError(f"trial {trial.number}: its record cannot be followed ({said})") from error
        while told:
            self._retell(told)

    # ----- what an algorithm builds on

    @property
    def pending(self) -> list[Proposal]:
        return [proposal for proposal in self.proposals if proposal.number not in self._scores]

    @property
    def history(self) -> tuple[list[Point], list[float]]:
        """The points really evaluated, n of (d,), and their scores, (n,); in order of number, -inf for a failure."""
        numbers = sorted(self._scores)
        return [self.space.encode(self.proposals[k].config) for k in numbers], [self._scores[k] for k in numbers]

    @property
    def errors(self) -> list[float]:
        """The standard errors of the scores of `history`, (n,); NaN where unknown."""
        return [self._errors[k] for k in sorted(self._scores)]

    def proposed(self, point: Point) -> bool:
        """Whether the configuration at a point was proposed before."""
        return self._canonical(point) in self._number

    def known(self, point: Point) -> float | None:
        """The score of the configuration at a point; None where it was never told."""
        number = self._number.get(self._canonical(point))
        return None if number is None else self._scores.get(number)

    def _all_proposed(self) -> bool:
        return self._size is not None and len(self._number) >= self._size

    # ----- what the two forms fill in

    @abstractmethod
    def _propose(self) -> Proposal | None:
        """The next proposal; None where there is none now."""

    def _repropose(self, trial: Trial) -> None:
        """A recorded proposal, made again."""
        proposal = self._propose()
        if proposal is None or proposal.point != tuple(trial.point) or proposal.config != dict(trial.config):
            raise _disagreement(trial, "nothing" if proposal is None else f"{proposal.point}, {dict(proposal.config)}")
        self._register(proposal)

    def _retell(self, told: deque[Trial], before: Trial | None = None) -> None:
        if not told or told[0].number >= len(self.proposals):
            at = "its end" if before is None else f"trial {before.number}"
            raise ReplayError(f"the record tells a result before its proposal, at {at}")
        trial = told.popleft()
        if trial.observation is None:
            raise ReplayError(f"trial {trial.number} was told as result {trial.told}, but has no observation")
        self.tell(trial.proposal, trial.observation)

    def _register(self, proposal: Proposal) -> Proposal:
        self.proposals.append(proposal)
        self._number[self.space.encode(proposal.config)] = proposal.number
        return proposal

    def _canonical(self, point: Point) -> Point:
        """Equal for two points exactly where they decode to the same configuration, as encode is injective."""
        return self.space.encode(self.space.decode(point))


class Sampler(Optimizer):
    """An optimiser whose next point follows from the history alone; each point is the one really evaluated."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._exhausted = False

    @abstractmethod
    def next_point(self) -> Point | None:
        """A point whose configuration was not proposed before; None where the space is exhausted."""

    @property
    def cheap(self) -> bool:
        """Whether `next_point` costs next to nothing now, so that a replay can check the record against it."""
        return True

    @property
    def finished(self) -> bool:
        return (self._exhausted or self._all_proposed()) and not self.pending

    def _propose(self) -> Proposal | None:
        if self._all_proposed() or (point := self.next_point()) is None:
            self._exhausted = True
            return None
        config = self.space.decode(point)
        return Proposal(len(self.proposals), self.space.encode(config), config)

    def _repropose(self, trial: Trial) -> None:
        if self.cheap:
            super()._repropose(trial)
        elif self.space.encode(trial.config) != tuple(trial.point):
            raise _disagreement(trial, f"{self.space.encode(trial.config)} for the same configuration")
        else:
            self._register(trial.proposal)


class Sequential(Optimizer):
    """An optimiser whose loop is a generator; this class turns it into ask and tell.

    ahead: whether the search goes on while results are pending. Asked for more than it has yielded, such a search is
    resumed with NaN for what is pending, and yields an empty list where it can do nothing before a result arrives. An
    ask that brought no proposal is in no record, so the search must leave no trace of it: resumed later, with more
    results, it does what it would have done without. With one proposal at a time, each told at once, nothing is ever
    missing.
    """

    ahead: ClassVar[bool] = False

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._search: Search | None = None
        self._batch: list[Point] = []
        self._passed = 0
        self._ended = False
        self._canonicals: dict[Point, Point] = {}
        self._notes: list[Mapping[str, Any]] = []
        self._recorded: deque[Mapping[str, Any]] | None = None

    @abstractmethod
    def search(self) -> Search:
        """The algorithm: yields a list of points, resumes with their scores in the same order (-inf for a failure)."""

    def infer(self, point: Point, compute: Callable[[], Mapping[str, float]]) -> Mapping[str, Any]:
        """What the algorithm infers about a point: recorded with the next proposal, on a replay taken from there."""
        if self._recorded is None:
            note: Mapping[str, Any] = {"point": list(point), **compute()}
        elif self._recorded and tuple(self._recorded[0]["point"]) == point:
            note = self._recorded.popleft()
        else:
            raise ReplayError(
                f"trial {len(self.proposals)}: the record infers {list(self._recorded) or 'nothing'} "
                f"where the search infers about {point}"
            )
        self._notes.append(note)
        return note

    @property
    def finished(self) -> bool:
        return not self.waiting and self._advance() is None

    @property
    def waiting(self) -> bool:
        """Whether a result is pending."""
        return len(self._scores) < len(self.proposals)

    def _canonical(self, point: Point) -> Point:
        """Once for each point: a search asks for the same ones again and again."""
        if point not in self._canonicals:
            self._canonicals[point] = super()._canonical(point)
        return self._canonicals[point]

    def _propose(self) -> Proposal | None:
        new = self._advance()
        if new is None:
            return None
        notes, self._notes = tuple(self._notes), []
        return Proposal(len(self.proposals), new, self.space.decode(new), notes)

    def _repropose(self, trial: Trial) -> None:
        self._recorded = deque(trial.notes)
        super()._repropose(trial)
        if self._recorded:
            raise ReplayError(f"trial {trial.number}: the record infers {list(self._recorded)}, the search does not")
        self._recorded = None

    def _advance(self) -> Point | None:
        """Runs the search to its next point that was never proposed; None where it ended, or needs what is pending.

        It ends at the latest when every configuration of a finite space was proposed.
        """
        while not self._ended:
            while self._passed < len(self._batch) and self.proposed(self._batch[self._passed]):
                self._passed += 1
            if self._passed < len(self._batch):
                return self._batch[self._passed]
            if self._all_proposed():
                self._ended = True
                return None
            scores = [math.nan if (score := self.known(point)) is None else score for point in self._batch]
            if not self.ahead and any(map(math.isnan, scores)):
                return None
            try:
                if self._search is None:
                    self._search = self.search()
                    self._batch = next(self._search)
                else:
                    self._batch = self._search.send(scores)
            except StopIteration:
                self._ended, self._batch = True, []
            self._passed = 0
            if not self._batch and self.waiting:
                return None
        return None


def _disagreement(trial: Trial, replayed: str) -> ReplayError:
    config: Config = dict(trial.config)
    return ReplayError(
        f"trial {trial.number} disagrees with its record: recorded {tuple(trial.point)}, {config}; replayed {replayed} "
        "(were the space, the seed or an option of the optimiser changed?)"
    )
