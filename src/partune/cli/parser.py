"""The parser: every command with its texts and flags.

argparse finds the command first. Only then is that command asked for its arguments (`Parser.complete`), so `partune
--help` reads no definition of a study, which needs pydantic and takes longer than all the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

from partune.cli import flags
from partune.errors import UserError, suggestion

DESCRIPTION = "Find the best LoRA hyperparameters for the fewest GPU-hours."
EPILOG = """\
examples:
  partune tune --model meta-llama/Llama-3.2-1B --data alpaca.json \\
      --task hellaswag --test-task mmlu --name first
  partune tune study.yaml --budget 20
  partune resume runs/first
  partune report runs/first
  partune export runs/first adapter/
  partune doctor

exit status:
  0    done
  1    no usable result: no trial has a score, one error ends trial after trial,
       the scores cannot be trusted, or a check of doctor fails; or the output
       could not be written
  2    bad input: one line says what is wrong and what to do
  130  interrupted: partune resume continues the study
"""
TUNE = """\
Search for the best hyperparameters of a LoRA fine-tuning. First the baselines are scored: the untouched model, and a
training with the usual default values. Then the study runs its trials: each trains an adapter with values of its own
and scores it. At the end, a statistical test on held-out items, which the search never sees, says whether the winner
is really better: that is the verdict. Every flag below is also a key of a study's file."""
DEMO = """\
Tune a tiny pretrained model of a factory's machines, which comes with partune: a few minutes on two cores, without a
network. The flags are those of tune. Where you give none, the demo's own study.yaml decides, and not the default that
is shown below."""
RESUME = """\
Continue a study that was interrupted, or extend one that is finished (--budget). Its settings stay as they were; only
the flags below can change."""
JOIN = """\
Help with a study that another process runs, on this machine or on one that shares the study's directory. No trial runs
twice, and the budget is shared. The process that runs tune or resume stays in the lead: it scores the baselines and the
winner. See docs/cluster.md."""
DOCTOR = """\
Report what this machine has (devices, memory, libraries, network) and whether partune works on it. The self-check
fine-tunes a tiny model for a few steps: with learning rate 0, several at once, and one by one through PEFT. The exit
status is 1 if any line says FAIL."""
COMPLETION = """\
Print a script that completes commands, flags and their values in a shell.
Keep its output in a file that the shell reads:
  partune completion bash > \\
      ~/.local/share/bash-completion/completions/partune
  partune completion zsh > "${fpath[1]}/_partune"
"""
REPORT = """\
Print what a study found, and write DIRECTORY/report.html: one file with all figures, which can be read without a
network. See docs/report.md."""
EXPORT = """\
Write the winner's adapter to a new folder, with a model card and with recipes: files that run the same training in
other tools. See docs/cli.md."""
BENCH = "Measure partune on this machine."
DASHBOARD = """\
Show a study in optuna-dashboard: charts, trials and importances, also while the study runs. The address can be reached
from this machine only. The study's record is read and never changed. See docs/dashboard.md."""
COMPARE = """\
Compare finished studies of the same objective and space: scores, verdicts, baselines, test tasks, time and cost.
Studies of one algorithm that differ in the seed count as its repeats; with repeats, the algorithms are tested against
each other. See docs/compare.md."""
EXPERIMENT = """\
Run the protocol of the study that partune goes back to, and write one page about it: how many epochs are enough, upper
and lower bounds by sampling, then every algorithm with several seeds, tested against each other. The same command
continues an interrupted experiment. Without a model, data and tasks it runs on the demo. Where you give no flag, the
protocol's value decides, and not the default that is shown below. See docs/experiment.md."""
CERTIFICATES = """\
Make certificates, so that the scheduler and the workers of a Dask cluster trust only each other. Print the commands
that start them. See docs/cluster.md."""
SPACES = "List the ready-made search spaces, or show one: each hyperparameter with its bounds and scale."
ALGORITHMS = "List the optimisers, one per line, with the source of each. docs/choosing.md helps to choose."
GALLERY = """\
Run every optimiser on Himmelblau's function and draw what it did, as SVG: points, paths, generations or cells; and a
Gaussian process with its acquisition function. The pictures are the same every time. See docs/algorithms.md."""


