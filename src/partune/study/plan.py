"""Plan a study: what its trials and its verdict will cost, and which gains the verdict will be able to show."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from partune.config import Search, StudyConfig
from partune.errors import UserError
from partune.objectives.finetune import FineTune
from partune.objectives.pace import Pace, measure, scored_on_rung
from partune.optimizers import optimizer_with
from partune.record.record import Record
from partune.space import Space
from partune.study import from_config
from partune.study.loop import UNLIMITED
from partune.study.settings import Settings, file_keywords
from partune.study.state import State
from partune.trial import Status
from partune.trial.names import ROWS, Baseline, ItemSet
from partune.verdict.assumed import Yardstick
from partune.verdict.limits import Limits
from partune.verdict.paired import compare, level
from partune.verdict.power import Design, chance, chance_in_order
from partune.verdict.runs import Runs
from partune.verdict.variation import Variation, shape_of
from partune.verdict.winner import fresh_names, halvings, on_verdict_items

ZERO_STEPS = 3  # the steps of the check with learning rate 0
MOST_HELD_OUT = 0.5  # a larger share of the rows than this is not proposed for validation
WORTH = 0.9  # an alternative is worth a line if it shows a gain that is smaller by this factor


@dataclass(frozen=True)
class Work:
    """What a study trains and scores.

    Attributes:
        rows: The number of rows of the training data.
        examples: The number of examples that are trained on.
        tokens: The number of tokens of these examples, after they are cut.
        trained: The number of these tokens that the loss includes.
        steps: The optimiser steps of a trial with the first baseline's settings.
        batch: The examples per step.
        items: The numbers of search, verdict and test items.
        baselines: The names of the trained baselines, in the order of the tests.
        slots: The number of trials at once per worker; None if it has not been measured.
        workers: The number of workers.
        budget: The number of trials of the search: the budget, what the hours allow, or all configurations of a
            smaller space.
    """

    rows: int
    examples: int
    tokens: int
    trained: int
    steps: int
    batch: int
    items: Mapping[ItemSet, int]
    baselines: tuple[str, ...]
    slots: int | None
    workers: int
    budget: int


@dataclass(frozen=True)
class Hours:
    """The expected seconds of a study's parts.

    Attributes:
        trial: A trial's share of the time of the trials that run at once.
        alone: A trial that runs alone, as the baselines do.
        baselines: The base model, the check with learning rate 0, and the trained baselines.
        search: All trials of the search.
        confirm: The confirmation of the leading trials.
        verdict: The fresh runs and the winner's scores.
    """

    trial: float
    alone: float
    baselines: float
    search: float
    confirm: float
    verdict: float

    @property
    def total(self) -> float:
        """The seconds of the whole study, without loading."""
        return self.baselines + self.search + self.confirm + self.verdict

    @classmethod
    def of(cls, work: Work, pace: Pace, search: Search) -> Self:
        """Add up the time of a study's parts.

        Args:
            work: What the study trains and scores.
            pace: The measured speed.
            search: The study's section `search`.
        """
        found, held, tests = (work.items[items] for items in (ItemSet.SEARCH, ItemSet.VERDICT, ItemSet.TEST))
        alone, at_once = 1.0, pace.together.trials

        def runs(count: int, items: int, width: int = at_once) -> float:
            """Return the seconds of some trainings, as many at once as there are slots, scored on some items."""
            width *= work.workers
            full, rest = divmod(count, width)
            seconds = 0.0
            for rounds, trials in ((full, width), (1, rest)):
                if rounds and trials:
                    step, item = pace.speed(math.ceil(trials / work.workers))
                    seconds += rounds * (work.steps * step + items * item)
            return seconds

        step, item = pace.speed(alone)
        everything = found + held + tests
        baselines = everything * item + ZERO_STEPS * step + found * item
        baselines += len(work.baselines) * (work.steps * step + everything * item)
        fresh = search.seeds * (1 + len(work.baselines))
        return cls(
            trial=runs(at_once * work.workers, found) / at_once / work.workers,
            alone=work.steps * step + found * item,
            baselines=baselines,
            search=runs(work.budget, found),
            confirm=sum(runs(size, found) for size in halvings(min(search.confirm, work.budget))),
            verdict=runs(fresh, found + held) + everything * item,
        )


@dataclass(frozen=True)
class Alternative:
    """What another choice would show.

    Attributes:
        what: The choice, as the subject of a sentence: "768 held-out items (`--validation-split 0.6`)".
        gain: The smallest gain over the base model and the baselines that it would show.
        seconds: The seconds that it would add; None if that is not known.
    """

    what: str
    gain: float
    seconds: float | None = None


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study.

    Attributes:
        work: What the study trains and scores.
        metric: The metric of the score.
        limits: The smallest gains that the verdict shows.
        known: Whether the base model has been scored, so that gains are in units of the score.
        source: Where the assumed variation of scores comes from.
        hours: The expected time; None without a probe.
        pace: What the probe measured; None without a probe.
        alternatives: What more items or fresh runs would show.
        metrics: The gain of the winner on record in standard errors, for each metric; empty without a record.
        gain: The gain that the user asked about, and the probabilities that it is shown over the base model alone, and
            in the order of all baselines; None if the user asked about none.
    """

    work: Work
    metric: str
    limits: Limits
    known: bool
    source: str
    hours: Hours | None
    pace: Pace | None
    alternatives: tuple[Alternative, ...]
    metrics: Mapping[str, tuple[float, float]]
    gain: tuple[float, float, float] | None

    @property
    def smallest(self) -> list[float | None]:
        """The smallest gain over the base model, and over it and each further baseline, in the order of the tests."""
        return [self.limits.gain_over(count) for count in range(len(self.work.baselines) + 1)]

    def as_data(self) -> dict[str, Any]:
        """Return the plan as plain data, for scripts."""
        variation = self.limits.variation
        return {
            "rows": self.work.rows,
            "examples": self.work.examples,
            "tokens": self.work.tokens,
            "trained_tokens": self.work.trained,
            "steps": self.work.steps,
            "batch_size": self.work.batch,
            "items": {str(name): count for name, count in self.work.items.items()},
            "metric": self.metric,
            "baselines": ["base", *self.work.baselines],
            "trials": self.work.budget,
            "trials_at_once": self.work.slots,
            "workers": self.work.workers,
            "seconds": None
            if self.hours is None
            else {
                "per_trial": self.hours.trial,
                "trial_alone": self.hours.alone,
                "baselines": self.hours.baselines,
                "search": self.hours.search,
                "confirm": self.hours.confirm,
                "verdict": self.hours.verdict,
                "total": self.hours.total,
            },
            "verdict": {
                "items": self.limits.items,
                "fresh_runs": self.limits.design.seeds,
                "level": level(1),
                "probability": 0.8,
                "smallest_gain": self.smallest,
                "unit": "score" if self.known or (variation and variation.answers) else "deviations of an item's score",
                "assumed": None
                if variation is None
                else {
                    "from": self.source,
                    "same": variation.same,
                    "alike": variation.alike,
                    "base": variation.base,
                    "seeds": variation.seeds,
                    "mean": variation.mean if self.known else None,
                    "spread": variation.spread if self.known else None,
                    "differ": variation.differing(True) if variation.answers else None,
                },
                "alternatives": [
                    {"what": each.what, "smallest_gain": each.gain, "seconds": each.seconds}
                    for each in self.alternatives
                ],
                "power": None
                if self.gain is None
                else {"gain": self.gain[0], "over_base": self.gain[1], "over_all": self.gain[2]},
                "recorded_gains_in_errors": {
                    name: {"over_defaults": pair[0], "over_base": pair[1]} for name, pair in self.metrics.items()
                },
            },
        }


