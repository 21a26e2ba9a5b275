"""Print the plan of a study: what it costs, and which gains its verdict can show, for `partune plan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from partune.cli import flags, studies
from partune.errors import UserError
from partune.runtime import rounding

if TYPE_CHECKING:
    from rich.console import Console

    from partune.config import StudyConfig
    from partune.study.plan import Hours, StudyPlan

PLAN = """\
Say before a study what it will cost and what it can show: rows and tokens, the steps and seconds of a trial, how long
baselines, search and verdict take, and the smallest gain that the verdict shows in four studies out of five. A few
steps of training measure the speed of this machine. Nothing is written. The flags are those of tune. See
docs/plan.md."""


def add(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: those of tune that are settings, and its own."""
    from partune.config import StudyConfig

    command.usage = "%(prog)s [FILE] [--gain GAIN] [--like DIRECTORY] [options]"
    about = "Read the study's settings from this YAML file. Flags override the file."
    command.add_argument("file", nargs="?", metavar="FILE", help=about)
    command.add_argument("--json", action="store_true", help="Print the plan as JSON, for scripts.")
    about = "Say how often the verdict would show this gain, such as 0.02."
    command.add_argument("--gain", type=float, help=about)
    about = (
        "Take how scores vary between models and seeds from this finished study, such as runs/NAME. "
        "(default: as on the demo)"
    )
    command.add_argument("--like", metavar="DIRECTORY", help=about)
    about = "Measure the speed of this machine with a few steps of training, or do not."
    command.add_argument("--probe", action=argparse.BooleanOptionalAction, default=True, help=about)
    flags.add_place(command)
    flags.add_sections(command, StudyConfig)


def run(arguments: argparse.Namespace, mapping: dict[str, Any]) -> int:
    """Print the plan of a study.

    Args:
        arguments: The parsed arguments. Flags override the file.
        mapping: The settings in the study's file, or an empty mapping if there is no file.

    Returns:
        The exit status.

    Raises:
        UserError: The study could not run, or it has no verdict.
    """
    from partune.config import vetting
    from partune.objectives.base import not_searched
    from partune.report.plain_data import print_json
    from partune.runtime.console import log_console, text
    from partune.study.plan import plan

    _, fixed, study_config = studies.configured(arguments, mapping)
    vetting.vet(study_config, study_config.space or ())
    _check_place(arguments, study_config)
    like = None if arguments.like is None else studies.existing(arguments.like)
    console = log_console(studies.errors_of(arguments))
    if fixed:
        console.print(text(not_searched(fixed)))
    waiting = "loading the model, the data and the tasks, and training a few steps to measure their speed"
    with console.status(waiting if arguments.probe else "loading the model, the data and the tasks"):
        found = plan(study_config, probe=arguments.probe, like=like, gain=arguments.gain)
    if arguments.json:
        print_json(found.as_data())
    else:
        show(found, study_config)
    return 0


def _check_place(arguments: argparse.Namespace, study_config: StudyConfig) -> None:
    """Raise UserError if the study could not begin with these arguments, as far as that shows without writing."""
    from partune.record.record import Record

    directory = studies.new_directory(arguments, study_config)
    if directory.exists():
        Record.open(directory, read_only=True)  # raises UserError if this is not a study
        raise UserError(f"{directory} holds a study already: resume it, or choose another name")
    Record.check(directory)
    run = study_config.run
    if run.scheduler is not None or run.cluster is not None or run.workers > 1:
        studies.require_dask()


def show(plan: StudyPlan, study_config: StudyConfig, console: Console | None = None) -> None:
    """Print a plan as a table of two columns.

    Args:
        plan: The plan.
        study_config: The settings of the study.
        console: The console to print to; standard output by default.
    """
    from rich.table import Table

    from partune.runtime.console import Console, text

    console = console or Console()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, words in (*_costs(plan, study_config), *_verdict(plan)):
        grid.add_row(text(name, "bold"), text(words))
    console.print(grid)


