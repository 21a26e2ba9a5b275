"""Numbers as a reader wants them: rounded to their uncertainty, and no digit more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from partune.report.data import Summary
from partune.trial import Observation, Status

if TYPE_CHECKING:
    from partune.trial import Status

NONE = "–"  # where there is no number


def decimals(stderr: float) -> int:
    """So many that two digits of a standard error show."""
    return max(0, 1 - math.floor(math.log10(stderr)))


def number(value: float, digits: int = 4) -> str:
    """So many significant digits; powers of ten as people write them."""
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}"


def measured(value: float | None, stderr: float | None, sign: str = "") -> str:
    """A score with its standard error; sign: "+" shows that of a positive one too."""
    if value is None or not math.isfinite(value):
        return NONE
    if not uncertain(stderr):
        text = number(value)
        return f"+{text}" if sign and value > 0 else text
    assert stderr is not None
    places = decimals(stderr)
    return f"{value:{sign}.{places}f}\u00a0±\u00a0{stderr:.{places}f}"


def uncertain(stderr: float | None) -> bool:
    """Whether a standard error is known, and not 0."""
    return stderr is not None and math.isfinite(stderr) and stderr > 0


def chance(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def progress(stands: Sequence[Status], budget: int) -> str:
    """Return how far a search is: how many trials of its budget have ended, and how many more have begun.

    stands: where each of its trials stands.
    """
    ended = sum(each.final for each in stands)
    begun = len(stands) - ended
    text = f"{ended:,} of {several(budget, 'trial')} {'has' if ended == 1 else 'have'} ended"
    return f"{text}, {begun:,} more {'has' if begun == 1 else 'have'} begun" if begun else text


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def value(given: object) -> str:
    """A hyperparameter's value."""
    return number(given, 3) if isinstance(given, float) else str(given)


def settings(config: Mapping[str, object]) -> str:
    """A configuration in a line."""
    return ", ".join(f"{name} {value(given)}" for name, given in config.items())


def reloaded_words(observation: Observation) -> str:
    """Return in words whether an adapter, loaded from disk by PEFT, answers as it was scored."""
    if observation.error is None:
        return f"PEFT loads it from disk, and {observation.scores['items']:g} items have the scores on record"
    return f"loaded from disk by PEFT, it is not what was scored: {observation.error}"


def remark(row: Summary) -> str:
    """What a row's last column says of a trial that did not simply end."""
    if row["status"] == Status.STOPPED:
        return f"stopped at {row['fidelity']:.0%}"
    return str(row["error"] or row["status"]) if row["status"] != Status.DONE else ""


def score_words(score: float, stderr: float | None) -> str:
    return f"{score:.4f}" if stderr is None or math.isnan(stderr) else f"{score:.4f}\u00a0±\u00a0{stderr:.4f}"


def value_words(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def coverage_words(covered: Mapping[str, Any]) -> str:
    """Return which layers have adapters, and which have none, as a person says it."""
    where = f"adapters on {covered['layers']} layers in {covered['blocks']} of {covered['of']} blocks"
    without = [f"not on {', '.join(names)}, which {reason}" for reason, names in covered["left_out"].items()]
    return "; ".join([f"{where} ({', '.join(covered['names'])})", *without])


def words(config: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value_words(value)}" for name, value in config.items())


def span(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
