"""Studies of the command line: begun, continued and shown."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partune.cli import flags
from partune.errors import UserError, shown, suggestion
from partune.runtime.paths import place
from partune.runtime.terminal import admits

if TYPE_CHECKING:
    from rich.console import Console

    from partune.config import Run, StudyConfig
    from partune.record.record import Record
    from partune.report.data import Summary
    from partune.study import Study, Watcher
    from partune.workers.base import Workers

INTERRUPTED = 130  # the exit status


def begin(arguments: argparse.Namespace, mapping: dict[str, Any]) -> int:
    """Begins and runs a study: the file's mapping with the flags laid over it."""
    from partune import config
    from partune.config import unused
    from partune.objectives.base import not_searched
    from partune.study import from_config as configured

    given = config.located(flags.given(arguments), Path.cwd())
    study_config = config.parse(config.merged(mapping, given))
    fixed, study_config = configured.fixed(study_config), configured.with_space(study_config)
    if arguments.print_config:
        print_yaml(lambda ascii_only: config.dump(study_config, ascii_only))
        return 0
    unused.refuse(study_config, study_config.space or ())
    watcher = watcher_of(arguments)
    if fixed:
        watcher.noted(not_searched(fixed))
    with workers_of(study_config.run) as workers:
        directory = new_directory(arguments, study_config)
        study = configured.study(study_config, directory, False, workers, study_config.run.storage, watcher=watcher)
        return run(study, study_config.search.budget, arguments)


def print_yaml(dump: Callable[[bool], str]) -> None:
    """Print a file, with escapes where standard output cannot write a character itself: it is to be read back."""
    text = dump(False)
    print(text if admits(text) else dump(True), end="")


@contextlib.contextmanager
def workers_of(run: Run) -> Iterator[Workers | None]:
    """The worker processes of a study's file; None where it runs in this process."""
    if run.scheduler is None and run.cluster is None and run.workers == 1:
        yield None
        return
    require_dask()
    from partune.workers.batch import batch
    from partune.workers.local import local
    from partune.workers.scheduler import joined

    if run.scheduler is not None:
        found = joined(run.scheduler, run.time_limit, None if run.tls is None else Path(run.tls))
    elif run.cluster is not None:
        found = batch(Path(run.cluster), run.time_limit)
    else:
        found = local(run.workers, run.time_limit, run.devices_per_worker)
    with found as workers:
        yield workers


def require_dask() -> None:
    """Raise UserError, with the command that installs it, where Dask is missing."""
    try:
        import partune.workers.cluster  # noqa: F401
    except ImportError as error:
        from partune.runtime import extras

        raise UserError(f"worker processes need Dask: {extras.command('dask')} ({error})") from None


def recorded(directory: Path, otherwise: str, storage: str | None) -> StudyConfig:
    """The configuration that a study was started from; raises UserError where it was started from Python."""
    from partune import config
    from partune.record.record import CONFIG, Record

    if not (directory / CONFIG).is_file():
        Record.open(directory, read_only=True, storage=storage)
        raise UserError(f"{directory} was started from Python: {otherwise}")
    try:
        return config.parse(config.load(directory / CONFIG))
    except UserError as error:
        there = "" if str(directory / CONFIG) in str(error) else f"{directory / CONFIG} is damaged: "
        raise UserError(f"{there}{error}") from None


def moved(study_config: StudyConfig, arguments: argparse.Namespace) -> StudyConfig:
    """The configuration with the flags of `config.Where`, and whether code of tasks is trusted, laid over what it says.

    A flag that says which workers there are takes the place of all that it says of them.
    """
    from partune import config

    flagged = config.located(flags.given(arguments), Path.cwd())
    given = flagged.get("run", {})
    recorded = study_config.model_dump(mode="json")
    if given.keys() & {"workers", "scheduler", "cluster"}:
        recorded["run"] = {key: value for key, value in recorded["run"].items() if key not in config.Where.model_fields}
    trust = {"validation": flagged["validation"]} if "validation" in flagged else {}
    return config.parse(config.merged(recorded, {"run": given, **trust}))


