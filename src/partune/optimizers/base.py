"""Ask and tell: how every optimiser is driven, and how its state is rebuilt from a record.

Two forms of optimiser share one protocol:

- `Sampler`: proposal n is a function of the seed, n, the results told and the proposals pending (random search,
  Latin hypercube, GP-BO). A replay restores the history and nothing else.
- `Sequential`: the paper's loop, written as a generator that yields the points it wants scored and resumes with their
  scores (SOO, BaMSOO). A replay feeds the recorded scores to the same loop. Where the algorithm can, it goes ahead of
  results that are pending, exactly as far as the caller asks.

Both answer a configuration that was already proposed from the record: it is no new proposal and costs no budget.
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
from partune.trial.names import Rung, rung_scores

Search = Generator[list[Point], list[float], None]

MOST_ASKED = 100_000  # proposals per ask


class ReplayError(UserError):
    """A record that is not what this optimiser, space and seed would have proposed."""


class Optimizer(ABC):
    """A search algorithm that is asked for proposals and told their results; higher scores are better.

    It sees the space and the observations, never the objective.

    Args:
        space: The search space.
        seed: The seed of all that is random in the algorithm; an integer from 0 on.

    Attributes:
        seeded: False for a deterministic algorithm, which proposes the same points under every seed.
        learns: False if results do not change what is proposed.
        n_init: The number of proposals in an initial design, before which no result is used.
        proposals: All proposals so far, in order of their numbers.
        scores: What each told result counts as, by the proposal's number; -inf for a failure.
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
        self.scores: dict[int, float] = {}
        self._errors: dict[int, float] = {}
        self._completed: list[Observation] = []  # of trials that ran to their end
        self._numbers: dict[Point, int] = {}  # by canonical point
        self._size = space.size

    # ----- the protocol

    def ask(self, n: int = 1) -> list[Proposal]:
        """Return up to n new proposals; fewer, or none, if the search waits for results or is finished."""
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_ASKED:
            raise UserError(f"an ask is for 1 to {MOST_ASKED} proposals, an integer n >= 1, got n={shown(n)}")
        asked: list[Proposal] = []
        while len(asked) < n and (proposal := self._propose()) is not None:
            asked.append(self.register(proposal))
        return asked

    def tell(self, proposal: Proposal, result: Observation | float) -> None:
        """Report the result of a pending proposal; results may come in any order.

        Args:
            proposal: A proposal that `ask` returned.
            result: Its observation, or its score alone.

        Raises:
            UserError: `proposal` is not a Proposal.
            ValueError: The proposal is not one of this optimiser's, or its result was told before.
        """
        if not isinstance(proposal, Proposal):
            raise UserError(f"tell() takes a Proposal that ask() returned, got {shown(proposal)}")
        number = proposal.number
        if not 0 <= number < len(self.proposals) or self.proposals[number].point != proposal.point:
            raise ValueError(f"proposal {number} at {proposal.point} was not made by this optimiser")
        if number in self.scores:
            raise ValueError(f"proposal {number} was already told, with score {self.scores[number]}")
        observation = Observation.of(result).blinded()
        self.scores[number] = self._score_of(observation)
        self._errors[number] = math.nan if observation.stderr is None else observation.stderr
        if observation.status is Status.DONE:
            self._completed.append(observation)

    def _score_of(self, observation: Observation) -> float:
        """Return the score that an observation counts as; -inf for a failure.

        A stopped trial counts as its score at its last rung, plus the mean of what the completed trials gained after
        that rung, but no more than the best of them.
        """
        # A failure stays -inf here: an imputed value would change as results come in, so only a fit imputes one.
        if observation.status is not Status.STOPPED or not observation.scores:
            return observation.score if observation.scores else -math.inf
        rung = str(Rung(len(rung_scores(observation.scores)) - 1))
        gains = [other.score - other.scores[rung] for other in self._completed if rung in other.scores]
        expected = observation.score + (sum(gains) / len(gains) if gains else 0.0)
        # The judge stopped the trial because it was behind: an extrapolation must not make it the leader.
        return min(expected, max((other.score for other in self._completed), default=expected))

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether nothing will ever be proposed again and nothing is pending."""

    def replay(self, trials: Iterable[Trial]) -> None:
        """Rebuild the state from a record, on an optimiser that was asked for nothing yet.

        Proposals are made again in order of number, each after exactly the results that were told before it. Trials
        that are not final stay pending, to be told later through `trial.proposal`.

        Raises:
            ReplayError: The record disagrees with what this optimiser proposes.
            ValueError: This optimiser has made proposals.
        """
        if self.proposals:
            raise ValueError(f"a replay needs a fresh optimiser, this one made {len(self.proposals)} proposals")
        self.follow(trials)

    def follow(self, trials: Iterable[Trial]) -> None:
        """Catch up with a record whose beginning is what this optimiser proposed and was told.

        A `Sequential` optimiser can follow new results only: it may have gone on beyond its last proposal.

        Raises:
            ReplayError: The record disagrees with what this optimiser proposes.
        """
        record = sorted(trials, key=lambda trial: trial.number)
        if [trial.number for trial in record] != list(range(len(record))):
            raise ReplayError(f"a record has proposals 0, 1, ..., got {[trial.number for trial in record]}")
        results = deque(
            sorted((trial for trial in record if trial.told is not None), key=lambda trial: trial.told or 0)
        )
        if [trial.told for trial in results] != list(range(len(results))):
            raise ReplayError(f"a record has results 0, 1, ..., got {[trial.told for trial in results]}")
        for _ in range(len(self.scores)):
            results.popleft()
        for trial in record[len(self.proposals) :]:
            while len(self.scores) < trial.told_before:
                self._retell(results, before=trial)
            try:
                self.repropose(trial)
            except UserError:
                raise
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                message = f"{type(error).__name__}: {error}"
                raise ReplayError(f"trial {trial.number}: its record cannot be followed ({message})") from error
        while results:
            self._retell(results)

    def repropose(self, trial: Trial) -> None:
        """Make a recorded proposal again, as the next one; raise ReplayError if the optimiser proposes another."""
        proposal = self._propose()
        if proposal is None or proposal.point != tuple(trial.point) or proposal.config != dict(trial.config):
            raise _disagreement(trial, "nothing" if proposal is None else f"{proposal.point}, {dict(proposal.config)}")
        self.register(proposal)

    def register(self, proposal: Proposal) -> Proposal:
        """Add a proposal to those that were made, whoever chose it, and return it."""
        self.proposals.append(proposal)
        self._numbers[self.space.encode(proposal.config)] = proposal.number
        return proposal

    # ----- what an algorithm builds on

    @property
    def pending(self) -> list[Proposal]:
        """The proposals whose results were not told yet, in order of number."""
        return [proposal for proposal in self.proposals if proposal.number not in self.scores]

    @property
    def history(self) -> tuple[list[Point], list[float]]:
        """The points really evaluated, n of (d,), and their scores, (n,); in order of number, -inf for a failure."""
        # Not proposal.point: a Sequential proposes cell centres, which rounding to a configuration moves.
        numbers = sorted(self.scores)
        return [self.space.encode(self.proposals[k].config) for k in numbers], [self.scores[k] for k in numbers]

    @property
    def errors(self) -> list[float]:
        """The standard errors of the scores of `history`, (n,); NaN where unknown."""
        return [self._errors[k] for k in sorted(self.scores)]

    @property
    def best_score(self) -> float:
        """The best score told so far; -inf if there is no finite one."""
        return max(self.scores.values(), default=-math.inf)

    def proposed(self, point: Point) -> bool:
        """Return whether the configuration at a point was proposed before."""
        return self.canonical(point) in self._numbers

    def known(self, point: Point) -> float | None:
        """Return the score of the configuration at a point, or None if it was never told."""
        number = self._numbers.get(self.canonical(point))
        return None if number is None else self.scores.get(number)

    def canonical(self, point: Point) -> Point:
        """Return the point that stands for the configuration at a point: the same for all its points."""
        return self.space.encode(self.space.decode(point))

    def _all_proposed(self) -> bool:
        return self._size is not None and len(self._numbers) >= self._size

    @abstractmethod
    def _propose(self) -> Proposal | None:
        """Return the next proposal, not registered yet, or None if there is none at the moment."""

    def _retell(self, results: deque[Trial], before: Trial | None = None) -> None:
        """Tell the next recorded result; `before` is the trial whose proposal needs it, if it is for one."""
        if not results or results[0].number >= len(self.proposals):
            at = "its end" if before is None else f"trial {before.number}"
            raise ReplayError(f"the record tells a result before its proposal, at {at}")
        trial = results.popleft()
        if trial.observation is None:
            raise ReplayError(f"trial {trial.number} was told as result {trial.told}, but has no observation")
        self.tell(trial.proposal, trial.observation)


class Sampler(Optimizer):
    """An optimiser whose next point follows from the history alone; each point is the one really evaluated."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._exhausted = False

    @abstractmethod
    def next_point(self) -> Point | None:
        """Return a point whose configuration was not proposed before, or None if the space is exhausted."""

    @property
    def cheap(self) -> bool:
        """Whether `next_point` is fast enough now that a replay can check the record against it."""
        return True

    @property
    def finished(self) -> bool:
        """Whether nothing will ever be proposed again and nothing is pending."""
        return (self._exhausted or self._all_proposed()) and not self.pending

    def _propose(self) -> Proposal | None:
        if self._all_proposed() or (point := self.next_point()) is None:
            self._exhausted = True
            return None
        config = self.space.decode(point)
        return Proposal(len(self.proposals), self.space.encode(config), config)

    def repropose(self, trial: Trial) -> None:
        """Make a recorded proposal again: checked if `next_point` is cheap, else taken as it is recorded."""
        if self.cheap:
            super().repropose(trial)
        elif self.space.encode(trial.config) != tuple(trial.point):
            raise _disagreement(trial, f"{self.space.encode(trial.config)} for the same configuration")
        else:
            self.register(trial.proposal)


