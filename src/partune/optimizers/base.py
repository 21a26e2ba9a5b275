"""The ask-and-tell interface of every optimiser, and how an optimiser's state is rebuilt from a record.

Two forms of optimiser share this interface:

- `Sampler`: proposal n is a function of the seed, n, the results told so far and the pending proposals (random search,
  Latin hypercube, GP-BO). A replay only has to restore the history.
- `Sequential`: the loop of the published algorithm is a generator that yields the points to score and resumes with
  their scores (SOO, BaMSOO). A replay feeds the recorded scores to the same loop. Some algorithms can continue while
  results are pending. They continue only until they have as many new points as the caller asked for.

Neither form proposes a configuration twice. If a loop yields a point whose configuration has a score already, the loop
resumes with that score, and nothing is evaluated.
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

MOST_ASKED = 100_000  # the largest number of proposals per ask


class ReplayError(UserError):
    """The record differs from what this optimiser proposes with this space and seed."""


class Optimizer(ABC):
    """A search algorithm that is asked for proposals and told their results; higher scores are better.

    It sees the space and the observations, never the objective.

    Args:
        space: The search space.
        seed: The seed of everything random in the algorithm; an integer >= 0.

    Attributes:
        seeded: False for a deterministic algorithm, which proposes the same points under every seed.
        learns: False if results do not change what is proposed.
        n_init: The number of proposals in the initial design, which does not depend on results.
        proposals: All proposals so far, in order of their numbers.
        scores: For each told result, by the number of its proposal, the score that it counts as; -inf for a failure.
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
        self._completed: list[Observation] = []  # of trials that neither failed nor were stopped early
        self._numbers: dict[Point, int] = {}  # canonical point -> number of its proposal
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
            ValueError: The optimiser did not make this proposal, or its result was told before.
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

        A trial that was stopped early counts as its score at its last rung plus the mean gain of the completed trials
        after that rung. The sum is limited to the best score of a completed trial.
        """
        # A failure stays -inf here. A substitute value would change as results arrive, so only a fit uses one.
        if observation.status is not Status.STOPPED or not observation.scores:
            return observation.score if observation.scores else -math.inf
        rung = str(Rung(len(rung_scores(observation.scores)) - 1))
        gains = [other.score - other.scores[rung] for other in self._completed if rung in other.scores]
        expected = observation.score + (sum(gains) / len(gains) if gains else 0.0)
        # The trial was stopped because it was behind, so the extrapolated score must not make it the leader.
        return min(expected, max((other.score for other in self._completed), default=expected))

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether nothing will ever be proposed again and nothing is pending."""

    def replay(self, trials: Iterable[Trial]) -> None:
        """Rebuild the state from a record, in an optimiser that has not been asked yet.

        Proposals are made again in order of number, each after exactly the results that were told before it. A trial
        without a final result stays pending. Its result can be told later through `trial.proposal`.

        Raises:
            ReplayError: The record disagrees with what this optimiser proposes.
            ValueError: This optimiser has already made proposals.
        """
        if self.proposals:
            raise ValueError(f"a replay needs a fresh optimiser, this one made {len(self.proposals)} proposals")
        self.follow(trials)

    def follow(self, trials: Iterable[Trial]) -> None:
        """Catch up with a record that begins with all that this optimiser has proposed and been told.

        A `Sequential` optimiser can follow only new results, not new proposals, because its search may already have
        continued beyond its last proposal.

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
        """Make the next proposal; raise ReplayError if it differs from a recorded trial's."""
        proposal = self._propose()
        if proposal is None or proposal.point != tuple(trial.point) or proposal.config != dict(trial.config):
            raise _disagreement(trial, "nothing" if proposal is None else f"{proposal.point}, {dict(proposal.config)}")
        self.register(proposal)

    def register(self, proposal: Proposal) -> Proposal:
        """Add a proposal to `proposals`, and return it."""
        self.proposals.append(proposal)
        self._numbers[self.space.encode(proposal.config)] = proposal.number
        return proposal

    # ----- what algorithms use

    @property
    def pending(self) -> list[Proposal]:
        """The proposals that have no result yet, in order of number."""
        return [proposal for proposal in self.proposals if proposal.number not in self.scores]

    @property
    def history(self) -> tuple[list[Point], list[float]]:
        """The n evaluated points, (d,) each, and their scores, (n,), -inf for a failure; both in order of number."""
        # `proposal.point` may be the centre of a cell (Sequential). The evaluated point is that of the configuration
        # to which the centre was rounded.
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
        """Return the one point that represents the configuration at a point."""
        return self.space.encode(self.space.decode(point))

    def _all_proposed(self) -> bool:
        return self._size is not None and len(self._numbers) >= self._size

    @abstractmethod
    def _propose(self) -> Proposal | None:
        """Return the next proposal without registering it, or None if there is none at the moment."""

    def _retell(self, results: deque[Trial], before: Trial | None = None) -> None:
        """Tell the next recorded result.

        results: The recorded results that are not told yet.
        before: The trial whose proposal needs the result; None once all proposals are made.
        """
        if not results or results[0].number >= len(self.proposals):
            at = "its end" if before is None else f"trial {before.number}"
            raise ReplayError(f"the record tells a result before its proposal, at {at}")
        trial = results.popleft()
        if trial.observation is None:
            raise ReplayError(f"trial {trial.number} was told as result {trial.told}, but has no observation")
        self.tell(trial.proposal, trial.observation)