def _costs(plan: StudyPlan, study_config: StudyConfig) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table about what the study trains and how long that takes."""
    from partune.report.words import listed, several, span

    work, hours, search = plan.work, plan.hours, study_config.search
    trained = f"{work.trained:,} of {work.tokens:,} tokens trained"
    yield "data", f"{several(work.rows, 'row')}; {several(work.examples, 'example')}, {trained}"
    steps = f"{several(work.steps, 'step')} of {several(work.batch, 'example')}"
    if hours is not None:
        steps += f": {span(hours.alone)} alone"
        steps += f", {span(hours.trial)} each with {work.slots} at once" if (work.slots or 1) > 1 else ""
    yield "trial", steps
    if work.slots is None:
        yield "", "how many run at once is measured when the study begins"

    def seconds(name: str) -> str:
        """Return the time of a part after a colon; empty if it is not known."""
        return "" if hours is None else f": {span(getattr(hours, name))}"

    yield "baselines", f"base model, learning rate 0, {listed(list(work.baselines))}{seconds('baselines')}"
    on_workers = f" on {work.workers} workers" if work.workers > 1 else ""
    at_most = "at most " if study_config.run.stop == "rungs" else ""
    yield "search", f"{at_most}{several(work.budget, 'trial')}{on_workers}{seconds('search')}"
    if search.confirm:
        yield "confirmation", f"the best {min(search.confirm, work.budget)}{seconds('confirm')}"
    fresh = (
        f"{search.seeds} fresh runs of the winner and of {_each(work.baselines)}" if search.seeds else "two adapters"
    )
    yield "verdict", f"{fresh}{seconds('verdict')}"
    if hours is None:
        yield "in total", "not known without a probe"
    else:
        yield "in total", f"about {span(hours.total)} on this machine{_about(hours)}"


def _each(baselines: tuple[str, ...]) -> str:
    return "the defaults" if baselines == ("defaults",) else "each baseline" if len(baselines) > 1 else baselines[0]


def _about(hours: Hours) -> str:
    share = rounding.percent(hours.search / hours.total) if hours.total else ""
    return f"; the search is {share} of it"


def _verdict(plan: StudyPlan) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table about what the verdict can show."""
    from partune.verdict.limits import assumption
    from partune.verdict.paired import level

    limits, unit = plan.limits, "" if plan.known or plan.limits.variation is None else _unit(plan)
    yield "held out", f"{limits.items:,} items, scored by {plan.metric}"
    if limits.variation is None or limits.hopeless:
        yield "smallest gain", limits.sentence
        return
    names = ["the base model", *(("the defaults",) if plan.work.baselines == ("defaults",) else plan.work.baselines)]
    for place, (name, gain) in enumerate(zip(names, plan.smallest, strict=True)):
        also = " as well" if place else ""
        shown = "none, however large" if gain is None else f"{rounding.number(gain, 2)}{unit}"
        yield "smallest gain" if not place else "", f"{shown} over {name}{also}"
    yield "", f"shown in four studies out of five (p ≤ {level(1):g}), if"
    yield "", f"{assumption(limits.variation)} ({plan.source})"
    if plan.gain is not None:
        gain, base, everything = plan.gain
        yield f"gain of {gain:g}", f"shown over the base model in {rounding.percent(base)} of studies, and over"
        yield "", f"{_each(plan.work.baselines)} as well in {rounding.percent(everything)}"
    for place, other in enumerate(plan.alternatives):
        from partune.report.words import span

        cost = "" if other.seconds is None else f"; {span(other.seconds)} more"
        yield "would show" if not place else "", f"{rounding.number(other.gain, 2)}{unit}: {other.what}{cost}"
    for place, (metric, (over_defaults, over_base)) in enumerate(plan.metrics.items()):
        errors = f"{rounding.fixed(over_base, 1)} and {rounding.fixed(over_defaults, 1)} standard errors"
        yield "there, by metric" if not place else "", f"{metric}: {errors} over base and defaults"


def _unit(plan: StudyPlan) -> str:
    """Return the unit of gains if the base model has not been scored."""
    assert plan.limits.variation is not None
    return "" if plan.limits.variation.answers else " standard deviations of an item's score"
