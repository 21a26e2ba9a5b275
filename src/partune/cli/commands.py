"""Define a function for each command, which takes parsed arguments and returns an exit status.

The status is 0, 1 (failed) or 130 (interrupted). Each function has the name of its command. Heavy libraries are
imported inside the functions that need them.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from pathlib import Path

from partune.cli import flags, studies
from partune.errors import UserError
from partune.runtime.paths import as_path


def tune(arguments: argparse.Namespace) -> int:
    """Begin a study with settings from a file and from flags."""
    from partune import config

    return studies.begin(arguments, config.load(arguments.file) if arguments.file else {})


def demo(arguments: argparse.Namespace) -> int:
    """Begin a study of the embedded demo. Flags override the demo's study.yaml."""
    from partune import config
    from partune.demo import DIRECTORY
    from partune.study import from_config

    # Resolve the flags' paths first: paths in flags are relative to the working folder, and paths in the demo's
    # study.yaml are relative to the folder of study.yaml.
    flagged = config.located(flags.given(arguments), Path.cwd())
    return studies.begin(arguments, from_config.beneath(config.load(DIRECTORY.parent / "study.yaml"), flagged))


def plan(arguments: argparse.Namespace) -> int:
    """Print what a study would cost, and which gains its verdict could show. Nothing is written."""
    from partune import config
    from partune.cli import planning

    return planning.run(arguments, config.load(arguments.file) if arguments.file else {})


def resume(arguments: argparse.Namespace) -> int:
    """Continue a study from its record, with a larger budget if a flag sets one."""
    from partune import config
    from partune.report import words
    from partune.study import Budget, from_config

    limits = arguments.budget, arguments.hours, arguments.device_hours
    chosen = None if limits == (None, None, None) else Budget(*limits)  # first, because hours count from here

    directory = studies.existing(arguments.directory)
    recorded = from_config.recorded(directory, "continue it there, with Study(..., resume=True)", arguments.storage)
    changed = studies.changes_the_end(arguments)
    recorded = studies.ending(recorded, changed)
    study_config = studies.moved(recorded, arguments)
    with studies.workers_of(study_config.run) as workers:
        study = from_config.study(
            study_config,
            directory,
            True,
            workers,
            arguments.storage,
            watcher=studies.watcher_of(arguments, study_config.run),
        )
        budget = chosen or Budget.recorded(study.record, study_config.search.budget)
        if budget.trials is not None and budget.trials < len(study.trials):
            study.close()  # release the record's lock, because nobody else closes the study after this error
            state = words.progress([trial.status for trial in study.trials], study.record.budget or budget.trials)
            advice = f"the budget is the total number of trials, so use `--budget {len(study.trials)}` or more"
            raise UserError(f"--budget {budget.trials} is too small for {directory}, where {state}: {advice}")
        # Write the settings only after the study has accepted them, so that the recorded file can always be resumed.
        if changed:
            study.record.configure(config.dump(recorded))
        return studies.run(study, budget, arguments)


def join(arguments: argparse.Namespace) -> int:
    """Take part in the search of a study that another process leads."""
    from partune.study import Budget, from_config

    directory = studies.existing(arguments.directory)
    study_config = studies.moved(
        from_config.recorded(directory, "join it there, with Study(..., join=True)", arguments.storage), arguments
    )
    with studies.workers_of(study_config.run) as workers:
        watcher = studies.watcher_of(arguments)
        study = from_config.study(study_config, directory, True, workers, arguments.storage, join=True, watcher=watcher)
        return studies.run(study, Budget.recorded(study.record, study_config.search.budget), arguments)


def report(arguments: argparse.Namespace) -> int:
    """Print the results of a study in the requested form, and write its report.html."""
    from partune.record.record import Record
    from partune.report import summary
    from partune.report.plain_data import print_json

    directory = studies.existing(arguments.directory)
    record = Record.open(directory, read_only=True, storage=arguments.storage)
    if arguments.json:
        print_json(summary.summarise(record))
    elif arguments.markdown:
        from partune.report.facts import Facts
        from partune.report.markdown import markdown

        print(markdown(Facts(record)), end="")
    elif arguments.live:
        from partune.report import files

        print(f"Writing {directory / files.REPORT} until the study is over. Open it in a browser. Ctrl-C stops it.")
        files.follow(directory, arguments.storage)
    else:
        studies.show(record, arguments)
    return 0


