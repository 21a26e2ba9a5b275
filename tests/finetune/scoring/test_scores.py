"""Tasks and scores, against the harness's own full evaluation."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from partune import config
from partune.errors import UserError
from partune.finetune import model as models
from partune.finetune.model import Base
from partune.finetune.scoring.base import UndefinedScoreError
from partune.finetune.scoring.harness import harness_model
from partune.finetune.scoring.harness_generation import harness_answers
from partune.finetune.scoring.scores import Scorer, choose_metrics, mean_of
from partune.objectives.agreement import TOLERANCE
from partune.runtime.isolation import quiet
from partune.verdict.winner import on_verdict_items
from tests.support.harness import simple_evaluate
from tests.support.harness_tasks import write_harness_task
from tests.support.tiny import make_items, write_task

EVERYTHING = {"search", "verdict", "test"}


def scorer(base: Base, *tasks: Path, tests: tuple[Path, ...] = (), seed: int = 0, **settings: Any) -> Scorer:
    validation = config.Validation(tasks=tuple(map(str, tasks)), **settings)
    return Scorer(base, validation, config.Test(tasks=tuple(map(str, tests))), seed)


def harness(base: Base, path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """The harness's own evaluation of a local task; it reads data files from the working directory."""
    monkeypatch.chdir(path.parent)
    with quiet(), torch.random.fork_rng(devices=[]):
        model = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=8)
        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
        return simple_evaluate(
            model, tasks=[path.stem], task_manager=manager, bootstrap_iters=10, log_samples=True, **options
        )


