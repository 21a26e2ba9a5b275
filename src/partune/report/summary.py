"""What a study found, from its record only: as data for scripts, as text for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from partune.config import baseline
from partune.record.record import Look, Record
from partune.report.rows import row_notes
from partune.report.words import progress
from partune.trial import Observation, Status, Trial
from partune.verdict.paired import Comparison, Verdict
from partune.verdict.winner import (
    Worths,
    best,
    confirmations,
    fresh_runs,
    is_judged,
    judge,
    last_look,
    pooled,
    reloaded,
    scoring,
    ships_fresh,
    what_items_show,
    worths,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Summary = dict[str, Any]

WIDTH = 140  # columns, where the output is no terminal


def summarise(record: Record) -> Summary:
    """The whole of a study as plain data; every number that `show` prints is in it.

    base, defaults, best: each None, or config, score and stderr (search items), verdict (verdict items) and test.
    no_verdict: why a study that compares with a base has no verdict, in one sentence; None where it has one.
    """
    trials, anchors = record.trials(), record.anchors()
    worth = worths(trials, record.space, record.noisy)
    winner = best(trials, anchors, worth)
    judged = anchors["winner"] if winner is not None and is_judged(winner, anchors) else None
    found = judge(record, winner)
    return {
        "directory": None if record.directory is None else str(record.directory),
        "algorithm": record.header["algorithm"],
        "seed": record.header["seed"],
        "budget": record.budget,
        "space": record.space.describe(),
        "versions": dict(record.header["versions"]),
        "loaded": dict(record.loaded),
        "base": _scored(anchors.get("base")),
        "defaults": _defaults(anchors.get("defaults")),
        "best": None if winner is None else _best(winner, worth, judged, record),
        "confirmed": _confirmed(trials, anchors, worth),
        "fresh": None if winner is None else _fresh(winner, anchors, last_look(record, winner)),
        "equal": equal_score(trials),
        "smallest_gain": None if (limits := what_items_show(record)) is None else limits.gain,
        "verdict": None if found is None else _verdict(found),
        "no_verdict": _no_verdict(record, winner) if found is None and "base" in anchors else None,
        "reloaded": _reloaded(reloaded(winner, anchors)),
        "seconds": _seconds(trials, anchors),
        "utilisation": utilisation(trials),
        "trials": [_row(trial) for trial in trials],
    }


def show(summary: Summary, console: Console | None = None) -> None:
    """Prints the summary: the trials, then the table of base, defaults and best, the verdict last."""
    from partune.runtime.console import Console, text

    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
        console.soft_wrap = True
    for part in _page(summary):
        console.print(text(part) if isinstance(part, str) else part)


def brief(summary: Summary) -> str:
    """The line that matters most: the verdict, else the best score, else that there is none."""
    if summary["verdict"] is not None:
        equal = f"{equal_words(summary)} " if summary["equal"] is not None else ""
        return f"{equal}Verdict: {summary['verdict']['sentence']}{lost_words(summary)}"
    if (best := summary["best"]) is not None:
        unjudged = "" if summary["no_verdict"] is None else f". {summary['no_verdict']}"
        return f"Best: trial {best['trial']}, {score_words(best['score'], best['stderr'])}{unjudged}"
    return "No trial has a score."


# ----- as data


def _scored(trial: Trial | None) -> Summary | None:
    if trial is None or trial.observation is None:
        return None
    scores = trial.observation.scores
    return {
        "config": dict(trial.config),
        "status": str(trial.status),
        "score": scores.get("score"),
        "stderr": trial.observation.stderr,
        "verdict": _on_verdict_items(scores),
        "test": _test(scores),
        "error": trial.observation.error,
    }


def _defaults(trial: Trial | None) -> Summary | None:
    """called: what they are, where a setting that was given is in the place of one of the field's."""
    summary = _scored(trial)
    return None if summary is None else summary | {"called": baseline(summary["config"])}


def defaults_called(summary: Summary) -> str:
    """Return what a study's defaults are called."""
    return "the field's defaults" if summary["defaults"] is None else str(summary["defaults"]["called"])