def dashboard(arguments: argparse.Namespace) -> int:
    """Serve a study to optuna-dashboard until the user interrupts it."""
    from partune.report import dashboard

    directory = studies.existing(arguments.directory)
    with dashboard.server(directory, arguments.host, arguments.port, arguments.storage) as server:
        print(f"{directory} in Optuna's dashboard: {server.url}", flush=True)
        print("The dashboard follows the study and changes nothing in it. Ctrl-C stops the dashboard.", flush=True)
        # Open no browser if nobody watches the output, as in a script.
        if arguments.open or (arguments.open is None and sys.stdout.isatty()):
            dashboard.opens(server.url)
        server.serve_forever()
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compare finished studies."""
    from partune.record.place import STORAGE
    from partune.record.record import Record
    from partune.report.comparison import data as compare
    from partune.report.comparison import tables
    from partune.report.comparison.files import write
    from partune.report.facts import Facts
    from partune.report.plain_data import print_json

    directories = [studies.existing(directory) for directory in arguments.directories]
    # The URL is for studies with their record in a database. Other studies have a journal in their directory.
    storages = [arguments.storage if (directory / STORAGE).is_file() else None for directory in directories]
    records = [Record.open(path, True, storage=url) for path, url in zip(directories, storages, strict=True)]
    comparison = compare.compare([Facts(record) for record in records])
    if arguments.json:
        print_json(comparison)
    else:
        tables.show(comparison)
    if arguments.out is not None:
        written = write(comparison, as_path(arguments.out))
        if not arguments.json:
            print(f"wrote {', '.join(map(str, written))}")
    return 0


def verdict(arguments: argparse.Namespace) -> int:
    """Test whether one model is better than another."""
    from partune.cli import verdicts

    return verdicts.run(arguments)


def experiment(arguments: argparse.Namespace) -> int:
    """Run the missing studies of an experiment, and report on all of them."""
    from partune import config
    from partune.experiment import protocol
    from partune.experiment.files import write
    from partune.experiment.findings import Outcome
    from partune.experiment.progress import Terminal
    from partune.experiment.run import Teller, run
    from partune.experiment.sentences import show
    from partune.objectives.base import not_searched
    from partune.report.plain_data import print_json
    from partune.study import StoppedError

    flagged = config.located(flags.given(arguments), Path.cwd())
    plan = protocol.Plan(protocol.composed(protocol.load(arguments.file) if arguments.file else {}, flagged))
    if arguments.print_config:
        studies.print_yaml(lambda ascii_only: protocol.dump(plan.experiment, ascii_only))
        return 0
    teller = Teller() if arguments.quiet else Terminal(studies.console_of(arguments))
    if plan.fixed:
        teller.noted(not_searched(plan.fixed))
    try:
        run(plan, teller)
    except KeyboardInterrupt:
        line = f"\nInterrupted: finished trials are recorded in {plan.directory}. The same command continues."
        print(line, file=sys.stderr if arguments.json else sys.stdout)
        return studies.INTERRUPTED
    except StoppedError as error:
        print(f"partune: stopped: {error}", file=sys.stderr)
        return 1
    outcome = Outcome.read(plan)
    if len(outcome.scored) < 2:
        reason = f"fewer than two studies in {plan.directory} have a trial with a score, so there is nothing to compare"
        print(f"partune: {reason}", file=sys.stderr)
        return 1
    written = write(outcome)
    if arguments.json:
        print_json(outcome.summary)
    else:
        show(outcome.summary, arguments.quiet)
    if not (arguments.json or arguments.quiet):
        print(f"wrote {', '.join(map(str, written))}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write an adapter or a merged model to a new folder."""
    from partune.export.export import TOKENIZER
    from partune.export.export import export as write
    from partune.export.recipes.write import RECIPES

    which: int | str | None = "defaults" if arguments.defaults else arguments.trial
    out, recipes = as_path(arguments.out), arguments.recipe or tuple(RECIPES)
    sentences: list[str] = []
    written = write(
        studies.existing(arguments.directory),
        out,
        which,
        merge=arguments.merge,
        storage=arguments.storage,
        recipes=recipes,
        anyway=arguments.anyway,
        quantize=arguments.quantize,
        checked=arguments.check,
        tell=sentences.append,
    )
    print(f"wrote {'the merged model' if arguments.merge else 'the adapter'} to {written}")
    for sentence in sentences:
        print(sentence)
    if (written / "adapter_config.json").is_file() and not (written / TOKENIZER).is_file():
        print("The folder has no tokenizer, because the base model cannot be loaded here.")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Run one of the benchmarks and print its table."""
    from partune import config
    from partune.bench.options import BENCHMARKS
    from partune.runtime.console import log_console, text
    from partune.runtime.extras import require_finetune

    require_finetune("a benchmark")  # it reads clocks and the machine's name through torch
    console = log_console()
    flagged = flags.given(arguments)
    # A terminal shows progress in one line that changes. A file or pipe gets a new line for each step.
    with console.status("", refresh_per_second=1) as status:

        def tell(line: str) -> None:
            """Show what is running now."""
            (status.update if console.is_terminal else console.print)(text(line))

        benchmark = BENCHMARKS[arguments.what]
        if benchmark.dask:
            studies.require_dask()
        run = importlib.import_module(benchmark.module).bench
        out = run(config.validated(benchmark.options, flagged), tell)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"wrote {', '.join(sorted(str(path) for path in out.iterdir()))}")
    return 0


def certificates(arguments: argparse.Namespace) -> int:
    """Make a cluster's certificates and print the commands that use them."""
    from partune.workers.certificates import FILES, write_certificates

    studies.require_dask()
    from partune.workers.local import UNSEEN
    from partune.workers.process import PRELOAD, PRELOAD_NANNY, THREADS, WITHOUT_PAGES

    write_certificates(folder := as_path(arguments.folder))
    quoted = shlex.quote(str(folder))
    files = " ".join(f"--tls-{kind} {shlex.quote(str(folder / name))}" for kind, name in FILES.items())
    print(f"wrote {folder}. Start the scheduler and every worker with")
    print(f"  dask scheduler --protocol tls {' '.join(UNSEEN)} {files}")
    loaded = (*WITHOUT_PAGES, *PRELOAD, *PRELOAD_NANNY)
    options = " ".join(("--nthreads", str(THREADS), *loaded))
    print(f"  dask worker tls://HOST:8786 {options} {files}")
    print(f"and the study with --scheduler tls://HOST:8786 --tls {quoted}.")
    print("Keep the folder private, because whoever can read it can use the cluster.")
    return 0


