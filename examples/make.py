"""Makes the data of the three examples: a case is drawn with its right answer, then told as records tell it.

    python examples/make.py [--out DIR]

Each example has rows to train on and to validate with in the simplest form that fits it: texts with labels (a table),
pairs of prompt and completion, or chats. Its tests are choice tasks, since they are about cases of another kind.

The noise is that of real records: slips of the keyboard, missing fields, units of two systems, statements that
contradict each other and say which of them counts. Every draw is a function of the seed and the task's name.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

SEED = 0
CHOICES = 4
SLIPS = 0.1  # share of texts with a slip of the keyboard

Rng = np.random.Generator
Row = dict[str, Any]
T = TypeVar("T")
# Writes the cases of an example's tasks, with the words before the answers of each, in one file.
Form = Callable[[Mapping[str, Sequence["Case"]], Mapping[str, str], Rng], str]


@dataclass(frozen=True)
class Case:
    """What happened, and how it was told.

    facts: what makes the case another one than the next, whatever the wording. answers: the right one, then wrong ones.
    """

    facts: tuple[Any, ...]
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A question that is put to records.

    lead: the words before an answer. draw(rng, n, new): the n-th case, where n goes round what has to be equally
    frequent; new: of the kind that training never shows. train, held: the number of cases for training, and for
    validation and test each.
    """

    lead: str
    draw: Callable[[Rng, int, bool], Case]
    train: int
    held: int


def parts(name: str, task: Task) -> dict[str, list[Case]]:
    """The cases of train, validation and test; no two have the same facts."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    seen: set[tuple[Any, ...]] = set()
    found: dict[str, list[Case]] = {}
    for part, count in (("train", task.train), ("validation", task.held), ("test", task.held)):
        found[part] = []
        for n in range(count):
            while (case := task.draw(rng, n, part == "test")).facts in seen:
                pass
            seen.add(case.facts)
            found[part].append(Case(case.facts, slipped(case.text, rng), case.answers))
    return found


def labelled(cases: Mapping[str, Sequence[Case]], leads: Mapping[str, str], rng: Rng) -> str:
    """A table of the texts of one task and their labels."""
    ((name, told),) = cases.items()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows((case.text, f"{leads[name]} {bare(case.answers[0])}") for case in some(told, len(told), rng))
    return table.getvalue()


def paired(cases: Mapping[str, Sequence[Case]], leads: Mapping[str, str], rng: Rng) -> str:
    """Rows of all tasks: a prompt, which ends with the words before the answer, and its completion."""
    rows = [
        {"prompt": f"{case.text} {leads[name]}", "completion": f" {case.answers[0]}"}
        for name, told in cases.items()
        for case in told
    ]
    return jsonl(some(rows, len(rows), rng))


def chatted(cases: Mapping[str, Sequence[Case]], leads: Mapping[str, str], rng: Rng) -> str:
    """Chats that ask once for each task."""
    shuffled = {name: some(told, len(told), rng) for name, told in cases.items()}
    chats: list[Row] = []
    for asked_together in zip(*shuffled.values(), strict=True):
        messages = []
        for name, case in zip(shuffled, asked_together, strict=True):
            messages.append({"role": "user", "content": case.text})
            messages.append({"role": "assistant", "content": f"{leads[name]} {case.answers[0]}"})
        chats.append({"messages": messages})
    return jsonl(chats)


def bare(answer: str) -> str:
    return answer.removesuffix(".")


def asked(cases: Sequence[Case], rng: Rng, form: Form) -> Iterator[Row]:
    """Rows of a choice task, in any order; each place is the right one equally often. Labels have no full stop."""
    for i, place in zip(rng.permutation(len(cases)), rng.permutation(len(cases)) % CHOICES, strict=True):
        right, *wrong = cases[i].answers
        wrong = some(wrong, len(wrong), rng)
        choices = [*wrong[:place], right, *wrong[place:]]
        choices = [bare(choice) for choice in choices] if form is labelled else choices
        yield {"input": cases[i].text, "choices": choices, "answer": int(place)}


def files() -> dict[str, str]:
    """Path below the examples' folder -> text."""
    found = {}
    for folder, (form, tasks) in EXAMPLES.items():
        rng = np.random.default_rng([SEED, zlib.crc32(folder.encode())])
        cases = {name: parts(name, task) for name, task in tasks.items()}
        leads = {name: task.lead for name, task in tasks.items()}
        suffix = "csv" if form is labelled else "jsonl"
        for part in ("train", "validation"):
            found[f"{folder}/{part}.{suffix}"] = form({name: of[part] for name, of in cases.items()}, leads, rng)
        for name, of in cases.items():
            found[f"{folder}/{name}_test.jsonl"] = jsonl(asked(of["test"], rng, form))
    return found