def _best(winner: Trial, worth: Worths, judged: Trial | None, record: Record) -> Summary:
    summary = _scored(winner)
    assert summary is not None
    fresh = judged is not None and ships_fresh(record.anchors())
    folder = None if record.directory is None else record.adapter("winner" if fresh else winner.number)
    summary["trial"] = winner.number
    summary["ships"] = "fresh" if fresh else "first"
    summary["worth"] = worth[winner.number]
    summary["adapter"] = str(folder) if folder is not None and folder.is_dir() else None
    summary["shipped"] = None
    if judged is not None and judged.observation is not None:
        summary["shipped"] = {"score": judged.observation.scores.get("score"), "stderr": judged.observation.stderr}
        summary["verdict"] = _on_verdict_items(judged.observation.scores)
        summary["test"] = _test(judged.observation.scores)
    return summary


def _reloaded(again: Trial | None) -> Summary | None:
    """What came of loading the winner's adapter from disk once more, as others will."""
    if again is None or again.observation is None:
        return None
    return {"same": again.status is Status.DONE, "words": reloaded_words(again.observation)}


def reloaded_words(observation: Observation) -> str:
    """Return in words whether an adapter, loaded from disk by PEFT, answers as it was scored."""
    if observation.error is None:
        return f"PEFT loads it from disk, and {observation.scores['items']:g} items have the scores on record"
    return f"loaded from disk by PEFT, it is not what was scored: {observation.error}"


def lost_words(summary: Summary) -> str:
    """Return what is wrong with the winner's adapter, to follow the verdict; nothing where nothing is known to be."""
    again = summary["reloaded"]
    return "" if again is None or again["same"] else f" But do not rely on the winner's adapter: {again['words']}."


def _confirmed(trials: list[Trial], anchors: Mapping[str, Trial], worth: Worths) -> list[Summary]:
    """Of each trial that ran again, by falling first score: its scores, None where a run failed."""
    found = [(trials[number], again) for number, again in confirmations(anchors).items()]
    return [
        {
            "trial": trial.number,
            "score": trial.score,
            "again": [each.score if each.status is Status.DONE else None for each in again],
            "pooled": mean if math.isfinite(mean := pooled(worth[trial.number], again)) else None,
        }
        for trial, again in sorted(found, key=lambda each: (-each[0].score, each[0].number))
    ]


def _fresh(winner: Trial, anchors: Mapping[str, Trial], look: Look | None) -> Summary:
    """Return the scores on the verdict items of the fresh runs that the verdict counts; None for one that failed."""
    look = look or Look(winner.number, 0, 0)

    def scores(runs: list[Trial]) -> list[float | None]:
        return [_verdict_score(run) for run in runs]

    return {
        "winner": scores(fresh_runs(anchors, winner.number)[: look.seeds]),
        "defaults": scores(fresh_runs(anchors, "defaults")[: look.defaults]),
    }


def _verdict_score(run: Trial) -> float | None:
    done = run.status is Status.DONE and run.observation is not None
    return run.observation.scores.get("verdict") if done and run.observation is not None else None


def equal_score(trials: list[Trial]) -> float | None:
    """Return the score that all trials have, to the last digit; None where they differ or only one has any."""
    scores = [trial.score for trial in trials if trial.status is Status.DONE]
    return scores[0] if len(scores) > 1 and len(set(scores)) == 1 else None


def _on_verdict_items(scores: Mapping[str, float]) -> Summary | None:
    return {"score": scores["verdict"], "stderr": scores.get("verdict_stderr")} if "verdict" in scores else None


def _test(scores: Mapping[str, float]) -> Summary:
    """Return the test tasks' scores, by task: score and stderr; none of a task whose score is no number."""
    found: Summary = {}
    for name, value in scores.items():
        part, _, task = name.partition("/")
        metric = name.rpartition("/")[0] in scores  # one of a task's: a task's name may have a slash itself
        if part == "test" and f"{name}_stderr" in scores and not metric and math.isfinite(value):
            found[task] = {"score": value, "stderr": scores[f"{name}_stderr"]}
    return found


def _no_verdict(record: Record, winner: Trial | None) -> str:
    """Say why there is no verdict on a winner, and what leads to one."""
    if winner is None:
        return "No verdict: no trial has a score."
    scored = scoring(winner, record.anchors())
    if scored is not None and scored.observation is not None and scored.observation.error is not None:
        failed = f"scoring the winner, trial {winner.number}, on the verdict items failed"
        return f"No verdict: {failed} ({scored.observation.error}); partune resume tries again."
    trials = record.trials()
    if len(trials) < (record.budget or 0) or not all(trial.status.final for trial in trials):
        return "No verdict yet: the winner is judged when the study has run its budget."
    return "No verdict yet: runs and scores for it are missing; where nothing runs any more, partune resume goes on."