def plan(
    study_config: StudyConfig,
    scratch: Path | None = None,
    probe: bool = True,
    like: Path | None = None,
    gain: float | None = None,
) -> StudyPlan:
    """Plan a study of a fine-tuning. Everything is loaded and checked as at the beginning of the study.

    Args:
        study_config: The settings of the study, with its space.
        scratch: The folder for LitGPT's files; None makes a temporary folder.
        probe: Whether to measure the speed with short trainings, and to score the base model on some items.
        like: The directory of a study with fresh runs, from which to take how scores vary.
        gain: A gain, in the direction of better, whose probability to be shown is wanted.

    Raises:
        UserError: The study could not run, or it has no verdict.
    """
    if study_config.objective != "finetune":
        raise UserError(
            f"objective {study_config.objective} is a function: it has no training to plan and no verdict; "
            "`partune plan` is for fine-tunings"
        )
    if gain is not None and not (math.isfinite(gain) and gain > 0):
        raise UserError(f"--gain must be above 0, the amount by which the winner is better, got {gain:g}")
    if like is not None:
        Record.open(like, read_only=True)  # raises UserError if this is not a study, before anything loads
    Settings.of(**file_keywords(study_config))
    space, search = Space.parse(study_config.space or {}), study_config.search
    optimizer_with(search.algorithm, space, search.seed, search.options)  # raises UserError for a wrong name or option
    with FineTune.of(study_config, scratch) as objective:
        objective.vet(space)
        objective.check(space)
        scorer = objective.engine.materials.scorer
        rows = any(part.task.name == ROWS for part in scorer.parts)
        yardstick = Yardstick(scorer.metric, rows)
        recorded = None if like is None else recorded_variation(like, scorer.metrics)
        pace = measure(objective) if probe else None
        work = work_of(objective, study_config, space, _slots(study_config) if pace is None else pace.together.trials)
        work = within_hours(work, pace, study_config)
        design = Design(_weights(objective), search.seeds)
        base = None if pace is None else Runs.of([scored_on_rung(pace.items, scorer.metrics)])
        variation = _variation(yardstick, base, None if recorded is None else recorded[0])
        called = "the defaults" if not study_config.baseline else f"the baseline {study_config.baseline[0].name}"
        limits = Limits(design, variation, called)
        known = base is not None or (recorded is not None)
        hours = None if pace is None else Hours.of(work, pace, search)
        return StudyPlan(
            work=work,
            metric=scorer.metric,
            limits=limits,
            known=known,
            source=f"measured on the demo ({yardstick.kind(yardstick.shape)})" if like is None else str(like),
            hours=hours,
            pace=pace,
            alternatives=tuple(_alternatives(study_config, limits, work, hours)),
            metrics={} if recorded is None else recorded[1],
            gain=None if gain is None else _chances(gain, limits, len(work.baselines), known),
        )


