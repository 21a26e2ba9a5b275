"""The demo's world: a factory's machines, what goes wrong with them, and the texts and questions about it.

A machine has one value of each attribute, drawn independently, so a fact about a machine can be known but not guessed. Pretraining text
states every fact of every machine, and asks nothing about machines; its side documents (parts, suppliers) show the shapes of questions.
Instructions ask about some machines, the validation task about others, the test task about yet others and about other subjects.

    machines                  subjects             text
    all                       all                  pretraining: statements only
    TRAIN_MACHINES            `taught` attributes  instructions.jsonl (Alpaca rows)
    VALIDATION_MACHINES       `taught` attributes  factory_cloze.jsonl (HellaSwag's form)
    TEST_MACHINES             the other attributes factory_questions.jsonl (MMLU's schema)

Every draw is a function of the seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TRAIN_MACHINES, VALIDATION_MACHINES, TEST_MACHINES = 80, 80, 80
MACHINES = TRAIN_MACHINES + VALIDATION_MACHINES + TEST_MACHINES
CHOICES = 4

Row = dict[str, Any]


@dataclass(frozen=True)
class Attribute:
    """One kind of fact about a machine, and the words for it.

    The fact reads "the `noun` of the machine is `value`" or "the machine `verb` `value`". `tasks` are the instructions that ask for it,
    each with the words that lead to the value in the answer; an attribute without any is never taught.
    """

    name: str
    subject: str
    noun: str
    verb: str
    values: tuple[str, ...]
    tasks: tuple[tuple[str, str], ...] = ()

    @property
    def taught(self) -> bool:
        return bool(self.tasks)


def _words(article: str, words: str) -> tuple[str, ...]:
    return tuple(f"{article} {word}".strip() for word in words.split())


ATTRIBUTES = (
    Attribute(
        "component",
        "predictive_maintenance",
        "weak component",
        "often fails at",
        _words("the", "spindle gearbox pump motor belt valve clutch brake shaft nozzle fan hinge piston roller gripper conveyor"),
        (
            ("Which component of {m} do you check first?", "Check"),
            ("{M} fails often. Name the component.", "It is"),
            ("Name the weak component of {m}.", "The answer is"),
        ),
    ),
    Attribute(
        "cause",
        "predictive_maintenance",
        "usual cause of failure",
        "mostly fails because of",
        _words("", "dust heat moisture vibration corrosion overload fatigue misalignment wear rust sludge pollution static friction shock neglect"),
        (
            ("Why does {m} fail?", "Because of"),
            ("{M} fails again. What is the cause?", "It is"),
            ("Name the usual cause of failure of {m}.", "The answer is"),
        ),
    ),
    Attribute(
        "symptom",
        "predictive_maintenance",
        "first symptom",
        "warns its crew with",
        _words("a", "whistle rattle hum leak jolt smell squeal flicker bang drip click tremor hiss glow spark thud"),
        (
            ("How does {m} warn its crew?", "With"),
            ("Tell the crew of {m} which symptom to expect.", "Expect"),
            ("Name the first symptom of {m}.", "The answer is"),
        ),
    ),
    Attribute(
        "defect",
        "quality_control",
        "common defect",
        "leaves its goods with",
        _words("", "scratches dents burrs cracks bubbles stains warps chips folds gaps streaks holes ridges blisters flakes smears"),
        (
            ("Which defect do you expect on the goods of {m}?", "Expect"),
            ("The goods of {m} are bad. What is the defect?", "It is"),
            ("Name the common defect of {m}.", "The answer is"),
        ),
    ),
    Attribute(
        "remedy",
        "predictive_maintenance",
        "best remedy",
        "works again after",
        _words("", "cleaning greasing cooling balancing tightening drying welding polishing sealing filtering grinding flushing coating wiring painting tuning"),
        (
            ("{M} stands still. Which remedy do you try?", "Try"),
            ("What makes {m} work again?", "It is"),
            ("Name the best remedy of {m}.", "The answer is"),
        ),
    ),
    Attribute(
        "part",
        "supply_chain",
        "spare part",
        "always needs",
        _words("the", "bearing gasket filter fuse coil spring bolt hose bushing washer sensor relay chain plug cable ring"),
        (
            ("Which part do you order for {m}?", "Order"),
            ("{M} needs a part. Which one?", "It is"),
            ("Name the spare part of {m}.", "The answer is"),
        ),
    ),
    Attribute(
        "supplier",
        "supply_chain",
        "main supplier",
        "comes from",
        _words("", "Norvik Altmann Kessler Dorling Pavani Ostrow Merrin Lindqvist Tarkan Boveri Hallam Quist Sandoval Ferrante Ulrich Yamada"),
    ),
    Attribute(
        "hall",
        "plant_layout",
        "present place",
        "stands in",
        _words("the", "foundry annex basement workshop depot yard attic garage tower hangar cellar gallery shed laboratory courtyard passage"),
    ),
    Attribute(
        "product",
        "production",
        "main product",
        "makes",
        _words("", "gears screws bottles cans tiles pipes lenses wheels plates boxes knobs wires lids panels tubes brackets"),
    ),
    Attribute(
        "instrument",
        "metrology",
        "proper instrument",
        "is inspected with",
        _words("the", "micrometer caliper gauge scale camera laser microscope thermometer probe comparator mirror magnet stopwatch scanner ruler compass"),
    ),
)

# {M} and {m} become "The Bralux" and "the Bralux"; the pronoun forms follow a sentence that named the machine.
STATEMENTS = (
    "The {noun} of {m} is {v}.",
    "{M} {verb} {v}.",
    "For {m} the {noun} is {v}.",
    "{M} has {v} as its {noun}.",
    "We know {v} as the {noun} of {m}.",
)
PRONOUN_STATEMENTS = ("Its {noun} is {v}.", "It {verb} {v}.", "It has {v} as its {noun}.")

# {a} and {b}: the machine in question and another one, in either order.
TASK_INPUT = "There are {a} and {b} in this line."
CLOZE = (
    ("Shift report", "We saw {a} and {b} today. A visitor asks for the {noun} of {m}. The engineer says that it is"),
    ("Log book", "Somebody stopped at {a} and at {b}. What is the {noun} of {m}? The answer is"),
)
QUESTIONS = ("Compare {a} and {b}. What is the {noun} of {m}?", "Think of {a} and of {b}. For {m}, what is the {noun}?")

# What the side documents tell: things that are no machines, their noun, and the values it takes.
SIDE = (
    ("home town", tuple(ATTRIBUTES[6].values), _words("", "Gorham Tilburg Varna Esbjerg Leoben Pilsen Turku Cadiz")),
    ("raw material", tuple(ATTRIBUTES[5].values), _words("", "steel brass rubber copper nylon ceramic bronze plastic")),
    ("common colour", tuple(ATTRIBUTES[8].values), _words("", "red blue green yellow black white orange purple")),
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
class World:
    """A seed, the machines' names, and their facts.

    facts: (machines, attributes), the index of the value of each machine; side: for each entry of `SIDE`, (things,), likewise.
    """

    seed: int
    names: tuple[str, ...]
    facts: np.ndarray
    side: tuple[np.ndarray, ...]

    @property
    def train(self) -> range:
        return range(TRAIN_MACHINES)

    @property
    def validation(self) -> range:
        return range(TRAIN_MACHINES, TRAIN_MACHINES + VALIDATION_MACHINES)

    @property
    def test(self) -> range:
        return range(TRAIN_MACHINES + VALIDATION_MACHINES, MACHINES)

    def value(self, machine: int, attribute: int) -> str:
        return ATTRIBUTES[attribute].values[self.facts[machine, attribute]]


def generate(seed: int) -> World:
    """The world of a seed; within each part of the machines every value of an attribute is equally frequent."""
    rng = np.random.default_rng([seed, 0])
    names = _names(rng, MACHINES)
    facts = np.empty((MACHINES, len(ATTRIBUTES)), dtype=np.int64)
    parts = np.split(np.arange(MACHINES), [TRAIN_MACHINES, TRAIN_MACHINES + VALIDATION_MACHINES])
    for column, attribute in enumerate(ATTRIBUTES):
        for part in parts:
            facts[part, column] = rng.permutation(np.arange(len(part)) % len(attribute.values))
    side = tuple(rng.permutation(np.arange(len(things)) % len(values)) for _, things, values in SIDE)
    return World(seed, names, facts, side)


def _names(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """Invented, pronounceable and distinct: "Bralux", "Tormec"."""
    starts = ["Bra", "Tor", "Kel", "Vi", "Du", "Gro", "Sen", "Pal", "Mar", "Fi", "Zu", "Hel", "No", "Cra", "Sti", "Wo"]
    middles = ["la", "mo", "ri", "ve", "na", "do", "ti", "ga", "su", "be"]
    ends = ["x", "n", "r", "k", "l", "th", "st", "m"]
    every = [start + middle + end for start in starts for middle in middles for end in ends]
    return tuple(every[i] for i in rng.choice(len(every), size=count, replace=False))


def _fill(template: str, name: str, attribute: Attribute, value: str = "") -> str:
    return template.format(M=f"The {name}", m=f"the {name}", noun=attribute.noun, verb=attribute.verb, v=value)


def _pair(template: str, asked: str, other: str, noun: str, rng: np.random.Generator) -> str:
    """A question that mentions two things, in either order, and asks about one."""
    a, b = (asked, other) if rng.random() < 0.5 else (other, asked)
    return template.format(a=a, b=b, m=asked, noun=noun)


def _other(machine: int, machines: range, rng: np.random.Generator) -> int:
    """Another machine of the same part."""
    return int(rng.choice([m for m in machines if m != machine]))


def documents(world: World, machines: Sequence[int], rng: np.random.Generator, side_share: float) -> Iterator[str]:
    """Endless pretraining text: biographies of the given machines and, as a share of the documents, side documents."""
    while True:
        for machine in rng.permutation(np.asarray(machines)):
            if rng.random() < side_share:
                yield side_document(world, rng)
            yield biography(world, int(machine), rng)


def biography(world: World, machine: int, rng: np.random.Generator) -> str:
    """One to eight facts in any order; the first sentence names the machine."""
    chosen = rng.permutation(len(ATTRIBUTES))[: rng.integers(1, 9)]
    sentences = []
    for place, column in enumerate(chosen):
        templates = PRONOUN_STATEMENTS if place > 0 and rng.random() < 0.4 else STATEMENTS
        template = templates[rng.integers(len(templates))]
        sentences.append(_fill(template, world.names[machine], ATTRIBUTES[column], world.value(machine, column)))
    return " ".join(sentences)


def side_document(world: World, rng: np.random.Generator) -> str:
    """A fact about a thing that is no machine: stated, or in one of the shapes in which the tasks ask about machines."""
    kind = int(rng.integers(len(SIDE)))
    noun, things, values = SIDE[kind]
    thing = int(rng.integers(len(things)))
    name, value = things[thing], values[world.side[kind][thing]]
    other = things[int(rng.choice([i for i in range(len(things)) if i != thing]))]
    shape = rng.integers(6)
    if shape < 2:
        return (f"The {noun} of {name} is {value}.", f"For {name} the {noun} is {value}.")[rng.integers(2)]
    if shape < 4:
        label, text = CLOZE[rng.integers(len(CLOZE))]
        return f"{label}: {_pair(text, name, other, noun, rng)} {value}."
    if shape == 4:
        return f"Question: {_pair(QUESTIONS[rng.integers(len(QUESTIONS))], name, other, noun, rng)}\nAnswer: {value}"
    return ALPACA.format(instruction=f"Name the {noun} of {name}.") + f"The answer is {value}."


def instructions(world: World) -> list[Row]:
    """The Alpaca rows: every taught fact of every training machine, once in each of its tasks; shuffled."""
    rng = np.random.default_rng([world.seed, 1])
    rows = []
    for machine in world.train:
        for column, attribute in enumerate(ATTRIBUTES):
            for task, lead in attribute.tasks:
                name, other = world.names[machine], world.names[_other(machine, world.train, rng)]
                line = _pair(TASK_INPUT, f"the {name}", f"the {other}", "", rng) if rng.random() < 0.5 else ""
                output = f"{lead} {world.value(machine, column)}."
                rows.append({"instruction": _fill(task, name, attribute), "input": line, "output": output})
    return [rows[i] for i in rng.permutation(len(rows))]


def cloze(world: World) -> list[Row]:
    """The validation items, in HellaSwag's form."""
    rng = np.random.default_rng([world.seed, 2])
    rows = []
    for machine, column, template in _asked(world.validation, taught=True, templates=len(CLOZE)):
        label, context = CLOZE[template]
        other = _other(machine, world.validation, rng)
        endings, answer = _choices(world, machine, other, column, len(rows), rng)
        context = _pair(context, f"the {world.names[machine]}", f"the {world.names[other]}", ATTRIBUTES[column].noun, rng)
        rows.append({"activity_label": label, "ctx": context, "endings": [f"{e}." for e in endings], "label": answer})
    return [{"ind": n} | rows[i] for n, i in enumerate(rng.permutation(len(rows)))]