class Parser(argparse.ArgumentParser):
    """A parser that adds its arguments late, and answers a mistake with one line and the nearest known flag.

    Args:
        add: Adds the arguments, once they are needed; None if somebody else adds them.
        options: What `argparse.ArgumentParser` takes.
    """

    def __init__(self, add: Callable[[Parser], None] | None = None, **options: Any) -> None:
        # With abbreviations, --see would be --seeds today and ambiguous once another flag begins with it.
        super().__init__(allow_abbrev=False, **options)
        self._add = add
        self.explain: Callable[[str], str] = lambda flag: ""  # why a flag is unknown here, if there is a reason

    def complete(self) -> None:
        """Add the parser's arguments, if that has not been done."""
        add, self._add = self._add, None  # first, as argparse refuses an argument that is added twice
        if add is not None:
            add(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments, once this parser has all of its own.

        Args:
            args: The arguments.
            namespace: The namespace that is filled; None makes one.

        Returns:
            The namespace, and an empty list.

        Raises:
            UserError: If an argument is unknown. The command's own parser raises it, as it knows the flags to suggest.
        """
        self.complete()
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            hint = self.explain(flag) or suggestion(flag, self._option_string_actions)
            raise UserError(f"unknown argument {unknown[0]}{hint}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Raise a UserError with one line; for an invalid choice it suggests the nearest one instead of listing all.

        Args:
            message: What argparse says.

        Raises:
            UserError: Always.
        """
        before, listing, choices = message.partition(" (choose from ")
        if listing:
            value = before.rpartition(": ")[2].strip("'")
            known = [choice.strip("'") for choice in choices.removesuffix(")").split(", ")]
            message = before + suggestion(value, known)
        elif message.startswith("the following arguments are required"):
            message += f"; {self.prog} --help explains them"
        raise UserError(message)


class Version(argparse.Action):
    """The flag that prints the version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the version and exit."""
        from partune import __version__

        print(f"partune {__version__}")
        parser.exit()


# ----- each command's arguments


def _tune(command: Parser) -> None:
    command.usage = "%(prog)s [FILE] [--name NAME] [options]"
    command.add_argument("file", nargs="?", metavar="FILE", help="A study's file (YAML); flags override it.")
    _add_starting(command)
    add_study(command)


def _demo(command: Parser) -> None:
    command.usage = "%(prog)s [--name NAME] [options]"
    _add_starting(command)
    add_study(command)


def _resume(command: Parser) -> None:
    command.explain = _settings_stay
    _add_directory(command)
    about = "Number of trials in total, with those that have already run."
    command.add_argument("--budget", type=flags.integer(1), help=about)
    _add_live(command)
    _add_output(command)
    _add_storage(command)
    _add_after_search(command)
    _add_where(command)


def _join(command: Parser) -> None:
    command.explain = _settings_stay
    _add_directory(command)
    _add_output(command)
    _add_storage(command)
    _add_where(command)
    command.set_defaults(live=False)  # the process that leads the study writes its report


def _report(command: Parser) -> None:
    _add_directory(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="Print the summary as JSON, for scripts.")
    form.add_argument("--quiet", action="store_true", help="Print the verdict only.")
    form.add_argument("--markdown", action="store_true", help="Print the report as Markdown, for a pull request.")
    about = "Keep report.html up to date until the study is over."
    form.add_argument("--live", action="store_true", help=about)
    _add_storage(command)


def _dashboard(command: Parser) -> None:
    _add_directory(command)
    about = "An address of this machine to listen on. (default: %(default)s)"
    command.add_argument("--host", default="127.0.0.1", help=about)
    about = "Port to listen on; 0 takes any free one. (default: 8080, or any free one if that is taken)"
    command.add_argument("--port", type=flags.integer(0, 65535), help=about)
    about = "Open a browser, or do not. (default: open one if the output is a terminal)"
    command.add_argument("--open", action=argparse.BooleanOptionalAction, default=None, help=about)
    _add_storage(command)


def _compare(command: Parser) -> None:
    about = "The directories of the studies, runs/NAME each."
    command.add_argument("directories", nargs="+", metavar="DIRECTORY", help=about)
    about = "Write compare.md, compare.svg and compare.json to this folder."
    command.add_argument("--out", metavar="FOLDER", help=about)
    command.add_argument("--json", action="store_true", help="Print the comparison as JSON, for scripts.")
    _add_storage(command)


def _experiment(command: Parser) -> None:
    from partune.experiment.options import FLAGLESS, OWN, Experiment

    command.usage = "%(prog)s report [FILE] [--out FOLDER] [options]"
    command.add_argument("what", choices=["report"], help="Run whatever is missing, and report on everything.")
    about = "An experiment's file (YAML); flags override it."
    command.add_argument("file", nargs="?", metavar="FILE", help=about)
    _add_output(command)
    about = "Print the whole experiment's file, as FILE, flags and the protocol's values make it, and stop."
    command.add_argument("--print-config", action="store_true", help=about)
    flags.add_sections(command, Experiment, [*OWN, *FLAGLESS])


def _export(command: Parser) -> None:
    _add_directory(command)
    command.add_argument("out", metavar="FOLDER", help="The folder to write; it must not exist yet.")
    which = command.add_mutually_exclusive_group()
    about = "Export the adapter of this trial instead of the winner's."
    which.add_argument("--trial", type=int, metavar="NUMBER", help=about)
    about = "Export the adapter that was trained with the default hyperparameters."
    which.add_argument("--defaults", action="store_true", help=about)
    about = "Merge the adapter into the base and write the whole model."
    command.add_argument("--merge", action="store_true", help=about)
    about = "Export even what is shown to be worse than the untouched base, or was never scored in its merged form."
    command.add_argument("--anyway", action="store_true", help=about)
    about = "Write a recipe for this tool only: trl, litgpt, axolotl, llamafactory, or none. (default: all four)"
    # The braces make the choices known to the completion of shells, while `export` itself refuses a wrong one.
    command.add_argument("--recipe", action="append", metavar="{trl,litgpt,axolotl,llamafactory,none}", help=about)
    _add_storage(command)


def _bench(command: Parser) -> None:
    from partune.bench.options import BENCHMARKS

    kinds = command.add_subparsers(dest="what", metavar="KIND", required=True, title="what to measure")
    for name, benchmark in BENCHMARKS.items():
        add = partial(flags.add_fields, section=benchmark.options)
        usage = f"{command.prog} {name} [options]"  # all flags at once would be longer than a terminal is wide
        kinds.add_parser(name, help=benchmark.summary, description=benchmark.description, add=add, usage=usage)


def _certificates(command: Parser) -> None:
    command.add_argument("folder", metavar="FOLDER", help="The folder to write; it must not exist yet.")


def _doctor(command: Parser) -> None:
    command.add_argument("--quick", action="store_true", help="Leave out the self-check, which takes a minute.")
    command.add_argument("--json", action="store_true", help="Print the checks as JSON, for scripts.")


def _completion(command: Parser) -> None:
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="The shell that reads the script.")


