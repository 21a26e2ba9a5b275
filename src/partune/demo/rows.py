"""Rows about the demo's factory in common forms: labels, pairs, conversations and plain texts.

All are about the training machines, like the instructions, so that the demo's tasks can judge what is trained on them.
In pairs, conversations and texts, each fact is in one row only, so that held-out rows ask for other facts.

| file                | row                                                                   |
|---------------------|-----------------------------------------------------------------------|
| labels.csv          | a ticket (`text`) and where it goes (`label`), by the things it names |
| pairs.jsonl         | a question as the test task puts it (`prompt`), its answer            |
| conversations.jsonl | a crew that asks several things about its machine, in ShareGPT's form |
| texts.jsonl         | a sheet of a machine's log book (`text`)                              |
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import numpy as np

from partune.demo.factory import ATTRIBUTES, GENERAL_TASKS, QUESTIONS, Factory, Row, fill, jsonl, one, some

TAUGHT = tuple(column for column, attribute in enumerate(ATTRIBUTES) if attribute.taught)
# Where tickets go, and the attributes whose values these tickets mention, without their nouns. The base model knows the
# words of the receivers; it would learn others, which are split into letters, far more slowly.
RECEIVERS = {
    "the workshop": ("component", "remedy"),
    "the engineer": ("cause", "symptom"),
    "the laboratory": ("defect", "instrument"),
    "the depot": ("part", "supplier"),
}
TICKETS = (
    "The crew of {m} asks for help with {v}.",
    "Somebody at {m} points at {v}.",
    "The crew at {m} thinks of {v}.",
    "{M} again. The crew notes {v}.",
    "A visitor of {m} hears of {v}.",
)
ASKED_TICKETS = 3  # the number of templates in which each value is mentioned
# The heading of a sheet, and its lines.
SHEETS = (
    ("Log book of {m}.", "The {noun}: {v}."),
    ("Shift report: {m}.", "What is the {noun}? It is {v}."),
    ("Maintenance of {m}.", "Expect {v} as the {noun}."),
)


def files(demo: Factory) -> dict[str, str]:
    """Return the text of each file by the file's name."""
    return {
        "labels.csv": _csv(labels(demo)),
        "pairs.jsonl": jsonl(pairs(demo)),
        "conversations.jsonl": jsonl(conversations(demo)),
        "texts.jsonl": jsonl(texts(demo)),
    }


# Each file has its own random stream. The streams 0 to 4 draw the factory, the other files and the pretraining.


def labels(demo: Factory) -> list[Row]:
    """Return tickets that mention a value of an attribute of a training machine, with their receivers, shuffled."""
    rng = np.random.default_rng([demo.seed, 5])
    columns = {attribute.name: column for column, attribute in enumerate(ATTRIBUTES)}

    rows: list[Row] = []
    for machine in demo.train:
        for receiver, names in RECEIVERS.items():
            for column in (columns[name] for name in names):
                for ticket in some(TICKETS, ASKED_TICKETS, rng):
                    value = demo.value(machine, column)
                    rows.append(
                        {"text": fill(ticket, demo.names[machine], ATTRIBUTES[column], value), "label": receiver}
                    )
    return _shuffled(rows, rng)


def pairs(demo: Factory) -> list[Row]:
    """Return a question and its answer for each taught attribute of each training machine, shuffled."""
    rng = np.random.default_rng([demo.seed, 6])
    rows: list[Row] = []
    for machine in demo.train:
        for column in TAUGHT:
            question = fill(one(QUESTIONS, rng), demo.names[machine], ATTRIBUTES[column])
            answer = f" {demo.value(machine, column)}"
            rows.append({"prompt": f"Question: {question}\nAnswer:", "completion": answer})
    return _shuffled(rows, rng)


def conversations(demo: Factory) -> list[Row]:
    """Return three conversations about each training machine, shuffled; each asks for a third of its taught facts."""
    rng = np.random.default_rng([demo.seed, 7])
    rows: list[Row] = []
    for machine, columns in _thirds(demo, rng):
        turns: list[dict[str, str]] = []
        for column in columns:
            attribute = ATTRIBUTES[column]
            shapes: list[tuple[str, str]] = [*attribute.tasks, *GENERAL_TASKS]
            if not turns:  # the first question names the machine, later ones need not
                shapes = [shape for shape in shapes if "{m}" in shape[0].lower()]
            question, lead = one(shapes, rng)
            turns.append({"from": "human", "value": fill(question, demo.names[machine], attribute)})
            turns.append({"from": "gpt", "value": f"{lead} {demo.value(machine, column)}."})
        rows.append({"conversations": turns})
    return _shuffled(rows, rng)


def texts(demo: Factory) -> list[Row]:
    """Return three sheets of each training machine's log book, shuffled; each states a third of its taught facts."""
    rng = np.random.default_rng([demo.seed, 8])
    rows: list[Row] = []
    for machine, columns in _thirds(demo, rng):
        heading, line = one(SHEETS, rng)
        name, attributes = (
            demo.names[machine],
            [(ATTRIBUTES[column], demo.value(machine, column)) for column in columns],
        )
        lines = [fill(line, name, attribute, value) for attribute, value in attributes]
        rows.append({"text": "\n".join([fill(heading, name, ATTRIBUTES[0]), *lines])})
    return _shuffled(rows, rng)


def _thirds(demo: Factory, rng: np.random.Generator) -> Iterator[tuple[int, list[int]]]:
    """Yield each training machine three times, each time with another random third of the taught attributes."""
    for machine in demo.train:
        for third in np.array_split(rng.permutation(TAUGHT), 3):
            yield machine, third.tolist()


def _shuffled(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    return [rows[i] for i in rng.permutation(len(rows))]


def _csv(rows: Sequence[Row]) -> str:
    """Return rows as a table whose first line has the names of the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
