"""The sections of a study's file that say what trials are scored by."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from partune.config.base import Names, PathText, Section, Texts, flag
from partune.demo import locate_rows
from partune.errors import suggestion

ANSWER_METRICS = ("exact_match", "f1", "rougeL")  # metrics of generated answers to validation rows
ROW_METRICS = ("loss", "acc", "margin", *ANSWER_METRICS)


def _require_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    if "" in texts:
        raise ValueError("an empty text (--stop-string '') would end every answer at once: leave it out")
    return texts


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
    """Metric of the score. A task has the metrics of its file (acc, acc_norm, exact_match, ...). Choices also have loss
    (minus the loss of the right choice) and margin (the difference between the likelihoods of the right and the best
    wrong choice, divided by their sum). The default for a task is acc_norm, acc, or else the first in its file.
    Validation rows have loss (minus the loss per trained token). If their answers are labels (few different ones), they
    also have acc and margin. For generated answers, they have exact_match, f1, rougeL, and package.module:function, a
    function of your own. Rows are scored by acc if they have labels, otherwise by loss."""
    max_new_tokens: PositiveInt | None = None
    """Largest number of tokens of a generated answer; by default what the task says, and for validation rows a quarter
    more than the longest answer among them, at most half of the context."""
    stop: Annotated[Texts, AfterValidator(_require_texts), flag("stop-string", escapes=True)] = ()
    """Text that ends a generated answer and is not part of it. On the command line, \\n is a line break, \\t a tab and
    \\\\ a backslash. By default what the task says. The model's end of sequence always ends an answer."""
    temperature: NonNegativeFloat | None = None
    """Temperature at which answers are sampled; 0 takes the most likely token at each step. By default what the task
    says, and 0 for validation rows."""
    verdict_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each task's items, or of the validation rows, that is held out for the verdict; the search never sees
    their scores."""
    points: Annotated[NonNegativeInt, flag("eval-points")] = 0
    """Score some search items (a quarter, but at least 64) at this many evenly spaced points of each training, the end
    included. The report draws the scores as curves."""
    select: Literal["last", "best"] = "last"
    """Adapter to take from each training: the last one, or the best one among those scored at --eval-points."""
    limit: PositiveInt | None = None
    """Largest number of items to use of each task, from the beginning, or of validation rows."""
    fewshot: NonNegativeInt | None = None
    """Number of solved examples that are shown before each question; by default the number that the task defines."""
    batch_size: Annotated[PositiveInt, flag("score-batch-size")] = 64
    """Number of choices or prompts per forward pass when engine peft or litgpt scores. Engine packed finds its own
    number."""
    confirm_run_unsafe_code: bool = False
    """Run the code that the model writes, on this machine, for tasks that score it by running it (unsafe_code: true in
    the task's file)."""
    trust_task_code: bool = False
    """Run the Python code (!function) of local task files, test tasks included, and render their templates without a
    sandbox."""

    @property
    def rows_generate(self) -> bool:
        """Whether validation rows are scored by generated answers."""
        return self.metric is not None and (self.metric in ANSWER_METRICS or ":" in self.metric)

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
    if near := difflib.get_close_matches(metric, ROW_METRICS, n=1):
        raise ValueError(f'validation.metric: there is no metric "{metric}" of rows{suggestion(metric, near)}')
    raise ValueError(
        f"validation.metric: {metric} needs a task (--task); without one, use loss, exact_match, f1, rougeL, "
        "package.module:function, or, for labels, acc or margin"
    )


class Test(Section):
    """Tasks that watch for overfitting. Their scores are reported, but choose nothing."""

    tasks: Annotated[Names, flag("test-task")] = ()
    """Task that watches for overfitting: its name or a YAML file, as for --task. The search never sees its scores."""
    every_trial: Annotated[bool, flag("test-every-trial")] = False
    """Score all trials on the test tasks, not only the baselines and the winner."""
    limit: Annotated[PositiveInt | None, flag("test-limit")] = None
    """Largest number of items to use of each test task, from the beginning."""