def _spaces(command: Parser) -> None:
    command.add_argument("name", nargs="?", metavar="NAME", help="The space to show. (default: all)")
    command.add_argument("--json", action="store_true", help="Print the spaces as JSON, for scripts.")


def _algorithms(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="Print the list as JSON, for scripts.")


def _gallery(command: Parser) -> None:
    about = "The folder for the pictures. (default: %(default)s)"
    command.add_argument("out", nargs="?", default="gallery", metavar="FOLDER", help=about)


# ----- arguments that several commands have


def _add_directory(command: Parser) -> None:
    command.add_argument("directory", metavar="DIRECTORY", help="The study's directory, runs/NAME.")


def _add_output(command: Parser) -> None:
    form = command.add_mutually_exclusive_group()
    about = "Print the final summary as JSON, for scripts; progress goes to standard error."
    form.add_argument("--json", action="store_true", help=about)
    about = "Print no progress, and only the verdict of the summary."
    form.add_argument("--quiet", action="store_true", help=about)


def _add_starting(command: Parser) -> None:
    _add_output(command)
    about = "Print the whole study's file, as FILE, flags and defaults make it, and stop."
    command.add_argument("--print-config", action="store_true", help=about)


def _add_storage(command: Parser) -> None:
    about = (
        "URL of the database that holds the study's record. A password (in the URL, PGPASSWORD or ~/.pgpass) is sent "
        "only to a host that is named here."
    )
    command.add_argument("--storage", metavar="URL", help=about)