class Sampler(Optimizer):
    """An optimiser whose next point depends only on the history. The point of a proposal is always canonical."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._exhausted = False

    @abstractmethod
    def next_point(self) -> Point | None:
        """Return a point whose configuration was not proposed before, or None if the space is exhausted."""

    @property
    def cheap(self) -> bool:
        """Whether `next_point` is fast now, so that a replay can afford to compare its result with the record."""
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
        """Make a recorded proposal again: check it if `next_point` is cheap, otherwise take it from the record."""
        if self.cheap:
            super().repropose(trial)
        elif self.space.encode(trial.config) != tuple(trial.point):
            raise _disagreement(trial, f"{self.space.encode(trial.config)} for the same configuration")
        else:
            self.register(trial.proposal)


class Sequential(Optimizer):
    """An optimiser whose loop is a generator, which this class drives through ask and tell.

    If a search can run ahead and is asked for more points than it has yielded, it is resumed with NaN as the score of
    pending points. It yields an empty list if it can do nothing before a result arrives. The record does not show an
    ask that returned no proposal, so such an ask must not change what the search does later. If the result of each
    proposal is told before the next ask, no score is ever NaN.

    Attributes:
        ahead: Whether the search can continue while results are pending.
    """

    ahead: ClassVar[bool] = False

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__(space, seed)
        self._search: Search | None = None
        self._batch: list[Point] = []  # the points that the search yielded last
        self._passed = 0  # how many points of the batch are already proposed
        self._ended = False
        self._canonicals: dict[Point, Point] = {}
        self._notes: list[Mapping[str, Any]] = []  # what the search inferred since the last proposal
        self._recorded: deque[Mapping[str, Any]] | None = None  # during a replay: the recorded notes still to be used

    @abstractmethod
    def search(self) -> Search:
        """Run the algorithm: yield a list of points, resume with their scores in the same order (-inf: failed)."""

    def infer(self, point: Point, compute: Callable[[], Mapping[str, float]]) -> Mapping[str, Any]:
        """Return what the algorithm infers about a point, and note it for the record of the next proposal.

        A replay takes the note from the record. If another machine computed it again, its last digits could differ and
        change the course of the search.

        Args:
            point: The point in the cube, (d,).
            compute: A function that returns the note's numbers by name.

        Returns:
            The note: the point and the numbers.

        Raises:
            ReplayError: The record's next note is not about this point.
        """
        if self._recorded is None:
            note: Mapping[str, Any] = {"point": list(point), **compute()}
        elif self._recorded and tuple(self._recorded[0]["point"]) == point:
            note = self._recorded.popleft()
        else:
            raise ReplayError(
                f"trial {len(self.proposals)}: the search infers a score at {point}, "
                f"but the record's next inferences are {list(self._recorded) or 'none'}"
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
        """Return the one point that represents the configuration at a point."""
        # Cached, because a search asks about the same points again and again.
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
        """Run the search to its next new point; return None if the search has ended or needs pending results."""
        while not self._ended:
            while self._passed < len(self._batch) and self.proposed(self._batch[self._passed]):
                self._passed += 1
            if self._passed < len(self._batch):
                return self._batch[self._passed]
            # A tree over a finite space could be refined for ever, so the search ends once all is proposed.
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
