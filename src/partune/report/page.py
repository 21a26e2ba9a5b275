"""The report as one HTML file: no request leaves it, it works offline, in light and dark, on a phone.

Everything that comes from a study is escaped where it is set into the page. Should that ever fail, nothing runs but
the two scripts whose hashes the page's own policy names, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from partune.report import figures, sentences, words
from partune.report.facts import Facts, counts
from partune.report.figures import Figure
from partune.report.summary import remark
from partune.trial import Config, Status, Trial

PAIRS = 3  # of hyperparameters, shown without asking
MOST_PAIRS = 15
ROOM = 78  # pixels between two parallel axes, at least
LONG = 45  # characters of a table's cell that is broken into lines


def page(facts: Facts, refresh: float | None = None) -> str:
    """The whole file's text. refresh: seconds after which a browser reads it again."""
    return _Page(facts).text(refresh)


class _Page:
    """Collects the figures while the sections are written."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.figures: dict[str, Figure] = {}

    def text(self, refresh: float | None) -> str:
        sections: dict[str, tuple[str, Callable[[], str]]] = {
            "verdict": ("Verdict", self.verdict),
            "comparison": ("Base, defaults, winner", self.comparison),
            "scores": ("Score over trials", self.scores),
            "hyperparameters": ("Hyperparameters over trials", self.hyperparameters),
            "parallel": ("All trials at once", self.parallel),
            "importance": ("What matters", self.importance),
            "slices": ("What the surrogate expects", self.slices),
            **({"partition": ("Cells of the search", self.partition)} if self.facts.partition is not None else {}),
            "overfitting": ("Validation against test", self.overfitting),
            "cost": ("Time and cost", self.cost),
            "failures": ("Failures", self.failures),
            "repeat": ("Repeat it", self.repeat),
            "trials": ("Every trial", self.trials),
        }
        body = "".join(
            f'<section id="{name}"><h2>{title}</h2>{write()}</section>' for name, (title, write) in sections.items()
        )
        links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items())
        data = {
            "figures": self.figures,
            "trials": [_hover(trial) for trial in self.facts.trials],
            "places": {name: self._places(name) for name in self.facts.space.names},
        }
        stored = "".join(
            f'<script type="application/json" id="{name}-data">{_json(each)}</script>' for name, each in data.items()
        )
        plotly, script = _asset("plotly/plotly-cartesian.min.js"), _asset("page.js")
        name = escape(self.facts.name)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_policy([plotly, script])}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{name}: partune report</title>\n<style>{_asset('page.css')}</style>\n</head>\n"
            f'<body data-refresh="{refresh or 0:g}">\n{self.header()}\n<nav aria-label="Sections">{links}</nav>\n'
            f"<main>{body}</main>\n{self.footer()}\n{stored}\n"
            f'<script type="text/plain" id="plotly">{plotly}</script>\n<script>{script}</script>\n</body>\n</html>\n'
        )

    # ----- around the sections

    def header(self) -> str:
        summary = self.facts.summary
        line = (
            f"{len(self.facts.trials):,} of {words.several(self.facts.budget, 'trial')} ({counts(self.facts.trials)}) "
            f"by {summary['algorithm']}, seed {summary['seed']}"
        )
        return f'<header><h1>Study {escape(self.facts.name)}</h1><div class="soft">{escape(line)}</div></header>'

    def footer(self) -> str:
        version = self.facts.summary["versions"].get("partune", "")
        return f'<footer class="soft">Written by partune {escape(version)} from the study\'s record.</footer>'

    # ----- the sections, in their order

    def verdict(self) -> str:
        text, kind = sentences.badge(self.facts)
        parts = [f'<span class="badge {kind}">{escape(text)}</span>']
        parts.append(f'<p class="headline">{escape(sentences.headline(self.facts))}</p>')
        if self.facts.winner is not None:
            parts.append(_table(["winner's hyperparameter", "value"], _settings(self.facts.winner.config)))
        parts += [_p(text) for text in sentences.remarks(self.facts)]
        if self.facts.summary["best"] is not None and self.facts.summary["best"]["adapter"]:
            parts.append(f"<p>Its adapter: <code>{escape(self.facts.summary['best']['adapter'])}</code></p>")
        return "".join(parts)

    def comparison(self) -> str:
        if not self.facts.scored:
            return _p("Nothing has a score.")
        headers, rows = sentences.standing(self.facts)
        text = _table(headers, rows, numbers=range(1, len(headers)))
        if self.facts.summary["base"] is None:
            return text + _p("This objective has no base model, so there are no base and no defaults.", "soft")
        text += _p(
            "Scores and standard errors. The search items chose the winner, so its score there is too good.", "soft"
        )
        if tested := sentences.comparisons(self.facts):
            text += "<h3>How sure, on the verdict items</h3>" + _table(sentences.COMPARED, tested, numbers=(1, 2, 3))
        return text

    def scores(self) -> str:
        caption = "Higher is better."
        if any(trial.observation is not None and trial.observation.stderr for trial in self.facts.done):
            caption += " Bars are standard errors, of the items that were scored."
        text = self._figure("scores", figures.scores(self.facts), 440, "Score over trials", caption)
        if confirmed := self.facts.summary["confirmed"]:
            rows = [
                (
                    f"trial {row['trial']}",
                    words.measured(row["score"], self._stderr(row["trial"])),
                    ", ".join(self._again(row["trial"])),
                )
                for row in confirmed
            ]
            text += "<h3>Again, with fresh seeds</h3>" + _table(
                ["", "first score", "further scores"], rows, numbers=(1,)
            )
            text += _p(sentences.curse(self.facts))
        return text

    def hyperparameters(self) -> str:
        text = "".join(f'<p class="note">{escape(hint)}</p>' for hint in self.facts.hints)
        if self.facts.winner is not None and not text:
            text = _p("The winner is at no bound of its range.")
        text += self._ramp()
        plots = [
            f"<div><h3>{escape(name)}</h3>"
            + self._figure(f"over-{k}", figures.over_trials(self.facts, name), 260, f"{name} over trials")
            + "</div>"
            for k, name in enumerate(self.facts.space.names)
        ]
        return f'{text}<div class="pair">{"".join(plots)}</div>'

    def parallel(self) -> str:
        if not self.facts.done:
            return _p("No trial has a score yet.")
        caption = "A line is a trial; click on a group in the legend to hide it, twice to see it alone."
        wide = ROOM * (len(self.facts.space.names) + 1)
        return self._figure("parallel", figures.parallel(self.facts), 420, "Parallel coordinates", caption, wide)

    def importance(self) -> str:
        text = _p(" ".join(sentences.importance(self.facts)))
        if (found := self.facts.importance) is None:
            return text
        height = 90 + 34 * len(found.shares)
        return (
            self._figure("importance", figures.importances(found), height, "Importance of the hyperparameters") + text
        )

    def slices(self) -> str:
        model = self.facts.model
        if model is None:
            return _p("A Gaussian process through the scores takes four of them.")
        names = [name for name in self.facts.leading if name in model.names]
        pairs = list(itertools.combinations(names, 2))
        pairs.sort(key=lambda pair: max(map(names.index, pair)))
        if not pairs:
            return _p("It takes two hyperparameters for a plane.")
        plots = []
        for k, (across, up) in enumerate(pairs[:MOST_PAIRS]):
            plane = model.plane(across, up)
            label = f"{across} and {up}"
            mean = self._figure(f"mean-{k}", figures.plane(self.facts, plane, False), 320, f"Mean over {label}")
            std = self._figure(f"std-{k}", figures.plane(self.facts, plane, True), 320, f"Uncertainty over {label}")
            title = f"{escape(across)} × {escape(up)}"
            plots.append(
                f'<div class="pair"><div><h3>{title}: mean</h3>{mean}</div>'
                f"<div><h3>± one standard deviation</h3>{std}</div></div>"
            )
        text = _p(
            "A Gaussian process through the scores, cut at the winner (star): the other hyperparameters are the "
            "winner's. Dots are all trials, also those beside the cut."
        )
        more = "".join(plots[PAIRS:])
        return text + "".join(plots[:PAIRS]) + (_details(f"{len(plots) - PAIRS} more pairs", more) if more else "")

    def partition(self) -> str:
        found = self.facts.partition
        assert found is not None
        names = self.facts.leading
        plots = []
        for k, (across, up) in enumerate(itertools.combinations(names[:PAIRS], 2)):
            figure = figures.cells(self.facts, found, across, up)
            title = f"{escape(across)} × {escape(up)}"
            plots.append(
                f"<div><h3>{title}</h3>{self._figure(f'cells-{k}', figure, 340, f'Cells over {across} and {up}')}</div>"
            )
        if found.depths:
            figure = figures.depths(found)
            plots.append(
                f"<div><h3>Depth over trials</h3>{self._figure('depths', figure, 340, 'Depth over trials')}</div>"
            )
        what = (
            "Regions of the decomposition, seen along the other hyperparameters."
            if found.round
            else "The cells that a plane through the winner cuts, shaded by the score that each is ranked by."
        )
        return (
            _p(f"{what} {len(found.regions):,} in all. Dots are all trials.")
            + f'<div class="pair">{"".join(plots)}</div>'
        )

    def overfitting(self) -> str:
        notes = sentences.overfitting(self.facts)
        flagged = bool(self.facts.overfitting)
        text = "".join(f'<p class="note">{escape(note)}</p>' if flagged else _p(note) for note in notes)
        if self.facts.summary["base"] is None:
            return text
        text += self._figure("sides", figures.sides(self.facts), 380, "Base, defaults and winner on all items")
        for k, task in enumerate(self.facts.tests):
            if sum(task in row["test"] for row in self.facts.summary["trials"]) > 1:
                caption = sentences.agreement(self.facts, task)
                figure = figures.against_test(self.facts, task)
                text += f"<h3>{escape(task)}</h3>" + self._figure(
                    f"test-{k}", figure, 380, f"Scores against {task}", caption
                )
        return text

    def cost(self) -> str:
        if not self.facts.parts:
            return _p("Nothing has run yet.")
        text = _p(sentences.cost(self.facts))
        text += self._figure("spent", figures.spent(self.facts.parts), 150, "The study's time")
        text += _table(*sentences.time_table(self.facts), numbers=(1, 2))
        if self.facts.done:
            figure = figures.over_time(self.facts)
            text += "<h3>Best score for the time</h3>" + self._figure("over-time", figure, 300, "Best score over time")
        return text

    def failures(self) -> str:
        text = _p(sentences.failures(self.facts))
        if not self.facts.failures:
            return text
        rows = [
            (failure.cause, len(failure.trials), _numbers(failure.trials), _inline(failure.config))
            for failure in self.facts.failures
        ]
        return text + _table(["cause", "trials", "which", "the first one's hyperparameters"], rows, numbers=(1,))

    def repeat(self) -> str:
        summary = self.facts.summary
        settings = f"<pre>{escape(sentences.settings(self.facts))}</pre>"
        if self.facts.config is not None:
            text = _p("Save this as study.yaml and run it again with the versions below:")
            text += f"<pre>partune tune study.yaml --name again</pre>{settings}"
        else:
            text = _p(
                "The study was started from Python: "
                "Study(Space.parse(space), objective, algorithm, seed, options=options).run(budget)."
            )
            text += settings
        if summary["loaded"]:
            text += f"<h3>What was loaded</h3><pre>{escape(sentences.yaml_text(summary['loaded']))}</pre>"
        return text + "<h3>Versions</h3>" + _table(["package", "version"], summary["versions"].items())

    def trials(self) -> str:
        facts = self.facts
        if not facts.trials:
            return _p("No trial yet.")
        names = facts.space.names
        body = []
        for row in facts.summary["trials"]:
            best = facts.winner is not None and row["id"] == facts.winner.number
            kind = "winner" if best else "failed" if row["status"] == Status.FAILED else ""
            seconds = words.NONE if row["seconds"] is None else f"{row['seconds']:.1f}"
            values = [words.value(row["config"][name]) if name in row["config"] else words.NONE for name in names]
            cells = [row["id"], _measured(row), *values, seconds, "winner" if best else remark(row)]
            body.append((kind, cells))
        headers = ["trial", "score", *names, "seconds", ""]
        table = _table(headers, [cells for _, cells in body], range(len(headers) - 1), [kind for kind, _ in body])
        return _details(f"All {words.several(len(body), 'trial')}", table)

    # ----- pieces

    def _figure(self, name: str, figure: Figure, height: int, label: str, caption: str = "", wide: int = 0) -> str:
        """A place for a figure, which the page's script draws; on a screen of fewer than `wide` pixels it scrolls."""
        self.figures[name] = figure
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        style = f"height:{height}px" + (f";min-width:{wide}px" if wide else "")
        plot = f'<div class="plot" data-figure="{name}" role="img" aria-label="{escape(label)}" style="{style}"></div>'
        scrolling = f'<div class="scroll">{plot}</div>' if wide else plot
        return f"<figure>{scrolling}{below}</figure>"

    def _places(self, name: str) -> list[float | None]:
        """Where a hyperparameter is on its axis, by trial."""
        encode = self.facts.space.hyperparameters[name].encode
        return [round(encode(trial.config[name]), 4) if name in trial.config else None for trial in self.facts.trials]

    def _ramp(self) -> str:
        if not self.facts.done:
            return ""
        low, high = figures.ends([trial.score for trial in self.facts.done])
        return (
            f'<p class="ramp">score ≤ {words.number(low, 3)} <i></i> {words.number(high, 3)}; '
            "crosses failed, the star is the winner</p>"
        )

    def _stderr(self, number: int) -> float | None:
        observation = self.facts.trials[number].observation
        return None if observation is None else observation.stderr

    def _again(self, number: int) -> list[str]:
        return [
            words.measured(each.score, each.observation.stderr)
            if each.status is Status.DONE and each.observation is not None
            else "failed"
            for each in self.facts.again.get(number, [])
        ]


