"""Tasks as they are found and built: their items, right answers, and the split into search and verdict items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks._yaml_loader import load_yaml

from partune import config
from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.scoring.definitions import find_own
from partune.finetune.scoring.harness_task import HarnessTask
from partune.finetune.scoring.scores import (
    Scorer,
)
from partune.finetune.scoring.tasks import Loader
from tests.support.tiny import make_items, write_jsonl, write_task

SHORT = "generation_kwargs: {max_gen_toks: 9, until: []}\n"


def scorer(base: Base, *tasks: Path, tests: tuple[Path, ...] = (), seed: int = 0, **settings: Any) -> Scorer:
    validation = config.Validation(tasks=tuple(map(str, tasks)), **settings)
    return Scorer(base, validation, config.Test(tasks=tuple(map(str, tests))), seed)


def test_search_and_verdict_part_the_items(base: Base, task_file: Path) -> None:
    def split(seed: int, share: float = 0.5) -> tuple[list[int], list[int]]:
        search, verdict = scorer(base, task_file, seed=seed, verdict_share=share).parts
        return search.indices.tolist(), verdict.indices.tolist()

    search, verdict = split(0)
    assert sorted(search + verdict) == list(range(30))
    assert len(search) == len(verdict) == 15
    assert split(0) == (search, verdict)
    assert split(1) != (search, verdict)
    assert [len(part) for part in split(0, share=0.2)] == [24, 6]
    assert [len(part) for part in split(0, share=0.05)] == [28, 2]


def test_a_missing_task_file_is_named_with_its_neighbour(base: Base, task_file: Path) -> None:
    with pytest.raises(UserError, match=r'no task file .*; did you mean "choices.yaml"'):
        scorer(base, task_file.with_name("choises.yaml"))


def test_code_that_a_model_writes_runs_only_if_the_user_says_so(base: Base, tmp_path: Path) -> None:
    path = write_task(tmp_path, "free", make_items(4), metrics=("exact_match",), kind="generate_until")
    path.write_text(path.read_text() + "unsafe_code: true\ngeneration_kwargs: {max_gen_toks: 9, until: []}\n")
    with pytest.raises(UserError, match="free runs the code that the model writes, on this machine; if you accept"):
        scorer(base, path)
    assert scorer(base, path, confirm_run_unsafe_code=True).metric == "exact_match"
    plain = write_task(tmp_path, "plain", make_items(4))
    with pytest.raises(UserError, match="--confirm-run-unsafe-code would have no effect: no task runs"):
        scorer(base, plain, confirm_run_unsafe_code=True)


def test_answers_have_the_length_that_the_task_or_the_user_says(base: Base, tmp_path: Path) -> None:
    path = write_task(tmp_path, "free", make_items(4), metrics=("exact_match",), kind="generate_until")
    with pytest.raises(UserError, match=r"task free: max_new_tokens must be less than the 192 .*--max-new-tokens"):
        scorer(base, path)
    found = scorer(base, path, max_new_tokens=7, stop=["why", "\n"], temperature=0.5).parts[0].requests[0]
    assert (found.settings.max_new_tokens, found.settings.until, found.settings.temperature) == (7, ("why", "\n"), 0.5)
    plain = write_task(tmp_path, "plain", make_items(4))
    with pytest.raises(UserError, match="--stop-string would have no effect: no validation task generates"):
        scorer(base, plain, stop=["x"])
    errors = write_task(tmp_path, "errors", make_items(4), metrics=("ter",), kind="generate_until")
    errors.write_text(errors.read_text().replace(", aggregation: mean, higher_is_better: true", "") + SHORT)
    with pytest.raises(UserError, match="has no metric that gives each item a value and is better if higher"):
        scorer(base, errors)
    bad = write_task(tmp_path, "bad", make_items(4), metrics=("exact_match",), kind="generate_until")
    bad.write_text(bad.read_text() + "generation_kwargs: {num_beams: 4}\n")
    with pytest.raises(UserError, match='task bad: generation_kwargs: "num_beams" is not supported'):
        scorer(base, bad)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("task: [unclosed", "cannot be read"),
        ("dataset_path: json", "names no task: it has neither the key `task` nor"),
        ("task: lost\ndataset_path: json\ndataset_kwargs: {data_files: nowhere.jsonl}", "cannot be loaded"),
    ],
)
def test_a_bad_task_file_is_one_clear_line(base: Base, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        scorer(base, tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_a_task_without_its_fields_is_one_clear_line(base: Base, tmp_path: Path) -> None:
    path = write_task(tmp_path, "odd", make_items(4))
    write_jsonl(tmp_path / "odd.jsonl", [{"question": "a", "answer": 0}, {"question": "b", "answer": 1}])
    with pytest.raises(UserError, match=r"task .*odd.yaml") as caught:
        scorer(base, path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "settings"),
    [(1, {}), (2, {}), (3, {}), (9, {"limit": 2}), (10, {"verdict_share": 0.1}), (10, {"verdict_share": 0.95})],
)
def test_search_and_verdict_need_two_items_each(
    base: Base, tmp_path: Path, count: int, settings: dict[str, Any]
) -> None:
    few = min(count, settings.get("limit", count))
    with pytest.raises(
        UserError, match=rf"task few has {few} items, which is too few: .*`--limit`, change `--verdict-share`"
    ):
        scorer(base, write_task(tmp_path, "few", make_items(count)), **settings)


def load(path: Path) -> HarnessTask:
    """The task of a file, without a tokenizer."""
    return Loader().load(str(path), lambda instances: [(instance.args, [0], [1]) for instance in instances])


WRONG = {
    "letter": ("C", r"task odd, item 0: the right answer 'C' is none of the 3 choices; write the choice's text"),
    "from one": (3, "task odd, item 0: the right answer 3 is none of the 3 choices; labels count from 0"),
    "hidden": (-1, "item 0: the right answer '-1' is none of the 3 choices"),
    "real": (1.0, "item 0: the right answer '1.0' is none of the 3 choices"),
    "missing": (None, "item 0: the right answer 'None' is none of the 3 choices"),
    "none": ([], "item 0: it has no right answer"),
    "one of two": ([0, 7], "item 0: the right answer 7 is none of the 3 choices"),
    "long": ("word " * 50, r"item 0: the right answer 'word .*\.\.\. is none"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("place", [0, 3])
def test_an_answer_that_names_no_choice_is_named(tmp_path: Path, kind: str, place: int) -> None:
    items = make_items(6)
    answer, message = WRONG[kind]
    if isinstance(answer, list):  # the data have one type
        for item in items:
            item["answer"] = [0]
    items[place] |= {"choices": ["oil", "water", "air"], "answer": answer}
    if not isinstance(answer, (int, list)):
        items = [item | {"answer": None if item["answer"] is None else str(item["answer"])} for item in items]
    with pytest.raises(UserError, match=message.replace("item 0", f"item {place}")) as caught:
        load(write_task(tmp_path, "odd", items))
    assert "\n" not in str(caught.value)


def test_such_items_are_counted(tmp_path: Path) -> None:
    items = [item | {"answer": 4 * (place > 1)} for place, item in enumerate(make_items(6))]
    with pytest.raises(UserError, match=r"item 2: the right answer 4 .*; 4 of its 6 items have this fault"):
        load(write_task(tmp_path, "odd", items))


def test_an_answer_may_be_the_choices_text_or_several(tmp_path: Path) -> None:
    texts = [item | {"answer": item["choices"][2]} for item in make_items(6)]
    assert {item.gold for item in load(write_task(tmp_path, "texts", texts)).items} == {(2,)}
    several = [item | {"answer": [0, 2]} for item in make_items(6)]
    assert {item.gold for item in load(write_task(tmp_path, "several", several)).items} == {(0, 2)}


@pytest.mark.parametrize("choices", [[1, 2, 3], ["", "water"]])
@pytest.mark.parametrize("place", [0, 3])
def test_choices_that_are_no_texts_are_named(base: Base, tmp_path: Path, choices: list[Any], place: int) -> None:
    items = [item | {"choices": choices, "answer": 0} for item in make_items(6)]
    if choices[0] == "":
        items = [item | {"choices": ["oil", "water"]} for item in items]
        items[place]["choices"] = choices
    path = write_task(tmp_path, "odd", items)
    path.write_text(path.read_text() + 'target_delimiter: ""\n')
    with pytest.raises(UserError, match=r"task odd, item \d: (its choices are not a list of texts: \[1|.*choice)"):
        scorer(base, path)


@pytest.mark.slow
def test_a_plain_task_of_the_harness_is_found_without_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, home in (("hellaswag", "hellaswag"), ("arc_easy", "arc"), ("mmlu_anatomy", "default")):
        found = find_own(name)
        assert found is not None
        assert (found.parent.name, load_yaml(found, resolve_func=False)["task"]) == (home, name)
    assert find_own("mmlu") is None  # a group
    monkeypatch.setattr(Loader, "_manager", lambda *_: pytest.fail("built the index"))
    with pytest.raises(UserError, match=r"task hellaswag cannot be loaded: .*"):
        Loader().load("hellaswag", lambda instances: [])


@pytest.mark.slow
def test_an_unknown_name_is_answered_with_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Index:
        """The harness's, without the half minute that it takes."""

        all_tasks = ("arc_easy", "hellaswag", "mmlu")

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Index)
    with pytest.raises(UserError, match='no task "hellaswga"; did you mean "hellaswag"'):
        Loader().load("hellaswga", lambda instances: [])
