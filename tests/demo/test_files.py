"""The shipped files: they are what the generator makes, the model loads offline, and the harness reads the tasks."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from partune.demo import DIRECTORY, SEED, factory, make
from tests.support.harness import simple_evaluate

MEGABYTE = 1_000_000
ITEMS = 200  # of a task, that the harness answers too


def test_the_data_files_are_what_the_generator_writes() -> None:
    for name, text in make.data_files(factory.generate(SEED)).items():
        assert (DIRECTORY / name).read_text(encoding="utf-8") == text, f"{name}: run python -m partune.demo.make again"


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in DIRECTORY.rglob("*") if path.is_file()) < 4 * MEGABYTE


def test_a_filled_directory_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert make.main(["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error == f"the directory {tmp_path} is not empty: choose an empty or new one with `--out`\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_tokenizer_keeps_words_and_alpacas_headings_whole() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DIRECTORY / "model")
    count = lambda text: len(tokenizer(text)["input_ids"])  # noqa: E731
    assert [word for word in factory.words(factory.generate(SEED)) if count(word) != 1] == []
    assert count(factory.ALPACA.format(instruction="")) == 3
    assert count(factory.ALPACA_INPUT.format(instruction="", input="")) == 4
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.decode(tokenizer("anything else: naïve, 42!")["input_ids"]).strip() == "anything else: naïve, 42!"


def test_a_prompt_is_tokenised_like_its_part_of_prompt_and_answer() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DIRECTORY / "model")
    for line in (DIRECTORY / "instructions.jsonl").read_text().splitlines()[:50]:
        row = json.loads(line)
        prompt = (factory.ALPACA_INPUT if row["input"] else factory.ALPACA).format(**row)
        ids, answer = tokenizer(prompt)["input_ids"], tokenizer(row["output"])["input_ids"]
        assert tokenizer(prompt + row["output"])["input_ids"] == ids + answer


@functools.cache
def base_answers(task: str) -> list[bool]:
    """Whether the base is right about each of the first items: the choice of the highest log-likelihood is."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DIRECTORY / "model")
    model = AutoModelForCausalLM.from_pretrained(DIRECTORY / "model", dtype=torch.float32).eval()
    contexts, choices, answers = [], [], []
    for row in (json.loads(line) for line in (DIRECTORY / "tasks" / f"{task}.jsonl").read_text().splitlines()[:ITEMS]):
        cloze = "ctx" in row
        context = f"{row['activity_label']}: {row['ctx']}" if cloze else f"Question: {row['question']}\nAnswer:"
        contexts += [context] * factory.CHOICES
        choices += row["endings"] if cloze else row["choices"]
        answers.append(row["label"] if cloze else row["answer"])
    starts = torch.tensor([len(ids) for ids in tokenizer(contexts)["input_ids"]])
    texts = [f"{context} {choice}" for context, choice in zip(contexts, choices, strict=True)]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    places = torch.arange(ids.shape[1])
    scores = []
    for i in range(0, len(ids), 256):
        rows = slice(i, i + 256)
        with torch.inference_mode():
            logits = model(input_ids=ids[rows]).logits[:, :-1].log_softmax(-1)  # (rows, places - 1, vocabulary)
        each = logits.gather(-1, ids[rows, 1:, None]).squeeze(-1)
        scores.append(each.where(real[rows, 1:] & (places[1:] >= starts[rows, None]), 0.0).sum(1))
    best = torch.cat(scores).view(-1, factory.CHOICES).argmax(1)
    return (best == torch.tensor(answers)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["factory_cloze", "factory_questions"])
def test_the_base_knows_something_and_not_everything(task: str) -> None:
    assert 0.27 < np.mean(base_answers(task)) < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("task", ["factory_cloze", "factory_questions"])
def test_the_harness_reads_the_task_and_agrees(task: str, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    text = (DIRECTORY / "tasks" / f"{task}.yaml").read_text()
    (tmp_path / f"{task}.yaml").write_text(text.replace(f"{task}.jsonl", str(DIRECTORY / "tasks" / f"{task}.jsonl")))
    results = simple_evaluate(
        model=HFLM(pretrained=str(DIRECTORY / "model"), device="cpu", dtype="float32", batch_size=64),
        tasks=[task],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        limit=ITEMS,
    )
    found = [bool(sample["acc"]) for sample in results["samples"][task]]
    assert sum(a != b for a, b in zip(found, base_answers(task), strict=True)) <= 1  # near-ties


@pytest.mark.slow
def test_pretraining_is_deterministic(tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert make.main(["--seed", "5", "--steps", "3", "--out", str(tmp_path / name)]) == 0
    first, second = sorted((tmp_path / "first").rglob("*.*")), sorted((tmp_path / "second").rglob("*.*"))
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
