"""Begin, continue and show studies for the commands."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from partune.cli import flags
from partune.errors import UserError, shown, suggestion
from partune.runtime.paths import as_path
from partune.runtime.terminal import output_can_show

if TYPE_CHECKING:
    from rich.console import Console

    from partune.config import Run, StudyConfig
    from partune.record.record import Record
    from partune.report.plain_data import Summary
    from partune.study import Budget, Study, Watcher
    from partune.workers.base import Workers

INTERRUPTED = 130  # the exit status after Ctrl-C, by the convention of shells: 128 + SIGINT


def begin(arguments: argparse.Namespace, mapping: dict[str, Any]) -> int:
    """Begin a study and run it. Limits in hours count from here.

    Args:
        arguments: The parsed arguments. Flags override the file.
        mapping: The settings in the study's file, or an empty mapping if there is no file.

    Returns:
        The exit status.

    Raises:
        UserError: A setting is wrong or would have no effect. Nothing has been written.
    """
    from partune import config
    from partune.config import vetting
    from partune.objectives.base import not_searched
    from partune.study import from_config

    budget, fixed, study_config = configured(arguments, mapping)
    if arguments.print_config:
        print_yaml(lambda ascii_only: config.dump(study_config, ascii_only))
        return 0
    vetting.vet(study_config, study_config.space or ())
    watcher = watcher_of(arguments, study_config.run)
    if fixed:
        watcher.noted(not_searched(fixed))
    with workers_of(study_config.run) as workers:
        directory = new_directory(arguments, study_config)
        study = from_config.study(study_config, directory, False, workers, study_config.run.storage, watcher=watcher)
        return run(study, budget, arguments)


def configured(arguments: argparse.Namespace, mapping: dict[str, Any]) -> tuple[Budget, dict[str, Any], StudyConfig]:
    """Return what a study may spend, the hyperparameters that its settings fix, and its settings with their space.

    Args:
        arguments: The parsed arguments. Flags override the file.
        mapping: The settings in the study's file, or an empty mapping if there is no file.

    Raises:
        UserError: A setting is wrong.
    """
    from partune import config
    from partune.study import from_config

    flagged = config.located(flags.given(arguments), Path.cwd())
    study_config = config.parse(config.merged(mapping, flagged))
    return from_config.budget(study_config), from_config.fixed(study_config), from_config.with_space(study_config)


def print_yaml(dump: Callable[[bool], str]) -> None:
    """Print a YAML file so that it can be read back.

    Args:
        dump: A function that returns the text of the file. With True, the text is ASCII with escapes.
    """
    # Without escapes, a "?" would replace a character that the encoding of the output lacks.
    text = dump(False)
    print(text if output_can_show(text) else dump(True), end="")


@contextlib.contextmanager
def workers_of(run: Run) -> Iterator[Workers | None]:
    """Provide the worker processes that the settings ask for, or None if the study runs in this process."""
    if run.scheduler is None and run.cluster is None and run.workers == 1:
        yield None
        return
    require_dask()  # checked first, because an ImportError below would not name the command that helps
    from partune.workers.batch import batch
    from partune.workers.local import local
    from partune.workers.scheduler import joined

    if run.scheduler is not None:
        pool = joined(run.scheduler, run.time_limit, None if run.tls is None else Path(run.tls))
    elif run.cluster is not None:
        pool = batch(Path(run.cluster), run.time_limit)
    else:
        pool = local(run.workers, run.time_limit, run.devices_per_worker)
    with pool as workers:
        yield workers


def require_dask() -> None:
    """If Dask is missing, raise a UserError with the command that installs it."""
    try:
        import partune.workers.cluster  # noqa: F401
    except ImportError as error:
        from partune.runtime import extras

        raise UserError(f"worker processes need Dask: {extras.install_command('dask')} ({error})") from None


def moved(study_config: StudyConfig, arguments: argparse.Namespace) -> StudyConfig:
    """Return the configuration on record, changed by the flags that say where to run and whether to trust task code.

    A flag that chooses workers replaces all recorded settings of workers.

    Args:
        study_config: The configuration on record.
        arguments: The parsed arguments with the flags of `config.Where` and --trust-task-code.
    """
    from partune import config

    flagged = config.located(flags.given(arguments), Path.cwd())
    where = flagged.get("run", {})
    recorded = study_config.model_dump(mode="json")
    # Otherwise `--workers 4` for a study that was begun with a scheduler would request both.
    if where.keys() & {"workers", "scheduler", "cluster"}:
        chosen = config.Where.model_fields.keys() - {"track"}
        recorded["run"] = {key: value for key, value in recorded["run"].items() if key not in chosen}
    trust = {"validation": flagged["validation"]} if "validation" in flagged else {}
    return config.parse(config.merged(recorded, {"run": where, **trust}))


AFTER_SEARCH = ("confirm", "seeds", "ship")  # settings that `resume` may change, as no trial depends on them


def changes_the_end(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that change what happens after the search."""
    search: dict[str, Any] = flags.given(arguments).get("search", {})
    return search


def ending(study_config: StudyConfig, changes: dict[str, Any]) -> StudyConfig:
    """Return a configuration with changed settings for what happens after the search.

    Args:
        study_config: The configuration on record.
        changes: The settings of `search` to change.
    """
    from partune import config

    recorded = study_config.model_dump(mode="json")
    return config.parse(config.merged(recorded, {"search": changes})) if changes else study_config