def jsonl(rows: Iterator[Row] | Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def one(items: Sequence[T], rng: Rng) -> T:
    return items[int(rng.integers(len(items)))]


def some(items: Sequence[T], count: int, rng: Rng) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))[:count]]


def others(items: Sequence[T], known: Sequence[T], count: int, rng: Rng) -> list[T]:
    return some([item for item in items if item not in known], count, rng)


def slipped(text: str, rng: Rng) -> str:
    """The text, at times with two neighbouring letters within a word swapped."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha() and word.islower()]
    if long and rng.random() < SLIPS:
        word, k = words[i := one(long, rng)], int(rng.integers(1, 4))
        words[i] = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    return " ".join(words)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# ----- quality control: which step of the work is at fault; what does a customer's letter say

PRODUCTS = ("gears", "screws", "bottles", "cans", "tiles", "pipes", "lenses", "wheels", "plates", "boxes")
NEW_PRODUCTS = ("knobs", "wires", "lids", "panels", "tubes", "brackets")
STATIONS = ("foundry", "workshop", "depot", "annex", "laboratory", "garage", "hangar", "shed")
INSTRUMENTS = ("camera", "microscope", "scale", "caliper", "gauge", "scanner", "laser", "probe")

# A step, and what its faults leave on the goods.
FAULTS = {
    "grinding": ("burrs", "ridges", "chatter marks", "scratches", "steel dust"),
    "welding": ("cracks", "holes", "spatter", "gaps", "warps"),
    "coating": ("blisters", "flakes", "bare spots", "bubbles", "gaps"),
    "painting": ("streaks", "drips", "smears", "wrong colour", "bubbles"),
    "cooling": ("warps", "folds", "cracks", "heat marks", "hollows"),
    "cleaning": ("stains", "oil film", "smears", "white dust", "smell"),
    "drying": ("moisture", "rust", "blisters", "soft label", "stains"),
    "tightening": ("dents", "chips", "scratches", "bent corner", "bare spots"),
}
STEPS = tuple(FAULTS)
ASIDES = ("No {}.", "{}, but allowed.", "Last week {}.")


def distinctive(signs: Mapping[str, Sequence[str]], right: str, rng: Rng) -> list[str]:
    """Two or three of its signs that are together nobody else's."""
    while True:
        shown = some(signs[right], 2 + int(rng.integers(2)), rng)
        if sum(set(shown) <= set(each) for each in signs.values()) == 1:
            return shown


def report(rng: Rng, n: int, new: bool) -> Case:
    """Two or three signs of the n-th step; at times a sign of a wrong choice is named that does not count.

    new: of products that training never shows.
    """
    right = STEPS[n % len(STEPS)]
    product, station = one(NEW_PRODUCTS if new else PRODUCTS, rng), one((*STATIONS, ""), rng)
    signs = distinctive(FAULTS, right, rng)
    wrong = others(STEPS, [right], CHOICES - 1, rng)
    decoy = one(others(FAULTS[wrong[0]], FAULTS[right], 5, rng), rng)
    aside = one(ASIDES, rng).format(decoy) if rng.random() < 0.3 else ""
    told = [f"{product}, {station}" if station else product]
    if rng.random() < 0.3:
        told.append(f"checked with the {one(INSTRUMENTS, rng)}")
    told = [f"{capital(each)}." for each in (*told, ", ".join(signs))] + ([capital(aside)] if aside else [])
    facts = (right, product, station, frozenset(signs), aside)
    return Case(facts, " ".join(told), tuple(f"{each}." for each in (right, *wrong)))


DEFECTS = ("scratches", "dents", "burrs", "cracks", "bubbles", "stains", "warps", "holes")
# What a customer wants in a summary's words, and in the customers'.
WISHES = {
    "spare goods": ("Send us new ones.", "Please replace them."),
    "an engineer": ("Somebody should come.", "When can you be here?"),
    "a report": ("We need it on paper.", "Send us your records."),
    "help": ("What can we do?", "Tell us how to use them."),
}
GREETINGS = ("Hello.", "Good day.")
COMPLAINTS = (
    "The {product} came with {defect}.",
    "Your {product} have {defect}.",
    "We found {defect} on the {product}.",
)


