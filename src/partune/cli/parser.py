"""Define the parser of the command line: every command with its flags and help texts.

argparse finds the command first, and only then adds the arguments of that command (`Parser.complete`). `partune --help`
therefore does not load the definition of a study, which needs pydantic and takes longer than everything else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

from partune.cli import flags, planning, verdicts
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
  1    no usable result: no trial has a score, the same error ends trial after
       trial, the scores cannot be trusted, a check of doctor fails, or the
       output cannot be written
  2    bad input: one line says what is wrong and what to do
  130  interrupted: partune resume continues the study
"""
TUNE = """\
Search for the best hyperparameters of a LoRA fine-tuning. First score the baselines: the untouched model, and an
adapter that was trained with usual hyperparameters. Then run the trials, each of which trains and scores an adapter
with other hyperparameters. At the end, give a verdict: a statistical test on held-out items, which the search never
sees, tells whether the winner is really better. Each setting below can also be set in the study's file."""
DEMO = """\
Tune a tiny pretrained model about an invented factory, which comes with partune. This takes a few minutes on two cores
and needs no network. It takes the flags of tune. For flags that you do not pass, the values in the demo's study.yaml
apply, not the defaults shown below."""
RESUME = """\
Continue an interrupted study, or extend a finished one with --budget. Only the settings below can be changed. All
others stay as they were when the study began."""
JOIN = """\
Help with a study that another process runs, on this machine or on another machine that shares the study's directory.
No trial runs twice, and the budget is shared. Only the process that runs tune or resume scores the baselines and the
winner. See docs/cluster.md."""
DOCTOR = """\
Check this machine (devices, memory, libraries, network), and whether partune works on it. The self-check fine-tunes a
tiny model for a few steps: with learning rate 0, with several trials at once, and with the same trials one by one
through PEFT. The exit status is 1 if any line says FAIL."""
DATA = """\
Show how training data are read: the format, the first rows as the model reads them with the trained part marked, the
lengths in tokens, duplicates, what is empty or not used, and which validation rows or items of tasks also occur among
the rows. With --write, convert the data to JSON Lines. See docs/data.md."""
COMPLETION = """\
Print a script that completes commands, flags and their values in a shell.
Save the output in a file that the shell reads:
  partune completion bash > \\
      ~/.local/share/bash-completion/completions/partune
  partune completion zsh > "${fpath[1]}/_partune"
"""
REPORT = """\
Print the results of a study, and write DIRECTORY/report.html: one file with all figures, which needs no network. See
docs/report.md."""
EXPORT = """\
Write the winner's adapter to a new folder, with a model card and with recipes, which are files that run the same
training in other tools. See docs/cli.md."""
BENCH = "Measure partune on this machine."
DASHBOARD = """\
Show a study in optuna-dashboard, with charts, trials and importances, even while the study runs. Only this machine can
reach the address. The study's record is read and never changed. See docs/dashboard.md."""
COMPARE = """\
Compare finished studies of the same objective and space: scores, verdicts, baselines, test tasks, time and cost.
Studies that differ only in the seed count as repeats of their algorithm. If there are repeats, test the algorithms
against each other. See docs/compare.md."""
EXPERIMENT = """\
Repeat the original study, from which partune grew, with your model or on the demo, and write one page about it. Find
how many epochs are enough, sample a lower bound for the scores, run every algorithm with several seeds, and test the
algorithms against each other. The same command continues an interrupted experiment. For flags that you do not pass, the
values of the original study apply, not the defaults shown below. See docs/experiment.md."""
CERTIFICATES = """\
Make certificates with which the scheduler and the workers of a Dask cluster trust only each other, and print the
commands that start scheduler and workers. See docs/cluster.md."""
SPACES = "Show all ready-made search spaces, or one of them: each hyperparameter with its bounds and scale."
BASELINES = """\
List the recipes that a winner can be compared with (`partune tune --baseline NAME`): each with its source and the
settings that it has. All other settings come from the study. See docs/report.md."""
ALGORITHMS = "List the optimisers with their sources. See docs/choosing.md for help with the choice."
GALLERY = """\
Run every optimiser on Himmelblau's function, and draw its points, paths, generations or cells as SVG. Also draw a
Gaussian process with its acquisition function. The pictures are the same every time. See docs/algorithms.md."""


