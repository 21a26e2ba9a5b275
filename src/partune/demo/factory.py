"""The demo's invented factory: its machines, what goes wrong with them, and texts and questions about them.

A machine has one value of each attribute. The values are drawn independently, so that a fact about a machine can be
known but not guessed. The pretraining text states every fact about every machine, but asks nothing about machines. Its
side documents (about suppliers, parts and products) show the forms that questions take. The instructions, the
validation task and the test task are about different machines, and the test task is also about different attributes.
Every draw is a function of the seed.

| machines            | attributes   | text                                         |
|---------------------|--------------|----------------------------------------------|
| all                 | all          | pretraining, statements only                 |
| TRAIN_MACHINES      | taught       | instructions.jsonl, Alpaca rows              |
| VALIDATION_MACHINES | taught       | factory_cloze.jsonl, HellaSwag's form        |
| TEST_MACHINES       | never taught | factory_questions.jsonl, MMLU's schema       |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

TRAIN_MACHINES, VALIDATION_MACHINES, TEST_MACHINES = 64, 64, 64
MACHINES = TRAIN_MACHINES + VALIDATION_MACHINES + TEST_MACHINES
ASKED_TASKS, ASKED_CLOZE, ASKED_QUESTIONS = 3, 2, 2  # the number of templates in which each fact is asked for
CHOICES = 4

Row = dict[str, Any]
Shape = TypeVar("Shape")


@dataclass(frozen=True)
class Attribute:
    """One kind of fact about a machine, and the words for it.

    A fact reads "the `noun` of the machine is `value`" or "the machine `verb` `value`".

    Attributes:
        name: The name of the attribute.
        subject: The subject that questions about the attribute belong to.
        noun: The noun for the attribute in texts.
        verb: The verb that links a machine to a value in texts.
        values: The values that the attribute can have.
        tasks: Pairs of texts: an instruction that asks for the attribute, and the words of its answer that precede the
            value. An attribute without tasks is never taught.
    """

    name: str
    subject: str
    noun: str
    verb: str
    values: tuple[str, ...]
    tasks: tuple[tuple[str, str], ...] = ()

    @property
    def taught(self) -> bool:
        """Whether instructions ask for the attribute."""
        return bool(self.tasks)


def _words(article: str, words: str) -> tuple[str, ...]:
    return tuple(f"{article} {word}".strip() for word in words.split())


ATTRIBUTES = (
    Attribute(
        name="component",
        subject="predictive_maintenance",
        noun="weak component",
        verb="often fails at",
        values=_words(
            "the",
            "spindle gearbox pump motor belt valve clutch brake shaft nozzle fan hinge piston roller gripper conveyor",
        ),
        tasks=(
            ("Which component of {m} do you check first?", "Check"),
            ("{M} fails often. Name the component.", "It is"),
            ("Name the weak component of this machine.", "The answer is"),
        ),
    ),
    Attribute(
        name="cause",
        subject="predictive_maintenance",
        noun="usual cause of failure",
        verb="mostly fails because of",
        values=_words(
            "",
            "dust heat moisture vibration corrosion overload fatigue misalignment "
            "wear rust sludge pollution static friction shock neglect",
        ),
        tasks=(
            ("Why does {m} fail?", "Because of"),
            ("{M} fails again. What is the cause?", "It is"),
            ("Name the usual cause of failure of this machine.", "The answer is"),
        ),
    ),
    Attribute(
        name="symptom",
        subject="predictive_maintenance",
        noun="first symptom",
        verb="warns its crew with",
        values=_words(
            "a", "whistle rattle hum leak jolt smell squeal flicker bang drip click tremor hiss glow spark thud"
        ),
        tasks=(
            ("How does {m} warn its crew?", "With"),
            ("Tell the crew of {m} which symptom to expect.", "Expect"),
            ("Name the first symptom of this machine.", "The answer is"),
        ),
    ),
    Attribute(
        name="defect",
        subject="quality_control",
        noun="common defect",
        verb="leaves its goods with",
        values=_words(
            "",
            "scratches dents burrs cracks bubbles stains warps chips "
            "folds gaps streaks holes ridges blisters flakes smears",
        ),
        tasks=(
            ("Which defect do you expect on the goods of {m}?", "Expect"),
            ("The goods of {m} are bad. What is the defect?", "It is"),
            ("Name the common defect of this machine.", "The answer is"),
        ),
    ),
    Attribute(
        name="remedy",
        subject="predictive_maintenance",
        noun="best remedy",
        verb="works again after",
        values=_words(
            "",
            "cleaning greasing cooling balancing tightening drying welding polishing "
            "sealing filtering grinding flushing coating wiring painting tuning",
        ),
        tasks=(
            ("{M} stands still. Which remedy do you try?", "Try"),
            ("How do you help {m} when it fails?", "By"),
            ("Name the best remedy of this machine.", "The answer is"),
        ),
    ),
    Attribute(
        name="part",
        subject="supply_chain",
        noun="spare part",
        verb="always needs",
        values=_words(
            "the", "bearing gasket filter fuse coil spring bolt hose bushing washer sensor relay chain plug cable ring"
        ),
        tasks=(
            ("Which part do you order for {m}?", "Order"),
            ("{M} needs a part. Which one?", "It is"),
            ("Name the spare part of this machine.", "The answer is"),
        ),
    ),
    Attribute(
        name="supplier",
        subject="procurement",
        noun="main supplier",
        verb="comes from",
        values=_words(
            "",
            "Norvik Altmann Kessler Dorling Pavani Ostrow Merrin Lindqvist "
            "Tarkan Boveri Hallam Quist Sandoval Ferrante Ulrich Yamada",
        ),
    ),
    Attribute(
        name="place",
        subject="plant_layout",
        noun="present place",
        verb="stands in",
        values=_words(
            "the",
            "foundry annex basement workshop depot yard attic garage "
            "tower hangar cellar gallery shed laboratory courtyard passage",
        ),
    ),
    Attribute(
        name="product",
        subject="production",
        noun="main product",
        verb="makes",
        values=_words(
            "",
            "gears screws bottles cans tiles pipes lenses wheels plates boxes knobs wires lids panels tubes brackets",
        ),
    ),
    Attribute(
        name="instrument",
        subject="metrology",
        noun="proper instrument",
        verb="is inspected with",
        values=_words(
            "the",
            "micrometer caliper gauge scale camera laser microscope thermometer "
            "probe comparator mirror magnet stopwatch scanner ruler compass",
        ),
    ),
)
_VALUES = {attribute.name: attribute.values for attribute in ATTRIBUTES}

# {M} and {m} become "The Bralax" and "the Bralax". A pronoun statement only follows a sentence that names the machine.
STATEMENTS = (
    "The {noun} of {m} is {v}.",
    "{M} {verb} {v}.",
    "For {m} the {noun} is {v}.",
    "{M} has {v} as its {noun}.",
    "We know {v} as the {noun} of {m}.",
)
PRONOUN_STATEMENTS = ("Its {noun} is {v}.", "It {verb} {v}.", "It has {v} as its {noun}.")

# Tasks that can ask for any attribute by its noun. If the instruction does not name the machine, the input does.
GENERAL_TASKS = (
    ("Name the {noun} of {m}.", "The answer is"),
    ("Tell me the {noun} of this machine.", "We expect"),
    ("I work at {m}. Help me with the {noun}.", "Expect"),
)
# The side documents use every other one of these templates, so that the base model has seen half of them.
CLOZE = (
    ("Shift report", "A visitor asks for the {noun} of {m}. The engineer says that it is"),
    ("Log book", "Somebody at {m} wants to know its {noun}. The answer is"),
    ("Maintenance", "The {noun} of {m} is not in the report. The engineer knows that it is"),
    ("Quality check", "We have a look at {m}. For the {noun} the crew notes"),
    ("Shift report", "The crew stopped at {m}. Somebody asks for the {noun}. The engineer points at"),
    ("Log book", "Do you know the {noun} of {m}? The crew thinks of"),
    ("Maintenance", "A visitor at {m} asks the crew for the {noun} and hears of"),
    ("Quality check", "Somebody must write down the {noun} of {m}. It should be"),
)
QUESTIONS = (
    "What is the {noun} of {m}?",
    "Think of {m}. What is its {noun}?",
    "Which {noun} does {m} have?",
    "You look at {m}. Which {noun} do you note?",
    "About {m}, what is the {noun}?",
    "Do you know which {noun} goes with {m}?",
)

# An entry is a noun, things that are not machines, and values. A side document states which value a thing has: the home
# town of Norvik is Gorham, for example. A base model that has read no side documents knows the facts about machines,
# but answers near chance, because it has never seen a question.
SIDE = (
    ("home town", _VALUES["supplier"], _words("", "Gorham Tilburg Varna Esbjerg Leoben Pilsen Turku Cadiz")),
    ("raw material", _VALUES["part"], _words("", "steel brass rubber copper nylon ceramic bronze plastic")),
    ("common colour", _VALUES["product"], _words("", "red blue green yellow black white orange purple")),
)

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Factory:
    """The facts about all machines.

    Attributes:
        seed: The seed with which the factory was drawn.
        names: The names of the machines.
        facts: The index of the value that each machine has of each attribute, (machines, attributes).
        side: For each entry of `SIDE`, the index of the value that each thing has, (things,).
    """

    seed: int
    names: tuple[str, ...]
    facts: npt.NDArray[np.int64]
    side: tuple[npt.NDArray[np.int64], ...]

    @property
    def train(self) -> range:
        """The machines that instructions ask about."""
        return range(TRAIN_MACHINES)

    @property
    def validation(self) -> range:
        """The machines that the validation task asks about."""
        return range(TRAIN_MACHINES, TRAIN_MACHINES + VALIDATION_MACHINES)

    @property
    def test(self) -> range:
        """The machines that the test task asks about."""
        return range(TRAIN_MACHINES + VALIDATION_MACHINES, MACHINES)

    def value(self, machine: int, attribute: int) -> str:
        """Return the value of a machine's attribute.

        Args:
            machine: The number of the machine.
            attribute: The index of the attribute in `ATTRIBUTES`.
        """
        return ATTRIBUTES[attribute].values[int(self.facts[machine, attribute])]


def generate(seed: int) -> Factory:
    """Return the factory that a seed determines.

    All values of an attribute are equally frequent among the training machines, and likewise among the validation and
    among the test machines.
    """
    # So a model that knows the values but no facts has exactly the accuracy of guessing.
    rng = np.random.default_rng([seed, 0])
    names = _names(rng, MACHINES)
    facts = np.empty((MACHINES, len(ATTRIBUTES)), dtype=np.int64)
    parts = np.split(np.arange(MACHINES), [TRAIN_MACHINES, TRAIN_MACHINES + VALIDATION_MACHINES])
    for column, attribute in enumerate(ATTRIBUTES):
        for part in parts:
            facts[part, column] = rng.permutation(np.arange(len(part)) % len(attribute.values))
    side = tuple(rng.permutation(np.arange(len(things)) % len(values)) for _, things, values in SIDE)
    return Factory(seed, names, facts, side)


def _names(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """Return distinct, invented names that one can pronounce, such as "Bralax" or "Tormon"."""
    starts = ["Bra", "Tor", "Kel", "Vi", "Du", "Gro", "Sen", "Pal", "Mar", "Fi", "Zu", "Hel", "No", "Cra", "Sti", "Wo"]
    middles = ["la", "mo", "ri", "ve", "na", "do", "ti", "ga", "su", "be"]
    ends = ["x", "n", "r", "k", "l", "th", "st", "m"]
    names = [start + middle + end for start in starts for middle in middles for end in ends]
    return tuple(names[i] for i in rng.choice(len(names), size=count, replace=False))


def fill(template: str, name: str, attribute: Attribute, value: str = "") -> str:
    """Return a text about a machine.

    Args:
        template: The text, with {M} or {m} for the machine, {noun} and {verb} for the attribute, {v} for the value.
        name: The name of the machine.
        attribute: The attribute.
        value: The value.
    """
    return template.format(M=f"The {name}", m=f"the {name}", noun=attribute.noun, verb=attribute.verb, v=value)


def documents(factory: Factory, machines: Sequence[int], rng: np.random.Generator, side_share: float) -> Iterator[str]:
    """Yield pretraining documents without end: biographies of the machines, some followed by a side document.

    Args:
        factory: The factory.
        machines: The numbers of the machines to write about.
        rng: The generator to draw from.
        side_share: The share of biographies that are followed by a side document.
    """
    while True:
        for machine in rng.permutation(np.asarray(machines)):
            yield biography(factory, int(machine), rng)
            if rng.random() < side_share:
                yield side_document(factory, rng)


def biography(factory: Factory, machine: int, rng: np.random.Generator) -> str:
    """Return one to eight facts about a machine in random order; the first sentence names the machine.

    Args:
        factory: The factory.
        machine: The number of the machine.
        rng: The generator to draw from.
    """
    chosen = rng.permutation(len(ATTRIBUTES))[: rng.integers(1, 9)]
    sentences = []
    for position, column in enumerate(chosen):
        template = one(PRONOUN_STATEMENTS if position > 0 and rng.random() < 0.4 else STATEMENTS, rng)
        sentences.append(fill(template, factory.names[machine], ATTRIBUTES[column], factory.value(machine, column)))
    return " ".join(sentences)


def side_document(factory: Factory, rng: np.random.Generator) -> str:
    """Return a fact about a thing that is not a machine, as a statement or in the form of one of the tasks.

    Args:
        factory: The factory.
        rng: The generator to draw from.
    """
    kind = int(rng.integers(len(SIDE)))
    noun, things, values = SIDE[kind]
    thing = int(rng.integers(len(things)))
    name, value = things[thing], values[factory.side[kind][thing]]
    shape = rng.integers(6)
    if shape < 2:
        return one((f"The {noun} of {name} is {value}.", f"For {name} the {noun} is {value}."), rng)
    if shape < 4:
        label, text = one(CLOZE[::2], rng)
        return f"{label}: {text.format(noun=noun, m=name)} {value}."
    if shape == 4:
        return f"Question: {one(QUESTIONS[::2], rng).format(noun=noun, m=name)}\nAnswer: {value}"
    return ALPACA.format(instruction=f"Name the {noun} of {name}.") + f"The answer is {value}."


def instructions(factory: Factory) -> list[Row]:
    """Return the Alpaca rows, shuffled: `ASKED_TASKS` tasks for every taught attribute of every training machine."""
    rng = np.random.default_rng([factory.seed, 1])  # each file has its own random stream, so no file affects the others
    rows = []
    for machine in factory.train:
        for column, attribute in enumerate(ATTRIBUTES):
            tasks = (*attribute.tasks, *GENERAL_TASKS) if attribute.taught else ()
            for task, lead in some(tasks, ASKED_TASKS, rng):
                row = {"instruction": task, "input": "" if "{m}" in task.lower() else "{M}."}
                row = {key: fill(text, factory.names[machine], attribute) for key, text in row.items()}
                rows.append(row | {"output": f"{lead} {factory.value(machine, column)}."})
    return [rows[i] for i in rng.permutation(len(rows))]


def cloze(factory: Factory) -> list[Row]:
    """Return the validation items in HellaSwag's format."""
    rng = np.random.default_rng([factory.seed, 2])
    rows: list[Row] = []
    for machine, column, (label, context) in _asked(factory.validation, True, CLOZE, ASKED_CLOZE, rng):
        endings, answer = _choices(factory, machine, column, len(rows), rng)
        context = fill(context, factory.names[machine], ATTRIBUTES[column])
        rows.append({"activity_label": label, "ctx": context, "endings": [f"{e}." for e in endings], "label": answer})
    return [{"ind": n} | rows[i] for n, i in enumerate(rng.permutation(len(rows)))]


