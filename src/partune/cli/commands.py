"""The commands: each takes the arguments and returns the exit status, 0, 1 (failed) or 130 (interrupted)."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Literal

from partune.cli import flags, studies
from partune.errors import UserError
from partune.runtime.paths import place


def tune(arguments: argparse.Namespace) -> int:
    from partune import config

    return studies.begin(arguments, config.load(arguments.file) if arguments.file else {})


def demo(arguments: argparse.Namespace) -> int:
    from partune import config
    from partune.demo import DIRECTORY
    from partune.study import from_config as configured

    given = config.located(flags.given(arguments), Path.cwd())
    return studies.begin(arguments, configured.beneath(config.load(DIRECTORY.parent / "study.yaml"), given))


def resume(arguments: argparse.Namespace) -> int:
    from partune import config
    from partune.report import words
    from partune.study import from_config as configured

    directory = studies.existing(arguments.directory)
    recorded = studies.recorded(directory, "continue it there with Study(..., resume=True)", arguments.storage)
    changed = studies.changes_the_end(arguments)
    recorded = studies.ending(recorded, changed)
    study_config = studies.moved(recorded, arguments)
    with studies.workers_of(study_config.run) as workers:
        study = configured.study(
            study_config, directory, True, workers, arguments.storage, watcher=studies.watcher_of(arguments)
        )
        budget = arguments.budget or study.record.budget or study_config.search.budget
        if budget < len(study.trials):
            study.close()
            there = words.progress([trial.status for trial in study.trials], study.record.budget or budget)
            least = f"it is the total, {len(study.trials)} at least"
            raise UserError(f"--budget {budget} is too small for {directory}, where {there}: {least}")
        if changed:
            study.record.configure(config.dump(recorded))
        return studies.run(study, budget, arguments)


def join(arguments: argparse.Namespace) -> int:
    from partune.study import from_config as configured

    directory = studies.existing(arguments.directory)
    study_config = studies.moved(
        studies.recorded(directory, "join it from there with Study(..., join=True)", arguments.storage), arguments
    )
    with studies.workers_of(study_config.run) as workers:
        watcher = studies.watcher_of(arguments)
        study = configured.study(study_config, directory, True, workers, arguments.storage, join=True, watcher=watcher)
        return studies.run(study, study.record.budget or study_config.search.budget, arguments)


def report(arguments: argparse.Namespace) -> int:
    from partune.record.record import Record
    from partune.report import summary
    from partune.report.data import print_json

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

        print(f"Writing {directory / files.REPORT} until the study is over. Open it in a browser; Ctrl-C ends this.")
        files.follow(directory, arguments.storage)
    else:
        studies.show(record, arguments)
    return 0


def dashboard(arguments: argparse.Namespace) -> int:
    from partune.report import dashboard

    directory = studies.existing(arguments.directory)
    with dashboard.server(directory, arguments.host, arguments.port, arguments.storage) as server:
        print(f"{directory} in Optuna's dashboard: {server.url}", flush=True)
        print("It follows the study and changes nothing in it. Ctrl-C ends it.", flush=True)
        if arguments.open or (arguments.open is None and sys.stdout.isatty()):
            dashboard.opens(server.url)
        server.serve_forever()
    return 0


def compare(arguments: argparse.Namespace) -> int:
    from partune.record.place import STORAGE
    from partune.record.record import Record
    from partune.report.comparison import data as compare
    from partune.report.comparison import tables
    from partune.report.comparison.files import write
    from partune.report.data import print_json
    from partune.report.facts import Facts

    directories = [studies.existing(each) for each in arguments.directories]
    storages = [arguments.storage if (each / STORAGE).is_file() else None for each in directories]
    records = [Record.open(each, True, storage=url) for each, url in zip(directories, storages, strict=True)]
    found = compare.compare([Facts(record) for record in records])
    if arguments.json:
        print_json(found)
    else:
        tables.show(found)
    if arguments.out is not None:
        written = write(found, place(arguments.out))
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
    from partune.objectives.base import not_searched
    from partune.report.data import print_json
    from partune.study.study import StoppedError

    given = config.located(flags.given(arguments), Path.cwd())
    plan = protocol.Plan(protocol.composed(protocol.load(arguments.file) if arguments.file else {}, given))
    if arguments.print_config:
        studies.print_yaml(lambda ascii_only: protocol.dump(plan.experiment, ascii_only))
        return 0
    teller = Teller() if arguments.quiet else Terminal(studies.console_of(arguments))
    if plan.fixed:
        teller.noted(not_searched(plan.fixed))
    try:
        run(plan, teller)
    except KeyboardInterrupt:
        told = f"\nInterrupted: what ended is recorded in {plan.directory}. The same command continues."
        print(told, file=sys.stderr if arguments.json else sys.stdout)
        return studies.INTERRUPTED
    except StoppedError as error:
        print(f"partune: stopped: {error}", file=sys.stderr)
        return 1
    outcome = Outcome.read(plan)
    if len(outcome.scored) < 2:
        print(f"partune: the trials of {plan.directory} failed: there is nothing to compare", file=sys.stderr)
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
    from partune.export.export import TOKENIZER, TOOLS
    from partune.export.export import export as write

    which: int | Literal["defaults"] | None = "defaults" if arguments.defaults else arguments.trial
    out, recipes = place(arguments.out), arguments.recipe or TOOLS
    written = write(
        studies.existing(arguments.directory), out, which, arguments.merge, arguments.storage, recipes, arguments.anyway
    )
    print(f"wrote {'the merged model' if arguments.merge else 'the adapter'} to {written}")
    if (written / "adapter_config.json").is_file() and not (written / TOKENIZER).is_file():
        print("its tokenizer is not there, as the base cannot be loaded here")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    from partune import config
    from partune.bench.options import Chaos, Packing, Scaling, Searching
    from partune.runtime.console import log, text
    from partune.runtime.extras import require_finetune

    require_finetune("a benchmark")  # its clocks and the machine's name are read through torch
    console = log()
    given = {name: value for name, value in vars(arguments).items() if name not in ("run", "what")}
    with console.status("", refresh_per_second=1) as status:

        def tell(line: str) -> None:
            (status.update if console.is_terminal else console.print)(text(line))

        if arguments.what == "packing":
            from partune.bench.packing import run as packing

            out = packing.bench(config.validated(Packing, given), tell)
        elif arguments.what == "search":
            from partune.bench.search import run as search

            out = search.bench(config.validated(Searching, given), tell)
        elif arguments.what == "scaling":
            from partune.bench.scaling import run as scaling

            out = scaling.bench(config.validated(Scaling, given), tell)
        else:
            studies.require_dask()
            from partune.bench import chaos

            out = chaos.bench(config.validated(Chaos, given), tell)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"wrote {', '.join(sorted(str(path) for path in out.iterdir()))}")
    return 0


def certificates(arguments: argparse.Namespace) -> int:
    from partune.workers.certificates import FILES, write_certificates

    studies.require_dask()
    from partune.workers.local import UNSEEN
    from partune.workers.process import PRELOAD, PRELOAD_NANNY, THREADS, WITHOUT_PAGES

    write_certificates(folder := place(arguments.folder))
    shown = shlex.quote(str(folder))
    files = " ".join(f"--tls-{kind} {shlex.quote(str(folder / name))}" for kind, name in FILES.items())
    print(f"wrote {folder}; start the scheduler and every worker with")
    print(f"  dask scheduler --protocol tls {' '.join(UNSEEN)} {files}")
    loaded = (*WITHOUT_PAGES, *PRELOAD, *PRELOAD_NANNY)
    options = " ".join(("--nthreads", str(THREADS), *loaded))
    print(f"  dask worker tls://HOST:8786 {options} {files}")
    print(f"and the study with --scheduler tls://HOST:8786 --tls {shown}. Whoever has the folder can use the cluster.")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    from partune.cli import doctor
    from partune.report.data import print_json

    if arguments.json:
        found = list(doctor.examine(arguments.quick))
        print_json(doctor.as_data(found))
    else:
        found = doctor.tell(doctor.examine(arguments.quick))
    return 1 if any(each.verdict == "FAIL" for each in found) else 0


def completion(arguments: argparse.Namespace) -> int:
    from partune.cli.completion import script

    print(script(arguments.build(["tune", "demo", "resume", "join", "bench", "experiment"]), arguments.shell))
    return 0


def spaces(arguments: argparse.Namespace) -> int:
    import yaml

    from partune.report.data import print_json
    from partune.space import SPACES, Space

    chosen = {arguments.name: Space.parse(arguments.name)} if arguments.name else SPACES
    if arguments.json:
        print_json({name: space.describe() for name, space in chosen.items()})
        return 0
    for name, space in chosen.items():
        print(f"{name}:")
        for each, form in space.describe().items():
            print(f"  {each}: {yaml.safe_dump(form, default_flow_style=True, sort_keys=False).strip()}")
    return 0


def algorithms(arguments: argparse.Namespace) -> int:
    from partune.optimizers import ALGORITHMS, AUTO
    from partune.report.data import print_json

    if arguments.json:
        listed = [{"name": name, "summary": a.summary, "source": a.source} for name, a in ALGORITHMS.items()]
        print_json({"auto": AUTO, "algorithms": listed})
        return 0
    width = max(map(len, ALGORITHMS))
    print(f"{'auto':<{width}}  the best by measurement, now {AUTO} (the default)")
    for name, algorithm in ALGORITHMS.items():
        print(f"{name:<{width}}  {algorithm.summary} ({algorithm.source})")
    return 0


def gallery(arguments: argparse.Namespace) -> int:
    from partune.bench import gallery

    written = gallery.write(place(arguments.out))
    print(f"wrote {len(written)} pictures to {arguments.out}: {', '.join(path.name for path in written)}")
    return 0