def new_directory(arguments: argparse.Namespace, study_config: StudyConfig) -> Path:
    """Return the directory of a new study: RUNS/NAME.

    Args:
        arguments: The parsed arguments with --runs and --name. Without a name, the study is named after its model or
            objective, followed by the first free number.
        study_config: The settings of the study.

    Raises:
        UserError: The name is not a plain folder name.
    """
    runs = as_path(arguments.runs)
    if arguments.name is None:
        source = study_config.model.path if study_config.model is not None else study_config.objective
        stem = Path(source).name.lower().replace(":", "-")[:100]
        # The name may be taken before the study begins. The record then refuses the directory.
        number = next(n for n in range(1, 100_000) if not (runs / f"{stem}-{n}").exists())
        return runs / f"{stem}-{number}"
    if not arguments.name or Path(arguments.name).name != arguments.name or arguments.name.startswith("."):
        raise UserError(
            f"a name must be a plain folder name, got {shown(arguments.name)}: choose the parent folder with `--runs`"
        )
    return as_path(runs / arguments.name)


def existing(directory: str) -> Path:
    """Return the path of a study's directory.

    Args:
        directory: The directory as the user wrote it.

    Raises:
        UserError: The directory does not exist. The message has the nearest name or the command that begins a study.
    """
    path = as_path(directory)
    if not path.is_dir():
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggestion(path.name, sorted(names)) or f": `partune tune --name {path.name} ...` begins one"
        raise UserError(f"no study in {directory}{hint}")
    return path


def run(study: Study, budget: Budget, arguments: argparse.Namespace) -> int:
    """Run a study to its budget, show its results and close it.

    Args:
        study: A new or continued study.
        budget: What the study may spend.
        arguments: The parsed arguments: --json, --quiet and --live.

    Returns:
        The exit status, which is 1 if the study stopped early or no trial has a score.
    """
    from partune.study import StoppedError

    directory = study.record.directory
    try:
        with _following(study, arguments.live):
            study.run(budget)
    except KeyboardInterrupt:
        from partune.report.words import progress
        from partune.study.calls import continuing

        state = progress([trial.status for trial in study.trials], budget.trials)
        line = f"\nInterrupted: {state}. Continue with: {continuing(directory)}"
        print(line, file=sys.stderr if arguments.json else sys.stdout)
        return INTERRUPTED
    except StoppedError as error:
        print(f"partune: stopped: {error}", file=sys.stderr)
        return 1
    finally:
        study.close()
    return 0 if show(study.record, arguments)["best"] is not None else 1


def show(record: Record, arguments: argparse.Namespace) -> Summary:
    """Write a study's report if its directory can be written, and print its results.

    Args:
        record: The record of the study.
        arguments: The parsed arguments: --json and --quiet.

    Returns:
        The summary of the study.
    """
    from partune.report import files, terminal
    from partune.report.facts import Facts
    from partune.report.plain_data import print_json

    facts = Facts(record)
    # Write the report first, because printing fails if the output is a full disk or a closed pipe.
    try:
        where = f"Report: {files.write(facts)}"
    except UserError as error:
        print(f"partune: no report: {error}", file=sys.stderr)
        where = ""
    if arguments.json:
        print_json(facts.summary)
    elif arguments.quiet:
        print(terminal.brief(facts.summary))
    else:
        terminal.show(facts.summary)
        if where:
            print(where)
    return facts.summary


@contextlib.contextmanager
def _following(study: Study, live: bool) -> Iterator[None]:
    """Keep the report up to date in a separate process within the context, if `live` is set."""
    if not live or study.record.directory is None:
        yield
        return
    import multiprocessing
    import os

    from partune.report import files

    # A thread would take seconds of CPU time from the study's process. CUDA and torch's threads do not survive a fork.
    arguments = study.record.directory, study.record.given, os.getpid()
    writer = multiprocessing.get_context("spawn").Process(target=files.accompany, args=arguments, daemon=True)
    writer.start()
    try:
        yield
    finally:
        writer.terminate()
        writer.join()


def watcher_of(arguments: argparse.Namespace, run: Run | None = None) -> Watcher:
    """Return the watcher that shows progress, together with the study's trackers.

    Args:
        arguments: The parsed arguments: progress is silent with --quiet, and on standard error with --json.
        run: The settings of the run, which name the trackers; None for a process that does not lead the study.

    Raises:
        UserError: A tracker cannot be used.
    """
    from partune.cli.progress import Quiet, Terminal

    shown = Quiet() if arguments.quiet else Terminal(console_of(arguments))
    if run is None or not run.track:
        return shown
    from partune.integrations.trackers import trackers
    from partune.study import Watchers

    # With --quiet, too, a user has to know that a tracker has failed.
    return Watchers(shown, *trackers(run.track, _warn if arguments.quiet else shown.noted))


def _warn(line: str) -> None:
    print(f"partune: {line}", file=sys.stderr)


def errors_of(arguments: argparse.Namespace) -> TextIO | None:
    """Return the stream for what is not the result: standard error with --json, or None for standard output."""
    return sys.stderr if arguments.json else None


def console_of(arguments: argparse.Namespace) -> Console | None:
    """Return the console for progress: standard error with --json, or None for standard output."""
    from partune.runtime.console import log_console

    return log_console(errors) if (errors := errors_of(arguments)) else None
