"""The parser: every command with its texts and flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from partune.cli import commands, flags, studies

if TYPE_CHECKING:
    from partune.config import Section

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

exit status: 0 done; 1 nothing worth having came of it (no trial has a score, one error ends trial after trial, scores
cannot be trusted, a check of doctor fails), or the output cannot be written; 2 bad input, one line says what to do;
130 interrupted, and partune resume continues.
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
Compares finished studies of one objective and space: trials' scores, winners' verdicts, base and defaults, test tasks,
time and cost; those of one algorithm with different seeds are its repeats, over which algorithms are tested against
each other. See docs/compare.md."""
EXPERIMENT = """\
Runs the protocol of the study that partune goes back to, and writes one page: how many epochs are enough, bounds by
sampling, then every algorithm with several seeds, tested against each other. Begun again it continues. Without a model,
data and tasks it runs on the embedded factory world. Where a flag is not given, the protocol's value counts, not the
default shown here. See docs/experiment.md."""
GALLERY = """\
Runs the optimisers on Himmelblau's function and draws what each did, as SVG: points, paths, generations, cells; and a
Gaussian process with its acquisition function. The same every time; docs/algorithms.md says what is to be seen."""


# ----- each command's arguments


def _tune(command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    command.usage = "%(prog)s [FILE] [--name NAME] [options]"
    command.add_argument("file", nargs="?", metavar="FILE", help="a study's file (YAML); flags override it")
    _add_starting(command)
    if "tune" in arguments:
        add_study(command)


def _demo(command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    command.usage = "%(prog)s [--name NAME] [options]"
    _add_starting(command)
    if "demo" in arguments:
        add_study(command)


def _resume(command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    command.add_argument("directory", help="the study's directory, runs/<name>")
    command.add_argument("--budget", type=flags.integer(1), help="trials in all, those already run included")
    _add_live(command)
    _add_output(command)
    _add_storage(command)
    if "resume" in arguments:
        _add_after_search(command)
        _add_where(command)


def _join(command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    command.add_argument("directory", help="the study's directory, runs/<name>")
    _add_output(command)
    _add_storage(command)
    if "join" in arguments:
        _add_where(command)
    command.set_defaults(live=False)


def _report(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("directory", help="the study's directory, runs/<name>")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for scripts")
    form.add_argument("--quiet", action="store_true", help="the verdict only")
    form.add_argument("--markdown", action="store_true", help="for a pull request")
    form.add_argument("--live", action="store_true", help="write report.html again and again while the study runs")
    _add_storage(command)


def _dashboard(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("directory", help="the study's directory, runs/<name>")
    command.add_argument("--host", default="127.0.0.1", help="an address of this machine only (default: %(default)s)")
    command.add_argument(
        "--port", type=flags.integer(0, 65535), help="0 for any free one (default: 8080, or any where that is taken)"
    )
    about = "open a browser, or not (default: where the output is a terminal)"
    command.add_argument("--open", action=argparse.BooleanOptionalAction, default=None, help=about)
    _add_storage(command)


def _compare(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("directories", nargs="+", metavar="DIRECTORY", help="a study's directory, runs/<name>")
    command.add_argument("--out", metavar="FOLDER", help="write compare.md, compare.svg and compare.json there")
    command.add_argument("--json", action="store_true", help="for scripts")
    _add_storage(command)


def _experiment(command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    command.usage = "%(prog)s report [FILE] [--out FOLDER] [options]"
    command.add_argument("what", choices=["report"], help="run what is missing, and report on all")
    command.add_argument("file", nargs="?", metavar="FILE", help="an experiment's file (YAML); flags override it")
    _add_output(command)
    about = "print the experiment's file that the preset, FILE and flags make, and stop"
    command.add_argument("--print-config", action="store_true", help=about)
    if "experiment" in arguments:
        from partune.experiment.options import FLAGLESS, OWN, Experiment

        flags.add_sections(command, Experiment, [*OWN, *FLAGLESS])


def _export(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("directory", help="the study's directory, runs/<name>")
    command.add_argument("out", help="folder to write, which must not exist yet")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, help="this trial's adapter in place of the best one's")
    which.add_argument("--defaults", action="store_true", help="the adapter of the field's defaults")
    command.add_argument("--merge", action="store_true", help="write the whole model with the adapter merged into it")
    about = "hand over what is shown worse than the untouched base, or was never scored as it is merged"
    command.add_argument("--anyway", action="store_true", help=about)
    about = "{trl,litgpt,axolotl,llamafactory,none}: files that train the same with this tool only (default: all four)"
    command.add_argument("--recipe", action="append", metavar="TOOL", help=about)
    _add_storage(command)


def _bench(command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    what = next((each for each in arguments if each in BENCH), "packing")
    command.description = BENCH[what]
    command.add_argument(
        "what", choices=[*BENCH], help="packs beside the ways without; optimisers beside others'; many workers; kills"
    )
    if "bench" in arguments:
        from partune.bench.options import Chaos, Packing, Scaling, Searching

        sections: dict[str, type[Section]] = {
            "packing": Packing,
            "search": Searching,
            "scaling": Scaling,
            "chaos": Chaos,
        }
        for name, field in sections[what].model_fields.items():
            flags.add_flag(command, (name,), field)


def _certificates(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("folder", help="where to, a new folder")


def _doctor(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("--quick", action="store_true", help="without the self-check, which takes a minute")
    command.add_argument("--json", action="store_true", help="for scripts")


def _completion(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    command.set_defaults(build=build_parser)  # what is to be completed


def _spaces(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("name", nargs="?")
    command.add_argument("--json", action="store_true", help="for scripts")


def _algorithms(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("--json", action="store_true", help="for scripts")


def _gallery(command: argparse.ArgumentParser, _: Sequence[str]) -> None:
    command.add_argument("out", nargs="?", default="gallery", help="folder for the pictures (default: %(default)s)")


# ----- arguments that several have


def _add_output(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the final summary for scripts; progress on standard error")
    form.add_argument("--quiet", action="store_true", help="no progress, and of the summary the verdict only")


def _add_starting(parser: argparse.ArgumentParser) -> None:
    _add_output(parser)
    about = "print the whole study's file that the flags and FILE make, every default in it, and stop"
    parser.add_argument("--print-config", action="store_true", help=about)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    about = "URL of the study's database: a password (of the URL, PGPASSWORD, ~/.pgpass) goes only to a host named here"
    parser.add_argument("--storage", metavar="URL", help=about)


def _add_after_search(parser: argparse.ArgumentParser) -> None:
    from partune.config import Search

    group = parser.add_argument_group("search", "What follows it, from now on. By default as before.")
    for name in studies.AFTER_SEARCH:
        flags.add_flag(group, ("search", name), Search.model_fields[name], recorded=True)


def _add_where(parser: argparse.ArgumentParser) -> None:
    from partune.config import Validation, Where

    group = parser.add_argument_group("run", f"{(Where.__doc__ or '').splitlines()[0]} By default as before.")
    for name, field in Where.model_fields.items():
        flags.add_flag(group, ("run", name), field, recorded=True)
    trust = parser.add_argument_group("validation", "By default as before.")
    field = Validation.model_fields["trust_task_code"]
    flags.add_flag(trust, ("validation", "trust_task_code"), field, recorded=True)


def _add_live(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--live", action="store_true", help="write report.html while the study runs too; a browser on it refreshes"
    )


def add_study(parser: argparse.ArgumentParser) -> None:
    from partune.config import StudyConfig

    parser.add_argument("--name", help="the study's directory is RUNS/NAME")
    parser.add_argument("--runs", default="runs", help="folder of all studies (default: %(default)s)")
    _add_live(parser)
    flags.add_sections(parser, StudyConfig)


# ----- all commands


class Command(NamedTuple):
    """help: its line in the list; add: gives it its arguments, those of a file's sections only where it is called."""

    help: str
    description: str | None
    add: Callable[[argparse.ArgumentParser, Sequence[str]], None]


COMMANDS = {
    "tune": Command("search the hyperparameters of a fine-tuning", TUNE, _tune),
    "demo": Command("a real study on the embedded factory world", DEMO, _demo),
    "resume": Command("continue a study that stopped, or extend it", None, _resume),
    "join": Command("take part in a study that another process runs", JOIN, _join),
    "report": Command("what a study found, and whether it is better", REPORT, _report),
    "dashboard": Command("a study in Optuna's dashboard, in a browser", DASHBOARD, _dashboard),
    "compare": Command("finished studies of one objective side by side", COMPARE, _compare),
    "experiment": Command("the original study as one command", EXPERIMENT, _experiment),
    "export": Command("hand over the best adapter, its model card and recipes", None, _export),
    "bench": Command("packs, optimisers and many workers, measured", None, _bench),
    "certificates": Command("make certificates for a Dask cluster on a network", None, _certificates),
    "doctor": Command("what this machine has, and whether partune works on it", DOCTOR, _doctor),
    "completion": Command("print a shell's completion", COMPLETION, _completion),
    "spaces": Command("list the ready-made search spaces", None, _spaces),
    "algorithms": Command("list the optimisers", None, _algorithms),
    "gallery": Command("draw the optimisers at work, one picture each", GALLERY, _gallery),
}


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """For these arguments: a command that is not among them has no flags of a file's sections, which take a while."""
    whole = flags.Parser(
        prog="partune", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole.add_argument(
        "--version", action=flags.Version, nargs=0, dest=argparse.SUPPRESS, help="show the version and exit"
    )
    listed = whole.add_subparsers(title="commands", metavar="COMMAND")
    for name, each in COMMANDS.items():
        command = listed.add_parser(name, help=each.help, description=each.description)
        command.set_defaults(run=getattr(commands, name))
        each.add(command, arguments)
    return whole
