"""Write a study's report as one HTML file, section by section.

All texts from a study are escaped when they are put into the page (`partune.report.html.document`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from partune.report import figures, sentences, words
from partune.report.answers import CAPTION, answer_table
from partune.report.data_notes import loaded_notes
from partune.report.facts import Facts, counts
from partune.report.figures import Figure
from partune.report.html.document import details, document, figure_slot, paragraph, table
from partune.report.labels import confusions
from partune.report.verdict_words import curse_words, fixed_words, sources
from partune.report.words import remark, score_of
from partune.runtime import rounding
from partune.trial import Config, Status, Trial
from partune.trial.goals import LOSS, Goal

PAIRS = 3  # the number of pairs of hyperparameters that are shown before a click opens the others
MOST_PAIRS = 15
ROOM = 78  # the smallest distance between two parallel axes, in pixels


def page(facts: Facts, refresh: float | None = None) -> str:
    """Return a study's report as the text of one HTML file.

    Args:
        facts: The facts of the study.
        refresh: The seconds after which a browser reloads the page; None for never.
    """
    return Page(facts).text(refresh)


class Page:
    """Write a page's sections, and collect the figures that they use."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.figures: dict[str, Figure] = {}

    def text(self, refresh: float | None) -> str:
        """Return the text of the HTML file; a browser reloads it after `refresh` seconds, or never if that is None."""
        sections: dict[str, tuple[str, Callable[[], str]]] = {
            "verdict": ("Verdict", self.verdict),
            "comparison": (sentences.compared(self.facts), self.comparison),
            **({"labels": ("Labels", self.labels)} if self.facts.summary["labels"] is not None else {}),
            **({"answers": ("Answers", self.answers)} if self.facts.summary["answers"] else {}),
            "scores": ("Score over trials", self.scores),
            **({"training": ("Training", self.training)} if self.facts.courses else {}),
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
        return document(
            f"{self.facts.name}: partune report",
            f"Study {self.facts.name}",
            self.line(),
            {name: (title, write()) for name, (title, write) in sections.items()},
            f"Written by partune {self.facts.summary['versions'].get('partune', '')} from the study's record.",
            self.figures,
            [hover(trial, self.facts.goal) for trial in self.facts.trials],
            {name: self._places(name) for name in self.facts.space.names},
            refresh,
        )

    def line(self) -> str:
        """Return the line below the heading, which shows the study's progress."""
        summary = self.facts.summary
        return (
            f"{words.progress([trial.status for trial in self.facts.trials], summary['budget'])} "
            f"({counts(self.facts.trials)}) by {summary['algorithm']}, seed {summary['seed']}"
        )

    # ----- the sections, in their order

    def verdict(self) -> str:
        """Return the section of the verdict."""
        text, kind = sentences.badge(self.facts)
        parts = [f'<span class="badge {kind}">{escape(text)}</span>']
        parts.append(f'<p class="headline">{escape(sentences.headline(self.facts))}</p>')
        if self.facts.winner is not None:
            parts.append(table(["winner's hyperparameter", "value"], _settings(self.facts.winner.config)))
            parts += [paragraph(fixed)] if (fixed := fixed_words(self.facts.summary)) else []
        parts += [paragraph(text) for text in sentences.remarks(self.facts)]
        if self.facts.summary["best"] is not None and self.facts.summary["best"]["adapter"]:
            parts.append(f"<p>The winner's adapter: <code>{escape(self.facts.summary['best']['adapter'])}</code></p>")
        return "".join(parts)

    def comparison(self) -> str:
        """Return the section that compares base, defaults and winner."""
        if not self.facts.scored:
            return paragraph("Nothing has a score.")
        headers, rows = sentences.standing(self.facts)
        text = table(headers, rows, numbers=range(1, len(headers)))
        if self.facts.summary["base"] is None:
            return text + paragraph("This objective has no base model, so there are no baselines.", "soft")
        text += "".join(paragraph(note) for note in sources(self.facts.summary))
        text += paragraph(
            "Scores and standard errors. The search items chose the winner, so its score on them is too good.", "soft"
        )
        if tested := sentences.comparisons(self.facts):
            text += "<h3>Tests on the held-out items</h3>" + table(sentences.COMPARED, tested, numbers=(1, 2, 3))
        return text

    def labels(self) -> str:
        """Return the section of the labels that models give to rows."""
        found = confusions(self.facts.summary["labels"])
        if found is None:
            return paragraph("No model has labelled the held-out rows yet.")
        headers, rows = found
        caption = "Numbers of held-out rows by their right label, and by the label that the model gives them."
        return table(headers, rows, numbers=range(1, len(headers))) + paragraph(caption, "soft")

    def answers(self) -> str:
        """Return the section of generated answers to some held-out items."""
        found = answer_table(self.facts.summary["answers"])
        if found is None:
            return paragraph("No model has answered the held-out items yet.")
        return f'<div class="texts">{table(*found)}</div>' + paragraph(CAPTION, "soft")

    def scores(self) -> str:
        """Return the section of the scores over trials."""
        axis = f"The axis shows {self.facts.goal.axis}: higher is better."
        caption = axis if self.facts.goal.lower_is_better else "Higher is better."
        if any(trial.observation is not None and trial.observation.stderr for trial in self.facts.done):
            caption += " Bars are standard errors over the scored items."
        text = self._figure("scores", figures.scores(self.facts), 440, "Score over trials", caption)
        if confirmed := self.facts.summary["confirmed"]:
            rows = [
                (
                    f"trial {row['trial']}",
                    self.facts.goal.measured(row["score"], self._stderr(row["trial"])),
                    ", ".join(self._again(row["trial"])),
                )
                for row in confirmed
            ]
            text += "<h3>The best trials again, with fresh seeds</h3>" + table(
                ["", "first score", "further scores"], rows, numbers=(1,)
            )
            text += paragraph(curse_words(self.facts.summary))
        return text

    def training(self) -> str:
        """Return the section of the training curves of baselines and winner."""
        caption = "Training losses are means over intervals of steps."
        text = self._figure("training", figures.training_loss(self.facts), 380, "Loss in training", caption)
        if any(len(course.points) for course in self.facts.courses.values()) and self.facts.goal != LOSS:
            text += self._figure("points", figures.at_points(self.facts), 320, "Score at points of the training")
        for name, course in self.facts.courses.items():
            if course.selected is not None:
                text += paragraph(
                    f"The adapter of {sentences.called(self.facts, name)} is the one after step {course.selected} of "
                    f"{len(course.losses)}, which had the best score among the points."
                )
        return text

    def hyperparameters(self) -> str:
        """Return the section of each hyperparameter over trials."""
        text = "".join(f'<p class="note">{escape(hint)}</p>' for hint in self.facts.hints)
        if self.facts.winner is not None and not text:
            text = paragraph("No hyperparameter of the winner is at a bound of its range.")
        text += self._ramp()
        plots = [
            f"<div><h3>{escape(name)}</h3>"
            + self._figure(f"over-{k}", figures.over_trials(self.facts, name), 260, f"{name} over trials")
            + "</div>"
            for k, name in enumerate(self.facts.space.names)
        ]
        return f'{text}<div class="pair">{"".join(plots)}</div>'

    def parallel(self) -> str:
        """Return the section of all trials as lines."""
        if not self.facts.done:
            return paragraph("No trial has a score yet.")
        caption = "Each line is a trial. Click a group in the legend to hide it, or double-click it to see it alone."
        wide = ROOM * (len(self.facts.space.names) + 1)
        return self._figure("parallel", figures.parallel(self.facts), 420, "Parallel coordinates", caption, wide)

    def importance(self) -> str:
        """Return the section of the hyperparameters' importance."""
        text = paragraph(" ".join(sentences.importance(self.facts)))
        if (importance := self.facts.importance) is None:
            return text
        height = 90 + 34 * len(importance.shares)
        return (
            self._figure("importance", figures.importances(importance), height, "Importance of the hyperparameters")
            + text
        )

    def slices(self) -> str:
        """Return the section of the surrogate's mean and uncertainty around the winner."""
        model = self.facts.model
        if model is None:
            return paragraph("A Gaussian process needs at least four scores.")
        names = [name for name in self.facts.leading if name in model.names]
        pairs = list(itertools.combinations(names, 2))
        pairs.sort(key=lambda pair: max(map(names.index, pair)))
        if not pairs:
            return paragraph("A plane needs two hyperparameters.")
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
        text = paragraph(
            "A Gaussian process fitted to the scores, in planes through the winner (star): the other hyperparameters "
            "have the winner's values. Dots are all trials, including those outside the plane."
        )
        more = "".join(plots[PAIRS:])
        return text + "".join(plots[:PAIRS]) + (details(f"{len(plots) - PAIRS} more pairs", more) if more else "")

    def partition(self) -> str:
        """Return the section of the cells into which the search cut the space."""
        partition = self.facts.partition
        assert partition is not None
        names = self.facts.leading
        plots = []
        for k, (across, up) in enumerate(itertools.combinations(names[:PAIRS], 2)):
            figure = figures.cells(self.facts, partition, across, up)
            title = f"{escape(across)} × {escape(up)}"
            plots.append(
                f"<div><h3>{title}</h3>{self._figure(f'cells-{k}', figure, 340, f'Cells over {across} and {up}')}</div>"
            )
        if partition.depths:
            figure = figures.depths(partition)
            plots.append(
                f"<div><h3>Depth over trials</h3>{self._figure('depths', figure, 340, 'Depth over trials')}</div>"
            )
        what = (
            "The regions into which the search cut the space, projected along the other hyperparameters."
            if partition.round
            else "The cells that a plane through the winner cuts, shaded by the scores that rank them."
        )
        return (
            paragraph(f"{what} There are {len(partition.regions):,} in total. Dots are all trials.")
            + f'<div class="pair">{"".join(plots)}</div>'
        )

    def overfitting(self) -> str:
        """Return the section that compares search items with held-out items and test tasks."""
        notes = sentences.overfitting(self.facts)
        flagged = bool(self.facts.overfitting)
        text = "".join(f'<p class="note">{escape(note)}</p>' if flagged else paragraph(note) for note in notes)
        if self.facts.summary["base"] is None:
            return text
        text += self._figure("sides", figures.sides(self.facts), 380, f"{sentences.compared(self.facts)} on all items")
        for k, task in enumerate(self.facts.tests):
            if sum(task in row["test"] for row in self.facts.summary["trials"]) > 1:
                caption = sentences.agreement(self.facts, task)
                figure = figures.against_test(self.facts, task)
                text += f"<h3>{escape(task)}</h3>" + self._figure(
                    f"test-{k}", figure, 380, f"Scores against {task}", caption
                )
        return text

    def cost(self) -> str:
        """Return the section of time and cost."""
        if not self.facts.parts:
            return paragraph("Nothing has run yet.")
        text = paragraph(sentences.cost(self.facts))
        text += self._figure("spent", figures.spent(self.facts.parts), 150, "The study's time")
        text += table(*sentences.time_table(self.facts), numbers=(1, 2))
        if self.facts.done:
            figure = figures.over_time(self.facts)
            text += "<h3>Best score for the time</h3>" + self._figure("over-time", figure, 300, "Best score over time")
        return text

    def failures(self) -> str:
        """Return the section of the failures."""
        text = paragraph(sentences.failures(self.facts))
        if not self.facts.failures:
            return text
        rows = [
            (failure.cause, len(failure.trials), _numbers(failure.trials), words.settings(failure.config))
            for failure in self.facts.failures
        ]
        return text + table(["cause", "trials", "which", "first trial's hyperparameters"], rows, numbers=(1,))

    def repeat(self) -> str:
        """Return the section that says how to repeat the study."""
        summary = self.facts.summary
        settings = f"<pre>{escape(sentences.settings(self.facts))}</pre>"
        if self.facts.config is not None:
            text = paragraph("Save this as study.yaml and run it again with the versions below:")
            text += f"<pre>partune tune study.yaml --name again</pre>{settings}"
        else:
            text = paragraph(
                "The study was started from Python: "
                "Study(Space.parse(space), objective, algorithm, seed, options=options).run(budget)."
            )
            text += settings
        if summary["loaded"]:
            notes = "".join(map(paragraph, loaded_notes(summary["loaded"])))
            loaded = escape(sentences.yaml_text(summary["loaded"]))
            text += f"<h3>What was loaded</h3>{notes}<pre>{loaded}</pre>"
        return text + "<h3>Versions</h3>" + table(["package", "version"], summary["versions"].items())

    def trials(self) -> str:
        """Return the section with the table of all trials."""
        facts = self.facts
        if not facts.trials:
            return paragraph("No trial yet.")
        names = facts.space.names
        body = []
        for row in facts.summary["trials"]:
            best = facts.winner is not None and row["id"] == facts.winner.number
            kind = "winner" if best else "failed" if row["status"] == Status.FAILED else ""
            seconds = rounding.NONE if row["seconds"] is None else f"{row['seconds']:.1f}"
            values = [words.value(row["config"][name]) if name in row["config"] else rounding.NONE for name in names]
            cells = [row["id"], score_of(row, facts.goal), *values, seconds, "winner" if best else remark(row)]
            body.append((kind, cells))
        headers = ["trial", facts.goal.name, *names, "seconds", ""]
        rows = table(headers, [cells for _, cells in body], range(len(headers) - 1), [kind for kind, _ in body])
        return details(f"All {words.several(len(body), 'trial')}", rows)

    # ----- pieces

    def _figure(self, name: str, figure: Figure, height: int, label: str, caption: str = "", wide: int = 0) -> str:
        """Store a figure for the page, and return the element that it is drawn in."""
        self.figures[name] = figure
        return figure_slot(name, height, label, caption, wide)

    def _places(self, name: str) -> list[float | None]:
        """Return a hyperparameter's value in [0, 1] for each trial; None for a trial without it."""
        encode = self.facts.space.hyperparameters[name].encode
        return [round(encode(trial.config[name]), 4) if name in trial.config else None for trial in self.facts.trials]

    def _ramp(self) -> str:
        if not self.facts.done:
            return ""
        low, high = figures.ends([trial.score for trial in self.facts.done])
        goal = self.facts.goal
        return (
            f'<p class="ramp">{goal.axis} ≤ {rounding.number(low, 3)} <i></i> {rounding.number(high, 3)}; '
            "crosses are failed trials, the star is the winner</p>"
        )

    def _stderr(self, number: int) -> float | None:
        observation = self.facts.trials[number].observation
        return None if observation is None else observation.stderr

    def _again(self, number: int) -> list[str]:
        return [
            self.facts.goal.measured(run.score, run.observation.stderr)
            if run.status is Status.DONE and run.observation is not None
            else "failed"
            for run in self.facts.again.get(number, [])
        ]


# ----- words


def _settings(config: Config) -> list[tuple[str, str]]:
    return [(name, words.value(given)) for name, given in config.items()]


def _numbers(trials: Sequence[int], most: int = 20) -> str:
    shown = ", ".join(map(str, trials[:most]))
    return shown if len(trials) <= most else f"{shown}, …"


def hover(trial: Trial, goal: Goal) -> str:
    """Return a trial's hover text, in Plotly's markup.

    Args:
        trial: The trial.
        goal: What the trial's score measures.
    """
    score = ""
    if trial.observation is not None and trial.status is not Status.FAILED:
        score = f": {goal.measured(trial.score, trial.observation.stderr)}"
    lines = [f"<b>trial {trial.number}</b>{score}", *(f"{k} {words.value(v)}" for k, v in _plain(trial.config).items())]
    if trial.status is not Status.DONE:
        lines.append(str(trial.status))
    return "<br>".join(lines)


def _plain(config: Config) -> dict[str, Any]:
    return {figures.plain(k): figures.plain(v) if isinstance(v, str) else v for k, v in config.items()}