def _verdict(found: Verdict) -> Summary:
    return {
        "better_than": list(found.better_than),
        "worse_than": list(found.worse_than),
        "use_defaults": found.use_defaults,
        "sentence": found.sentence,
        "seeds": found.seeds,
        "failed": found.failed,
        "look": found.look,
        "level": found.over_base.level,
        "over_base": _comparison(found.over_base),
        "over_defaults": None if found.over_defaults is None else _comparison(found.over_defaults),
    }


def _comparison(comparison: Comparison) -> Summary:
    return {
        "gain": comparison.gain,
        "stderr": comparison.stderr if math.isfinite(comparison.stderr) else None,
        "interval": [end if math.isfinite(end) else None for end in comparison.interval],
        "relation": comparison.relation,
        "p": comparison.p,
        "p_worse": comparison.p_worse,
        "df": comparison.df if math.isfinite(comparison.df) else None,
        "runs": list(comparison.runs),
        "by_items": comparison.by_items if math.isfinite(comparison.by_items) else None,
        "by_seeds": comparison.by_seeds,
        "items": comparison.items,
        "test": comparison.test,
    }


def _row(trial: Trial) -> Summary:
    observation = trial.observation
    return {
        "id": trial.number,
        "config": dict(trial.config),
        "status": str(trial.status),
        "fidelity": None if observation is None else observation.fidelity,
        "score": None if observation is None else observation.scores.get("score"),
        "stderr": None if observation is None else observation.stderr,
        "seconds": None if observation is None else observation.cost.get("seconds"),
        "error": None if observation is None else observation.error,
        "test": {} if observation is None else _test(observation.scores),
        "attempts": trial.attempts,
    }


def _seconds(trials: list[Trial], anchors: Mapping[str, Trial]) -> Summary:
    return {
        "trials": _total(trials, "seconds"),
        "training": _total(trials, "train_seconds"),
        "scoring": _total(trials, "score_seconds"),
        "anchors": _total(anchors.values(), "seconds"),
        "workers": _total(trials, "worker_seconds"),
        "search": _total(trials, "search_seconds"),
    }


def utilisation(trials: Iterable[Trial]) -> float | None:
    """Busy / (workers x makespan) of the search, as `partune bench scaling` has it; None where that is not on record.

    busy: seconds of the trials that ended; of a pack's trials each has its share of the pack's.
    workers x makespan: the seconds for which workers were there, from a run's first ask to the last result that it
    told. Each result has with it what was added since the one before ("worker_seconds"), so that workers may come and
    go, and the runs of a resumed study, and several drivers, add up. Between them nothing counts; work that was lost
    with a worker counts as idle.
    """
    known = [trial for trial in trials if trial.observation is not None and "worker_seconds" in trial.observation.cost]
    there = _total(known, "worker_seconds")
    return _total(known, "seconds") / there if there > 0 else None


def _total(trials: Iterable[Trial], name: str) -> float:
    return math.fsum(trial.observation.cost.get(name, 0.0) for trial in trials if trial.observation is not None)


# ----- as text


def _page(summary: Summary) -> list[RenderableType]:
    from partune.runtime.console import text

    page: list[RenderableType] = []
    if summary["equal"] is not None:
        page.append(text(equal_words(summary), "bold"))
    page.append(_trials_table(summary["trials"], summary["best"]))
    if summary["base"] is not None:
        page.append(_anchors_table(summary))
        if summary["defaults"] is not None and summary["defaults"]["called"] != baseline({}):
            page.append(f"Here the defaults are {summary['defaults']['called']}.")
    if (found := summary["best"]) is not None:
        score = "" if summary["base"] is not None else f", {score_words(found['score'], found['stderr'])}"
        page.append(f"Best: trial {found['trial']}{score}: {words(found['config'])}{_luck_words(summary)}")
    if summary["confirmed"]:
        page.append(_confirmed_words(summary["confirmed"]))
    page += [text(note) for note in row_notes(summary["loaded"].get("data", {}))]
    page.append(_spent(summary))
    for targets, covered in summary["loaded"].get("adapted", {}).items():
        page.append(text(f"Targets {targets}: {coverage_words(covered)}."))
    if summary["verdict"] is not None:
        page += [text("Verdict: " + summary["verdict"]["sentence"], "bold"), text("  " + small_print(summary))]
        if lost := lost_words(summary):
            page.append(text(lost.strip(), "bold red"))
        page += [text(line) for line in advice(summary)]
    elif summary["no_verdict"] is not None:
        page.append(summary["no_verdict"])
    if summary["best"] is not None and summary["best"].get("adapter"):
        page.append(f"Best adapter: {summary['best']['adapter']}")
        if summary["reloaded"] is not None and summary["reloaded"]["same"]:
            page.append(f"  {summary['reloaded']['words']}")
    return page


