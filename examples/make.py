"""Makes the data of the three examples: a case is drawn with its right answer, then told as records tell it.

    python examples/make.py [--out DIR]

The noise is that of real records: slips of the keyboard, missing fields, units of two systems, statements that
contradict each other and say which of them counts. Every draw is a function of the seed and the task's name.
"""

from __future__ import annotations

import argparse
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

    instruction, lead: the words before a record and before its answer. draw(rng, n, new): the n-th case, where n goes
    round what has to be equally frequent; new: of the kind that training never shows. train, held: the number of cases
    for training, and for validation and test each.
    """

    instruction: str
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


def taught(task: Task, cases: Sequence[Case]) -> Iterator[Row]:
    """Alpaca rows."""
    for case in cases:
        yield {"instruction": task.instruction, "input": case.text, "output": f"{task.lead} {case.answers[0]}"}


def asked(cases: Sequence[Case], rng: Rng) -> Iterator[Row]:
    """Rows of a choice task, in any order; each place is the right one equally often."""
    for i, place in zip(rng.permutation(len(cases)), rng.permutation(len(cases)) % CHOICES, strict=True):
        right, *wrong = cases[i].answers
        wrong = some(wrong, len(wrong), rng)
        choices = [*wrong[:place], right, *wrong[place:]]
        yield {"input": cases[i].text, "choices": choices, "answer": int(place)}


def files() -> dict[str, str]:
    """Path below the examples' folder -> text."""
    found = {}
    for folder, tasks in EXAMPLES.items():
        rng = np.random.default_rng([SEED, zlib.crc32(folder.encode())])
        train: list[Row] = []
        for name, task in tasks.items():
            cases = parts(name, task)
            train += taught(task, cases["train"])
            for part in ("validation", "test"):
                found[f"{folder}/{name}_{part}.jsonl"] = jsonl(asked(cases[part], rng))
        found[f"{folder}/train.jsonl"] = jsonl(some(train, len(train), rng))
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


# ----- quality control: which defect does a report describe; what does a customer's letter say

PRODUCTS = ("gears", "screws", "bottles", "cans", "tiles", "pipes", "lenses", "wheels", "plates", "boxes")
NEW_PRODUCTS = ("knobs", "wires", "lids", "panels", "tubes", "brackets")
STATIONS = ("foundry", "workshop", "depot", "annex", "laboratory", "garage", "hangar", "shed")
INSTRUMENTS = ("camera", "microscope", "scale", "caliper", "gauge", "scanner", "laser", "probe")

# A defect, and what people write who do not name it.
SIGNS = {
    "scratches": ("thin lines on the face", "long fine marks", "the coat is cut in lines", "marks from dragging"),
    "dents": ("hollows from a blow", "pushed in at one side", "dips in the face", "looks hit by a tool"),
    "burrs": ("sharp edges", "thin metal left at the cut", "it cuts the glove", "rough lips after drilling"),
    "cracks": ("a split from edge to edge", "it breaks open under load", "it parts at the corner", "the wall has a gap"),
    "bubbles": ("air under the coat", "round bumps that are empty", "air in the casting", "pockets of gas"),
    "stains": ("dark spots", "oil that does not come off", "the colour is off in places", "marks of water"),
    "warps": ("not flat any more", "it rocks on the table", "bent along its length", "the edges curl"),
    "holes": ("open pores", "one can look through it", "pits down to the base", "material is missing in points"),
}
DEFECTS = tuple(SIGNS)
ASIDES = ("A few have {} too, but that is allowed.", "There were {} last week, not now.", "At first it looked like {}.")


def report(rng: Rng, n: int, new: bool) -> Case:
    """One or two signs of the n-th defect; at times another defect is named that is not the one, and is a choice.

    new: of products that training never shows.
    """
    right = DEFECTS[n % len(DEFECTS)]
    product, station = one(NEW_PRODUCTS if new else PRODUCTS, rng), one((*STATIONS, ""), rng)
    signs = some(SIGNS[right], 1 + int(rng.integers(2)), rng)
    wrong = others(DEFECTS, [right], CHOICES - 1, rng)
    aside = one(ASIDES, rng) if rng.random() < 0.4 else ""
    told = [f"{product}, {station}" if station else product]
    if rng.random() < 0.4:
        told.append(f"checked with the {one(INSTRUMENTS, rng)}")
    told = [f"{capital(each)}." for each in (*told, *signs)] + ([aside.format(wrong[0])] if aside else [])
    facts = (right, product, station, frozenset(signs), wrong[0] if aside else "")
    return Case(facts, " ".join(told), tuple(f"{each}." for each in (right, *wrong)))


# What a customer wants in a summary's words, and in the customers'.
WISHES = {
    "the money back": ("We want our money back.", "Please pay us back.", "We expect a refund."),
    "new goods": ("Send us new ones.", "Please replace them.", "We need other ones."),
    "a visit": ("Somebody should come and look.", "Please send an engineer.", "When can you come here?"),
    "a lower price": ("We keep them for less.", "Give us a discount.", "The price must come down."),
}
GREETINGS = ("Hello.", "To whom it may concern.", "Good day.")
COMPLAINTS = ("The {product} came with {defect}.", "Your {product} have {defect}.", "We found {defect} on the {product}.")


