"""Two models by the files of their runs: what the harness itself writes, groups, several runs, and hostile input."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import partune as pt
from partune.errors import UserError
from partune.verdict.models.compare import compare_models
from partune.verdict.repeats import holm
from tests.support.harness_samples import DATE, evaluated, header, lines, scored, write_run
from tests.support.tiny import make_items, make_model, make_tokenizer, write_task

RNG = [np.random.default_rng(0)]


@pytest.fixture(autouse=True)
def same_draws() -> None:
    RNG[0] = np.random.default_rng(0)


def drawn(count: int, chance: float = 0.6) -> list[float]:
    return (RNG[0].random(count) < chance).astype(float).tolist()


def test_two_folders_are_one_answer_each_task(tmp_path: Path) -> None:
    first = {"one": lines([1] * 9 + [0] * 3, task="one"), "two": lines(drawn(30), task="two")}
    second = {"one": lines([0] * 9 + [1] * 3, task="one"), "two": lines(drawn(30), task="two")}
    found = pt.compare_models(write_run(tmp_path / "a", first), write_run(tmp_path / "b", second))
    assert isinstance(found, pt.ModelVerdict)
    assert [answer.name for answer in found.answers] == ["one", "two"]
    oracle = [
        stats.binomtest(answer.won, answer.won + answer.lost).pvalue if answer.won + answer.lost else 1.0
        for answer in found.answers
    ]
    assert [answer.p for answer in found.answers] == pytest.approx(oracle)
    assert [answer.corrected for answer in found.answers] == pytest.approx(holm(oracle))
    assert found.a.name == "made-up"
    assert found.notes == ()
    assert (*found["one"].scores, found["one"].gain) == pytest.approx((0.75, 0.25, 0.5))


def test_runs_with_other_seeds_are_lists(tmp_path: Path) -> None:
    a = [scored(tmp_path / f"a{seed}", drawn(40)) for seed in range(3)]
    b = [scored(tmp_path / f"b{seed}", drawn(40)) for seed in range(2)]
    found = compare_models(a, b).answers[0]
    assert found.comparison.runs == (3, 2)
    assert found.comparison.test.startswith("Behrens-Fisher test over runs and items")
    copied = shutil.copytree(a[0], tmp_path / "copy")
    assert compare_models([a[0], copied], b[0]).notes == (
        "Runs 1 and 2 of A have the same score on every item, as copies would.",
    )


def test_the_mean_joins_tasks_that_count_equally(tmp_path: Path) -> None:
    sizes = {"small": 10, "large": 40}
    runs = [
        write_run(tmp_path / name, {task: lines(drawn(size), task=task) for task, size in sizes.items()})
        for name in "ab"
    ]
    found = compare_models(*runs, mean=True, margin=0.2)
    assert [answer.name for answer in found.answers] == ["large", "small", "mean"]
    assert found["mean"].gain == pytest.approx((found["small"].gain + found["large"].gain) / 2)
    assert found["mean"].items == 50
    alone = compare_models(*runs, tasks="large", margin=0.2)["large"]
    assert found["large"].p == alone.p
    assert alone.corrected_margin == alone.p_margin
    assert found["large"].corrected >= found["large"].p
    with pytest.raises(UserError, match="there is only large: leave out `--mean`"):
        compare_models(*runs, tasks=["large"], mean=True)


def test_a_mean_needs_scores_of_one_direction(tmp_path: Path) -> None:
    runs = []
    for name in "ab":
        tasks = {"one": lines(drawn(20), task="one"), "two": lines(drawn(20), "ter", task="two")}
        data = header(tasks)
        data["higher_is_better"]["two"]["ter"] = False
        runs.append(write_run(tmp_path / name, tasks, data))
    with pytest.raises(UserError, match="no mean is possible: for some metrics higher is better, for others lower"):
        compare_models(*runs, mean=True)
    same = [
        write_run(tmp_path / f"{run.name}2", {"one": lines(drawn(9)), "two": lines(drawn(9), "f1")}) for run in runs
    ]
    assert compare_models(*same, mean=True).notes[-1] == "The mean is over different metrics: acc, f1."


def grouped(folder: Path, scores: dict[str, list[float]], by_size: bool, value: float | None = None) -> Path:
    """A run of the group "all" of the tasks."""
    tasks = {task: lines(values, task=task) for task, values in scores.items()}
    means = [sum(values) / len(values) for values in scores.values()]
    pooled = sum(map(sum, scores.values())) / sum(map(len, scores.values()))
    recorded = value if value is not None else pooled if by_size else sum(means) / len(means)
    group = {"groups": {"all": {"acc,none": recorded}}, "group_subtasks": {"all": [*scores]}}
    return write_run(folder, tasks, header(tasks) | group)


@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_is_one_answer_with_the_weights_of_its_score(tmp_path: Path, by_size: bool) -> None:
    sides = [{"one": drawn(30), "two": drawn(10), "three": drawn(5)} for _ in "ab"]
    runs = [grouped(tmp_path / name, side, by_size) for name, side in zip("ab", sides, strict=True)]
    (found,) = compare_models(*runs).answers
    assert (found.name, found.kind, found.tasks, found.items) == ("all", "group", ("one", "two", "three"), 45)
    recorded = [json.loads((run / f"results_{DATE}.json").read_text())["groups"]["all"]["acc,none"] for run in runs]
    assert found.scores == pytest.approx(recorded)
    assert [answer.name for answer in compare_models(*runs, tasks=["two", "one"]).answers] == ["two", "one"]
    other = grouped(tmp_path / "other", sides[1], by_size, value=0.123)
    assert [answer.name for answer in compare_models(runs[0], other).answers] == ["one", "three", "two"]
    with pytest.raises(UserError, match="the score of group all is not the mean of its tasks"):
        compare_models(runs[0], other, tasks=["all"])


def test_a_group_whose_weights_one_run_does_not_tell_has_those_of_the_other(tmp_path: Path) -> None:
    """Tasks of the same score give the same mean with all weights."""
    a = grouped(tmp_path / "a", {"one": [1, 0] * 10, "two": [1, 0] * 2}, by_size=False)
    b = grouped(tmp_path / "b", {"one": [1, 1] * 10, "two": [1, 0] * 2}, by_size=False)
    for runs in ((a, b), (b, a)):
        (found,) = compare_models(*runs).answers
        assert sorted(found.scores) == pytest.approx([0.5, 0.75])


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", {"one": lines(drawn(20)), "two": lines(drawn(20)), "p": lines([[1, 2]], "ppl")})
    b = write_run(tmp_path / "b", {"one": lines(drawn(15)), "p": lines([[1, 2]], "ppl")})
    found = compare_models(a, b)
    assert [answer.name for answer in found.answers] == ["one"]
    assert [note.replace(str(tmp_path), "") for note in found.notes] == [
        "Not in all runs and left out: two in /a.",
        "one: 5 of the 20 items in /a/samples_one_2026-01-02T03-04-05.678901.jsonl are left out, because they have no "
        "acc in some run.",
        "Left out: task p: ppl is not a mean over items: values such as [1, 2] are not numbers; no metric of this task "
        "can be compared.",
    ]


def test_a_file_with_any_name_is_the_other_ones_task(tmp_path: Path) -> None:
    a, b = scored(tmp_path / "a", drawn(20)), scored(tmp_path / "b", drawn(20))
    named = compare_models(a, b).answers[0]
    mine = (b / f"samples_t_{DATE}.jsonl").rename(tmp_path / "mine.jsonl")
    found = compare_models(a, mine)
    assert found.answers[0].name == "t"
    assert found.answers[0].p == named.p
    assert "no results file" in found.notes[0]
    other = (a / f"samples_t_{DATE}.jsonl").rename(tmp_path / "other.jsonl")
    assert compare_models(other, mine).answers[0].name == "samples"


def test_lower_is_better_where_it_is_said(tmp_path: Path) -> None:
    better = {"metric": "ter"}
    a, b = scored(tmp_path / "a", [0.1] * 400, **better), scored(tmp_path / "b", [0.9] * 400, **better)
    for path in (a, b):
        (path / f"results_{DATE}.json").unlink()
    found = compare_models(a, b, higher_is_better=False)["t"]
    assert found.relation == "better"
    assert found.gain == pytest.approx(0.8)
    assert found.scores == pytest.approx((0.1, 0.9))
    assert compare_models(a, b, higher_is_better=True)["t"].relation == "worse"


# ----- hostile input: one line each

HOSTILE: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "the same folder": (lines([1, 0]), None, {}, "A and A are the same samples (samples_t_"),
    "only one item": (lines([1]), lines([0]), {}, "only one item is in all runs"),
    "no items in common": (lines([1, 0]), lines([1, 0], start=5), {}, "no item is in all runs"),
    "no such metric": (
        lines([1, 0]),
        lines([1, 0]),
        {"metric": "f1"},
        "task t has no metric 'f1'; metrics that can be",
    ),
    "no such task": (
        lines([1, 0]),
        lines([1, 0]),
        {"tasks": ["tt"]},
        "no task or group tt is in all runs; did you mean",
    ),
    "no such filter": (
        lines([1, 0]),
        lines([1, 0]),
        {"filter": "nome"},
        'no task has a filter nome; did you mean "none"',
    ),
    "nan": (lines([1, math.nan]), lines([1, 0]), {}, "acc of doc_id 1 in"),
    "texts": (lines([1, "0"]), lines([1, 0]), {}, "is the text '0', not a number"),
    "no means": (lines([[1, 2], [1, 2]]), lines([[1, 2], [1, 2]]), {}, "acc is not a mean over items"),
    "margin of nothing": (
        lines([1, 0]),
        lines([1, 0]),
        {"margin": 0.0},
        "the margin must be above 0, such as 0.01, got 0",
    ),
    "margin of nan": (
        lines([1, 0]),
        lines([1, 0]),
        {"margin": math.nan},
        "the margin must be above 0, such as 0.01, got",
    ),
    "margin of everything": (
        lines([1, 0]),
        lines([1, 0]),
        {"margin": 1.0},
        "a margin of 1 is too large for scores from",
    ),
    "direction": (lines([1, 0]), lines([1, 0]), {"higher_is_better": False}, "a higher acc is better: leave out"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_input_is_one_line(tmp_path: Path, case: str) -> None:
    a, b, options, message = HOSTILE[case]
    first = write_run(tmp_path / "A", {"t": a})
    second = first if b is None else write_run(tmp_path / "B", {"t": b})
    with pytest.raises(UserError) as caught:
        compare_models(first, second, **options)
    assert message in str(caught.value).replace(f"{tmp_path}/", "")
    assert "\n" not in str(caught.value)


def test_different_tasks_and_no_places_are_refused(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", {"one": lines([1, 0])}), write_run(tmp_path / "b", {"two": lines([1, 0])})
    with pytest.raises(UserError, match=r"no task is in all runs, .*: .*a has one; .*b has two"):
        compare_models(a, b)
    with pytest.raises(UserError, match="needs at least one folder"):
        compare_models([], b)
    (tmp_path / "link").symlink_to(a)
    with pytest.raises(UserError, match="are the same samples"):
        compare_models(a, tmp_path / "link")


# ----- the harness itself

GENERATED = """\
task: said
dataset_path: json
dataset_kwargs: {data_files: {test: choices.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 2}
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
  - {name: loose, filter: [{function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
  - {metric: bleu}
"""
ROLLING = """\
task: rolling
dataset_path: json
dataset_kwargs: {data_files: {test: choices.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
GROUP = """\
group: both
task: [choices, others]
aggregate_metric_list:
  - {metric: acc, weight_by_size: false}
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the harness writes for two tiny models on choices, a group, generated text and perplexity."""
    root = tmp_path_factory.mktemp("real")
    write_task(root / "tasks", "choices", make_items(24))
    write_task(root / "tasks", "others", make_items(16, seed=1))
    for name, text in (("said", GENERATED), ("rolling", ROLLING), ("both", GROUP)):
        (root / "tasks" / f"{name}.yaml").write_text(text)
    tokenizer, folders = make_tokenizer(), []
    for seed in (0, 1):
        model = root / f"model{seed}"
        make_model("llama", len(tokenizer), seed).save_pretrained(model)
        tokenizer.save_pretrained(model)
        folders.append(evaluated(root / f"out{seed}", model, root / "tasks", ["both", "said", "rolling"]))
    return folders


@pytest.mark.slow
def test_the_files_of_the_harness_are_compared(real: list[Path]) -> None:
    found = compare_models(*real, metric="acc", tasks=["both"], margin=0.2)["both"]
    (results,) = [json.loads(next(real[0].rglob("results_*.json")).read_text())]
    assert found.kind == "group"
    assert found.scores[0] == pytest.approx(results["groups"]["both"]["acc,none"])
    (task,) = compare_models(*real, tasks=["choices"], metric="acc").answers
    assert task.scores[0] == pytest.approx(results["results"]["choices"]["acc,none"])
    sides = []
    for folder in real:
        text = next(folder.rglob("samples_choices_*.jsonl")).read_text()
        sides.append({sample["doc_id"]: sample["acc"] for sample in map(json.loads, text.splitlines())})
    won = sum(sides[0][key] > sides[1][key] for key in sides[0])
    lost = sum(sides[0][key] < sides[1][key] for key in sides[0])
    assert (task.won, task.lost) == (won, lost)
    assert task.p == pytest.approx(stats.binomtest(won, won + lost).pvalue)


@pytest.mark.slow
def test_the_harness_own_filters_and_scores_that_are_no_means(real: list[Path]) -> None:
    with pytest.raises(UserError, match=r"task said has several filters: choose one with `--filter` \(strict, loose\)"):
        compare_models(*real)
    found = compare_models(*real, filter="loose")
    assert [answer.name for answer in found.answers] == ["choices", "others", "said"]
    assert [answer.measures[0].metric for answer in found.answers] == ["acc_norm", "acc_norm", "exact_match"]
    assert any(
        note.startswith("Left out: task rolling: word_perplexity is not a mean over items") for note in found.notes
    )
    with pytest.raises(UserError, match=r"bleu is not a mean over items.*; metrics that can be compared: exact_match"):
        compare_models(*real, tasks=["said"], filter="loose", metric="bleu")
    with pytest.raises(UserError, match="no metric of this task can be compared"):
        compare_models(*real, tasks=["rolling"])


@pytest.mark.slow
def test_other_settings_of_the_harness_are_noticed(real: list[Path], tmp_path: Path) -> None:
    root = real[0].parent
    shots = evaluated(tmp_path / "shots", root / "model1", root / "tasks", ["choices"], num_fewshot=2, limit=10)
    with pytest.raises(UserError, match=r"number of few-shot examples 0 in .* and 2 in"):
        compare_models(real[0], shots)
    for path in shots.rglob("results_*.json"):
        path.unlink()
    with pytest.raises(UserError, match="10 of 10 common items have another prompt"):
        compare_models(real[0], shots)


@pytest.mark.slow
def test_made_up_files_have_the_entries_of_the_harness(real: list[Path]) -> None:
    (sample,) = lines([1.0])
    text = next(real[0].rglob("samples_others_*.jsonl")).read_text()
    assert {*json.loads(text.splitlines()[0])} == {*sample, "acc_norm"}
    results = json.loads(next(real[0].rglob("results_*.json")).read_text())
    assert {*header({"t": [sample]})} <= {*results}
