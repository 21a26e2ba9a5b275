"""Score several models on the same items: all items of some tasks, or all rows of some data.

Adapters of one base model are scored together, in the forward passes of a pack. Adapters that a pack cannot hold, such
as those with DoRA, are loaded by PEFT, one after the other. Quantized models are scored by lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partune import config
from partune.errors import UserError
from partune.finetune.model import Base, check_exists, check_json, check_vocabulary, find_device, find_dtype, load
from partune.finetune.scoring.base import Task
from partune.finetune.scoring.scores import (
    Part,
    Scorer,
    Scores,
    check_distinct_tasks,
    check_first_token,
    check_flags,
    choose_metrics,
)
from partune.finetune.scoring.seen import Found, find_seen
from partune.finetune.scoring.validation_rows import ValidationRows
from partune.trial.names import ItemSet

if TYPE_CHECKING:
    from torch import Tensor

    from partune.finetune.packed.answers import PackedAnswers
    from partune.finetune.scoring.base import PackAnswers

ALL = frozenset({ItemSet.TEST})
BATCH = 64  # requests per forward pass, where lm-evaluation-harness scores
# Settings of PEFT's LoRA that leave an adapter plain: (alpha / r) B A on each of its layers. All others must be unset.
PLAIN = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version",
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "bias", "init_lora_weights", "megatron_core", "qalora_group_size", "loftq_config", "runtime_config",
}  # fmt: skip
# Initialisations with which PEFT subtracts the initial adapter from the base model's weights, also when it loads it.
SUBTRACTED = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class Candidate:
    """A model to score.

    Attributes:
        model: The model, or the base model of the adapter.
        adapter: The folder of the adapter; None for the model by itself.
    """

    model: config.Model
    adapter: Path | None = None


@dataclass(frozen=True)
class Asked:
    """What models are scored on: tasks, or rows of data.

    Attributes:
        data: The rows; None for tasks.
        validation: Section `validation` of a study: the tasks, the metric and how they are scored. Its settings of a
            search (split, verdict_share, points, select) have no effect.
        training: The training data of the models, as far as it is known, in which the scored items are looked for.
    """

    data: config.Data | None = None
    validation: config.Validation = field(default_factory=config.Validation)
    training: tuple[config.Data, ...] = ()


class WholeScorer(Scorer):
    """Score models on all items of tasks.

    Args:
        base: The base model, whose tokenizer and context length are used.
        tasks: The tasks.
        metric: The metric; None for the default metric of each task.

    Raises:
        UserError: A task lacks the metric, or is named twice.
    """

    def __init__(self, base: Base, tasks: Sequence[Task], metric: str | None) -> None:
        check_distinct_tasks(tasks, [])
        for task in tasks:
            task.check(base.context)
        self.tasks, self.context, self.rungs = tuple(tasks), base.context, []
        self.metrics = {task.name: choose_metrics([task], metric)[0] for task in tasks}
        self.metric = next(iter(self.metrics.values()))
        self.parts = [
            Part(ItemSet.TEST, task, np.array(task.scorable(name)), name)
            for task, name in zip(tasks, self.metrics.values(), strict=True)
        ]


@dataclass(frozen=True)
class Scored:
    """The scores of a candidate.

    Attributes:
        scores: The scores, and the results of single items.
        metrics: The metric of each task.
        groups: The tasks that are groups of tasks.
        rows: The digest of the rows' tokens; empty if no rows were scored by their loss.
        seen: For each of the training data that was asked about, which items occur in it, or why that is not known;
            empty for all but the candidates on the first model.
    """

    scores: Scores
    metrics: Mapping[str, str]
    groups: frozenset[str]
    rows: str = ""
    seen: Sequence[Found] = ()


def score_models(candidates: Sequence[Candidate], asked: Asked, dtype: str, device: str) -> list[Scored]:
    """Score models on the same items, each base model loaded once.

    Args:
        candidates: The models.
        asked: What they are scored on.
        dtype: The precision: fp32, bf16, fp16 or "auto".
        device: The device, such as "auto" or "cuda:1".

    Raises:
        UserError: A model, an adapter, a task or the rows cannot be used.
    """
    from partune.finetune import adapter as adapters
    from partune.finetune.data import find_files
    from partune.finetune.scoring.definitions import check_file

    # Check names and files first, because a large model takes minutes to load.
    for candidate in candidates:
        check_exists(candidate.model)
        if candidate.adapter is not None:
            adapters.check(candidate.adapter)
            _check_begun(candidate.adapter)
    for name in asked.validation.tasks:
        check_file(name)
    if asked.data is not None:
        find_files(asked.data)
    kind = find_dtype(dtype, find_device(device))
    scored: dict[Candidate, Scored] = {}
    for model in dict.fromkeys(candidate.model for candidate in candidates):
        of_model = list(dict.fromkeys(candidate for candidate in candidates if candidate.model == model))
        scored |= dict(zip(of_model, _score(model, of_model, asked, kind, device), strict=True))
        asked = replace(asked, training=())  # all models are scored on the same items, so one search for them suffices
    return [scored[candidate] for candidate in candidates]


def _score(model: config.Model, candidates: Sequence[Candidate], asked: Asked, dtype: str, device: str) -> list[Scored]:
    """Score a model, and adapters on it."""
    from partune.finetune.materials import suitable_threads
    from partune.finetune.scoring.base import NotFiniteError
    from partune.runtime.threads import torch_threads

    base = load(model, dtype, device)
    scorer = _scorer(base, asked)
    groups = frozenset(task.name for task in scorer.tasks if len(task.strata) > 1)
    rows = next((task.examples.digest for task in scorer.tasks if isinstance(task, ValidationRows)), "")
    rows = rows if "loss" in scorer.metrics.values() else ""
    with torch_threads(suitable_threads(base, None)):
        scores = _answered(base, scorer, [candidate.adapter for candidate in candidates])
    for candidate, found in zip(candidates, scores, strict=True):
        if isinstance(found, NotFiniteError):
            raise UserError(f"{candidate.adapter or model.path} cannot be scored: {found}") from found
    seen = find_seen(asked.training, scorer.tasks, asked.data)
    return [Scored(found, scorer.metrics, groups, rows, seen) for found in scores if isinstance(found, Scores)]


def _scorer(base: Base, asked: Asked) -> WholeScorer:
    """Load the tasks or rows, tokenised for a model."""
    from partune.finetune.scoring.base import tokens_of
    from partune.finetune.scoring.encoding import request_encoder
    from partune.finetune.scoring.tasks import Loader
    from partune.runtime.isolation import own_generators

    with own_generators(base.device):
        if asked.data is not None:
            tasks: list[Task] = [_rows(base, asked.data, asked.validation)]
        else:
            check_first_token(base)
            how = asked.validation
            loader, encode = Loader(), partial(request_encoder(base), changes=how.generation)
            tasks = [
                loader.load(name, encode, how.limit, how.fewshot, how.trust_task_code, how.confirm_run_unsafe_code)
                for name in dict.fromkeys(asked.validation.tasks)
            ]
        check_flags(asked.validation, tasks, [])
        scorer = WholeScorer(base, tasks, asked.validation.metric)
    for part in scorer.parts:
        tokens = (token for request in part.requests for token in tokens_of(request))
        check_vocabulary(base, part.task.name, max(tokens, default=0))
    return scorer


def _rows(base: Base, data: config.Data, validation: config.Validation) -> ValidationRows:
    """Return rows as a task with the metric; by default, accuracy if their answers are labels, otherwise loss."""
    from partune.finetune.data import tokenise
    from partune.finetune.rows.files import read
    from partune.finetune.scoring.held_out import HeldOut
    from partune.finetune.scoring.row_answers import Function
    from partune.finetune.scoring.row_labels import METRICS, evident_labels, require_labels

    metric = validation.metric
    source = read(data)
    rows = tokenise(data, base.tokenizer, source)
    labels = evident_labels(rows, base.tokenizer) if metric is None else None
    if metric in METRICS:
        labels = require_labels(data.path, str(metric), rows)
    if len(rows) < 2:
        raise UserError(f"{data.path}: a comparison needs at least two rows")
    try:
        config.check_metric(validation)
    except ValueError as error:
        raise UserError(str(error)) from None
    function = Function.of(str(metric), source.rows) if validation.rows_generate and ":" in str(metric) else None
    return HeldOut(rows, rows, labels, True, function).task(data, validation, base)


def _answered(base: Base, scorer: WholeScorer, folders: Sequence[Path | None]) -> list[Scores | Exception]:
    """Return the scores of the base model (None) and of adapters on it, or an exception for a model without a score."""
    from partune.finetune import adapter as adapters
    from partune.finetune.scoring.base import NotFiniteError

    if getattr(base.model, "quantization_method", None) is not None:
        from partune.finetune.scoring.harness_generation import harness_answers

        answers = harness_answers(base, BATCH)
        answer: PackAnswers = lambda name, requests: [answers(requests)]  # noqa: E731
        packed: list[Path] = []
    else:
        from partune.finetune.packed.answers import PackedAnswers
        from partune.finetune.packed.head import Head

        answering = PackedAnswers(base, Head(base))
        answer = answering.answers
        packed = [folder for folder in folders if folder is not None and _is_plain(folder)]
    found: dict[Path | None, Scores | Exception] = {}
    if len(packed) > 1:
        found |= _in_one_pack(base, scorer, answering, packed)

    def alone() -> Scores | Exception:
        try:
            return scorer.score_one(answer, ALL)
        except NotFiniteError as error:
            return error

    for folder in folders:
        if folder in found:
            continue
        if folder is None:
            found[None] = alone()
            continue
        with adapters.loaded(base, folder):
            found[folder] = alone()
    return [found[folder] for folder in folders]


def _check_begun(folder: Path) -> None:
    """Raise UserError for an adapter that PEFT cannot load without changing the base model's weights."""
    begun = check_json(folder / "adapter_config.json").get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(SUBTRACTED):
        raise UserError(
            f"{folder}: its training began with init_lora_weights {begun}, so PEFT changes the base model to load it; "
            "convert it to plain LoRA (path_initial_model_for_weight_conversion of PEFT's save_pretrained)"
        )