def questions(factory: Factory) -> list[Row]:
    """Return the test items in MMLU's format."""
    rng = np.random.default_rng([factory.seed, 3])
    rows: list[Row] = []
    for machine, column, template in _asked(factory.test, False, QUESTIONS, ASKED_QUESTIONS, rng):
        choices, answer = _choices(factory, machine, column, len(rows), rng)
        question = fill(template, factory.names[machine], ATTRIBUTES[column])
        rows.append({"question": question, "subject": ATTRIBUTES[column].subject, "choices": choices, "answer": answer})
    return [rows[i] for i in rng.permutation(len(rows))]


def _asked(
    machines: Sequence[int], taught: bool, shapes: Sequence[Shape], count: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, Shape]]:
    """Yield the machine, attribute and template of each question: `count` templates for each fact.

    The questions are about the taught attributes, or about the others if `taught` is False.
    """
    for machine in machines:
        for column, attribute in enumerate(ATTRIBUTES):
            if attribute.taught == taught:
                yield from ((machine, column, shape) for shape in some(shapes, count, rng))


def one(shapes: Sequence[Shape], rng: np.random.Generator) -> Shape:
    """Return one of several things at random.

    Args:
        shapes: The things.
        rng: The generator to draw from.
    """
    return shapes[int(rng.integers(len(shapes)))]


