"""The command line. Flags come from the same definition as the study's file (`config.StudyConfig`)."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from partune.errors import UserError, suggestion

if TYPE_CHECKING:
    from rich.console import Console

    from partune.config import Run, Section, StudyConfig
    from partune.executors import Workers
    from partune.report.summary import Summary
    from partune.storage import Record
    from partune.study import Study, Watcher

DESCRIPTION = "The best LoRA hyperparameters for the fewest GPU-hours."
EPILOG = """\
examples:
  partune tune --model meta-llama/Llama-3.2-1B --data alpaca.json --task hellaswag --test-task mmlu --name first
  partune tune study.yaml --budget 20
  partune resume runs/first
  partune join runs/first
  partune report runs/first
  partune export runs/first adapter/
  partune doctor

exit status: 0 done; 1 nothing worth having came of it (no trial has a score, scores cannot be trusted, a check of
doctor fails); 2 bad input, one line says what to do; 130 interrupted, and partune resume continues.
"""
TUNE = """\
Searches the hyperparameters of a LoRA fine-tuning: scores the untouched base model and the field's defaults, runs the
budget's trials, and says by a paired test on unseen items whether the winner is better. Every flag is a key of the
study's file too."""
DEMO = """\
Tunes a tiny pretrained model of a factory's machines that comes with partune: a few minutes on two cores, offline.
Flags as for tune; where one is not given, the demo's own study.yaml counts, not the default shown here."""
JOIN = """\
Takes part in the search of a study that another process runs, on this machine or on one that shares the study's
directory: no trial runs twice, the budget is common. The process that runs `tune` or `resume` leads: it scores base,
defaults and winner. See docs/cluster.md."""
DOCTOR = """\
Says what this machine has, and whether partune works on it: devices, memory, libraries, network; and fine-tunes a tiny
model for a few steps, with learning rate 0, in a pack and through PEFT. Exit status 1 where a line says FAIL."""
COMPLETION = """\
Prints the completion of commands, flags and their values for a shell, to be kept in a file:
  partune completion bash > ~/.local/share/bash-completion/completions/partune
  partune completion zsh > "${fpath[1]}/_partune" """