def _is_plain(folder: Path) -> bool:
    """Return whether an adapter is plain LoRA, which a pack can hold."""
    settings = check_json(folder / "adapter_config.json")
    return (
        settings.get("peft_type") == "LORA"
        and settings.get("bias", "none") == "none"
        and settings.get("init_lora_weights") in (None, True, False, "gaussian", "orthogonal", "eva")
        and not any(value for name, value in settings.items() if name not in PLAIN)
        and (folder / "adapter_model.safetensors").is_file()
    )


def _in_one_pack(
    base: Base, scorer: WholeScorer, answering: PackedAnswers, folders: Sequence[Path]
) -> dict[Path | None, Scores | Exception]:
    """Score plain adapters in the same forward passes; return nothing if a pack cannot hold their layers."""
    from partune.finetune import adapter as adapters
    from partune.finetune.packed.adapters import carrier

    read = {folder: adapters.read(folder) for folder in dict.fromkeys(folders)}
    layers = sorted({layer for matrices in read.values() for layer in matrices})
    try:
        with carrier(base, ",".join(layers)) as carrying:
            sites = {site.name: (site.d_in, site.d_out) for site in carrying.sites}
            if sorted(sites) != layers:
                return {}
            held = [(_settings(folder), _weights(matrices, sites, folder)) for folder, matrices in read.items()]
            pack = carrying.loaded(held)
            scores = scorer.score_all(lambda name, requests: answering.answers(name, requests, carrying, pack), ALL)
            return dict(zip(read, scores, strict=True))
    except UserError:  # PEFT loads them one by one, or says why it cannot
        return {}


def _settings(folder: Path) -> config.Training:
    settings = check_json(folder / "adapter_config.json")
    return config.validated(config.Training, {"lora_r": settings["r"], "lora_alpha": settings["lora_alpha"]})


def _weights(
    matrices: Mapping[str, tuple[Tensor, Tensor]], sites: Mapping[str, tuple[int, int]], folder: Path
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A (d_in, r) and B (r, d_out) of every layer of a pack, zeros where the adapter has none."""
    import torch

    rank = _settings(folder).lora_r
    weights: dict[str, tuple[Any, Any]] = {}
    for name, (d_in, d_out) in sites.items():
        a, b = matrices.get(name, (torch.zeros(rank, d_in), torch.zeros(d_out, rank)))
        if (tuple(a.shape), tuple(b.shape)) != ((rank, d_in), (d_out, rank)):
            raise UserError(f"adapter {folder} does not fit the base model: {name}")
        weights[name] = a.T, b.T
    return weights