def data(arguments: argparse.Namespace) -> int:
    """Show how training data are read, or convert them."""
    from partune import config
    from partune.cli import inspection
    from partune.runtime.extras import require_finetune

    require_finetune("reading training data")
    flagged = flags.given(arguments)
    given = config.located({**flagged, "data": {**flagged.get("data", {}), "path": arguments.data}}, Path.cwd())
    section = config.validated(config.Data, given["data"])
    validation = config.validated(config.Validation, given.get("validation", {}))
    test = config.validated(config.Test, given.get("test", {}))
    if arguments.write is not None:
        shown = {"--html": arguments.html, "--validation-data": validation.data, "--task": validation.tasks}
        if useless := [flag for flag, value in {**shown, "--test-task": test.tasks}.items() if value]:
            raise UserError(f"--write converts the rows and shows nothing, so {useless[0]} has no effect: leave it out")
        from partune.finetune.inspection import convert
        from partune.report.words import several

        written = convert(section, arguments.write)
        left = f"; left out: {several(written['empty'], 'row')} without any text" if written["empty"] else ""
        print(f"wrote {several(written['rows'], 'row')} to {arguments.write}{left}")
        return 0
    model = config.validated(config.Model, given["model"]) if "model" in given else None
    inspection.show(section, model, arguments.rows, validation=validation, test=test, html=arguments.html)
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Check this machine, and return 1 if a check fails."""
    from partune.cli import doctor
    from partune.report.plain_data import print_json

    if arguments.json:
        checks = list(doctor.examine(arguments.quick))
        print_json(doctor.as_data(checks))
    else:
        checks = doctor.tell(doctor.examine(arguments.quick))
    return 1 if any(check.verdict == "FAIL" for check in checks) else 0


def completion(arguments: argparse.Namespace) -> int:
    """Print a shell's completion script."""
    from partune.cli.completion import script
    from partune.cli.parser import build_parser

    print(script(build_parser(), arguments.shell))
    return 0


def spaces(arguments: argparse.Namespace) -> int:
    """Print all ready-made spaces, or only the one that the user named."""
    import yaml

    from partune.report.plain_data import print_json
    from partune.space import SPACES, Space

    chosen = {arguments.name: Space.parse(arguments.name)} if arguments.name else SPACES
    if arguments.json:
        print_json({name: space.describe() for name, space in chosen.items()})
        return 0
    for name, space in chosen.items():
        print(f"{name}:")
        for parameter, form in space.describe().items():
            print(f"  {parameter}: {yaml.safe_dump(form, default_flow_style=True, sort_keys=False).strip()}")
    return 0


def baselines(arguments: argparse.Namespace) -> int:
    """Print the recipes that a winner can be compared with."""
    from partune.config import RECIPES, USUAL
    from partune.report.plain_data import print_json
    from partune.report.words import settings

    if arguments.json:
        listed = [{"name": name, "source": r.source, "training": dict(r.training)} for name, r in RECIPES.items()]
        print_json({"default": USUAL, "baselines": listed})
        return 0
    for name, recipe in RECIPES.items():
        print(f"{name}{' (the default)' if name == USUAL else ''}: {recipe.source}")
        print(f"  {settings(recipe.training)}")
    return 0


def algorithms(arguments: argparse.Namespace) -> int:
    """Print the optimisers."""
    from partune.optimizers import ALGORITHMS, AUTO
    from partune.report.plain_data import print_json

    if arguments.json:
        listed = [{"name": name, "summary": a.summary, "source": a.source} for name, a in ALGORITHMS.items()]
        print_json({"auto": AUTO, "algorithms": listed})
        return 0
    width = max(map(len, ALGORITHMS))
    print(f"{'auto':<{width}}  the default: the best optimiser in our measurements, currently {AUTO}")
    for name, algorithm in ALGORITHMS.items():
        print(f"{name:<{width}}  {algorithm.summary} ({algorithm.source})")
    return 0


def gallery(arguments: argparse.Namespace) -> int:
    """Draw the optimisers at work."""
    from partune.bench import gallery

    written = gallery.write(as_path(arguments.out))
    print(f"wrote {len(written)} pictures to {arguments.out}: {', '.join(path.name for path in written)}")
    return 0
