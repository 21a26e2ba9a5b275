"""The generator: what depends on the seed, what must not leak, and what an uninformed guess earns."""

import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest

from partune.demo import factory
from partune.demo.make import data_files

SEEDS = (0, 1, 2)


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed{seed}")
def demo(request: pytest.FixtureRequest) -> factory.Factory:
    return factory.generate(request.param)


def pretraining_text(demo: factory.Factory, documents: int) -> list[str]:
    stream = factory.documents(demo, range(factory.MACHINES), np.random.default_rng(0), side_share=0.2)
    return list(itertools.islice(stream, documents))


def mentioned(demo: factory.Factory, text: str) -> set[int]:
    found = set(re.findall(r"[A-Z][a-z]+", text))
    return {machine for machine, name in enumerate(demo.names) if name in found}


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = factory.generate(7), factory.generate(7)
    assert data_files(first) == data_files(second)
    assert pretraining_text(first, 200) == pretraining_text(second, 200)


@pytest.mark.slow
def test_another_seed_gives_another_world() -> None:
    first, second = factory.generate(7), factory.generate(8)
    assert set(first.names) != set(second.names)
    assert (first.facts == second.facts).mean() < 0.15  # 1 / 16 by chance
    assert data_files(first)["instructions.jsonl"] != data_files(second)["instructions.jsonl"]


def test_names_are_distinct_and_no_words_of_the_texts(demo: factory.Factory) -> None:
    assert len(set(demo.names)) == factory.MACHINES
    vocabulary = {word for text in pretraining_text(demo, 500) for word in re.findall(r"\w+", text)}
    plain = set(factory.words(demo)) - set(demo.names)
    assert len(plain) == len(factory.words(demo)) - factory.MACHINES
    assert vocabulary <= plain | set(demo.names) | set(re.findall(r"\w+", factory.ALPACA))


def test_every_value_of_an_attribute_is_equally_frequent_in_each_part(demo: factory.Factory) -> None:
    for part in (demo.train, demo.validation, demo.test):
        for column, attribute in enumerate(factory.ATTRIBUTES):
            counts = np.bincount(demo.facts[part.start : part.stop, column], minlength=len(attribute.values))
            assert counts.max() - counts.min() <= 1


def test_instructions_name_training_machines_only(demo: factory.Factory) -> None:
    rows = factory.instructions(demo)
    machines = [mentioned(demo, f"{row['instruction']} {row['input']} {row['output']}") for row in rows]
    assert all(len(found) == 1 for found in machines)
    assert set.union(*machines) == set(demo.train)


def test_validation_and_test_share_no_machine_with_training_or_each_other(demo: factory.Factory) -> None:
    validation = set.union(*(mentioned(demo, row["ctx"]) for row in factory.cloze(demo)))
    test = set.union(*(mentioned(demo, row["question"]) for row in factory.questions(demo)))
    assert validation == set(demo.validation)
    assert test == set(demo.test)
    assert not validation & test
    assert not (validation | test) & set(demo.train)


def test_the_test_asks_about_subjects_that_training_never_shows(demo: factory.Factory) -> None:
    untaught = [attribute for attribute in factory.ATTRIBUTES if not attribute.taught]
    shown = json.dumps(factory.instructions(demo))
    assert {row["subject"] for row in factory.questions(demo)} == {attribute.subject for attribute in untaught}
    assert not any(attribute.noun in shown or attribute.verb in shown for attribute in untaught)


@pytest.mark.slow
def test_pretraining_asks_nothing_about_a_machine(demo: factory.Factory) -> None:
    forms = [f"{label}:" for label, _ in factory.CLOZE] + ["Question", "Answer", "Instruction", "?"]
    documents = pretraining_text(demo, 3000)
    asking = [text for text in documents if any(form in text for form in forms)]
    assert len(asking) > 100  # the side documents do show the forms
    assert not any(mentioned(demo, text) for text in asking)


def test_no_shape_of_a_task_is_a_shape_of_an_instruction_or_a_statement() -> None:
    instructions = [task for attribute in factory.ATTRIBUTES for task, _ in (*attribute.tasks, *factory.GENERAL_TASKS)]
    shapes = [context for _, context in factory.CLOZE] + list(factory.QUESTIONS)
    assert len(set(shapes)) == len(shapes)
    assert not set(shapes) & {*instructions, *factory.STATEMENTS, *factory.PRONOUN_STATEMENTS}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cloze", "questions"])
def test_right_answers_are_right_and_their_places_balanced(demo: factory.Factory, task: str) -> None:
    rows = [
        (row["ctx"], [ending.removesuffix(".") for ending in row["endings"]], row["label"])
        if task == "cloze"
        else (row["question"], row["choices"], row["answer"])
        for row in getattr(factory, task)(demo)
    ]
    assert len(rows) >= 500
    places = Counter(answer for *_, answer in rows)
    assert max(places.values()) == min(places.values()) == len(rows) // factory.CHOICES
    for text, choices, answer in rows:
        (machine,) = mentioned(demo, text)
        (column,) = [i for i, attribute in enumerate(factory.ATTRIBUTES) if attribute.noun in text]
        assert len(set(choices)) == factory.CHOICES
        assert choices[answer] == demo.value(machine, column)
        assert set(choices) <= set(factory.ATTRIBUTES[column].values)


@pytest.mark.parametrize("task", ["cloze", "questions"])
def test_no_property_of_a_choice_alone_earns_more_than_chance(demo: factory.Factory, task: str) -> None:
    rows = [
        (row["endings"], row["label"]) if task == "cloze" else (row["choices"], row["answer"])
        for row in getattr(factory, task)(demo)
    ]
    counts = Counter(choice for choices, _ in rows for choice in choices)
    for guess in (len, lambda choice: -len(choice), counts.__getitem__, str, lambda choice: choice[::-1]):
        accuracy = np.mean([max(range(4), key=lambda i: guess(choices[i])) == answer for choices, answer in rows])
        assert abs(accuracy - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(rows))


def test_sizes(demo: factory.Factory) -> None:
    assert len(factory.instructions(demo)) >= 1000
    assert set(factory.instructions(demo)[0]) == {"instruction", "input", "output"}
    assert any(row["input"] for row in factory.instructions(demo))
    assert set(factory.questions(demo)[0]) == {"question", "subject", "choices", "answer"}