def merged(scores: Any, task: str, name: str, count: int) -> np.ndarray:
    """Per-item results of search and verdict items, in the documents' order."""
    whole = np.full(count, np.nan)
    for part in ("search", "verdict"):
        whole[scores.items[f"{part}/{task}/doc_id"]] = scores.items[f"{part}/{task}/{name}"]
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_items_are_those_of_the_harness(
    bases: dict[str, Base], kind: str, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases[kind]
    expected = harness(base, task_file, monkeypatch)["samples"]["choices"]
    scores = scorer(base, task_file).score(harness_model(base, 16), EVERYTHING)
    for metric in ("acc", "acc_norm"):
        assert merged(scores, "choices", metric, 30).tolist() == [sample[metric] for sample in expected]
    for part in ("search", "verdict"):
        for row, doc_id in enumerate(scores.items[f"{part}/choices/doc_id"]):
            theirs = [answer[0] for answer in expected[doc_id]["filtered_resps"]]
            ours = scores.items[f"{part}/choices/loglikelihood"][row]
            assert ours[: len(theirs)] == pytest.approx(theirs, abs=1e-4)
            assert np.isnan(ours[len(theirs) :]).all()


@pytest.mark.slow
def test_means_and_standard_errors_are_those_of_the_harness(
    base: Base, task_file: Path, test_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = harness(base, test_file, monkeypatch)["results"]["others"]
    named = scorer(base, task_file, tests=(test_file,)).score(harness_model(base, 16), {"test"}).named
    for metric in ("acc", "acc_norm"):
        assert named[f"test/others/{metric}"] == pytest.approx(expected[f"{metric},none"], abs=1e-12)
        assert named[f"test/others/{metric}_stderr"] == pytest.approx(expected[f"{metric}_stderr,none"], abs=1e-12)
    assert named["test/others"] == named["test/others/acc_norm"]


@pytest.mark.slow
def test_shown_examples_and_limits_are_those_of_the_harness(
    base: Base, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = harness(base, task_file, monkeypatch, num_fewshot=2, limit=9)["samples"]["choices"]
    built = scorer(base, task_file, fewshot=2, limit=9)
    (task,) = {part.task.name: part.task for part in built.parts}.values()
    prompts = [[list(sample["arguments"][i]) for i in range(len(sample["arguments"]))] for sample in expected]
    assert len(task.items) == len(expected) == 9
    assert [[list(request[0]) for request in task.requests[item.requests]] for item in task.items] == prompts
    scores = built.score(harness_model(base, 16), EVERYTHING)
    assert merged(scores, "choices", "acc", 9).tolist() == [sample["acc"] for sample in expected]


GROUP = """\
group: both
task: [first, second]
aggregate_metric_list:
  - {{metric: acc, aggregation: mean, weight_by_size: {by_size}}}
metadata: {{version: 1.0}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("by_size", [True, False])
def test_groups_are_weighted_as_the_harness_weights_them(
    base: Base, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_size: bool
) -> None:
    write_task(tmp_path, "first", make_items(8, seed=2))
    write_task(tmp_path, "second", make_items(20, seed=3))
    (tmp_path / "both.yaml").write_text(GROUP.format(by_size=str(by_size).lower()))
    expected = harness(base, tmp_path / "both.yaml", monkeypatch)["results"]["both"]
    monkeypatch.chdir("/")  # ours finds the data files by itself
    built = scorer(base, task_file, tests=(tmp_path / "both.yaml",))
    scores = built.score(harness_model(base, 16), {"test"})
    assert scores.named["test/both/acc"] == pytest.approx(expected["acc,none"], abs=1e-12)
    assert scores.named["test/both/acc_stderr"] == pytest.approx(expected["acc_stderr,none"], abs=1e-12)
    assert scores.items["test/both/doc_id"].tolist() == list(range(28))
    judged = scorer(base, tmp_path / "both.yaml").score(harness_model(base, 16), {"verdict"})
    runs = on_verdict_items([judged.items], "acc")  # the verdict weighs the items as the table does
    assert float(runs.values[0] @ runs.weights) == pytest.approx(judged.named["verdict/both/acc"], abs=1e-12)
    assert [len(own) for own in np.split(np.sort(runs.strata), [4])] == [4, 10]


def test_the_score_is_the_mean_of_the_tasks(base: Base, task_file: Path, test_file: Path) -> None:
    scores = scorer(base, task_file, test_file, metric="acc").score(harness_model(base, 16), {"search", "verdict"})
    for part, score, stderr in (
        ("search", scores.score, scores.stderr),
        ("verdict", scores.named["verdict"], scores.named["verdict_stderr"]),
    ):
        items = [scores.items[f"{part}/{task}/acc"] for task in ("choices", "others")]
        errors = [own.std(ddof=1) / math.sqrt(len(own)) for own in items]
        assert score == pytest.approx(sum(own.mean() for own in items) / 2)
        assert stderr == pytest.approx(math.hypot(*errors) / 2)


@pytest.mark.slow
def test_a_parts_numbers_do_not_depend_on_the_others(base: Base, task_file: Path, test_file: Path) -> None:
    built, forward = scorer(base, task_file, tests=(test_file,)), harness_model(base, 16)
    alone, together = built.score(forward, {"search"}), built.score(forward, EVERYTHING)
    assert set(alone.items) == {name for name in together.items if name.startswith("search/")}
    for name, array in alone.items.items():
        np.testing.assert_array_equal(array, together.items[name])
    assert (alone.score, alone.stderr) == (together.score, together.stderr)


# ----- the metrics that move with every bit


def test_a_margin_is_positive_where_accuracy_counts(base: Base, task_file: Path) -> None:
    scores = scorer(base, task_file, metric="margin").score(harness_model(base, 16), {"search"})
    margin = scores.items["search/choices/margin"]
    assert ((margin > 0) == (scores.items["search/choices/acc"] == 1)).all()
    assert (np.abs(margin) <= 1).all()
    assert scores.score == pytest.approx(margin.mean())


def test_the_loss_is_that_of_the_right_choice(base: Base, task_file: Path) -> None:
    built = scorer(base, task_file, metric="loss")
    part = built.parts[0]
    scores = built.score(harness_model(base, 16), {"search"})
    for row, index in enumerate(part.indices[:5]):
        item = part.task.items[index]
        _, context, continuation = part.task.requests[item.requests][item.gold[0]]
        ids = torch.tensor([context + continuation])
        with torch.no_grad():
            loss = base.model(ids, labels=torch.tensor([[-100] * len(context) + continuation])).loss
        assert scores.items["search/choices/loss"][row] == pytest.approx(-float(loss), abs=1e-5)


@pytest.mark.slow
def test_scores_in_bf16_are_near_and_not_rounded_to_it(folders: dict[str, Path], base: Base, task_file: Path) -> None:
    half = models.load(config.Model(path=str(folders["llama"])), "bf16", "cpu")
    expected = scorer(base, task_file).score(harness_model(base, 16), EVERYTHING)
    found = scorer(half, task_file).score(harness_model(half, 16), EVERYTHING)
    name = "search/choices/loglikelihood"
    absolute, relative = TOLERANCE["bf16"]
    np.testing.assert_allclose(found.items[name], expected.items[name], atol=absolute, rtol=relative)
    known = torch.from_numpy(found.items[name][~np.isnan(found.items[name])])
    assert (known != known.bfloat16().double()).any()


def test_long_contexts_are_cut_and_counted(base: Base, tmp_path: Path) -> None:
    items = make_items(6)
    items[2]["question"] = "oil " * 300
    built = scorer(base, write_task(tmp_path, "long", items))
    assert built.summary["truncated"] == len(items[2]["choices"])
    scores = built.score(harness_model(base, 4), EVERYTHING)
    assert all(np.isfinite(scores.items[f"{part}/long/loss"]).all() for part in ("search", "verdict"))


# ----- bad input


@pytest.mark.parametrize("choice", ["oil " * 300, ""])
def test_a_choice_that_cannot_be_scored_is_named(base: Base, tmp_path: Path, choice: str) -> None:
    items = make_items(6)
    items[3]["choices"][0] = choice
    path = write_task(tmp_path, "bad", items)
    path.write_text(path.read_text() + 'target_delimiter: ""\n')
    with pytest.raises(UserError, match=r"task bad, item 3: the choice .* has \d+ tokens"):
        scorer(base, path)


@pytest.mark.slow
def test_a_task_cannot_be_validation_and_test(base: Base, task_file: Path) -> None:
    with pytest.raises(UserError, match="task choices is both validation and test"):
        scorer(base, task_file, tests=(task_file,))
    with pytest.raises(UserError, match="task choices is twice among the validation tasks"):
        scorer(base, task_file, task_file)


@pytest.mark.slow
def test_a_metric_has_to_be_the_tasks(base: Base, task_file: Path, tmp_path: Path) -> None:
    path = write_task(tmp_path, "plain", make_items(6), metrics=("acc",))
    with pytest.raises(UserError, match="task plain has no metric acc_norm; known: acc, loss, margin"):
        scorer(base, path, metric="acc_norm")
    assert scorer(base, path).metric == "acc"
    assert scorer(base, task_file).metric == "acc_norm"
    assert scorer(base, task_file, path).metric == "acc"
    tasks = [part.task for part in scorer(base, path, task_file).parts]
    assert choose_metrics(tasks[2:3], None, preferred=("margin",)) == ["margin"]


@pytest.mark.slow
def test_no_study_is_scored_by_a_loss_that_nobody_asked_for(base: Base, tmp_path: Path) -> None:
    plain = write_task(tmp_path, "plain", make_items(6), metrics=("acc",))
    normed = write_task(tmp_path, "normed", make_items(6, seed=1), metrics=("acc_norm",))
    assert scorer(base, plain, normed).metrics == {"plain": "acc", "normed": "acc_norm"}
    bare = write_task(tmp_path, "bare", make_items(6), metrics=("mcc",))
    bare.write_text(bare.read_text().replace("aggregation: mean", "aggregation: matthews_corrcoef"))
    with pytest.raises(UserError, match="task bare has no accuracy; choose its metric with `--metric`: loss, margin"):
        scorer(base, bare)
    assert scorer(base, bare, metric="loss").metric == "loss"


@pytest.mark.slow
def test_tasks_of_several_kinds_have_their_own_metrics(base: Base, task_file: Path, tmp_path: Path) -> None:
    free = write_task(tmp_path, "free", make_items(8), metrics=("exact_match",), kind="generate_until")
    free.write_text(free.read_text() + "generation_kwargs: {max_gen_toks: 4, until: []}\n")
    built = scorer(base, task_file, free)
    assert built.summary["metrics"] == {"choices": "acc_norm", "free": "exact_match"}
    scores = built.score(harness_answers(base, 16), EVERYTHING)
    both = scores.named["search/choices/acc_norm"], scores.named["search/free/exact_match"]
    assert scores.score == pytest.approx(sum(both) / 2)
    runs = on_verdict_items([scores.items], built.summary["metrics"])
    assert float(runs.values[0] @ runs.weights) == pytest.approx(scores.named["verdict"])
    whole = write_harness_task(tmp_path, "wikitext")
    with pytest.raises(UserError, match=r"different scales is meaningless \(choices by acc_norm, wikit"):
        scorer(base, task_file, whole)
    translated = write_harness_task(tmp_path, "wmt14-en-fr")
    with pytest.raises(UserError, match=r"meaningless \(choices by acc_norm, wmt14-en-fr by bleu\)"):
        scorer(base, task_file, translated)
    length = {"max_new_tokens": 3}
    tested = write_task(tmp_path, "tested", make_items(4), metrics=("exact_match",), kind="generate_until")
    tested.write_text(tested.read_text() + "generation_kwargs: {max_gen_toks: 5, until: []}\n")
    parts = {part.full_name: part for part in scorer(base, free, tests=(tested,), **length).parts}
    assert parts["search/free"].requests[0].settings.max_new_tokens == 3
    assert parts["test/tested"].requests[0].settings.max_new_tokens == 5  # flags are for what scores the trials


@pytest.mark.slow
def test_subtasks_with_one_item_in_a_part_have_an_error_together(base: Base, tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        write_task(tmp_path, name, make_items(2, seed=len(name)))
    (tmp_path / "both.yaml").write_text("group: both\ntask: [first, second, third]\nmetadata: {version: 1.0}\n")
    scores = scorer(base, tmp_path / "both.yaml").score(harness_model(base, 16), {"search", "verdict"})
    values = scores.items["verdict/both/acc_norm"]
    assert len(values) == 3
    assert scores.named["verdict"] == pytest.approx(values.mean())
    assert scores.named["verdict_stderr"] == pytest.approx(values.std(ddof=1) / math.sqrt(3))


@pytest.mark.slow
def test_items_without_a_wrong_choice_are_left_out_of_a_margin_and_counted(base: Base, tmp_path: Path) -> None:
    items = [item | {"answer": [item["answer"]]} for item in make_items(20)]
    for place in (4, 7, 11):
        items[place]["answer"] = list(range(len(items[place]["choices"])))
    path = write_task(tmp_path, "some", items)
    test = write_task(tmp_path, "other", items)
    built = scorer(base, path, tests=(test,), metric="margin")
    assert built.summary["left_out"] == {"some": 3, "other": 3}
    scores = built.score(harness_model(base, 16), EVERYTHING)
    everything = [number for number in range(20) if number not in (4, 7, 11)]
    split = np.concatenate([scores.items[f"{part}/some/doc_id"] for part in ("search", "verdict")])
    assert sorted(split.tolist()) == scores.items["test/other/doc_id"].tolist() == everything
    assert all(np.isfinite(scores.items[f"{part}/margin"]).all() for part in ("search/some", "verdict/some"))
    for metric in ("loss", "acc"):
        whole = scorer(base, path, metric=metric)
        assert whole.summary["left_out"] == {}
        assert np.isfinite(merged(whole.score(harness_model(base, 16), EVERYTHING), "some", metric, 20)).all()


def test_a_task_without_any_wrong_choice_has_no_margin_but_a_loss(base: Base, tmp_path: Path) -> None:
    path = write_task(tmp_path, "one", [item | {"choices": ["oil"], "answer": 0} for item in make_items(6)])
    with pytest.raises(UserError, match="task one has no wrong choice, which metric margin needs; use `--metric loss`"):
        scorer(base, path, metric="margin")
    assert np.isfinite(scorer(base, path, metric="loss").score(harness_model(base, 16), {"search"}).score)


def test_items_of_the_harness_that_name_no_choice_are_left_out(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = make_items(12)
    items[5]["answer"] = 4
    path = write_task(tmp_path, "theirs", items)
    path.write_text(path.read_text().replace("theirs.jsonl", str(tmp_path / "theirs.jsonl")))
    monkeypatch.setattr("partune.finetune.scoring.definitions.harness_folder", lambda: tmp_path)
    monkeypatch.chdir("/")
    for metric in ("acc", "loss", "margin"):
        validation = config.Validation(tasks=("theirs",), metric=metric)
        built = Scorer(base, validation, config.Test(), 0)
        assert built.summary["left_out"] == {"theirs": 1}
        assert 5 not in np.concatenate([part.indices for part in built.parts])


CODE = """\
def results(document, answers):
    return {"acc": RESULT}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("float('nan') if document['answer'] == 2 else 1.0", r"task coded, item \d+: its acc is nan, not a number"),
        ("None if document['answer'] == 2 else 1.0", r"task coded, item \d+: its acc is nan"),
        ("float('inf')", r"task coded, item \d+: its acc is inf"),
        ("1 / (document['answer'] - 2)", r"task coded, item \d+: it cannot be scored \(ZeroDivisionError: "),
        (
            "exit(5) if document['answer'] == 2 else 1.0",
            r"it cannot be scored \(SystemExit: sys.exit\(5\) was",
        ),
    ],
)
def test_what_a_tasks_code_cannot_score_is_named(base: Base, tmp_path: Path, result: str, message: str) -> None:
    path = write_task(tmp_path, "coded", make_items(20), metrics=("acc",))
    path.write_text(path.read_text() + "process_results: !function code.results\n")
    (tmp_path / "code.py").write_text(CODE.replace("RESULT", result))
    built = scorer(base, path, trust_task_code=True)
    with pytest.raises(UndefinedScoreError, match=message) as caught:
        built.score(harness_model(base, 16), EVERYTHING)
    assert "\n" not in str(caught.value)


def test_a_task_that_scores_itself_needs_no_right_choice_for_its_metrics(base: Base, tmp_path: Path) -> None:
    path = write_task(tmp_path, "coded", [item | {"answer": 9} for item in make_items(8)], metrics=("acc",))
    path.write_text(path.read_text().replace('"{{answer}}"', "question") + "process_results: !function code.results\n")
    (tmp_path / "code.py").write_text(CODE.replace("RESULT", "answers[0][0] > answers[1][0]"))
    scores = scorer(base, path, trust_task_code=True).score(harness_model(base, 16), EVERYTHING)
    assert set(scores.items["search/coded/acc"].tolist()) <= {0.0, 1.0}
    with pytest.raises(UserError, match="task coded has no right choice, which metric margin needs"):
        scorer(base, path, trust_task_code=True, metric="margin")


def test_the_harness_warnings_do_not_flood_the_log(
    base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = scorer(base, write_task(tmp_path, "some", make_items(8)))
    leaf = built.parts[0].task.leaves[0]
    monkeypatch.setattr(leaf, "doc_to_target", lambda _: 9)
    built.score(harness_model(base, 16), EVERYTHING)
    assert not caplog.records


def test_two_tasks_of_a_name_are_refused(base: Base, tmp_path: Path) -> None:
    paths = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        write_task(folder, f"leaf{number}", make_items(6))
        (folder / "group.yaml").write_text(f"group: both\ntask: [leaf{number}]\n")
        paths.append(folder / "group.yaml")
    with pytest.raises(UserError, match="2 validation tasks have the name both: their scores could not be told apart"):
        scorer(base, *paths)


@pytest.mark.slow
def test_each_metric_has_the_weights_that_its_group_gives(
    base: Base, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path, "first", make_items(8, seed=2))
    write_task(tmp_path, "second", make_items(20, seed=3))
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask: [{group: inner, task: [first]}, second]\naggregate_metric_list:\n"
        "  - {metric: acc, aggregation: mean, weight_by_size: true}\n"
        "  - {metric: acc_norm, aggregation: mean, weight_by_size: false}\n"
    )
    expected = harness(base, tmp_path / "both.yaml", monkeypatch)["results"]["both"]
    named = scorer(base, task_file, tests=(tmp_path / "both.yaml",)).score(harness_model(base, 16), {"test"}).named
    for metric in ("acc", "acc_norm"):
        assert named[f"test/both/{metric}"] == pytest.approx(expected[f"{metric},none"], abs=1e-12)
        assert named[f"test/both/{metric}_stderr"] == pytest.approx(expected[f"{metric}_stderr,none"], abs=1e-12)


def test_a_tokenizer_without_a_first_token_is_refused_with_advice(base: Base, task_file: Path) -> None:
    bare = copy.deepcopy(base.tokenizer)
    bare.bos_token = bare.eos_token = None
    with pytest.raises(UserError, match=r"neither a BOS nor an EOS token.*tokenizer_config\.json"):
        scorer(dataclasses.replace(base, tokenizer=bare), task_file)


def test_the_mean_of_independent_scores() -> None:
    assert mean_of([(0.2, 0.03), (0.4, 0.04)]) == pytest.approx((0.3, 0.025))