def work_of(objective: FineTune, study_config: StudyConfig, space: Space, slots: int | None) -> Work:
    """Return what a study trains and scores.

    Args:
        objective: The objective, which has been checked.
        study_config: The settings of the study.
        space: The space that it searches.
        slots: The number of trials at once, if it is known.
    """
    from partune.finetune.training import count_steps

    materials = objective.engine.materials
    training, max_length, loss_on = objective.settings(objective.defaults)
    examples = materials.examples(materials.base(training.dtype), max_length, loss_on)
    items = dict.fromkeys((ItemSet.SEARCH, ItemSet.VERDICT, ItemSet.TEST), 0)
    for part in materials.scorer.parts:
        items[part.name] += len(part.indices)
    return Work(
        rows=int(materials.loaded.rows.summary["rows"]),
        examples=len(examples),
        tokens=int(examples.lengths.sum()),
        trained=int(examples.trained_lengths.sum()),
        steps=count_steps(len(examples), training),
        batch=training.batch_size,
        items=items,
        baselines=tuple(baseline.name for baseline in study_config.baseline) or ("defaults",),
        slots=slots,
        workers=study_config.run.workers,
        budget=int(min(from_config.budget(study_config).trials or UNLIMITED, space.size or math.inf)),
    )


def within_hours(work: Work, pace: Pace | None, study_config: StudyConfig) -> Work:
    """Return the work with only as many trials as the study's hours allow.

    Args:
        work: What the study trains and scores without a limit in hours.
        pace: The measured speed; None if it was not measured.
        study_config: The settings of the study.

    Raises:
        UserError: Only hours limit the trials, and the speed was not measured.
    """
    search = study_config.search
    hours = [math.inf if search.hours is None else search.hours]
    hours.append(math.inf if search.device_hours is None else search.device_hours / work.workers)
    if pace is None and work.budget >= UNLIMITED:
        raise UserError("how many trials the hours allow is measured: leave out `--no-probe`, or set `--budget`")
    if pace is None or min(hours) == math.inf:
        return work

    def seconds(trials: int) -> float:
        """Return the seconds of the whole study with this number of trials, with which they grow."""
        return Hours.of(replace(work, budget=trials), pace, search).total

    return replace(work, budget=max(0, bisect(range(work.budget + 1), 3600 * min(hours), key=seconds) - 1))


def _slots(study_config: StudyConfig) -> int | None:
    """Return the number of trials at once if it need not be measured."""
    run = study_config.run
    if run.engine != "packed":
        return 1
    return run.pack if isinstance(run.pack, int) else None