class Sequential(Optimizer):
    """An optimiser whose loop is a generator; this class turns it into ask and tell.

    A search that can go ahead is resumed with NaN for what is pending if it is asked for more than it has yielded; it
    yields an empty list if it can do nothing before a result arrives. An ask that brought no proposal is in no record,
    so the search must leave no trace of it: resumed later, with more results, it does what it would have done without.
    With one proposal at a time, each told at once, nothing is ever missing.

    Attributes:
        ahead: Whether the search goes on while results are pending.
    """

    ahead: ClassVar[bool] = False

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._search: Search | None = None
        self._batch: list[Point] = []  # what the search yielded last
        self._passed = 0  # points of the batch that are proposed
        self._ended = False
        self._canonicals: dict[Point, Point] = {}
        self._notes: list[Mapping[str, Any]] = []  # since the last proposal
        self._recorded: deque[Mapping[str, Any]] | None = None  # notes to take over, during a replay

    @abstractmethod
    def search(self) -> Search:
        """Run the algorithm: yield a list of points, resume with their scores in the same order (-inf: failed)."""

    def infer(self, point: Point, compute: Callable[[], Mapping[str, float]]) -> Mapping[str, Any]:
        """Return what the algorithm infers about a point, and note it for the record of the next proposal.

        A replay takes the note from the record: computed again on another machine, its last digits could differ and
        lead the search elsewhere.

        Args:
            point: Where in the cube, (d,).
            compute: Called without arguments for the note's numbers, by name.

        Returns:
            The note: the point and the numbers.

        Raises:
            ReplayError: The record has no note about this point here.
        """
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
        """Whether the search has ended and nothing is pending."""
        return not self.waiting and self._advance() is None

    @property
    def waiting(self) -> bool:
        """Whether a result is pending."""
        return len(self.scores) < len(self.proposals)

    def canonical(self, point: Point) -> Point:
        """Return the point that stands for the configuration at a point: the same for all its points."""
        # Kept, as a search asks about the same points again and again.
        if point not in self._canonicals:
            self._canonicals[point] = super().canonical(point)
        return self._canonicals[point]

    def _propose(self) -> Proposal | None:
        new = self._advance()
        if new is None:
            return None
        notes, self._notes = tuple(self._notes), []
        return Proposal(len(self.proposals), new, self.space.decode(new), notes)

    def repropose(self, trial: Trial) -> None:
        """Make a recorded proposal again, with the notes of its record."""
        self._recorded = deque(trial.notes)
        super().repropose(trial)
        if self._recorded:
            raise ReplayError(f"trial {trial.number}: the record infers {list(self._recorded)}, the search does not")
        self._recorded = None

    def _advance(self) -> Point | None:
        """Run the search to its next point that was never proposed; None if it ended or needs what is pending."""
        while not self._ended:
            while self._passed < len(self._batch) and self.proposed(self._batch[self._passed]):
                self._passed += 1
            if self._passed < len(self._batch):
                return self._batch[self._passed]
            # A tree over a finite space can be refined for ever; once all was proposed, nothing new can come of it.
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
