"""Score an export on the study's held-out items, and say how much its score lost against the adapter in the study."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partune.errors import UserError
from partune.export.chosen import Chosen
from partune.record.record import Record
from partune.runtime import rounding
from partune.runtime.extras import require_finetune
from partune.trial import Status, Trial
from partune.trial.names import Baseline, FurtherBaseline, ItemSet, WinnerScoring
from partune.verdict.models.answers import Answer, answers
from partune.verdict.models.scored import metrics_on, question

ONLY = "`--check` needs scores on the held-out items in the record"


@dataclass(frozen=True)
class Check:
    """The result of checking an export.

    Attributes:
        answer: The comparison of the export (A) with the adapter in the study (B).
        what: What was loaded and scored, such as "the merged model".
        dtype: The precision of the computation.
        same: Whether all answers are the same. Their log-likelihoods may differ by the rounding of fp32.
    """

    answer: Answer
    what: str
    dtype: str
    same: bool

    @property
    def sentence(self) -> str:
        """A sentence on how much score the export lost, with an interval, and whether a difference is shown."""
        answer = self.answer
        stderr, metric = answer.comparison.stderr, answer.measures[0].metric
        now, then = (rounding.score(score, None if self.same else stderr) for score in answer.scores)
        begin = (
            f"Loaded from this folder in {self.dtype} and scored on the {answer.items:,} held-out items, {self.what} "
            f"has {metric} {now}; the adapter had {then} in the study."
        )
        low, high = (0.0 - bound for bound in reversed(answer.interval))
        if self.same or math.isnan(low):
            return f"{begin} It lost nothing: all answers are the same but for rounding."
        lost = rounding.difference(0.0 - answer.gain, stderr, sign="")
        shown = {"worse": "A loss is shown", "better": "A gain is shown"}.get(answer.relation, "No difference is shown")
        interval = rounding.interval(low, high, stderr, sign="")
        return (
            f"{begin} It lost {lost} (95 % interval {interval}; below 0 is a gain). "
            f"{shown} ({rounding.chance(answer.p)}; items worse: {answer.lost:,}, better: {answer.won:,})."
        )


def reference_run(
    record: Record, trained: int | Baseline | FurtherBaseline, run: Trial | None, winner: int | None, merged: bool
) -> Trial:
    """Return the run on record that has the exported adapter's held-out scores.

    Args:
        record: The study's record.
        trained: The number of the exported trial, or a baseline.
        run: The fresh run (the winner trained again with other seeds) whose adapter is exported; None if the trial's
            own adapter is exported.
        winner: The number of the winner; None if there is none.
        merged: Whether the export is a model with the adapter merged in.

    Raises:
        UserError: The study is not a fine-tuning, has no such scores, or needs a CUDA device that this machine lacks.
    """
    if "model" not in record.header["objective"] or "scoring" not in record.loaded:
        raise UserError(f"{record.directory} is not a fine-tuning study, so `--check` has nothing to score")
    runs = record.anchors()
    if not isinstance(trained, int):
        scored = runs.get(trained)
    else:
        scored = runs.get(WinnerScoring.JUDGED) if trained == winner else None
        # If a fresh run's adapter ships, the held-out scores on record are that run's, not those of the winner's first.
        scored = None if scored is not None and (scored.order is not None) != (run is not None) else scored
    if scored is None or scored.status is not Status.DONE:
        model = f"trial {trained}" if isinstance(trained, int) else str(trained)
        advice = "leave out `--trial`" if trained == winner else "leave `--check` out, or export the winner"
        raise UserError(f"{ONLY}, and {record.directory} has none of {model}: {advice}")
    if not merged and record.header["objective"]["model"].get("quantize", "none") != "none":
        _require_cuda()
    return scored


def _require_cuda() -> None:
    """Raise UserError if this machine has no CUDA device, without which no base model loads in 4 bits."""
    require_finetune()
    from partune.finetune.model import find_device

    if (device := find_device("auto")).type != "cuda":
        raise UserError(
            f"`--check` loads the base model in 4 bits as in the study, which needs a CUDA device, got {device}: leave "
            "`--check` out, or run this on a machine with a CUDA device"
        )


def check(
    record: Record, scored: Trial, chosen: Chosen, folder: Path, merged: bool, quantized: str | None = None
) -> Check:
    """Load an export as its users will, score it on the held-out items, and compare it with the adapter.

    Args:
        record: The study's record.
        scored: The run on record with the scores of the adapter.
        chosen: The settings with which the adapter was trained.
        folder: The export.
        merged: Whether the export is a model with the adapter merged in.
        quantized: The form of the merged model's weights; None if they are not quantized.

    Raises:
        UserError: The export cannot be loaded or scored, or the study's items have changed.
    """
    from partune.objectives.agreement import difference_of_items
    from partune.objectives.rescoring import rescore

    then = record.items("anchors", scored.number)
    scoring = record.loaded["scoring"]
    metrics = metrics_on(ItemSet.VERDICT, then, scoring.get("metrics", scoring["metric"]))
    if not metrics:
        raise UserError(f"{ONLY}, and {record.directory} has none: its files in items/ are missing")
    now = rescore(record, folder, merged, chosen.dtype, quantized is not None)
    kind: Literal["task", "mean"] = "task" if len(metrics) == 1 else "mean"
    (answer,) = answers([question("held-out items", kind, [now], [then], ItemSet.VERDICT, metrics)])
    same = chosen.dtype == "fp32" and quantized is None and difference_of_items(then, now, chosen.dtype) is None
    what = "the merged model" if merged else "the base model with this adapter"
    what += "" if quantized is None else f", quantized to {quantized},"
    return Check(answer, what, chosen.dtype, same)