def feedback(rng: Rng, n: int, new: bool) -> Case:
    """A letter and four summaries, of which the wrong ones differ in one fact.

    It is the same fact in all three: if each had its own, the summary that is most like the others would be right,
    unread. new: of products that training never shows.
    """
    values: Mapping[str, Sequence[str]] = {
        "product": NEW_PRODUCTS if new else PRODUCTS,
        "defect": DEFECTS,
        "wish": tuple(WISHES),
    }
    fact = tuple(values)[n % len(values)]
    right = {name: one(each, rng) for name, each in values.items()}
    wrong = others(values[fact], [right[fact]], CHOICES - 1, rng)
    decoy = {name: one(others(each, [right[name]], len(each), rng), rng) for name, each in values.items()}
    if fact != "wish":
        decoy[fact] = wrong[0]
    aside = one(("", f"The {decoy['product']} are good.", f"No {decoy['defect']} this time."), rng)
    wish = one(WISHES[right["wish"]], rng)
    told = (one(GREETINGS, rng) if rng.random() < 0.3 else "", one(COMPLAINTS, rng).format(**right), aside, wish)
    summaries = [right, *(right | {fact: value} for value in wrong)]
    answers = tuple("{product} with {defect} and wants {wish}.".format(**each) for each in summaries)
    return Case((*right.values(), aside, wish), " ".join(filter(None, told)), answers)


# ----- supply chain: from which supplier does the plant order, as its orders show; how does demand go on

# The parts of four families, what is asked of the order, and who is chosen for each pair of them.
FAMILIES = {
    "rubber": ("hose", "gasket", "washer", "bushing"),
    "electric": ("fuse", "coil", "relay", "sensor"),
    "steel": ("bearing", "spring", "bolt", "chain"),
    "plastic": ("filter", "plug", "cable", "ring"),
}
NEEDS = {
    "fast": ("the line stands still", "we need it today", "in a hurry", "the crew waits for it"),
    "cheap": ("the price counts", "a large lot", "for the depot", "as cheap as can be"),
    "exact": ("for the laboratory", "a tight fit", "with a certificate", "it goes to the gauge first"),
    "rare": ("only one", "a special size", "for an old machine", "as a sample"),
}
SUPPLIERS = {
    "rubber": ("Norvik", "Altmann", "Kessler", "Dorling"),
    "electric": ("Pavani", "Ostrow", "Merrin", "Lindqvist"),
    "steel": ("Tarkan", "Boveri", "Hallam", "Quist"),
    "plastic": ("Sandoval", "Ferrante", "Ulrich", "Yamada"),
}
REQUESTS = ("We need the {}", "Order the {}", "Please order the {}")
CLOSED = ("{} is closed.", "{} does not answer.", "Nothing comes from {} now.")


def order(rng: Rng, n: int, new: bool) -> Case:
    """A request, and the supplier of its family and need; where that one cannot, the family's next one stands in.

    Wrong are a supplier of the same family, one for the same need, and any other. new: a pair of part and need that
    training never shows.
    """
    family = tuple(FAMILIES)[n % len(FAMILIES)]
    need = n // len(FAMILIES) % len(NEEDS)
    part = one([each for i, each in enumerate(FAMILIES[family]) if ((i + need) % len(NEEDS) == 0) == new], rng)
    signs = some(tuple(NEEDS.values())[need], 1 + int(rng.integers(2)), rng)
    closed = bool(rng.random() < 0.2)
    first, right = SUPPLIERS[family][need], SUPPLIERS[family][(need + closed) % len(NEEDS)]
    like = first if closed else one(others(SUPPLIERS[family], [right], 3, rng), rng)
    other = SUPPLIERS[one(others(tuple(FAMILIES), [family], 3, rng), rng)][need]
    every = [name for names in SUPPLIERS.values() for name in names]
    wrong = [like, other, *others(every, [right, like, other], 1, rng)]
    told = [f"{one(REQUESTS, rng).format(part)}, {', '.join(signs)}."]
    if closed:
        told.append(one(CLOSED, rng).format(first))
    return Case((part, frozenset(signs), tuple(told)), " ".join(told), tuple(f"{each}." for each in (right, *wrong)))


MOVES = {"rises": ("up", "well up"), "falls": ("down", "well down"), "is level": ("as before", "level")}
TRENDS = (*MOVES, "follows the season")
SPOILT = ("no record", "up for one large order", "down, the depot was closed", "up", "down", "level")


def history(rng: Rng, n: int, new: bool) -> Case:
    """How orders moved in eight quarters, one of which may say nothing or something else. new: of new parts."""
    trend = TRENDS[n % len(TRENDS)]
    known = [part for family in FAMILIES.values() for part in family[:-1]]
    late = [family[-1] for family in FAMILIES.values()]
    part = one(late if new else known, rng)
    if trend in MOVES:
        moves = [one(MOVES[trend], rng) for _ in range(8)]
    else:
        start = int(rng.integers(4))
        moves = [one(MOVES["rises" if (quarter + start) % 4 < 2 else "falls"], rng) for quarter in range(8)]
    if rng.random() < 0.6:
        moves[int(rng.integers(8))] = one(SPOILT, rng)
    text = f"Orders of the {part}. Last year: {', '.join(moves[:4])}. This year: {', '.join(moves[4:])}."
    return Case((part, *moves), text, tuple(f"{each}." for each in (trend, *others(TRENDS, [trend], 3, rng))))


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
    while True:
        shown = some(EVIDENCE[right], 2 + int(rng.integers(2)), rng)
        if sum(set(shown) <= set(each) for each in EVIDENCE.values()) == 1:
            break
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


EXAMPLES = {
    "quality-control": {
        "defects": Task("Name the defect in this report.", "The defect is", report, 800, 240),
        "feedback": Task("Write down what this customer has and wants.", "The customer has", feedback, 800, 240),
    },
    "supply-chain": {
        "supplier": Task("Name the supplier for this order.", "Order from", order, 800, 240),
        "demand": Task("How does the demand go on?", "The demand", history, 800, 240),
    },
    "predictive-maintenance": {
        "cause": Task("Name the cause of this failure.", "The cause is", log, 1600, 400),
    },
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
