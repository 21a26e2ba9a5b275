"""Write an experiment's page: one HTML file with the same frame as a study's report (`partune.report.html`)."""

from __future__ import annotations

from html import escape

from partune.experiment.findings import Outcome
from partune.experiment.sentences import badge, sections
from partune.report import figures, sentences, words
from partune.report.facts import Facts
from partune.report.figures import Figure
from partune.report.html.document import details, document, figure_slot, paragraph, table
from partune.report.html.page import hover
from partune.report.tables import Section
from partune.runtime import rounding


def page(outcome: Outcome) -> str:
    """Return the page of an experiment as the text of one HTML file."""
    return Page(outcome).text()


class Page:
    """Write a page's sections, and collect the figures that they use."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.findings = outcome.summary
        self.tables = sections(self.findings)
        self.figures: dict[str, Figure] = {}
        self.hovers: list[str] = []  # the hover texts of the trials of all studies that are drawn

    def text(self) -> str:
        """Return the text of the HTML file."""
        parts = {
            "result": ("Result", self.result()),
            "bounds": ("Bounds", self._tables("bounds")),
            "algorithms": ("Algorithms", self.algorithms()),
            **({"tests": ("On test tasks", self._tables("tests"))} if self.findings["tests"] else {}),
            **{
                f"course-{k}": (f"Course of {name}", self.course(study, k))
                for k, (name, study) in enumerate(self.outcome.courses.items())
            },
            **({"calibration": ("How many epochs", self.calibration())} if self.outcome.calibration else {}),
            "cost": ("Time and cost", self._tables("cost")),
            "studies": ("Every study", self._tables("studies")),
            "repeat": ("Repeat it", self.repeat()),
        }
        name = self.outcome.plan.directory.absolute().name
        return document(
            f"{name}: partune experiment",
            "Experiment" if name == "experiment" else f"Experiment {name}",
            self.line(),
            parts,
            f"Written by partune {self.findings['versions'].get('partune', '')} from the studies' records.",
            self.figures,
            self.hovers,
        )

    def line(self) -> str:
        """Return the line below the heading, which says what was compared."""
        base, seeds = self.outcome.plan.base, self.outcome.plan.seeds
        what = base.objective if base.model is None else base.model.path.rstrip("/").rpartition("/")[2]
        return (
            f"{what}: {words.listed(list(self.outcome.plan.protocol.algorithms))}, "
            f"{words.several(base.search.budget, 'evaluation')} each, {words.several(len(seeds), 'repeat')} "
            f"(seeds {', '.join(map(str, seeds))})"
        )

    # ----- the sections, in their order

    def result(self) -> str:
        """Return the section with the result: a badge and the headline."""
        text, kind = badge(self.findings)
        headline = escape(self.findings["headline"])
        return f'<span class="badge {kind}">{escape(text)}</span><p class="headline">{headline}</p>'

    def algorithms(self) -> str:
        """Return the section that compares the algorithms, over trials and over time."""
        compared = self.findings["comparison"]["algorithms"]
        caption = "Mean over repeats; bands are 95 % intervals of the mean. Higher is better."
        text = self._figure(
            "compared", figures.best_so_far(compared, "by_trial"), 400, "Best score so far by algorithm", caption
        )
        text += self._tables("algorithms")
        if all(algorithm["by_seconds"] for algorithm in compared):
            figure = figures.best_so_far(compared, "by_seconds")
            text += "<h3>Best score for the time</h3>" + self._figure(
                "compared-time",
                figure,
                340,
                "Best score so far by time",
                "The time does not include baselines, verdicts and waiting.",
            )
        return text

    def course(self, study: Facts, k: int) -> str:
        """Return the section of one study's course: scores and hyperparameters over trials.

        Args:
            study: The facts of the study.
            k: The index of the study among those that are drawn.
        """
        first = len(self.hovers)
        self.hovers += [hover(trial, study.goal) for trial in study.trials]

        def drawn(name: str, figure: Figure, height: int, label: str, caption: str = "") -> str:
            return self._figure(f"{name}-{k}", figures.renumbered(figure, study, first), height, label, caption)

        caption = f"The study with seed {study.header['seed']}. Higher is better."
        if any(trial.observation is not None and trial.observation.stderr for trial in study.done):
            caption += " Bars are standard errors over the scored items."
        text = paragraph(sentences.headline(study))
        text += drawn("scores", figures.scores(study), 420, "Score over trials", caption)
        for i, task in enumerate(study.tests):
            if any(task in row["test"] for row in study.summary["trials"]):
                text += f"<h3>{escape(task)}, a test task</h3>"
                text += drawn(f"test-{i}", figures.tested(study, task), 320, f"Score on {task} over trials")
        plots = [
            f"<div><h3>{escape(name)}</h3>"
            + drawn(f"over-{i}", figures.over_trials(study, name), 250, f"{name} over trials")
            + "</div>"
            for i, name in enumerate(study.space.names)
        ]
        low, high = figures.ends([trial.score for trial in study.done])
        return (
            f'{text}<p class="ramp">score ≤ {rounding.number(low, 3)} <i></i> {rounding.number(high, 3)}; '
            f'crosses are failed trials, the star is the winner</p><div class="pair">{"".join(plots)}</div>'
        )

    def calibration(self) -> str:
        """Return the section that says how many epochs are enough."""
        calibrated = self.findings["calibration"]
        names = [words.settings(config) for config in calibrated["configurations"]]
        figure = figures.over_epochs(calibrated["scores"], names, calibrated["epochs"])
        caption = "Each line is a configuration. The dotted line marks the number of epochs that is enough."
        rows = [
            [name, *(rounding.NONE if score is None else rounding.number(score) for score in row)]
            for name, row in zip(names, calibrated["scores"], strict=True)
        ]
        heads = ["configuration", *(words.several(k + 1, "epoch") for k in range(len(rows[0]) - 1))]
        return (
            self._figure("epochs", figure, 340, "Score over epochs", caption)
            + self._tables("calibration")
            + details("Every configuration", table(heads, rows, range(1, len(heads))))
        )

    def repeat(self) -> str:
        """Return the section that says how to repeat the experiment."""
        return (
            paragraph("Save this as experiment.yaml and run it again with the versions below:")
            + "<pre>partune experiment report experiment.yaml --out again</pre>"
            + f"<pre>{escape(self.findings['file'])}</pre>"
            + "<h3>Versions</h3>"
            + table(["package", "version"], self.findings["versions"].items())
        )

    # ----- pieces

    def _tables(self, part: str) -> str:
        listed = self.tables[part]
        return "".join(_table(section, headed=len(listed) > 1) for section in listed)

    def _figure(self, name: str, figure: Figure, height: int, label: str, caption: str = "") -> str:
        """Store a figure for the page, and return the element that it is drawn in."""
        self.figures[name] = figure
        return figure_slot(name, height, label, caption)


def _table(section: Section, headed: bool) -> str:
    numbers = [k for k in range(len(section.headers)) if _numeric([row[k] for row in section.rows])]
    text = f"<h3>{escape(section.title)}</h3>" if headed else ""
    if section.rows:
        text += table(section.headers, section.rows, numbers)
    return text + "".join(paragraph(note, "soft") for note in section.notes)


def _numeric(column: list[str]) -> bool:
    """Return whether a column holds numbers only. Such a column is aligned to the right."""
    return all(not cell or cell == rounding.NONE or cell.lstrip("+-−")[:1].isdigit() for cell in column)