def feedback(rng: Rng, n: int, new: bool) -> Case:
    """A letter and four summaries, of which the wrong ones differ in one fact.

    It is the same fact in all three: if each had its own, the summary that is most like the others would be right,
    unread. new: of products that training never shows.
    """
    values: Mapping[str, Sequence[str]] = {"defect": DEFECTS, "wish": tuple(WISHES)}
    fact = tuple(values)[n % len(values)]
    right = {name: one(each, rng) for name, each in values.items()}
    product, other = some(NEW_PRODUCTS if new else PRODUCTS, 2, rng)
    wrong = others(values[fact], [right[fact]], CHOICES - 1, rng)
    decoy = wrong[0] if fact == "defect" else one(others(DEFECTS, [right["defect"]], 7, rng), rng)
    aside = one(("", "", f"The {other} are good.", f"No {decoy} this time."), rng)
    wish = one(WISHES[right["wish"]], rng)
    complaint = one(COMPLAINTS, rng).format(product=product, defect=right["defect"])
    told = (one(GREETINGS, rng) if rng.random() < 0.2 else "", complaint, aside, wish)
    summaries = [right, *(right | {fact: value} for value in wrong)]
    answers = tuple("{defect} on {product}, wants {wish}.".format(product=product, **each) for each in summaries)
    return Case((product, right["defect"], aside, wish), " ".join(filter(None, told)), answers)


# ----- supply chain: from which supplier does the plant order, as its orders show; how does demand go on

# The parts of four families, what an order's words say is needed, and who is chosen for each pair of them.
FAMILIES = {
    "rubber": ("hose", "gasket", "washer", "bushing"),
    "electric": ("fuse", "coil", "relay", "sensor"),
    "steel": ("bearing", "spring", "bolt", "chain"),
    "plastic": ("filter", "plug", "cable", "ring"),
}
NEEDS = {
    "fast": ("the machine stands still", "the crew needs it today"),
    "cheap": ("a large lot for the depot", "the price counts"),
    "exact": ("for the laboratory", "to the gauge first"),
    "rare": ("a special size", "just one, as a spare"),
}
SUPPLIERS = {
    "rubber": ("Norvik", "Altmann", "Kessler", "Dorling"),
    "electric": ("Pavani", "Ostrow", "Merrin", "Lindqvist"),
    "steel": ("Tarkan", "Boveri", "Hallam", "Quist"),
    "plastic": ("Sandoval", "Ferrante", "Ulrich", "Yamada"),
}
REQUESTS = (
    "We need the {}",
    "Order the {}",
    "Please order the {}",
    "For {place}: the {}",
    "The {place} asks for the {}",
)


def order(rng: Rng, n: int, new: bool) -> Case:
    """A request; its part's family and what it needs say who is the supplier.

    The choices are the suppliers of two families for two needs, so that none of them is right by its company. new: a
    pair of part and need that training never shows.
    """
    family = tuple(FAMILIES)[n % len(FAMILIES)]
    need = n // len(FAMILIES) % len(NEEDS)
    part = one([each for i, each in enumerate(FAMILIES[family]) if ((i + need) % len(NEEDS) == 0) == new], rng)
    sign = one(tuple(NEEDS.values())[need], rng)
    rival = one(others(range(len(NEEDS)), [need], 3, rng), rng)
    stranger = one(others(tuple(FAMILIES), [family], 3, rng), rng)
    answers = (SUPPLIERS[kind][which] for kind in (family, stranger) for which in (need, rival))
    text = f"{one(REQUESTS, rng).format(part, place=one(STATIONS, rng))}, {sign}."
    return Case((text,), text, tuple(f"{each}." for each in answers))


# How to order a part, and what its history tells where demand rises, falls, stays as it was, or has a season.
HISTORY = {
    "often": ("a new line", "second shift added", "large orders", "stock too small", "new customer"),
    "one": ("goods not sold", "lot sent back", "quiet weeks", "bought elsewhere", "shed is full"),
    "as usual": ("contract renewed", "no change of plan", "equal orders", "stock as planned", "machines as before"),
    "for spring": ("peak in April", "quiet in winter", "rush after Easter", "half in autumn", "peak each May"),
}
TRENDS = tuple(HISTORY)
CANCELLED = ("{}, but cancelled", "{} only planned")


def history(rng: Rng, n: int, new: bool) -> Case:
    """What happened in some quarters of two years, at times also what did not come about. new: of new parts."""
    trend = TRENDS[n % len(TRENDS)]
    known = [part for family in FAMILIES.values() for part in family[:-1]]
    late = [family[-1] for family in FAMILIES.values()]
    part = one(late if new else known, rng)
    shown = some(HISTORY[trend], 2 + int(rng.integers(2)), rng)
    wrong = others(TRENDS, [trend], CHOICES - 1, rng)
    noise = one(CANCELLED, rng).format(one(HISTORY[wrong[0]], rng)) if rng.random() < 0.3 else ""
    told = some(shown + [noise] * bool(noise), len(shown) + 1, rng)
    quarters = np.sort(rng.choice(8, size=len(told), replace=False))
    lines = [f"{2024 + quarter // 4} Q{quarter % 4 + 1} {each}" for quarter, each in zip(quarters, told, strict=True)]
    return Case(
        (part, frozenset(told)), f"{capital(part)}. {'; '.join(lines)}.", tuple(f"{each}." for each in (trend, *wrong))
    )