def recorded_variation(
    directory: Path, metrics: Mapping[str, str]
) -> tuple[Variation, Mapping[str, tuple[float, float]]]:
    """Return how scores vary in a study on record, and how large its winner's gains are in standard errors.

    Args:
        directory: The directory of the study.
        metrics: The metric of each task that is planned.

    Returns:
        The variation, and for each metric on record the gains over the defaults and over the base model in standard
        errors.

    Raises:
        UserError: The study has no fresh runs, or was not scored by this metric.
    """
    record = Record.open(directory, read_only=True)
    state = State(record)
    baselines, winner = record.anchors(), state.winner
    if winner is None or Baseline.BASE not in baselines or "scoring" not in record.loaded:
        raise UserError(f"{directory} has no winner whose scores could tell how scores vary: name a finished study")

    def packed(names: Any) -> list[Mapping[str, Any]]:
        return [record.items("anchors", baselines[n].number) for n in names if baselines[n].status is Status.DONE]

    sides = [
        packed(fresh_names(baselines, winner.number)),
        packed([Baseline.DEFAULTS, *fresh_names(baselines, Baseline.DEFAULTS)]),
        packed([Baseline.BASE]),
    ]
    if min(map(len, sides[:2])) < 2:
        raise UserError(
            f"{directory} has no fresh runs, which show how scores vary over seeds: name a finished study with "
            f"`--seeds 2` or more, or run `partune resume {directory} --seeds 4`"
        )
    wanted = next(iter(metrics.values()))
    found, gains = None, {}
    for metric in sorted(_metrics_of(sides[2][0])):
        try:
            runs = [on_verdict_items(side, metric) for side in sides]
        except ValueError:  # not all tasks have this metric
            continue
        if metric == wanted:
            found = Variation.of(*runs)
        over = [compare(runs[0], runs[1], trained=True), compare(runs[0], runs[2])]
        if all(comparison.stderr > 0 for comparison in over):
            gains[metric] = (over[0].gain / over[0].stderr, over[1].gain / over[1].stderr)
    if found is None:
        raise UserError(f"{directory} was not scored by {wanted}, which this study is scored by: name another study")
    return found, gains


def _metrics_of(items: Mapping[str, Any]) -> set[str]:
    from partune.finetune.scoring.metrics import ACCURACIES, CONTINUOUS
    from partune.trial.names import ResultName

    known = {*ACCURACIES, *CONTINUOUS, "exact_match", "f1", "rougeL"}
    named = (ResultName.of_array(name) for name in items)
    return {n.what for n in named if n is not None and n.items is ItemSet.VERDICT and n.what.split(",")[0] in known}


def _weights(objective: FineTune) -> np.ndarray[Any, Any]:
    """Return the weights of the verdict items in the score: tasks count equally."""
    parts = [part for part in objective.engine.materials.scorer.parts if part.name is ItemSet.VERDICT]
    return np.concatenate([part.weights / part.weights.sum() / len(parts) for part in parts])


def _variation(yardstick: Yardstick, base: Runs | None, recorded: Variation | None) -> Variation | None:
    """Return how scores are taken to vary; None if the base model has the same score on all items."""
    if base is None:
        return recorded or yardstick.assumed()
    shape = shape_of(base.values)
    if shape != "answers" and not np.ptp(base.values, axis=1).any():
        return None
    return (recorded or yardstick.assumed(shape)).at(base)


def _chances(gain: float, limits: Limits, baselines: int, known: bool) -> tuple[float, float, float]:
    if limits.variation is None:
        return gain, math.nan, math.nan
    if not (known or limits.variation.answers):
        raise UserError(
            "--gain needs the spread of the scores, which a probe measures: leave out `--no-probe`, or name a study "
            "with `--like`"
        )
    if gain > limits.variation.most:
        raise UserError(f"--gain {gain:g} is more than the largest possible gain, {limits.variation.most:.3g}")
    return (
        gain,
        chance(gain, limits.design, limits.variation, False),
        chance_in_order(gain, limits.design, limits.variation, baselines),
    )


def _alternatives(study_config: StudyConfig, limits: Limits, work: Work, hours: Hours | None) -> list[Alternative]:
    """Return what more items and more fresh runs would show, as far as they would show clearly more."""
    if limits.variation is None:
        return []
    now, count = limits.gain_over(len(work.baselines)), len(work.baselines)
    found = []
    for factor in (2, 4):
        items = factor * limits.items
        more = Limits(limits.design.with_items(items), limits.variation).gain_over(count)
        if more is not None and (now is None or more < WORTH * now):
            found.append(Alternative(f"{items:,} held-out items{_how(study_config, factor)}", more))
    seeds = 2 * study_config.search.seeds or 4
    more = Limits(Design(limits.design.weights, seeds), limits.variation).gain_over(count)
    if study_config.search.seeds and more is not None and (now is None or more < WORTH * now):
        added = (seeds - study_config.search.seeds) * (1 + count)
        cost = None if hours is None else added * hours.verdict / max(1, study_config.search.seeds * (1 + count))
        found.append(Alternative(f"{seeds} fresh runs (`--seeds {seeds}`)", more, cost))
    return found


def _how(study_config: StudyConfig, factor: int) -> str:
    """Return the flag, in parentheses, with which a study has so many times more held-out items; empty if none can."""
    validation = study_config.validation
    assert validation is not None
    if validation.limit is not None:
        return f" (`--limit {factor * validation.limit}`)"
    share = factor * validation.split
    if validation.tasks or validation.data is not None or share > MOST_HELD_OUT:
        return ""
    return f" (`--validation-split {share:g}`)"
