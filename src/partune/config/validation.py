"""The sections of a study's file that say what trials are scored by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from partune.config.base import Names, PathText, Section, flag
from partune.demo import locate_rows

ROW_ANSWERS = ("exact_match", "f1", "rougeL")  # the metrics of answers that are generated to validation rows
ROW_METRICS = ("loss", "acc", "margin", *ROW_ANSWERS)


def _unescaped(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return texts with line breaks and tabs where their escapes stand, as users type them in a shell."""
    return tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in texts)


class Validation(Section):
    """What trials are scored by: tasks, or rows that no trial is trained on.

    Search items choose the winner; held-out verdict items judge it.
    """

    tasks: Annotated[Names, flag("task")] = ()
    """Task of lm-evaluation-harness by which trials are scored: its name or a YAML file. With several tasks, the score
    is the mean over the tasks. Without a task, trials are scored by validation rows."""
    split: Annotated[float, Field(gt=0, lt=1), flag("validation-split")] = 0.1
    """Share of the data's rows that are validation rows instead of training rows, if there is no task. Rows with the
    same prompt stay together."""
    data: Annotated[Annotated[PathText, AfterValidator(locate_rows)] | None, flag("validation-data")] = None
    """File or data set with the validation rows, in the format of the data, instead of a share of the data's rows."""
    metric: str | None = None
    """Metric of the score. A task has the metrics of its file (acc, acc_norm, exact_match, ...); choices also have loss
    (minus the loss of the right choice) and margin (the difference between the likelihoods of the right and the best
    wrong choice, divided by their sum). By default acc_norm or acc, otherwise the first in the task's file. Validation
    rows have loss (minus the loss per trained token), acc and margin if their answers are labels (few different ones),
    and for generated answers exact_match, f1, rougeL, or package.module:function. By default acc or loss."""
    max_new_tokens: PositiveInt | None = None
    """Largest number of tokens of a generated answer; by default what the task says, and for validation rows a quarter
    more than the longest answer among them."""
    stop: Annotated[tuple[str, ...], AfterValidator(_unescaped), flag("stop-string")] = ()
    """Text that ends a generated answer and is not part of it; \\n is a line break. By default what the task says. The
    model's end of sequence always ends an answer."""
    temperature: NonNegativeFloat | None = None
    """Temperature at which answers are sampled; 0 takes the most likely token at each step. By default what the task
    says, and 0 for validation rows."""
    verdict_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each task's items, or of the validation rows, that are held out for the verdict; the search never sees
    their scores."""
    points: Annotated[NonNegativeInt, flag("eval-points")] = 0
    """Number of points of each training at which some search items are scored too (at least 64 and a quarter of them),
    evenly spaced and including the end. The report draws the scores as curves."""
    select: Literal["last", "best"] = "last"
    """Adapter of a training: the last one, or the one with the best score among those of --eval-points."""
    limit: PositiveInt | None = None
    """Largest number of items to use of each task, taken from the beginning, or largest number of validation rows."""
    fewshot: NonNegativeInt | None = None
    """Number of solved examples that are shown before each question; by default the number that the task defines."""
    batch_size: Annotated[PositiveInt, flag("score-batch-size")] = 64
    """Number of choices per forward pass when engine peft or litgpt scores. Engine packed finds its own number."""
    confirm_run_unsafe_code: bool = False
    """Run the code that the model writes, on this machine, for tasks that score it by running it (unsafe_code: true in
    the task's file)."""
    trust_task_code: bool = False
    """Run the Python code that local task files, also those of test tasks, refer to (!function), and render their
    templates without a sandbox."""

    @property
    def generates(self) -> bool:
        """Whether the metric, one of validation rows, is of generated answers: one of ROW_ANSWERS, or a function."""
        return self.metric is not None and (self.metric in ROW_ANSWERS or ":" in self.metric)

    @property
    def generation(self) -> dict[str, Any]:
        """The settings of generated answers that were given, by the names of the harness's `generation_kwargs`."""
        given = {"max_gen_toks": self.max_new_tokens, "until": list(self.stop) or None, "temperature": self.temperature}
        return {name: value for name, value in given.items() if value is not None}


def check_metric(validation: Validation) -> None:
    """Raise ValueError for a metric that validation rows do not have, if there is no task."""
    metric = validation.metric
    if validation.tasks or metric is None or metric in ROW_METRICS or ":" in metric:
        return
    raise ValueError(
        f"validation.metric: {metric} needs a task (--task); validation rows have the metrics loss, exact_match, "
        "f1, rougeL, package.module:function, and if their answers are labels acc and margin"
    )


class Test(Section):
    """Tasks that watch for overfitting. Their scores are reported, but choose nothing."""

    tasks: Annotated[Names, flag("test-task")] = ()
    """Task that watches for overfitting: its name or a YAML file, as for --task. The search never sees its scores."""
    every_trial: Annotated[bool, flag("test-every-trial")] = False
    """Score all trials on the test tasks, not only the baselines and the winner."""
    limit: Annotated[PositiveInt | None, flag("test-limit")] = None
    """Largest number of items to use of each test task, taken from the beginning."""