# ----- predictive maintenance: the root cause behind a machine's log

COMPONENTS = ("spindle", "gearbox", "pump", "motor", "valve", "clutch", "brake", "nozzle", "fan", "roller")
NEW_COMPONENTS = ("belt", "shaft", "hinge", "piston", "gripper", "conveyor")
EVIDENCE = {
    "dust": ("filter pressure high", "fan current high", "smell", "no signal from the sensor", "hiss at the filter"),
    "moisture": ("flicker", "drip at the cover", "fuse fails", "no signal from the sensor", "insulation low"),
    "overload": ("motor current high", "fuse fails", "smell", "speed low", "hum"),
    "misalignment": ("vibration high", "rattle", "coupling hot", "belt off its track", "bearing hot"),
    "wear": ("vibration high", "tremor", "metal in the oil", "play in the bearing", "rattle"),
    "sludge": ("oil pressure low", "pump current high", "oil hot", "filter pressure high", "speed low"),
    "static": ("spark", "flicker", "glow at the cable", "counter jumps", "humidity low"),
    "friction": ("bearing hot", "squeal", "motor current high", "oil hot", "smell"),
}
CAUSES = tuple(EVIDENCE)
# What a message's last word measures: lowest and highest reading in each of two plants' units.
READINGS = {
    "hot": ((82, 110, "C"), (180, 230, "F")),
    "filter pressure high": ((4, 9, "bar"), (58, 130, "psi")),
    "oil pressure low": ((1, 2, "bar"), (14, 29, "psi")),
    "current high": ((40, 90, "A"), (40, 90, "A")),
    "vibration high": ((9, 25, "mm/s"), (36, 98, "in/min")),
    "speed low": ((200, 500, "rpm"), (3, 8, "Hz")),
    "humidity low": ((9, 20, "%"), (9, 20, "%")),
}


def log(rng: Rng, n: int, new: bool) -> Case:
    """Two or three messages that together have one cause, the n-th; at times a false alarm of another one.

    new: of components that training never shows.
    """
    right = CAUSES[n % len(CAUSES)]
    component = one(NEW_COMPONENTS if new else COMPONENTS, rng)
    shown = distinctive(EVIDENCE, right, rng)
    wrong = others(CAUSES, [right], CHOICES - 1, rng)
    plant = int(rng.integers(2))
    told = [f"{message}{reading(message, plant, rng) if rng.random() < 0.4 else ''}" for message in shown]
    false = one(others(EVIDENCE[wrong[0]], EVIDENCE[right], 5, rng), rng) if rng.random() < 0.3 else ""
    if false:
        told.insert(int(rng.integers(len(told) + 1)), f"{false}, false alarm")
    told = [f"{component} on", *told, f"{component} stopped"]
    times = np.sort(rng.choice(24 * 60, size=len(told), replace=False))
    lines = [f"{time // 60:02}:{time % 60:02} {each}" for time, each in zip(times, told, strict=True)]
    facts = (right, component, frozenset(shown), false)
    return Case(facts, "; ".join(lines), tuple(f"{each}." for each in (right, *wrong)))


def reading(message: str, plant: int, rng: Rng) -> str:
    """The reading behind a message in the plant's unit; nothing where nothing is measured."""
    for what, ranges in READINGS.items():
        if message.endswith(what):
            low, high, unit = ranges[plant]
            return f" {rng.integers(low, high, endpoint=True)} {unit}"
    return ""


EXAMPLES: dict[str, tuple[Form, dict[str, Task]]] = {
    "predictive-maintenance": (labelled, {"cause": Task("because of", log, 800, 320)}),
    "quality-control": (
        paired,
        {
            "defects": Task("The fault is in", report, 500, 160),
            "feedback": Task("The customer has", feedback, 500, 160),
        },
    ),
    "supply-chain": (
        chatted,
        {
            "supplier": Task("Order from", order, 500, 160),
            "demand": Task("Order", history, 500, 160),
        },
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python examples/make.py", description="Make the data of the examples.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="the folder (default: this one)")
    options = parser.parse_args(argv)
    for name, text in files().items():
        path = options.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
