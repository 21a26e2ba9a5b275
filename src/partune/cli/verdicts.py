"""Define the arguments of `partune verdict`, and run it."""

from __future__ import annotations

import argparse
from pathlib import Path

from partune.cli import flags

VERDICT = """\
Test whether model A is better than model B, on the same items. A and B are models to score: the folder of an adapter, a
study's directory (for its winner's adapter), a model's folder or id, or the word base. Or they are what
lm-evaluation-harness wrote with --log_samples: a folder, a samples_*.jsonl or a results_*.json. The answer is BETTER,
WORSE, NO WORSE WITHIN MARGIN or NOT SHOWN, and each comes from a test. See docs/verdict.md."""
GENERATION = ("max_new_tokens", "stop", "temperature")
# Keys of section `validation` for models that are scored.
TASKS = ("limit", "fewshot", *GENERATION, "trust_task_code", "confirm_run_unsafe_code")


def add(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    Args:
        command: The parser of the command.
    """
    from partune.config import Data, Model, Run, Training, Validation

    command.usage = "%(prog)s A B [--model MODEL (--task TASK | --data ROWS)] [options]"
    for dest, name in (("first", "A"), ("second", "B")):
        about = f"Take this as model {name}: an adapter, a study, a model, base, or samples of a model."
        command.add_argument(dest, metavar=name, help=about)
    for name in ("a", "b"):
        about = (
            f"Add a run of model {name.upper()} that was trained with another seed. Repeat the flag for several runs."
        )
        command.add_argument(f"--{name}", action="append", default=[], metavar="PATH", help=about)
    about = (
        "Compare on this task or group. Repeat the flag for several. (default for samples: all that A and B have in "
        "common)"
    )
    command.add_argument("--task", action="append", default=[], metavar="NAME", help=about)
    about = (
        "Compare this metric. (default: acc_norm, acc or exact_match, the first of them that a task has; for rows, acc "
        "if their answers are labels, otherwise loss)"
    )
    command.add_argument("--metric", metavar="NAME", help=about)
    about = "Also test whether A is no worse than B by this margin or more, such as 0.01, in units of the score."
    command.add_argument("--margin", type=float, metavar="SCORE", help=about)
    command.add_argument("--mean", action="store_true", help="Answer also for the mean of all tasks.")
    command.add_argument("--json", action="store_true", help="Print the answers as JSON, for scripts.")
    samples = command.add_argument_group("samples", "For samples of lm-evaluation-harness.")
    about = 'Compare the answers after this filter. (default: the only filter, or else the one called "none")'
    samples.add_argument("--filter", metavar="NAME", help=about)
    about = (
        "Say whether a higher or a lower score is better. Only needed for a metric of a task of your own, without a "
        "results_*.json beside the samples."
    )
    samples.add_argument("--better", choices=("higher", "lower"), help=about)
    model = command.add_argument_group(
        "model", "For models that are scored: the base model of adapters, and how it runs."
    )
    for name, field in Model.model_fields.items():
        flags.add_flag(model, ("model", name), field)
    flags.add_flag(model, ("training", "dtype"), Training.model_fields["dtype"])
    flags.add_flag(model, ("run", "device"), Run.model_fields["device"])
    tasks = command.add_argument_group("tasks", "For models that are scored, mostly on tasks.")
    for name in TASKS:
        flags.add_flag(tasks, ("validation", name), Validation.model_fields[name])
    rows = command.add_argument_group(
        "data", "For models that are scored on rows instead. The rows are not used for training."
    )
    for name, field in Data.model_fields.items():
        flags.add_flag(rows, ("data", name), field)


def run(arguments: argparse.Namespace) -> int:
    """Test whether one model is better than another, and print the answers.

    Args:
        arguments: The parsed arguments.
    """
    from partune import config
    from partune.errors import UserError
    from partune.report import model_verdict
    from partune.report.plain_data import print_json
    from partune.verdict.models.compare import compare_models

    given = config.located(flags.given(arguments), Path.cwd())
    for section, flag in (("model", "--model"), ("data", "--data")):
        if section in given and "path" not in given[section]:
            raise UserError(f"settings of the {section} need `{flag}`, which names it")
    validation = config.validated(config.Validation, given.get("validation", {}))
    answered = compare_models(
        [arguments.first, *arguments.a],
        [arguments.second, *arguments.b],
        tasks=arguments.task,
        metric=arguments.metric,
        filter=arguments.filter,
        margin=arguments.margin,
        mean=arguments.mean,
        higher_is_better=None if arguments.better is None else arguments.better == "higher",
        model=given.get("model"),
        data=given.get("data"),
        limit=validation.limit,
        fewshot=validation.fewshot,
        dtype=config.validated(config.Training, given.get("training", {})).dtype,
        device=config.validated(config.Run, given.get("run", {})).device,
        generation={name: getattr(validation, name) for name in GENERATION if name in validation.model_fields_set},
        trust_task_code=validation.trust_task_code,
        confirm_run_unsafe_code=validation.confirm_run_unsafe_code,
    )
    summary = model_verdict.summarise(answered)
    if arguments.json:
        print_json(summary)
    else:
        model_verdict.show(summary)
    return 0