def _trials_table(rows: list[Summary], winner: Summary | None) -> RenderableType:
    from partune.runtime.console import table, text

    if not rows:
        return "No trials yet."
    names = list(dict.fromkeys(name for row in rows for name in row["config"]))
    headers = [name.replace("_", " ") for name in names]  # so that they can be broken
    shown = table(["trial", "score", *headers, "seconds", ""], box=None)
    for column in shown.columns[:-1]:
        column.justify = "right"
    for row in rows:
        mark = "best" if winner is not None and row["id"] == winner["trial"] else ""
        shown.add_row(
            str(row["id"]),
            "" if row["score"] is None else score_words(row["score"], row["stderr"]),
            *(text(value_words(row["config"].get(name, ""))) for name in names),
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
            text(mark or remark(row)),
            style="bold green" if mark else ("red" if row["status"] == Status.FAILED else None),
        )
    return shown


def remark(row: Summary) -> str:
    """What a row's last column says of a trial that did not simply end."""
    if row["status"] == Status.STOPPED:
        return f"stopped at {row['fidelity']:.0%}"
    return str(row["error"] or row["status"]) if row["status"] != Status.DONE else ""


def _anchors_table(summary: Summary) -> RenderableType:
    from rich.box import SIMPLE_HEAD

    from partune.runtime.console import table, text

    rows = {"base": summary["base"], "defaults": summary["defaults"], "best": summary["best"]}
    tests = list(dict.fromkeys(name for row in rows.values() if row for name in row["test"]))
    headers = ("", "search items", "verdict items", *(f"test: {name}" for name in tests))
    shown = table(headers, box=SIMPLE_HEAD)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        if row is None:
            continue
        shown.add_row(
            name,
            text(row["error"]) if row["score"] is None else score_words(row["score"], row["stderr"]),
            "" if row["verdict"] is None else score_words(**row["verdict"]),
            *(score_words(**row["test"][test]) if test in row["test"] else "" for test in tests),
        )
    return shown


def better_defaults(summary: Summary) -> str:
    """Return what to do where the defaults are shown better than the winner and than the base."""
    called = defaults_called(summary)
    return (
        f"{called[0].upper()}{called[1:]} are shown better than the winner and than the base: use them "
        "(partune export --defaults), or search on."
    )


def luckiest(summary: Summary) -> Summary | None:
    """The row of the best score, where that is not the winner and nothing was confirmed."""
    scored = [row for row in summary["trials"] if row["status"] == Status.DONE]
    first = max(scored, key=lambda row: row["score"], default=None)
    return None if first is None or first["score"] == summary["best"]["score"] or summary["confirmed"] else first


def _luck_words(summary: Summary) -> str:
    """Why the winner is not the best score."""
    first = luckiest(summary)
    if first is None:
        return ""
    return f". Trial {first['id']} scored {first['score']:.4f}, more of it by luck, judging by the trials around both."


def _confirmed_words(rows: list[Summary]) -> str:
    """The further runs, and the winner's curse: first scores less those of the next run, which chose nobody before."""
    told = []
    for row in rows:
        again = ["failed" if score is None else f"{score:.4f}" for score in row["again"]]
        told.append(f"trial {row['trial']} {row['score']:.4f}, then {', '.join(again)}")
    lost = [row["score"] - row["again"][0] for row in rows if row["again"][0] is not None]
    mean = sum(lost) / len(lost) if lost else 0.0
    curse = f" The first scores were {mean:.4f} too good on average (the winner's curse)." if mean > 0 else ""
    return f"Again with fresh seeds: {'; '.join(told)}.{curse}"


