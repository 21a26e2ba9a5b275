"""Score two models on the same items, and make the questions which one is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partune import config
from partune.errors import UserError
from partune.runtime.extras import require_finetune
from partune.trial.names import ItemSet
from partune.verdict.models.answers import Question
from partune.verdict.models.kinds import BASE, kind_of, may_be_id
from partune.verdict.models.scored import question

if TYPE_CHECKING:
    from partune.finetune.contamination import Seen
    from partune.finetune.scoring.models import Scored
    from partune.objectives.candidates import Named

Section = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Scoring:
    """How two models are scored.

    Attributes:
        model: Section `model` of a study: the base model of adapters; None if both are whole models.
        data: Section `data` of a study: rows to score on instead of tasks; None for tasks.
        limit: The number of items to use of each task, from the beginning; None uses all.
        fewshot: The number of solved examples before each question; None for that of the task.
        dtype: The precision: fp32, bf16, fp16 or "auto".
        device: The device, such as "auto" or "cuda:1".
        generation: How answers are generated, by the names of section `validation`; empty for what the tasks say.
        trust_task_code: Whether local task files may run code.
        confirm_run_unsafe_code: Whether tasks may run the code that a model writes.
    """

    model: Section | None = None
    data: Section | None = None
    limit: int | None = None
    fewshot: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    generation: Mapping[str, Any] = field(default_factory=dict)
    trust_task_code: bool = False
    confirm_run_unsafe_code: bool = False

    def wanted(self, places: Sequence[str | Path]) -> bool:
        """Return whether models are to be scored: because settings ask for it, or because a path names a model.

        Args:
            places: The paths, ids and names that the user gave.

        Raises:
            UserError: Some are samples although models are to be scored.
        """
        kinds = {place: kind_of(place) for place in places}
        models = [
            str(place) for place, kind in kinds.items() if (may_be_id(place) if kind is None else kind != "samples")
        ]
        samples = [str(place) for place, kind in kinds.items() if kind == "samples"]
        if self == Scoring() and not models:
            return False
        if samples:
            because = f"{models[0]} is a model" if models else "options such as `--model` and `--data` are for models"
            raise UserError(
                f"{because}, but {samples[0]} holds samples of lm-evaluation-harness: compare models with models, or "
                "samples with samples"
            )
        return True


@dataclass(frozen=True)
class Asked:
    """The questions about two models that were scored.

    Attributes:
        questions: The questions.
        names: A description of the model on each side.
        notes: Sentences that a reader should know.
    """

    questions: Sequence[Question]
    names: tuple[str, str]
    notes: Sequence[str] = field(default_factory=tuple)


def ask(
    a: Sequence[str | Path], b: Sequence[str | Path], scoring: Scoring, tasks: Sequence[str], metric: str | None
) -> Asked:
    """Score two models, and return the question which one is better, for each task or for the rows.

    Args:
        a: The runs of A: adapters, studies, models or the base model.
        b: The runs of B.
        scoring: How they are scored.
        tasks: The tasks; empty if they are scored on rows.
        metric: The metric; None for the default metric of each task.

    Raises:
        UserError: There is nothing to score on, or a model cannot be scored.
    """
    if bool(tasks) == (scoring.data is not None):
        raise UserError(
            "models are scored on tasks (`--task NAME`) or on rows (`--data FILE`): name "
            + ("one of the two, not both" if tasks else "one of the two")
        )
    for_tasks = (scoring.limit, scoring.fewshot, scoring.trust_task_code, scoring.confirm_run_unsafe_code)
    if scoring.data is not None and for_tasks != (None, None, False, False):
        raise UserError(
            "`--limit`, `--fewshot`, `--trust-task-code` and `--confirm-run-unsafe-code` are for tasks; rows have "
            "`--data-limit`"
        )
    require_finetune("scoring models")
    from partune.finetune.scoring.models import Asked as Items
    from partune.finetune.scoring.models import score_models
    from partune.objectives.candidates import named

    base = None if scoring.model is None else config.validated(config.Model, _section(scoring.model))
    data = None if scoring.data is None else config.validated(config.Data, _section(scoring.data))
    named_a, named_b = ([named(place, base) for place in places] for places in (a, b))
    _check_distinct([*a, *b], [*named_a, *named_b])
    if base is not None and all(each.candidate.model != base for each in (*named_a, *named_b)):
        raise UserError(f"`--model {base.path}` has no effect, because A and B are whole models: leave it out")
    how = {"tasks": tasks, "metric": metric, "limit": scoring.limit, "fewshot": scoring.fewshot, **scoring.generation}
    permitted = {name: getattr(scoring, name) for name in ("trust_task_code", "confirm_run_unsafe_code")}
    training = tuple(dict.fromkeys(each.data for each in (*named_a, *named_b) if each.data is not None))
    items = Items(data, config.validated(config.Validation, {**how, **permitted}), training)
    scored = score_models([each.candidate for each in (*named_a, *named_b)], items, scoring.dtype, scoring.device)
    left, right = scored[: len(a)], scored[len(a) :]
    notes = dict.fromkeys(note for each in (*named_a, *named_b) for note in each.notes)
    first = scored[0]
    places = dict(zip([*map(str, a), *map(str, b)], (*named_a, *named_b), strict=True))
    notes |= dict.fromkeys(_selection_notes(places, tasks if data is None else [data.path]))
    for trained, found in zip(training, first.seen, strict=True):
        studies = [place for place, each in places.items() if each.data == trained]
        notes |= dict.fromkeys(_seen_notes(studies, found, "row" if data is not None else "item"))
    if data is not None:
        _check_rows(scored)
        if unknown := [name for name, each in places.items() if each.data is None and name != BASE]:
            notes |= {
                "Rows that a model was trained on favour it. This comparison detects them only for studies, not for "
                f"{' and '.join(unknown)}.": None
            }
    questions = [
        question(
            task if data is None else Path(data.path).name if Path(data.path).exists() else data.path,
            "group" if task in first.groups else "task",
            [each.scores.items for each in left],
            [each.scores.items for each in right],
            ItemSet.TEST,
            {task: chosen},
        )
        for task, chosen in first.metrics.items()
    ]
    return Asked(questions, (_words(named_a), _words(named_b)), tuple(notes))


def _selection_notes(places: Mapping[str, Named], scored_on: Sequence[str]) -> Iterator[str]:
    """Yield sentences on the studies that chose their winner by items on which it is scored again.

    Args:
        places: What the user named, with what it stands for.
        scored_on: The tasks, or the file of rows.
    """
    for place, each in places.items():
        known = {_located(name) for name in each.chosen_by}
        if same := [name for name in scored_on if _located(name) in known]:
            yield (
                f"SELECTION: {place} chose its winner among its trials by items of {' and '.join(same)}. The best of "
                "many scores is partly luck, which favours the winner on these items: use other ones, or the study's "
                "own verdict, which is on items that its search never saw."
            )


def _located(name: str) -> str:
    """Return the resolved path of a file, or a name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _seen_notes(studies: Sequence[str], found: Sequence[Seen] | str, kind: str) -> Iterator[str]:
    """Yield sentences on the scored items that occur in the training data of studies.

    Args:
        studies: The directories of the studies with this training data.
        found: What was found, or why the data cannot be read.
        kind: What is scored: "row" or "item".
    """
    of = " and ".join(studies)
    if isinstance(found, str):
        yield f"Whether {kind}s are in the training data of {of} is not known: {found}."
        return
    for seen in found:
        if seen.same or seen.alike:
            also = f", and {seen.alike:,} more share 13 words in a row with them" if seen.alike else ""
            yield (
                f"CONTAMINATION: {seen.same:,} of the {seen.items:,} {kind}s of {seen.what} occur in the training data "
                f"of {of}{also}. Scores on them show what a model remembers, not how it answers new ones: use other "
                f"{kind}s."
            )


def _section(given: Section) -> Any:
    return str(given) if isinstance(given, Path) else given


def _words(sides: Sequence[Named]) -> str:
    return ", ".join(dict.fromkeys(side.words for side in sides))


def _check_distinct(places: Sequence[str | Path], sides: Sequence[Named]) -> None:
    """Raise UserError if the same model was named twice."""
    seen: dict[object, str | Path] = {}
    for place, side in zip(places, sides, strict=True):
        adapter = side.candidate.adapter
        key = side.candidate.model.path if adapter is None else adapter.resolve()
        if key in seen:
            raise UserError(f"{seen[key]} and {place} are the same model: name two different models or runs")
        seen[key] = place


def _check_rows(scored: Sequence[Scored]) -> None:
    """Raise UserError if the models' losses are means over different tokens."""
    if len({each.rows for each in scored}) > 1:
        raise UserError(
            "the models read the rows as different tokens, because of their tokenizers or context lengths, so their "
            "losses per token cannot be compared; use a task (`--task`)"
        )