AFTER_SEARCH = ("confirm", "seeds", "ship")  # settings of the search that a study may be resumed with


def changes_the_end(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the given settings of what follows the search; those that were not given stay as on record."""
    found: dict[str, Any] = flags.given(arguments).get("search", {})
    return found


def ending(study_config: StudyConfig, given: dict[str, Any]) -> StudyConfig:
    """Return the configuration with other settings of what follows the search."""
    from partune import config

    recorded = study_config.model_dump(mode="json")
    return config.parse(config.merged(recorded, {"search": given})) if given else study_config


def new_directory(arguments: argparse.Namespace, study_config: StudyConfig) -> Path:
    """runs/<name>; without a name, the model's or objective's and the first free number."""
    runs = place(arguments.runs)
    if arguments.name is None:
        source = study_config.model.path if study_config.model is not None else study_config.objective
        stem = Path(source).name.lower().replace(":", "-")[:100]
        number = next(n for n in range(1, 100_000) if not (runs / f"{stem}-{n}").exists())
        return runs / f"{stem}-{number}"
    if not arguments.name or Path(arguments.name).name != arguments.name or arguments.name.startswith("."):
        raise UserError(
            f"a name is a plain folder name, got {shown(arguments.name)}: give the parent folder with --runs"
        )
    return place(runs / arguments.name)


def existing(directory: str) -> Path:
    path = place(directory)
    if not path.is_dir():
        near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggestion(path.name, sorted(near)) or f": partune tune --name {path.name} ... begins one"
        raise UserError(f"no study in {directory}{hint}")
    return path


def run(study: Study, budget: int, arguments: argparse.Namespace) -> int:
    from partune.study.study import StoppedError

    directory = study.record.directory
    try:
        with _following(study, arguments.live):
            study.run(budget)
    except KeyboardInterrupt:
        from partune.report.words import progress

        there = progress([trial.status for trial in study.trials], budget)
        told = f"\nInterrupted: {there}. Continue with: partune resume {shlex.quote(str(directory))}"
        print(told, file=sys.stderr if arguments.json else sys.stdout)
        return INTERRUPTED
    except StoppedError as error:
        print(f"partune: stopped: {error}", file=sys.stderr)
        return 1
    finally:
        study.close()
    return 0 if show(study.record, arguments)["best"] is not None else 1


def show(record: Record, arguments: argparse.Namespace) -> Summary:
    """Write a study's report, where that can be, and show what it found.

    The report comes first, as the output may be a full disk, or nobody's any more.
    """
    from partune.report import files, terminal
    from partune.report.data import print_json
    from partune.report.facts import Facts

    facts = Facts(record)
    try:
        told = f"Report: {files.write(facts)}"
    except UserError as error:
        print(f"partune: no report: {error}", file=sys.stderr)
        told = ""
    if arguments.json:
        print_json(facts.summary)
    elif arguments.quiet:
        print(terminal.brief(facts.summary))
    else:
        terminal.show(facts.summary)
        if told:
            print(told)
    return facts.summary


@contextlib.contextmanager
def _following(study: Study, live: bool) -> Iterator[None]:
    """A process of its own writes the report again and again meanwhile, where asked to."""
    if not live or study.record.directory is None:
        yield
        return
    import multiprocessing
    import os

    from partune.report import files

    arguments = study.record.directory, study.record.given, os.getpid()
    writer = multiprocessing.get_context("spawn").Process(target=files.accompany, args=arguments, daemon=True)
    writer.start()
    try:
        yield
    finally:
        writer.terminate()
        writer.join()


def watcher_of(arguments: argparse.Namespace) -> Watcher:
    """Tells of progress: beside the output where that is JSON, and not at all where quiet was asked for."""
    from partune.cli.progress import Quiet, Terminal

    return Quiet() if arguments.quiet else Terminal(console_of(arguments))


def console_of(arguments: argparse.Namespace) -> Console | None:
    """Where progress is told: beside the output where that is JSON; None for the usual place."""
    from partune.runtime.console import log

    return log(sys.stderr) if arguments.json else None