def _spent(summary: Summary) -> str:
    seconds, rows = summary["seconds"], summary["trials"]
    counts = {status: sum(row["status"] == status for row in rows) for status in Status}
    ended = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "none"
    open_trials = [row for row in rows if not Status(row["status"]).final]
    short = summary["budget"] is not None and (open_trials or len(rows) < summary["budget"])
    said = progress([Status(row["status"]) for row in rows], summary["budget"]) if short else f"{len(rows)} trials"
    text = f"{said} ({ended}) by {summary['algorithm']}: {span(seconds['trials'])}"
    if seconds["training"]:
        text += f" (training {span(seconds['training'])}, scoring {span(seconds['scoring'])})"
    if summary["utilisation"] is not None:
        text += f"; workers busy for {summary['utilisation']:.0%} of the search"
    if seconds["anchors"]:
        text += f"; anchors and verdict: {span(seconds['anchors'])}"
    return text + "."


def small_print(summary: Summary) -> str:
    """Say which test the verdict is by, and what it is about."""
    over = summary["verdict"]["over_base"]
    return f"{over['test']}, on {over['items']} items that no optimiser saw; it {seed_words(summary)}"


def seed_words(summary: Summary) -> str:
    """Say what the verdict's test is about: seeds are in its error, or how to have them there; and which look it is."""
    verdict = summary["verdict"]
    if verdict["seeds"]:
        defaults = verdict["over_defaults"]
        against = "" if defaults is None else f" and {defaults['runs'][1]} of the defaults"
        text = (
            f"is about the hyperparameters: {verdict['seeds']} fresh runs of the winner{against}, with other seeds of "
            "initialisation, dropout and data order, are in its error."
        )
    elif verdict["failed"]:
        text = "is about one adapter of each, as all fresh runs of the winner failed."
    else:
        text = (
            "leaves out how much another training seed would change the winner: partune resume --seeds 4 puts that "
            "into its error."
        )
    return (
        f"{text} This is look {verdict['look']} at the study, held against p = {verdict['level']:.3g}, so that all "
        'looks together say "better" by chance in one study of twenty at most.'
    )


def advice(summary: Summary) -> list[str]:
    """Return what follows from the verdict: the adapter that ships among its sisters, and when to take the defaults."""
    lines = []
    if (fresh := summary["fresh"]) is not None and fresh["winner"]:
        lines.append(_fresh_words(summary))
    if "base" in summary["verdict"]["worse_than"]:
        lines.append(
            "Do not use the winner: the untouched base is better (partune export refuses it without --anyway)."
        )
    if summary["verdict"]["use_defaults"]:
        lines.append(better_defaults(summary))
    return lines


def _fresh_words(summary: Summary) -> str:
    best, fresh, defaults = summary["best"], summary["fresh"], summary["defaults"]
    first = None if defaults is None or defaults["verdict"] is None else defaults["verdict"]["score"]
    told = [f"winner {_listed(fresh['winner'])}"]
    if fresh["defaults"]:
        told.append(f"defaults {_listed(fresh['defaults'], first)}")
    text = f"Fresh runs on the verdict items: {'; '.join(told)}. The verdict compares means, tables have one adapter."
    if best is None or best["verdict"] is None:
        return text
    own = best["verdict"]["score"]
    sisters = [score for score in fresh["winner"] if score is not None]
    if best["ships"] == "first":
        runs, which = [*sisters, own], "of the winner's first run"
    else:
        which = f"of a fresh run of the winner that was chosen by its {best['shipped']['score']:.4f} on search items"
        runs = sisters
    rank = 1 + sum(score > own for score in runs)
    return f"{text} The adapter that ships, {which}, has {own:.4f}: number {rank} of {len(runs)} runs."


def _listed(scores: list[float | None], first: float | None = None) -> str:
    """List scores of runs and their mean. first: of a run that counts as well, and was not a fresh one."""
    listed = ", ".join("failed" if score is None else f"{score:.4f}" for score in scores)
    counted = [score for score in (first, *scores) if score is not None]
    if not counted:
        return listed
    counts = "mean" if first is None else f"mean with the first run's {first:.4f}:"
    return f"{listed} ({counts} {sum(counted) / len(counted):.4f})"


def equal_words(summary: Summary) -> str:
    """Say that all scores are the same, and what that can mean."""
    count = sum(row["status"] == Status.DONE for row in summary["trials"])
    base = summary["base"]
    same = " and the untouched base's" if base is not None and base["score"] == summary["equal"] else ""
    return (
        f"All {count} scores{same} are equal to the last digit ({summary['equal']:.4f}): these items do not tell the "
        "trials apart, or training changes nothing (learning rates too low, too few steps)."
    )


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