def _add_after_search(command: Parser) -> None:
    from partune.cli.studies import AFTER_SEARCH
    from partune.config import Search

    group = command.add_argument_group("search", f"What happens after the search, from now on. {UNCHANGED}")
    for name in AFTER_SEARCH:
        flags.add_flag(group, ("search", name), Search.model_fields[name], recorded=True)


def _add_where(command: Parser) -> None:
    from partune.config import Validation, Where

    group = command.add_argument_group("run", f"{flags.first_line(Where)} {UNCHANGED}")
    for name, field in Where.model_fields.items():
        flags.add_flag(group, ("run", name), field, recorded=True)
    trust = command.add_argument_group("validation", UNCHANGED)
    field = Validation.model_fields["trust_task_code"]
    flags.add_flag(trust, ("validation", "trust_task_code"), field, recorded=True)


UNCHANGED = "Without a flag, the study's own setting stays."


def _add_live(command: argparse.ArgumentParser) -> None:
    about = "Keep report.html up to date while the study runs; an open browser reloads it."
    command.add_argument("--live", action="store_true", help=about)


def add_study(command: argparse.ArgumentParser) -> None:
    """Add the flags of a command that begins a study: where it is kept, and all its settings."""
    from partune.config import StudyConfig

    command.add_argument("--name", help="Name of the study: its directory is RUNS/NAME.")
    command.add_argument("--runs", default="runs", help="Folder of all studies. (default: %(default)s)")
    _add_live(command)
    flags.add_sections(command, StudyConfig)


def _settings_stay(flag: str) -> str:
    """Explain why a command that continues a study refuses a flag, if it is one of the study's settings."""
    from partune.config import StudyConfig

    settings = argparse.ArgumentParser()
    flags.add_sections(settings, StudyConfig)
    known = flag in settings._option_string_actions
    return ": a study goes on with the settings that it began with" if known else ""


# ----- all commands


class Command(NamedTuple):
    """A command as the parser knows it; `commands` has a function of the same name, which runs it.

    Attributes:
        help: Its line in the list of commands.
        description: The first paragraph of its own help.
        add: Adds its arguments.
    """

    help: str
    description: str
    add: Callable[[Parser], None]


COMMANDS = {
    "tune": Command("search the hyperparameters of a fine-tuning", TUNE, _tune),
    "demo": Command("run a real study on a tiny model, in minutes", DEMO, _demo),
    "resume": Command("continue a study that stopped, or extend it", RESUME, _resume),
    "join": Command("help with a study that another process runs", JOIN, _join),
    "report": Command("show what a study found, and whether it is better", REPORT, _report),
    "dashboard": Command("show a study in Optuna's dashboard, in a browser", DASHBOARD, _dashboard),
    "compare": Command("compare finished studies of one objective", COMPARE, _compare),
    "experiment": Command("repeat the original study with one command", EXPERIMENT, _experiment),
    "export": Command("write the winner's adapter, its model card and recipes", EXPORT, _export),
    "bench": Command("measure packs, optimisers, many workers or crashes", BENCH, _bench),
    "certificates": Command("make certificates for a Dask cluster on a network", CERTIFICATES, _certificates),
    "doctor": Command("check this machine, and that partune works on it", DOCTOR, _doctor),
    "completion": Command("print a shell's completion script", COMPLETION, _completion),
    "spaces": Command("list the ready-made search spaces", SPACES, _spaces),
    "algorithms": Command("list the optimisers", ALGORITHMS, _algorithms),
    "gallery": Command("draw the optimisers at work, one picture each", GALLERY, _gallery),
}


def build_parser() -> Parser:
    """Return the parser of the command line, with every command and none of the commands' arguments yet."""
    whole = Parser(
        prog="partune", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole.add_argument("--version", action=Version, nargs=0, dest=argparse.SUPPRESS, help="show the version and exit")
    listed = whole.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        listed.add_parser(name, help=command.help, description=command.description, add=command.add)
    return whole