REPORT = """\
Prints what a study found, and writes DIRECTORY/report.html: one file with all figures, which needs no network. See
docs/report.md."""
BENCH = {
    "packing": """\
Runs the same trials as LitGPT as shipped, in a process each, through a tuned PEFT, and in packs, one after the other in
each of several repetitions; writes a table of seconds a trial, memory and paired ratios.
For optimisers beside those of other libraries: partune bench search --help""",
    "search": """\
Runs partune's optimisers and those of other libraries on the same problems, with the same budget and seeds; writes
tables of regrets, ranks and seconds. Runs that are in the folder already are not run again.""",
    "scaling": """\
Runs studies of many workers, up to thousands, whose evaluations take their time on a virtual clock only, while
optimiser, loop and record are the real ones; writes a table and pictures of speed-up, utilisation and regret for
asynchronous and synchronous loops.""",
    "chaos": """\
Runs a study with scheduler, workers and driver in processes of their own, kills one of them every few seconds, and
compares the record with that of the study left alone.""",
}
DASHBOARD = """\
Shows a study in optuna-dashboard, at an address that only this machine reaches: charts, trials, importances, while it
runs too. It reads the study's record and changes nothing in it. See docs/dashboard.md."""
COMPARE = """\
Compares finished studies of one objective and space: trials' scores, winners' verdicts, time and cost; those of one
algorithm with different seeds are its repeats, over which algorithms are tested against each other. See
docs/compare.md."""
EXPERIMENT = """\
Runs the protocol of the study that partune goes back to, and writes one page: how many epochs are enough, bounds by
sampling, then every algorithm with several seeds, tested against each other. Begun again it continues. Without a model,
data and tasks it runs on the embedded factory world. Where a flag is not given, the protocol's value counts, not the
default shown here. See docs/experiment.md."""
GALLERY = """\
Runs the optimisers on Himmelblau's function and draws what each did, as SVG: points, paths, generations, cells; and a
Gaussian process with its acquisition function. The same every time; docs/algorithms.md says what is to be seen."""
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 (failed), 2 (bad input, one line) or 130 (interrupted)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = _parser(arguments)
    try:
        namespace = parser.parse_args(arguments)
        if not hasattr(namespace, "run"):
            parser.print_help()
            return 0
        status: int = namespace.run(namespace)
    except UserError as error:
        from partune.database import masked

        print(f"partune: error: {masked(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before a study began, or after it ended
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: `partune report ... | head`
        sys.stderr.close()
        return 1
    return status


# ----- commands


def tune(arguments: argparse.Namespace) -> int:
    from partune import config

    return _start(arguments, config.load(arguments.file) if arguments.file else {})


def demo(arguments: argparse.Namespace) -> int:
    from partune import config
    from partune.demo import DIRECTORY

    return _start(arguments, config.load(DIRECTORY.parent / "study.yaml"))


def resume(arguments: argparse.Namespace) -> int:
    from partune import configured

    directory = _existing(arguments.directory)
    study_config = _moved(
        _recorded(directory, "continue it there with Study(..., resume=True)", arguments.storage), arguments
    )
    with _workers(study_config.run) as workers:
        study = configured.study(study_config, directory, True, workers, arguments.storage, watcher=_watcher(arguments))
        budget = arguments.budget or study.record.budget or study_config.search.budget
        if budget < len(study.trials):
            study.close()
            raise UserError(f"{directory} has {len(study.trials)} trials already: --budget is the total, got {budget}")
        return _run(study, budget, arguments)


def join(arguments: argparse.Namespace) -> int:
    from partune import configured

    directory = _existing(arguments.directory)
    study_config = _moved(
        _recorded(directory, "join it from there with Study(..., join=True)", arguments.storage), arguments
    )
    with _workers(study_config.run) as workers:
        watcher = _watcher(arguments)
        study = configured.study(study_config, directory, True, workers, arguments.storage, join=True, watcher=watcher)
        return _run(study, study.record.budget or study_config.search.budget, arguments)


def report(arguments: argparse.Namespace) -> int:
    from partune.report import summary
    from partune.report.data import as_json
    from partune.storage import Record

    directory = _existing(arguments.directory)
    record = Record.open(directory, read_only=True, storage=arguments.storage)
    if arguments.json:
        print(as_json(summary.summarise(record)))
    elif arguments.markdown:
        from partune.report.facts import Facts
        from partune.report.markdown import markdown

        print(markdown(Facts(record)), end="")
    elif arguments.live:
        from partune.report import files

        print(f"Writing {directory / files.REPORT} until the study is over. Open it in a browser; Ctrl-C ends this.")
        files.follow(directory, arguments.storage)
    else:
        _show(record, arguments)
    return 0


def dashboard(arguments: argparse.Namespace) -> int:
    from partune import dashboard

    directory = _existing(arguments.directory)
    with dashboard.server(directory, arguments.host, arguments.port, arguments.storage) as server:
        print(f"{directory} in Optuna's dashboard: {server.url}", flush=True)
        print("It follows the study and changes nothing in it. Ctrl-C ends it.", flush=True)
        if arguments.open or (arguments.open is None and sys.stdout.isatty()):
            dashboard.opens(server.url)
        server.serve_forever()
    return 0


def compare(arguments: argparse.Namespace) -> int:
    from partune.report import compare
    from partune.report.data import as_json
    from partune.report.facts import Facts
    from partune.storage import Record

    found = compare.compare([Facts(Record.open(_existing(each), read_only=True)) for each in arguments.directories])
    if arguments.json:
        print(as_json(found))
    else:
        compare.show(found)
    if arguments.out is not None:
        written = compare.write(found, Path(arguments.out))
        if not arguments.json:
            print(f"wrote {', '.join(map(str, written))}")
    return 0


def experiment(arguments: argparse.Namespace) -> int:
    from partune import config
    from partune.experiment import protocol
    from partune.experiment.files import write
    from partune.experiment.findings import Outcome
    from partune.experiment.progress import Terminal
    from partune.experiment.run import Teller, run
    from partune.experiment.sentences import show
    from partune.report.data import as_json
    from partune.study import UntrustworthyError

    flags = config.located(_given(arguments), Path.cwd())
    plan = protocol.Plan(protocol.composed(protocol.load(arguments.file) if arguments.file else {}, flags))
    if arguments.print_config:
        print(protocol.dump(plan.experiment), end="")
        return 0
    teller = Teller() if arguments.quiet else Terminal(_console(arguments))
    try:
        run(plan, teller)
    except KeyboardInterrupt:
        told = f"\nInterrupted: what ended is recorded in {plan.directory}. The same command continues."
        print(told, file=sys.stderr if arguments.json else sys.stdout)
        return INTERRUPTED
    except UntrustworthyError as error:
        print(f"partune: stopped: {error}", file=sys.stderr)
        return 1
    outcome = Outcome.read(plan)
    if len(outcome.scored) < 2:
        print(f"partune: the trials of {plan.directory} failed: there is nothing to compare", file=sys.stderr)
        return 1
    written = write(outcome)
    if arguments.json:
        print(as_json(outcome.summary))
    else:
        show(outcome.summary, arguments.quiet)
    if not (arguments.json or arguments.quiet):
        print(f"wrote {', '.join(map(str, written))}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    from partune.export import TOOLS
    from partune.export import export as write

    which: int | Literal["defaults"] | None = "defaults" if arguments.defaults else arguments.trial
    out, recipes = Path(arguments.out), arguments.recipe or TOOLS
    written = write(_existing(arguments.directory), out, which, arguments.merge, arguments.storage, recipes)
    print(f"wrote {'the merged model' if arguments.merge else 'the adapter'} to {written}")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from partune import config
    from partune.bench.options import Chaos, Packing, Scaling, Searching

    console = Console(highlight=False, soft_wrap=True)
    given = {name: value for name, value in vars(arguments).items() if name not in ("run", "what")}
    with console.status("", refresh_per_second=1) as status:
        tell = status.update if console.is_terminal else console.print
        if arguments.what == "packing":
            from partune.bench import packing

            out = packing.bench(config.validated(Packing, given), tell)
        elif arguments.what == "search":
            from partune.bench import search

            out = search.bench(config.validated(Searching, given), tell)
        elif arguments.what == "scaling":
            from partune.bench import scaling

            out = scaling.bench(config.validated(Scaling, given), tell)
        else:
            _cluster()
            from partune.bench import chaos

            out = chaos.bench(config.validated(Chaos, given), tell)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"wrote {', '.join(sorted(str(path) for path in out.iterdir()))}")
    return 0


def certificates(arguments: argparse.Namespace) -> int:
    cluster = _cluster()
    cluster.write_certificates(folder := Path(arguments.folder))
    files = " ".join(f"--tls-{kind} {folder / name}" for kind, name in cluster.FILES.items())
    print(f"wrote {folder}; start the scheduler and every worker with")
    print(f"  dask scheduler --protocol tls {files}")
    options = " ".join(("--nthreads", str(cluster.THREADS), *cluster.PRELOAD, *cluster.PRELOAD_NANNY))
    print(f"  dask worker tls://HOST:8786 {options} {files}")
    print(f"and the study with --scheduler tls://HOST:8786 --tls {folder}. Whoever has the folder can use the cluster.")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    from partune import doctor
    from partune.report.data import as_json

    if arguments.json:
        found = list(doctor.examine(arguments.quick))
        print(as_json(doctor.as_data(found)))
    else:
        found = doctor.tell(doctor.examine(arguments.quick))
    return 1 if any(each.verdict == "FAIL" for each in found) else 0


def completion(arguments: argparse.Namespace) -> int:
    from partune.completion import script

    print(script(_parser(["tune", "demo", "resume", "join", "bench", "experiment"]), arguments.shell))
    return 0


def spaces(arguments: argparse.Namespace) -> int:
    import yaml

    from partune.report.data import as_json
    from partune.space import SPACES, Space

    chosen = {arguments.name: Space.parse(arguments.name)} if arguments.name else SPACES
    if arguments.json:
        print(as_json({name: space.describe() for name, space in chosen.items()}))
        return 0
    for name, space in chosen.items():
        print(f"{name}:")
        for each, form in space.describe().items():
            print(f"  {each}: {yaml.safe_dump(form, default_flow_style=True, sort_keys=False).strip()}")
    return 0


def algorithms(arguments: argparse.Namespace) -> int:
    from partune.optimizers import ALGORITHMS, AUTO
    from partune.report.data import as_json

    if arguments.json:
        listed = [{"name": name, "summary": a.summary, "source": a.source} for name, a in ALGORITHMS.items()]
        print(as_json({"auto": AUTO, "algorithms": listed}))
        return 0
    width = max(map(len, ALGORITHMS))
    print(f"{'auto':<{width}}  the best by measurement, now {AUTO} (the default)")
    for name, algorithm in ALGORITHMS.items():
        print(f"{name:<{width}}  {algorithm.summary} ({algorithm.source})")
    return 0


def gallery(arguments: argparse.Namespace) -> int:
    from partune import gallery

    written = gallery.write(Path(arguments.out))
    print(f"wrote {len(written)} pictures to {arguments.out}: {', '.join(path.name for path in written)}")
    return 0


# ----- what the commands share


def _cluster() -> Any:
    try:
        from partune import cluster
    except ImportError as error:
        raise UserError(f'worker processes need Dask: pip install "partune[dask]" ({error})') from None
    return cluster


def _start(arguments: argparse.Namespace, mapping: dict[str, Any]) -> int:
    """Begins and runs a study: the file's mapping with the flags laid over it."""
    from partune import config, configured

    flags = config.located(_given(arguments), Path.cwd())
    study_config = config.parse(config.merged(mapping, flags))
    if arguments.print_config:
        print(config.dump(configured.with_space(study_config)), end="")
        return 0
    with _workers(study_config.run) as workers:
        directory = _directory(arguments, study_config)
        study = configured.study(
            study_config, directory, False, workers, study_config.run.storage, watcher=_watcher(arguments)
        )
        return _run(study, study_config.search.budget, arguments)


@contextlib.contextmanager
def _workers(run: Run) -> Iterator[Workers | None]:
    """The worker processes of a study's file; None where it runs in this process."""
    if run.scheduler is None and run.cluster is None and run.workers == 1:
        yield None
        return
    cluster = _cluster()
    if run.scheduler is not None:
        found = cluster.joined(run.scheduler, run.time_limit, None if run.tls is None else Path(run.tls))
    elif run.cluster is not None:
        found = cluster.batch(Path(run.cluster), run.time_limit)
    else:
        found = cluster.local(run.workers, run.time_limit, run.devices_per_worker)
    with found as workers:
        yield workers


def _recorded(directory: Path, otherwise: str, storage: str | None) -> StudyConfig:
    """The configuration that a study was started from; raises UserError where it was started from Python."""
    from partune import config
    from partune.storage import CONFIG, Record

    if not (directory / CONFIG).is_file():
        Record.open(directory, read_only=True, storage=storage)
        raise UserError(f"{directory} was started from Python: {otherwise}")
    return config.parse(config.load(directory / CONFIG))


def _moved(study_config: StudyConfig, arguments: argparse.Namespace) -> StudyConfig:
    """The configuration with the flags of `config.Where` laid over what it says.

    One that says which workers there are takes the place of all of it.
    """
    from partune import config

    flags = config.located(_given(arguments), Path.cwd()).get("run", {})
    recorded = study_config.model_dump(mode="json")
    if flags.keys() & {"workers", "scheduler", "cluster"}:
        recorded["run"] = {key: value for key, value in recorded["run"].items() if key not in config.Where.model_fields}
    return config.parse(config.merged(recorded, {"run": flags}))


def _watcher(arguments: argparse.Namespace) -> Watcher:
    """Tells of progress: beside the output where that is JSON, and not at all where quiet was asked for."""
    from partune.progress import Terminal
    from partune.study import Watcher

    return Watcher() if arguments.quiet else Terminal(_console(arguments))


def _console(arguments: argparse.Namespace) -> Console | None:
    """Where progress is told: beside the output where that is JSON; None for the usual place."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True) if arguments.json else None


def _run(study: Study, budget: int, arguments: argparse.Namespace) -> int:
    from partune.study import UntrustworthyError

    directory = study.record.directory
    try:
        with _following(study, arguments.live):
            study.run(budget)
    except KeyboardInterrupt:
        done = sum(trial.status.final for trial in study.trials)
        told = f"\nInterrupted: {done} of {budget} trials are recorded. Continue with: partune resume {directory}"
        print(told, file=sys.stderr if arguments.json else sys.stdout)
        return INTERRUPTED
    except UntrustworthyError as error:
        print(f"partune: stopped: {error}", file=sys.stderr)
        return 1
    finally:
        study.close()
    return 0 if _show(study.record, arguments)["best"] is not None else 1


def _show(record: Record, arguments: argparse.Namespace) -> Summary:
    """Shows what a study found and writes its report, where that can be."""
    from partune.report import files, summary
    from partune.report.data import as_json
    from partune.report.facts import Facts

    facts = Facts(record)
    if arguments.json:
        print(as_json(facts.summary))
    elif arguments.quiet:
        print(summary.brief(facts.summary))
    else:
        summary.show(facts.summary)
    try:
        written = files.write(facts)
    except UserError as error:
        print(f"partune: no report: {error}", file=sys.stderr)
    else:
        if not (arguments.json or arguments.quiet):
            print(f"Report: {written}")
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

    arguments = study.record.directory, study.record.url, os.getpid()
    writer = multiprocessing.get_context("spawn").Process(target=files.accompany, args=arguments, daemon=True)
    writer.start()
    try:
        yield
    finally:
        writer.terminate()
        writer.join()


def _directory(arguments: argparse.Namespace, study_config: StudyConfig) -> Path:
    """runs/<name>; without a name, the model's or objective's and the first free number."""
    runs = Path(arguments.runs)
    if arguments.name is None:
        source = study_config.model.path if study_config.model is not None else study_config.objective
        stem = Path(source).name.lower().replace(":", "-")
        number = next(n for n in range(1, 100_000) if not (runs / f"{stem}-{n}").exists())
        return runs / f"{stem}-{number}"
    if not arguments.name or Path(arguments.name).name != arguments.name or arguments.name.startswith("."):
        raise UserError(f"a name is a plain folder name, got {arguments.name!r}: give the parent folder with --runs")
    return runs / str(arguments.name)


def _existing(directory: str) -> Path:
    path = Path(directory)
    if not path.is_dir():
        near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggestion(path.name, sorted(near)) or f": partune tune --name {path.name} ... begins one"
        raise UserError(f"no study in {directory}{hint}")
    return path


# ----- flags


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="partune", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=_Version, nargs=0, dest=argparse.SUPPRESS, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    usage = "%(prog)s [FILE] [--name NAME] [options]"
    command = commands.add_parser(
        "tune", help="search the hyperparameters of a fine-tuning", description=TUNE, usage=usage
    )
    command.set_defaults(run=tune)
    command.add_argument("file", nargs="?", metavar="FILE", help="a study's file (YAML); flags override it")
    _add_starting(command)
    if "tune" in arguments:
        _add_flags(command)

    usage = "%(prog)s [--name NAME] [options]"
    command = commands.add_parser(
        "demo", help="a real study on the embedded factory world", description=DEMO, usage=usage
    )
    command.set_defaults(run=demo)
    _add_starting(command)
    if "demo" in arguments:
        _add_flags(command)

    command = commands.add_parser("resume", help="continue a study that stopped, or extend it")
    command.add_argument("directory", help="the study's directory, runs/<name>")
    command.add_argument("--budget", type=_positive, help="trials in all, those already run included")
    _add_live(command)
    _add_output(command)
    _add_storage(command)
    if "resume" in arguments:
        _add_where(command)
    command.set_defaults(run=resume)

    command = commands.add_parser("join", help="take part in a study that another process runs", description=JOIN)
    command.add_argument("directory", help="the study's directory, runs/<name>")
    _add_output(command)
    _add_storage(command)
    if "join" in arguments:
        _add_where(command)
    command.set_defaults(run=join, live=False)

    command = commands.add_parser("report", help="what a study found, and whether it is better", description=REPORT)
    command.add_argument("directory", help="the study's directory, runs/<name>")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for scripts")
    form.add_argument("--quiet", action="store_true", help="the verdict only")
    form.add_argument("--markdown", action="store_true", help="for a pull request")
    form.add_argument("--live", action="store_true", help="write report.html again and again while the study runs")
    _add_storage(command)
    command.set_defaults(run=report)

    command = commands.add_parser(
        "dashboard", help="a study in Optuna's dashboard, in a browser", description=DASHBOARD
    )
    command.add_argument("directory", help="the study's directory, runs/<name>")
    command.add_argument("--host", default="127.0.0.1", help="an address of this machine only (default: %(default)s)")
    command.add_argument("--port", type=_port, help="0 for any free one (default: 8080, or any where that is taken)")
    about = "open a browser, or not (default: where the output is a terminal)"
    command.add_argument("--open", action=argparse.BooleanOptionalAction, default=None, help=about)
    _add_storage(command)
    command.set_defaults(run=dashboard)

    command = commands.add_parser("compare", help="finished studies of one objective side by side", description=COMPARE)
    command.add_argument("directories", nargs="+", metavar="DIRECTORY", help="a study's directory, runs/<name>")
    command.add_argument("--out", metavar="FOLDER", help="write compare.md, compare.svg and compare.json there")
    command.add_argument("--json", action="store_true", help="for scripts")
    command.set_defaults(run=compare)

    usage = "%(prog)s report [FILE] [--out FOLDER] [options]"
    command = commands.add_parser(
        "experiment", help="the original study as one command", description=EXPERIMENT, usage=usage
    )
    command.set_defaults(run=experiment)
    command.add_argument("what", choices=["report"], help="run what is missing, and report on all")
    command.add_argument("file", nargs="?", metavar="FILE", help="an experiment's file (YAML); flags override it")
    _add_output(command)
    about = "print the experiment's file that the preset, FILE and flags make, and stop"
    command.add_argument("--print-config", action="store_true", help=about)
    if "experiment" in arguments:
        from partune.experiment.options import OWN, Experiment

        _add_sections(command, Experiment, OWN)

    command = commands.add_parser("export", help="hand over the best adapter, its model card and recipes")
    command.add_argument("directory", help="the study's directory, runs/<name>")
    command.add_argument("out", help="folder to write, which must not exist yet")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, help="this trial's adapter in place of the best one's")
    which.add_argument("--defaults", action="store_true", help="the adapter of the field's defaults")
    command.add_argument("--merge", action="store_true", help="write the whole model with the adapter merged into it")
    about = "{trl,litgpt,axolotl,llamafactory,none}: files that train the same with this tool only (default: all four)"
    command.add_argument("--recipe", action="append", metavar="TOOL", help=about)
    _add_storage(command)
    command.set_defaults(run=export)

    what = next((each for each in arguments if each in BENCH), "packing")
    command = commands.add_parser("bench", help="packs, optimisers and many workers, measured", description=BENCH[what])
    command.add_argument(
        "what", choices=[*BENCH], help="packs beside the ways without; optimisers beside others'; many workers; kills"
    )
    command.set_defaults(run=bench)
    if "bench" in arguments:
        from partune.bench.options import Chaos, Packing, Scaling, Searching

        sections: dict[str, type[Section]] = {
            "packing": Packing,
            "search": Searching,
            "scaling": Scaling,
            "chaos": Chaos,
        }
        for name, field in sections[what].model_fields.items():
            _add_flag(command, (name,), field)

    command = commands.add_parser("certificates", help="make certificates for a Dask cluster on a network")
    command.add_argument("folder", help="where to, a new folder")
    command.set_defaults(run=certificates)

    command = commands.add_parser(
        "doctor", help="what this machine has, and whether partune works on it", description=DOCTOR
    )
    command.add_argument("--quick", action="store_true", help="without the self-check, which takes a minute")
    command.add_argument("--json", action="store_true", help="for scripts")
    command.set_defaults(run=doctor)

    command = commands.add_parser("completion", help="print a shell's completion", description=COMPLETION)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    command.set_defaults(run=completion)

    command = commands.add_parser("spaces", help="list the ready-made search spaces")
    command.add_argument("name", nargs="?")
    command.add_argument("--json", action="store_true", help="for scripts")
    command.set_defaults(run=spaces)

    command = commands.add_parser("algorithms", help="list the optimisers")
    command.add_argument("--json", action="store_true", help="for scripts")
    command.set_defaults(run=algorithms)

    command = commands.add_parser("gallery", help="draw the optimisers at work, one picture each", description=GALLERY)
    command.add_argument("out", nargs="?", default="gallery", help="folder for the pictures (default: %(default)s)")
    command.set_defaults(run=gallery)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the final summary for scripts; progress on standard error")
    form.add_argument("--quiet", action="store_true", help="no progress, and of the summary the verdict only")


def _add_starting(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    about = "print the whole study's file that the flags and FILE make, every default in it, and stop"
    parser.add_argument("--print-config", action="store_true", help=about)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    about = "URL of the study's database, where it needs a password (PGPASSWORD and ~/.pgpass serve too) or has moved"
    parser.add_argument("--storage", metavar="URL", help=about)


def _add_where(parser: argparse.ArgumentParser) -> None:
    from partune.config import Where

    group = parser.add_argument_group("run", f"{(Where.__doc__ or '').splitlines()[0]} By default as before.")
    for name, field in Where.model_fields.items():
        _add_flag(group, ("run", name), field)


def _add_live(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--live", action="store_true", help="write report.html while the study runs too; a browser on it refreshes"
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    from partune.config import StudyConfig

    parser.add_argument("--name", help="the study's directory is RUNS/NAME")
    parser.add_argument("--runs", default="runs", help="folder of all studies (default: %(default)s)")
    _add_live(parser)
    _add_sections(parser, StudyConfig)


def _add_sections(parser: argparse.ArgumentParser, whole: type[Section], without: Collection[str] = ()) -> None:
    """Every field of a file as a flag. without: those that have none, with their section and a dot before."""
    from partune.config import section_in

    top = parser.add_argument_group("study")
    for name, field in whole.model_fields.items():
        section = section_in(field.annotation)
        if section is None:
            if name != "version":
                _add_flag(top, (name,), field)
            continue
        group = parser.add_argument_group(name, (section.__doc__ or "").splitlines()[0] if section.__doc__ else None)
        for inner, inner_field in section.model_fields.items():
            if inner_field.annotation != dict[str, Any] and f"{name}.{inner}" not in without:
                _add_flag(group, (name, inner), inner_field)


def _add_flag(group: Any, path: tuple[str, ...], field: Any) -> None:
    """One field as a flag; its value stays text, for the definition itself to read."""
    extra = field.json_schema_extra or {}
    flag = f"--{extra.get('flag', path[-1]).replace('_', '-')}"
    default = field.get_default()
    text = ",".join(map(str, default)) if isinstance(default, tuple) else default
    shown = "" if field.is_required() or default in (None, ()) else f" (default: {text})"
    about = {
        "dest": ".".join(path),
        "default": argparse.SUPPRESS,
        "help": f"{' '.join((field.description or '').split()).replace('%', '%%')}{shown}",
    }
    if field.annotation is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **about)
    elif "tuple" in str(field.annotation):
        metavar = "NAME" if "str" in str(field.annotation) else path[-1].upper()
        group.add_argument(flag, action="append", metavar=metavar, **about)
    else:
        group.add_argument(flag, metavar=_metavar(path[-1], field.annotation), **about)


def _metavar(name: str, annotation: Any) -> str:
    """The choices of a literal, else the field's name."""
    options = [str(each) for each in get_args(annotation) if isinstance(each, str)]
    return f"{{{','.join(options)}}}" if options and get_origin(annotation) is Literal else name.upper()


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as the mapping of a study's file."""
    mapping: dict[str, Any] = {}
    for dest, value in vars(arguments).items():
        if dest in ("file", "name", "runs", "live", "run", "what", "json", "quiet", "print_config"):
            continue
        *sections, key = dest.split(".")
        place = mapping
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return mapping


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, the nearest known flag in it, in place of the whole usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(f"unknown argument {unknown[0]}{self._near(unknown[0], found)}")
        return found

    def _near(self, argument: str, found: argparse.Namespace) -> str:
        commands = next(each for each in self._actions if isinstance(each, argparse._SubParsersAction))
        command = commands.choices.get(getattr(getattr(found, "run", None), "__name__", ""), self)
        return suggestion(argument.split("=")[0], [flag for each in command._actions for flag in each.option_strings])

    def error(self, message: str) -> NoReturn:
        """With the nearest choice in the place of all of them, where a choice was none."""
        before, known, listed = message.partition(" (choose from ")
        if known:
            given = before.rpartition(": ")[2].strip("'")
            message = before + suggestion(given, [each.strip("'") for each in listed.removesuffix(")").split(", ")])
        raise UserError(message)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"must be between 0 and 65535, got {value}")
    return value


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from partune import __version__

        print(f"partune {__version__}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