def some(shapes: Sequence[Shape], count: int, rng: np.random.Generator) -> list[Shape]:
    """Return some of several things, in random order.

    Args:
        shapes: The things.
        count: The number of things to return.
        rng: The generator to draw from.
    """
    return [shapes[i] for i in rng.permutation(len(shapes))[:count]]


def _choices(factory: Factory, machine: int, column: int, n: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """Return the choices of question n, and the index of the right one, which is n modulo `CHOICES`."""
    # The index goes up from question to question, so that no index is right more often than another.
    values, right = ATTRIBUTES[column].values, int(factory.facts[machine, column])
    wrong = rng.choice([i for i in range(len(values)) if i != right], size=CHOICES - 1, replace=False)
    answer = n % CHOICES
    order = [*wrong[:answer], right, *wrong[answer:]]
    return [values[i] for i in order], answer


def words(factory: Factory) -> list[str]:
    """Return every word that the texts of the factory use, sorted."""
    texts = [*factory.names]
    for attribute in ATTRIBUTES:
        texts += [attribute.noun, attribute.verb, *attribute.values]
        texts += [text for task in attribute.tasks for text in task]
    texts += [text for pair in (*GENERAL_TASKS, *CLOZE) for text in pair]
    texts += [*STATEMENTS, *PRONOUN_STATEMENTS, *QUESTIONS, "Question Answer"]
    for noun, things, values in SIDE:
        texts += [noun, *things, *values]
    stripped = {word.strip(".,:?") for text in texts for word in text.split()}
    return sorted(word for word in stripped if word and "{" not in word)


def jsonl(rows: Sequence[Row]) -> str:
    """Return rows as lines of JSON."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