class Parser(argparse.ArgumentParser):
    """A parser that adds its arguments late, and reports a mistake in one line with the nearest known flag.

    Args:
        add: A function that adds the arguments when they are needed, or None if the caller adds them.
        options: The options of `argparse.ArgumentParser`.
    """

    def __init__(self, add: Callable[[Parser], None] | None = None, **options: Any) -> None:
        # An abbreviation such as --see would become ambiguous when a new flag begins with the same letters.
        super().__init__(allow_abbrev=False, **options)
        self._add = add
        self.explain: Callable[[str], str] = lambda flag: ""  # why the command refuses a flag, or an empty text

    def complete(self) -> None:
        """Add the parser's arguments unless they have been added."""
        add, self._add = self._add, None  # reset it first, because argparse refuses an argument that is added twice
        if add is not None:
            add(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Add this parser's arguments and parse a command line.

        Args:
            args: The arguments of the command line.
            namespace: The namespace to fill, or None for a new one.

        Returns:
            The namespace, and an empty list.

        Raises:
            UserError: An argument is unknown. The command's own parser raises this, because it knows which flags to
                suggest.
        """
        self.complete()
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            hint = self.explain(flag) or suggestion(flag, self._option_string_actions)
            raise UserError(f"unknown argument {unknown[0]}{hint}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Raise a UserError of one line. For an invalid choice, it suggests the nearest choice.

        Args:
            message: The message of argparse.

        Raises:
            UserError: Always.
        """
        before, listing, choices = message.partition(" (choose from ")
        if listing:
            value = before.rpartition(": ")[2].strip("'")
            known = [choice.strip("'") for choice in choices.removesuffix(")").split(", ")]
            message = before + suggestion(value, known)
        elif message.startswith("the following arguments are required"):
            message += f". `{self.prog} --help` explains them"
        raise UserError(message)


class Version(argparse.Action):
    """The action of the flag that prints the version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the version and exit."""
        from partune import __version__

        print(f"partune {__version__}")
        parser.exit()


# ----- the arguments of each command


def _tune(command: Parser) -> None:
    command.usage = "%(prog)s [FILE] [--name NAME] [options]"
    about = "Read the study's settings from this YAML file. Flags override the file."
    command.add_argument("file", nargs="?", metavar="FILE", help=about)
    _add_starting(command)
    add_study(command)


def _demo(command: Parser) -> None:
    command.usage = "%(prog)s [--name NAME] [options]"
    _add_starting(command)
    add_study(command)


def _resume(command: Parser) -> None:
    command.explain = _settings_stay
    _add_directory(command)
    about = "Set the total number of trials, including those that have already run."
    command.add_argument("--budget", type=flags.integer(1), help=about)
    about = (
        "Set the hours of the clock from now until the study ends with its verdict. Without --budget, the number of "
    )
    about += "trials is not limited."
    command.add_argument("--hours", type=flags.real, metavar="H", help=about)
    about = "Set the total hours of all workers, busy or idle, including those that the study has already spent."
    command.add_argument("--device-hours", type=flags.real, metavar="H", help=about)
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
    about = "Listen on this address of this machine. (default: %(default)s)"
    command.add_argument("--host", default="127.0.0.1", help=about)
    about = "Listen on this port; 0 means any free port. (default: 8080, or any free port if 8080 is taken)"
    command.add_argument("--port", type=flags.integer(0, 65535), help=about)
    about = "Open the page in a browser, or do not. (default: open it if the output is a terminal)"
    command.add_argument("--open", action=argparse.BooleanOptionalAction, default=None, help=about)
    _add_storage(command)


def _compare(command: Parser) -> None:
    about = "Compare the studies in these directories, such as runs/NAME."
    command.add_argument("directories", nargs="+", metavar="DIRECTORY", help=about)
    about = "Write compare.md, compare.svg and compare.json to this folder."
    command.add_argument("--out", metavar="FOLDER", help=about)
    command.add_argument("--json", action="store_true", help="Print the comparison as JSON, for scripts.")
    _add_storage(command)


def _experiment(command: Parser) -> None:
    from partune.experiment.options import FLAGLESS, OWN, Experiment

    command.usage = "%(prog)s report [FILE] [--out FOLDER] [options]"
    command.add_argument("what", choices=["report"], help="Run all missing studies, and report on all of them.")
    about = "Read the experiment's settings from this YAML file. Flags override the file."
    command.add_argument("file", nargs="?", metavar="FILE", help=about)
    _add_output(command)
    about = "Print an experiment's file with the settings that result from FILE, flags and the protocol, and stop."
    command.add_argument("--print-config", action="store_true", help=about)
    flags.add_sections(command, Experiment, [*OWN, *FLAGLESS])


def _export(command: Parser) -> None:
    _add_directory(command)
    command.add_argument("out", metavar="FOLDER", help="Write to this folder, which must not exist yet.")
    which = command.add_mutually_exclusive_group()
    about = "Export the adapter of this trial instead of the winner's: its number, or the name of a baseline."
    which.add_argument("--trial", type=_trial, metavar="NUMBER", help=about)
    about = "Export the adapter of the first baseline, which was trained with the default hyperparameters."
    which.add_argument("--defaults", action="store_true", help=about)
    about = "Merge the adapter into the base model, and write the merged model."
    command.add_argument("--merge", action="store_true", help=about)
    about = "Quantize the merged model to 4 bits (nf4) or 8 bits (int8). Needs bitsandbytes, and no GPU."
    # The braces tell the completion of shells the choices. `export` itself refuses a wrong one.
    command.add_argument("--quantize", metavar="{nf4,int8}", help=about)
    about = (
        "Load the export, score it on the study's held-out items, and state here and in the model card how much score "
        "it lost against the adapter."
    )
    command.add_argument("--check", action="store_true", help=about)
    about = (
        "Export even if the adapter is shown to be worse than the untouched base model, or if the merged model was "
        "never scored."
    )
    command.add_argument("--anyway", action="store_true", help=about)
    about = (
        "Write a recipe for this tool only: trl, litgpt, axolotl, llamafactory, or none. Repeat the flag for several "
        "tools. (default: all four)"
    )
    command.add_argument("--recipe", action="append", metavar="{trl,litgpt,axolotl,llamafactory,none}", help=about)
    _add_storage(command)


def _trial(text: str) -> int | str:
    """Return the number of a trial, or the name of a baseline as it is."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def _bench(command: Parser) -> None:
    from partune.bench.options import BENCHMARKS

    kinds = command.add_subparsers(dest="what", metavar="KIND", required=True, title="what to measure")
    for name, benchmark in BENCHMARKS.items():
        add = partial(flags.add_fields, section=benchmark.options)
        usage = f"{command.prog} {name} [options]"  # with all flags, the line would be too long
        kinds.add_parser(name, help=benchmark.summary, description=benchmark.description, add=add, usage=usage)


def _certificates(command: Parser) -> None:
    command.add_argument("folder", metavar="FOLDER", help="Write to this folder, which must not exist yet.")


def _data(command: Parser) -> None:
    from partune.config import Data, Model, Test, Validation

    command.usage = "%(prog)s DATA [--model MODEL] [options]"
    fields = Data.model_fields
    command.add_argument("data", metavar="DATA", help=" ".join((fields["path"].description or "").split()))
    about = "Show this number of rows. (default: %(default)s)"
    command.add_argument("--rows", type=flags.integer(0), default=3, help=about)
    about = "Write the rows that are trained on to this new file (.jsonl), with the usual names of fields, and stop."
    command.add_argument("--write", metavar="FILE", help=about)
    about = "Write what is shown, with more rows and figures, to this new page (.html) too, which needs no network."
    command.add_argument("--html", metavar="FILE", help=about)
    for name in (name for name in fields if name != "path"):
        flags.add_flag(command, ("data", name), fields[name])
    group = command.add_argument_group("model", "Without a model, no tokens are shown or counted.")
    for name in ("path", "revision", "trust_remote_code"):
        flags.add_flag(group, ("model", name), Model.model_fields[name])
    about = "Validation rows and tasks that a study would score on. They are looked for among the training rows."
    group = command.add_argument_group("validation", about)
    for name in ("data", "tasks", "trust_task_code"):
        flags.add_flag(group, ("validation", name), Validation.model_fields[name])
    flags.add_flag(group, ("test", "tasks"), Test.model_fields["tasks"])


def _doctor(command: Parser) -> None:
    command.add_argument("--quick", action="store_true", help="Skip the self-check, which takes a minute.")
    command.add_argument("--json", action="store_true", help="Print the checks as JSON, for scripts.")


def _completion(command: Parser) -> None:
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="Write the script for this shell.")


def _spaces(command: Parser) -> None:
    command.add_argument("name", nargs="?", metavar="NAME", help="Show only this space. (default: all spaces)")
    command.add_argument("--json", action="store_true", help="Print the spaces as JSON, for scripts.")


def _baselines(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="Print the list as JSON, for scripts.")


def _algorithms(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="Print the list as JSON, for scripts.")


def _gallery(command: Parser) -> None:
    about = "Write the pictures to this folder. (default: %(default)s)"
    command.add_argument("out", nargs="?", default="gallery", metavar="FOLDER", help=about)


# ----- arguments that several commands share


def _add_directory(command: Parser) -> None:
    command.add_argument("directory", metavar="DIRECTORY", help="Use the study in this directory, such as runs/NAME.")


def _add_output(command: Parser) -> None:
    form = command.add_mutually_exclusive_group()
    about = "Print the final summary as JSON, for scripts. Progress goes to standard error."
    form.add_argument("--json", action="store_true", help=about)
    about = "Print only the verdict: no progress, and no other part of the summary."
    form.add_argument("--quiet", action="store_true", help=about)


def _add_starting(command: Parser) -> None:
    _add_output(command)
    about = "Print a study's file with the settings that result from FILE, flags and defaults, and stop."
    command.add_argument("--print-config", action="store_true", help=about)


def _add_storage(command: Parser) -> None:
    about = (
        "Use the record in the database at this URL. A password (in the URL, PGPASSWORD or ~/.pgpass) is sent only to "
        "a host that this flag names."
    )
    command.add_argument("--storage", metavar="URL", help=about)


def _add_after_search(command: Parser) -> None:
    from partune.cli.studies import AFTER_SEARCH
    from partune.config import Search

    group = command.add_argument_group("search", f"Set what happens after the search. {UNCHANGED}")
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


UNCHANGED = "A setting whose flag you do not pass stays as it is in the study."


def _add_live(command: argparse.ArgumentParser) -> None:
    about = "Keep report.html up to date while the study runs. An open browser reloads it."
    command.add_argument("--live", action="store_true", help=about)


def add_study(command: argparse.ArgumentParser) -> None:
    """Add the flags of a command that begins a study: its place, and all its settings."""
    from partune.config import StudyConfig

    flags.add_place(command)
    _add_live(command)
    flags.add_sections(command, StudyConfig)


def _settings_stay(flag: str) -> str:
    """Return why a command that continues a study refuses a flag, if the flag is one of the study's settings."""
    from partune.config import StudyConfig

    settings = argparse.ArgumentParser()
    flags.add_sections(settings, StudyConfig)
    known = flag in settings._option_string_actions
    return ": a study continues with the settings that it began with" if known else ""


# ----- all commands


class Command(NamedTuple):
    """The texts and arguments of a command. A function of the same name in `commands` runs it.

    Attributes:
        help: The line of the command in the list of commands.
        description: The first paragraph of the command's help.
        add: A function that adds the arguments of the command.
    """

    help: str
    description: str
    add: Callable[[Parser], None]


COMMANDS = {
    "tune": Command("search the hyperparameters of a fine-tuning", TUNE, _tune),
    "plan": Command("say before a study what it costs and can show", planning.PLAN, planning.add),
    "demo": Command("run a real study on a tiny model, in minutes", DEMO, _demo),
    "resume": Command("continue a study that stopped, or extend it", RESUME, _resume),
    "join": Command("help with a study that another process runs", JOIN, _join),
    "report": Command("show the results and the verdict of a study", REPORT, _report),
    "dashboard": Command("show a study in Optuna's dashboard, in a browser", DASHBOARD, _dashboard),
    "compare": Command("compare finished studies of one objective", COMPARE, _compare),
    "verdict": Command("test whether one model is better than another", verdicts.VERDICT, verdicts.add),
    "experiment": Command("repeat the original study with one command", EXPERIMENT, _experiment),
    "export": Command("write the winner's adapter, its model card and recipes", EXPORT, _export),
    "bench": Command("measure packs, optimisers, many workers or crashes", BENCH, _bench),
    "certificates": Command("make certificates for a Dask cluster on a network", CERTIFICATES, _certificates),
    "data": Command("show how training data are read, or convert them", DATA, _data),
    "doctor": Command("check this machine, and that partune works on it", DOCTOR, _doctor),
    "completion": Command("print a shell's completion script", COMPLETION, _completion),
    "spaces": Command("list the ready-made search spaces", SPACES, _spaces),
    "baselines": Command("list the recipes that a winner is compared with", BASELINES, _baselines),
    "algorithms": Command("list the optimisers", ALGORITHMS, _algorithms),
    "gallery": Command("draw the optimisers at work, one picture each", GALLERY, _gallery),
}


def build_parser() -> Parser:
    """Return the parser of the command line, with every command, but without the arguments of the commands."""
    parser = Parser(
        prog="partune", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=Version, nargs=0, dest=argparse.SUPPRESS, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, description=command.description, add=command.add)
    return parser
