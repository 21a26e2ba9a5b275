"""Report whether one model is better than another (`partune verdict`), as sentences, as a table and as data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partune.report.plain_data import Summary, finite
from partune.report.tables import Section, tell
from partune.report.words import listed, perplexity_words, several
from partune.runtime import rounding
from partune.runtime.console import Console, line, text
from partune.trial.goals import LOSS, TEXT_LOSSES, perplexity
from partune.trial.names import ROWS
from partune.verdict.paired import LEVEL

if TYPE_CHECKING:
    from partune.verdict.models.answers import Answer
    from partune.verdict.models.compare import Model, ModelVerdict

WIDTH = 140  # columns of an output that is not a terminal
SHOWN = {"better": "BETTER", "worse": "WORSE", "no worse": "NO WORSE WITHIN MARGIN", "open": "NOT SHOWN"}
STYLES = {"better": "bold green", "worse": "bold red", "no worse": "bold green", "open": "bold"}


def summarise(verdict: ModelVerdict) -> Summary:
    """Return a verdict on two models as plain data, as `partune verdict --json` prints it."""
    data: Summary = finite(
        {
            "a": _model(verdict.a),
            "b": _model(verdict.b),
            "level": LEVEL,
            "margin": verdict.answers[0].margin,
            "answers": [_answer(answer) for answer in verdict.answers],
            "notes": list(verdict.notes),
        }
    )
    for answer in data["answers"]:
        answer["sentence"] = sentence(answer, data["margin"])
    return data


def _model(model: Model) -> Summary:
    return {"paths": [str(path) for path in model.paths], "model": model.name}


def _answer(answer: Answer) -> Summary:
    comparison = answer.comparison
    return {
        "name": answer.name,
        "kind": answer.kind,
        "tasks": list(answer.tasks),
        "metrics": list(dict.fromkeys(measure.metric for measure in answer.measures)),
        "filters": list(dict.fromkeys(measure.filter for measure in answer.measures)),
        "higher_is_better": answer.measures[0].higher,
        "perplexities": _perplexities(answer),
        "relation": answer.relation,
        "within_margin": None if answer.margin is None else answer.within_margin,
        "scores": list(answer.scores),
        "gain": answer.gain,
        "stderr": comparison.stderr,
        "by_items": comparison.by_items,
        "by_seeds": comparison.by_seeds,
        "interval": list(answer.interval),
        "items": answer.items,
        "won": answer.won,
        "lost": answer.lost,
        "runs": list(comparison.runs),
        "p": answer.p,
        "corrected": answer.corrected,
        "test": answer.test,
        "p_margin": answer.p_margin,
        "corrected_margin": answer.corrected_margin,
        "margin_test": answer.margin_test or None,
    }


def _perplexities(answer: Answer) -> list[float | None] | None:
    """Return the perplexities of A and B, exp(loss); None if the score is not a loss per token, word or byte."""
    (measure, *others), losses = answer.measures, [goal.name for goal in TEXT_LOSSES.values() if goal.in_nats]
    if others or not (measure.metric in losses or (measure.metric == LOSS.name and answer.tasks == (ROWS,))):
        return None
    return [perplexity(-loss) for loss in answer.scores]


def sentence(answer: Summary, margin: float | None) -> str:
    """Return an answer in one sentence, with the gain, its interval and its p-value.

    Args:
        answer: The answer in the summary.
        margin: The margin within which A may be worse; None if there is none.
    """
    where = "on the mean of the tasks" if answer["kind"] == "mean" else f"on {answer['name']}"
    within = "" if margin is None else f"the margin of {rounding.number(margin)}"
    p = f" ({rounding.chance(answer['corrected_margin'])} for the margin)" if within else ""
    says = {
        "better": f"A is BETTER than B {where}",
        "worse": f"A is WORSE than B {where}",
        "no worse": f"A is NO WORSE than B {where}, WITHIN {within.upper()}{p}",
        "open": f"A is NOT SHOWN to be better or worse than B {where}",
    }[answer["relation"]]
    if answer["relation"] == "worse" and answer["within_margin"]:
        says += f", but within {within}{p}"
    if answer["relation"] == "open" and within:
        says += f", nor to be no worse within {within}{p}"
    gain = rounding.difference(answer["gain"], answer["stderr"])
    interval = "" if answer["interval"][0] is None else f", 95 % interval {_interval(answer)}"
    return f"{says}: {_metric(answer)} gain {gain}{interval}, {rounding.chance(answer['corrected'])}."


def table(summary: Summary) -> Section:
    """Return the table of the answers, with notes on the tests."""
    answers, margin = summary["answers"], summary["margin"]
    corrected = len(answers) > 1
    heads = ["", "metric", "items", "A", "B", "gain", "95 % interval", "won, lost", "p"]
    heads += ["corrected"] * corrected + ["p of margin"] * (margin is not None) + ["answer"]
    rows = [
        [
            answer["name"],
            _metric(answer),
            f"{answer['items']:,}",
            *(rounding.score(score, answer["stderr"]) for score in answer["scores"]),
            rounding.difference(answer["gain"], answer["stderr"]),
            _interval(answer),
            f"{answer['won']:,}, {answer['lost']:,}",
            rounding.number(answer["p"], 2),
            *([rounding.number(answer["corrected"], 2)] if corrected else []),
            *([rounding.number(answer["corrected_margin"], 2)] if margin is not None else []),
            SHOWN[answer["relation"]],
        ]
        for answer in answers
    ]
    return Section("Model A over model B, on the same items", heads, rows, [*small_print(summary), *summary["notes"]])


def small_print(summary: Summary) -> list[str]:
    """Return sentences on the tests and on what they leave out."""
    answers, margin = summary["answers"], summary["margin"]
    lines = [
        f"Tests, two-sided: {_tests(answers, 'test')}. An answer needs p ≤ {summary['level']:g}; what is not shown may "
        "still be true."
    ]
    if margin is not None:
        lines.append(
            f"Tests of the margin, one-sided: {_tests(answers, 'margin_test')}. Their hypothesis is that A is "
            f"worse by {rounding.number(margin)} or more."
        )
    if len(answers) > 1:
        lines.append(
            f"All p-values except those under p are corrected after Holm for {len(answers)} answers, so that in at "
            "most one case of twenty any of the answers is false by chance. The intervals are not corrected."
        )
    for answer in answers:
        least = 2 * 0.5 ** answer["items"] * len(answers)
        if least > summary["level"]:
            lines.append(
                f"{answer['name']}: {several(answer['items'], 'item')} cannot show a difference, whatever the scores, "
                f"because p is at least {rounding.number(min(1.0, least), 2)}."
            )
        if answer["perplexities"] is not None:
            a, b = map(perplexity_words, answer["perplexities"])
            lines.append(f"{answer['name']}: the perplexity, exp(loss), is {a} for A and {b} for B.")
        if answer["won"] == answer["lost"] == 0:
            lines.append(f"{answer['name']}: A and B have the same score on every item.")
    for answer in answers:
        if len(answer["tasks"]) > 1 and answer["kind"] == "group":
            lines.append(f"{answer['name']} joins {len(answer['tasks'])} tasks, with the weights of its group.")
    return [*lines, _seed_words(answers[0]["runs"])]


def _seed_words(runs: list[int]) -> str:
    """Return whether the error includes training seeds."""
    if max(runs) == 1:
        return (
            "This is about two models, not two recipes: training with another seed would give another model, and the "
            "error does not include that. `--a` and `--b` take runs with other seeds."
        )
    many = [f"{several(count, 'run')} of {name}" for name, count in zip("AB", runs, strict=True) if count > 1]
    text = f"The error includes {listed(many)}, as runs that differ in their seed."
    alone = [name for name, count in zip("AB", runs, strict=True) if count == 1]
    return f"{text} {alone[0]} is one model, so the error does not include its seed." if alone else text


def show(summary: Summary, console: Console | None = None) -> None:
    """Print a verdict on two models.

    Args:
        summary: The verdict as plain data.
        console: The console to print to; standard output by default.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
        console.soft_wrap = True
    for name in ("a", "b"):
        model = summary[name]
        known = "" if model["model"] is None else f" ({model['model']})"
        console.print(line((f"{name.upper()} ", "bold"), f"{', '.join(model['paths'])}{known}"))
    console.print()
    for answer in summary["answers"]:
        console.print(text(answer["sentence"], STYLES[answer["relation"]]))
    console.print()
    tell([table(summary)], console)


def _metric(answer: Summary) -> str:
    return " and ".join(answer["metrics"]) + ("" if answer["higher_is_better"] else " (lower is better)")


def _tests(answers: list[Summary], key: str) -> str:
    """Return the names of the tests of all answers, each once."""
    return "; ".join(dict.fromkeys(answer[key] for answer in answers))


def _interval(answer: Summary) -> str:
    low, high = answer["interval"]
    return rounding.interval(low, high, answer["stderr"])