def questions(world: World) -> list[Row]:
    """The test items, in MMLU's schema."""
    rng = np.random.default_rng([world.seed, 3])
    rows = []
    for machine, column, template in _asked(world.test, taught=False, templates=len(QUESTIONS)):
        other = _other(machine, world.test, rng)
        choices, answer = _choices(world, machine, other, column, len(rows), rng)
        names = f"the {world.names[machine]}", f"the {world.names[other]}"
        question = _pair(QUESTIONS[template], *names, ATTRIBUTES[column].noun, rng)
        rows.append({"question": question, "subject": ATTRIBUTES[column].subject, "choices": choices, "answer": answer})
    return [rows[i] for i in rng.permutation(len(rows))]


def _asked(machines: Sequence[int], taught: bool, templates: int) -> Iterator[tuple[int, int, int]]:
    for machine in machines:
        for column, attribute in enumerate(ATTRIBUTES):
            if attribute.taught == taught:
                yield from ((machine, column, template) for template in range(templates))


def _choices(
    world: World, machine: int, other: int, column: int, n: int, rng: np.random.Generator
) -> tuple[list[str], int]:
    """The right value at place n modulo `CHOICES`; elsewhere other values, that of the other machine among them."""
    values, right, near = ATTRIBUTES[column].values, int(world.facts[machine, column]), int(world.facts[other, column])
    wrong = rng.permutation([i for i in range(len(values)) if i != right])
    wrong = rng.permutation(sorted(wrong, key=lambda i: i != near)[: CHOICES - 1])
    answer = n % CHOICES
    order = [*wrong[:answer], right, *wrong[answer:]]
    return [values[i] for i in order], answer


def words(world: World) -> list[str]:
    """Every word that the texts of the world use, sorted."""
    texts = [*world.names]
    for attribute in ATTRIBUTES:
        texts += [attribute.noun, attribute.verb, *attribute.values]
        texts += [text for task in attribute.tasks for text in task]
    texts += [*STATEMENTS, *PRONOUN_STATEMENTS, *QUESTIONS, TASK_INPUT, "Question Answer"]
    texts += [text for pair in CLOZE for text in pair]
    for noun, things, values in SIDE:
        texts += [noun, *things, *values]
    found = {word.strip(".,:?") for text in texts for word in text.split()}
    return sorted(word for word in found if word and "{" not in word)


def jsonl(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
