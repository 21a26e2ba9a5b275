"""The rows in forms that people have: what they are about, how each is read, and what they must not give away."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter

import pytest

from partune import config
from partune.demo import DIRECTORY, ROWS, factory, rows
from partune.demo.make import data_files


@pytest.fixture(params=(0, 1), ids=lambda seed: f"seed{seed}")
def demo(request: pytest.FixtureRequest) -> factory.Factory:
    return factory.generate(request.param)


def texts(row: factory.Row) -> list[str]:
    """All texts of a row."""
    turns = row.get("conversations")
    return [turn["value"] for turn in turns] if turns else list(row.values())


def told(demo: factory.Factory) -> dict[str, list[str]]:
    """The text of each row, by the file."""
    files = (rows.labels, rows.pairs, rows.conversations, rows.texts)
    return {make.__name__: ["\n".join(texts(row)) for row in make(demo)] for make in files}


def test_each_file_is_about_all_training_machines_and_no_others(demo: factory.Factory) -> None:
    for name, written in told(demo).items():
        machines = [{n for n in re.findall(r"[A-Z][a-z]+", text) if n in demo.names} for text in written]
        assert all(len(mentioned) == 1 for mentioned in machines), name
        assert set.union(*machines) == {demo.names[machine] for machine in demo.train}, name


def test_the_base_model_knows_every_word(demo: factory.Factory) -> None:
    """Words that are not in the tokenizer would be split into letters."""
    known = {*factory.words(demo), *re.findall(r"\w+", "Question Answer")}
    for name, written in told(demo).items():
        used = {word for text in written for word in re.findall(r"\w+", text)}
        assert used - known == set(), name


def test_every_fact_is_asked_for_or_stated_once(demo: factory.Factory) -> None:
    facts = {(demo.names[m], demo.value(m, c).split()[-1]) for m in demo.train for c in rows.TAUGHT}
    for make in (rows.pairs, rows.conversations, rows.texts):
        answers: Counter[tuple[str, str]] = Counter()
        for row in make(demo):
            written = "\n".join(texts(row))
            (machine,) = {name for name in re.findall(r"[A-Z][a-z]+", written) if name in demo.names}
            values = {value.split()[-1] for c in rows.TAUGHT for value in factory.ATTRIBUTES[c].values}
            answers.update((machine, word) for word in re.findall(r"\w+", written) if word in values)
        assert set(answers) == facts, make.__name__


def test_a_ticket_goes_where_its_thing_belongs_and_all_receivers_get_as_many(demo: factory.Factory) -> None:
    attributes = {attribute.name: attribute for attribute in factory.ATTRIBUTES}
    owner = {
        value: receiver
        for receiver, names in rows.RECEIVERS.items()
        for name in names
        for value in attributes[name].values
    }
    assert len(owner) == len(rows.RECEIVERS) * 2 * 16  # no value belongs to two receivers
    tickets = rows.labels(demo)
    counts = Counter(row["label"] for row in tickets)
    assert set(counts) == set(rows.RECEIVERS)
    assert len(set(counts.values())) == 1
    assert len({row["text"] for row in tickets}) == len(tickets)
    of_word = {value.split()[-1]: receiver for value, receiver in owner.items()}
    for row in tickets:
        assert [of_word[word] for word in re.findall(r"(\w+)\.", row["text"]) if word in of_word] == [row["label"]]


def test_a_conversation_names_its_machine_first_and_takes_turns(demo: factory.Factory) -> None:
    for row in rows.conversations(demo):
        turns = row["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * 2
        assert any(name in turns[0]["value"] for name in demo.names)


def test_the_table_is_a_table(demo: factory.Factory) -> None:
    text = rows.files(demo)["labels.csv"]
    assert list(csv.DictReader(io.StringIO(text))) == rows.labels(demo)
    assert "\r" not in text


def test_every_name_is_a_file_of_the_generator(demo: factory.Factory) -> None:
    made = set(data_files(demo))
    assert set(ROWS.values()) <= made
    assert {name for name in made if name.startswith("rows/")} <= set(ROWS.values())


@pytest.mark.parametrize(
    ("name", "form", "count"),
    [
        ("demo", "alpaca", 1152),
        ("demo:labels", "label", 1536),
        ("demo:pairs", "completion", 384),
        ("demo:conversations", "sharegpt", 192),
        ("demo:texts", "text", 192),
    ],
)
def test_each_form_is_told_by_its_columns(name: str, form: str, count: int) -> None:
    from partune.finetune.rows.files import read_rows
    from partune.finetune.rows.forms import normalise

    data = config.Data(path=name)
    assert data.path == str(DIRECTORY / ROWS[name])
    found = normalise(data, read_rows(data))
    assert (found.layout, len(found.rows), found.unused) == (form, count, {})