# ----- HTML


def _p(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Iterable[int] = (),
    kinds: Iterable[str] | None = None,
) -> str:
    """numbers: the columns that are set to the right; kinds: a class for each row."""
    right = set(numbers)

    def row(cells: Sequence[object], tag: str, kind: str = "") -> str:
        texts = [str(cell) for cell in cells]
        looks = ["n" if k in right else "long" if len(text) > LONG else "" for k, text in enumerate(texts)]
        inside = "".join(
            f'<{tag} class="{look}">{escape(text)}</{tag}>' if look else f"<{tag}>{escape(text)}</{tag}>"
            for text, look in zip(texts, looks, strict=True)
        )
        return f'<tr class="{kind}">{inside}</tr>' if kind else f"<tr>{inside}</tr>"

    body = "".join(row(cells, "td", kind) for cells, kind in zip(rows, kinds or itertools.repeat(""), strict=False))
    return f'<div class="scroll"><table><thead>{row(headers, "th")}</thead><tbody>{body}</tbody></table></div>'


def _measured(row: Mapping[str, Any]) -> str:
    return words.measured(row["score"], row["stderr"])


def _settings(config: Config) -> list[tuple[str, str]]:
    return [(name, words.value(given)) for name, given in config.items()]


def _inline(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {words.value(given)}" for name, given in config.items())


def _numbers(trials: Sequence[int], most: int = 20) -> str:
    shown = ", ".join(map(str, trials[:most]))
    return shown if len(trials) <= most else f"{shown}, …"


def _hover(trial: Trial) -> str:
    """What is said of a trial where the pointer is on it, as Plotly's markup."""
    score = ""
    if trial.observation is not None and trial.status is not Status.FAILED:
        score = f": {words.measured(trial.score, trial.observation.stderr)}"
    lines = [f"<b>trial {trial.number}</b>{score}", *(f"{k} {words.value(v)}" for k, v in _plain(trial.config).items())]
    if trial.status is not Status.DONE:
        lines.append(str(trial.status))
    return "<br>".join(lines)


def _plain(config: Config) -> dict[str, Any]:
    return {figures.plain(k): figures.plain(v) if isinstance(v, str) else v for k, v in config.items()}


def _json(data: Any) -> str:
    """For a script element: nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_number)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _number(value: Any) -> Any:
    """NumPy's numbers."""
    return value.item()


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is loaded; these scripts run, and no others."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


def _asset(name: str) -> str:
    return resources.files("partune.report").joinpath(name).read_text(encoding="utf-8")
