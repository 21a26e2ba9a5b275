"""Answers of packs to tasks of every type, against the harness's own evaluation of each exported adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import PeftModel

from partune import config
from partune.finetune.model import Base
from partune.finetune.packed.adapters import Site, Weights, carrier
from partune.finetune.packed.answers import PackedAnswers
from partune.finetune.packed.head import Head
from partune.finetune.scoring.scores import Scorer, Scores
from partune.runtime.isolation import quiet
from tests.support.harness import simple_evaluate
from tests.support.harness_tasks import COUNT, GENERATING, write_harness_task
from tests.support.tiny import make_items, write_task

# It draws many answers to each question.
MARKS = {"gsm8k_cot_self_consistency": pytest.mark.thorough}

RANKS = (3, 8)
PARTS = {"search", "verdict"}


def tuned(sites: list[Site], seed: int, r: int) -> Weights:
    draw = torch.Generator().manual_seed(seed)
    return {
        site.name: (torch.randn(site.d_in, r, generator=draw) * 0.3, torch.randn(r, site.d_out, generator=draw) * 0.3)
        for site in sites
    }


def settings(r: int) -> config.Training:
    return config.Training(lora_r=r, lora_alpha=r + 2, targets="attention")


def whole(scores: Scores, name: str, what: str) -> list[Any]:
    """Per-item results of search and verdict items, in the documents' order."""
    pairs = []
    for part in ("search", "verdict"):
        rows = scores.items[f"{part}/{name}/{what}"].tolist()
        pairs += list(zip(scores.items[f"{part}/{name}/doc_id"].tolist(), rows, strict=True))
    return [row for _, row in sorted(pairs, key=lambda pair: pair[0])]


def evaluated(base: Base, path: Path, adapter: Path) -> list[dict[str, Any]]:
    """The samples of the harness's own evaluation of an exported adapter."""
    with base.lent() as model, quiet(), torch.random.fork_rng(devices=[]):
        PeftModel.from_pretrained(model, str(adapter)).eval()
        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
        hflm = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=1, max_length=base.context)
        found = simple_evaluate(hflm, tasks=[path.stem], task_manager=manager, bootstrap_iters=0, log_samples=True)
    samples: list[dict[str, Any]] = found["samples"][path.stem]
    return samples


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in GENERATING])
def test_answers_and_their_scores_are_those_of_the_harness(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write_harness_task(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    scorer = Scorer(base, config.Validation(tasks=(str(path),)), config.Test(), 0)
    answering = PackedAnswers(base, Head(base))
    with carrier(base, "attention") as carrying:
        adapters = [(settings(r), tuned(carrying.sites, seed, r)) for seed, r in enumerate(RANKS)]
        for number, (how, weights) in enumerate(adapters):
            carrying.save(how, weights, tmp_path / str(number))
        pack = carrying.loaded(adapters)
        found = scorer.score_all(lambda part, requests: answering.answers(part, requests, carrying, pack), PARTS)
    for number, scores in enumerate(found):
        assert isinstance(scores, Scores)
        samples = evaluated(base, path, tmp_path / str(number))
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        texts = [[text for answers in sample["resps"] for text in answers] for sample in samples]
        assert whole(scores, name, "answer") == texts[:COUNT]
        for filtered in filters:
            own = [sample for sample in samples if sample["filter"] == filtered]
            for metric in own[0]["metrics"]:
                ours = f"{metric},{filtered}" if len(filters) > 1 else metric
                if isinstance(own[0][metric], (int, float, np.number)):
                    assert whole(scores, name, ours) == [sample[metric] for sample in own]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lambada_openai", "wikitext"])
def test_likelihoods_of_texts_are_those_of_the_harness(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write_harness_task(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    scorer = Scorer(base, config.Validation(tasks=(str(path),)), config.Test(), 0)
    answering = PackedAnswers(base, Head(base))
    with carrier(base, "attention") as carrying:
        how, weights = settings(4), tuned(carrying.sites, 7, 4)
        carrying.save(how, weights, tmp_path / "adapter")
        pack = carrying.loaded([(how, weights)])
        (scores,) = scorer.score_all(lambda part, requests: answering.answers(part, requests, carrying, pack), PARTS)
    assert isinstance(scores, Scores)
    samples = evaluated(base, path, tmp_path / "adapter")
    if name == "lambada_openai":
        assert scorer.metric == "acc"
        assert whole(scores, name, "acc") == [float(sample["acc"]) for sample in samples]
        assert whole(scores, name, "perplexity") == pytest.approx(
            [sample["perplexity"] for sample in samples], abs=1e-4
        )
        return
    assert scorer.metric == "word_perplexity"
    assert scorer.summary["shown_as"] == "loss per word"
    choices = write_task(tmp_path / "choices", "choices", make_items(8))
    tested = Scorer(base, config.Validation(tasks=(str(choices),)), config.Test(tasks=(str(path),)), 0)
    assert tested.summary["tests_shown_as"] == {name: "loss per word"}
    assert max(len(tokens) for _, _, tokens in scorer.parts[0].requests) < base.context < 90 * 4  # several windows
    for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        sums, units = np.array([sample[metric] for sample in samples]).T
        bits = np.log(2) if metric == "bits_per_byte" else 1.0
        assert whole(scores, name, metric) == pytest.approx(sums / units / bits, abs=1e-5)
        verdict = scores.items[f"verdict/{name}/doc_id"]
        expected = sums[verdict].sum() / units[verdict].sum() / bits
        assert scores.named[f"verdict/{name}/{metric}"] == pytest.approx(expected, abs=1e-6)
