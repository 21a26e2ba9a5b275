"""Definitions of tasks: found as the harness finds them, and code in them."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from lm_eval import utils
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from partune.errors import UserError
from partune.finetune.scoring import definitions
from partune.finetune.scoring.definitions import harness_folder, load_file, rendering, ships_with_harness
from partune.finetune.scoring.harness_names import names_in
from partune.finetune.scoring.harness_task import HarnessTask
from partune.finetune.scoring.tasks import Loader
from tests.support.tiny import make_items, write_task

WORD = "add `--trust-task-code`"


def encode(instances: list[Any]) -> list[Any]:
    """Stands in for a tokenizer."""
    return [[(instance.args, [0], [1])] for instance in instances]


def load(path: Path, trusted: bool = False) -> HarnessTask:
    return Loader().load(str(path), encode, trusted=trusted)


def nothing() -> Mapping[str, Any]:
    return {}


def leaves(path: Path, harness: Callable[[], Mapping[str, Any]] = nothing) -> dict[str, Any]:
    _, loaded = load_file(path, False, harness)
    return dict(loaded["tasks"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks of a folder, `first` with a tag."""
    first = write_task(tmp_path, "first", make_items(8, seed=2))
    first.write_text(first.read_text() + "tag: some\n")
    write_task(tmp_path, "second", make_items(6, seed=3))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# ----- groups


GROUPS = {
    "names": "group: all\ntask: [first, second]\n",
    "overrides": "group: all\ngroup_alias: All of it\ntask:\n  - {task: first, num_fewshot: 2}\n  - second\n",
    "nested": "group: all\ntask:\n  - {group: inner, task: [first]}\n  - second\n",
    "tag": "group: all\ntask: [some, second]\n",
    "own": "group: all\ntask:\n  - first\n  - {task: third, dataset_path: json, output_type: multiple_choice,"
    " dataset_kwargs: {data_files: {test: second.jsonl}}, test_split: test, doc_to_text: question,"
    " doc_to_choice: choices, doc_to_target: answer}\n",
    "shadowed": "group: all\ntask: [first, hellaswag]\n",
    "elsewhere": "group: all\ntask: [first, deep]\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GROUPS)
def test_a_group_has_the_members_that_the_harness_finds(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "all.yaml", GROUPS[kind])
    hellaswag = write_task(folder, "hellaswag", make_items(4))
    write(folder / "below" / "deep.yaml", f"include: {hellaswag}\ntask: deep\n")
    monkeypatch.chdir(folder)  # the harness takes data files from there
    expected = TaskManager(include_path=str(folder), include_defaults=False).load(["all"])["tasks"]
    monkeypatch.chdir("/")
    (folder / "below" / "hellaswag.jsonl").symlink_to(folder / "hellaswag.jsonl")
    found = leaves(folder / "all.yaml")
    assert list(found) == list(expected)
    assert [found[name].config.num_fewshot for name in found] == [expected[name].config.num_fewshot for name in found]
    assert [list(found[name].eval_docs) for name in found] == [list(expected[name].eval_docs) for name in found]


def test_a_neighbour_that_cannot_be_loaded_does_not_matter(folder: Path) -> None:
    write(folder / "all.yaml", GROUPS["names"])
    write(folder / "broken.yaml", "task: broken\ndataset_path: json\ndoc_to_text: !function missing.function\n")
    write(folder / "torn.yaml", "task: [torn\n")
    assert list(leaves(folder / "all.yaml")) == ["first", "second"]


def test_a_members_file_that_cannot_be_loaded_is_named(folder: Path) -> None:
    write(folder / "all.yaml", "group: all\ntask: [first, torn]\n")
    write(folder / "torn.yaml", "task: torn\ndataset_kwargs: [unclosed\n")
    with pytest.raises(UserError, match=r"torn\.yaml cannot be read") as caught:
        load(folder / "all.yaml")
    assert "\n" not in str(caught.value)
    write(folder / "torn.yaml", "task: torn\ndataset_path: json\ndoc_to_text: !function missing.function\n")
    with pytest.raises(UserError, match=r"torn\.yaml cannot be read: Cannot import module 'missing'"):
        load(folder / "all.yaml", trusted=True)


@pytest.mark.slow
def test_members_come_from_the_harness_where_the_folder_has_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    third = write_task(theirs, "third", make_items(4))
    third.write_text(third.read_text().replace("third.jsonl", str(theirs / "third.jsonl")) + "tag: some_of_theirs\n")
    write(theirs / "group.yaml", "group: theirs\ntask: [third, first]\n")
    alone = tmp_path / "alone"
    write_task(alone, "first", make_items(8, seed=2))
    write(alone / "mine.yaml", "group: mine\ntask: [theirs]\n")
    write(alone / "tagged.yaml", "group: tagged\ntask: [first, some_of_theirs]\n")
    index = TaskIndex.build([theirs])
    monkeypatch.setattr(definitions, "names_in", lambda _: names_in(theirs))
    assert list(leaves(alone / "mine.yaml", lambda: index)) == ["third", "first"]
    assert list(leaves(alone / "tagged.yaml", lambda: index)) == ["first", "third"]


@pytest.mark.slow
def test_the_harness_plain_tasks_are_members_without_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "_harness", property(lambda _: pytest.fail("built the index")))
    monkeypatch.setattr("datasets.load_dataset", lambda path, **_: pytest.fail(f"asked for {path}"))
    with pytest.raises(pytest.fail.Exception, match="asked for allenai/ai2_arc"):
        load(write(tmp_path / "mine.yaml", "group: mine\ntask: [arc_easy, hellaswag]\n"))


def test_data_that_is_not_there_is_told_with_the_members_name(folder: Path) -> None:
    lost = write_task(folder, "lost", make_items(4))
    lost.with_suffix(".jsonl").unlink()
    write(folder / "all.yaml", "group: all\ntask: [first, lost]\n")
    with pytest.raises(UserError, match=r"task .*all\.yaml cannot be loaded: lost: .*lost\.jsonl"):
        load(folder / "all.yaml")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b'{"question": "half \\ud800 of a pair", "choices": ["a", "b"], "answer": 0}\n', r"surrogate pair .* row 8"),
        (b"\xff\xfe are no UTF-8\n", r"can't decode byte 0xff in position \d+|Invalid value"),
        (b'{"question": \n', r"JSON"),
    ],
)
def test_items_that_cannot_be_read_are_told_with_their_place(folder: Path, damage: bytes, message: str) -> None:
    rows = folder / "first.jsonl"
    rows.write_bytes(rows.read_bytes() + damage)
    with pytest.raises(UserError, match=rf"first\.yaml cannot be loaded: .*the items cannot be read: .*({message})"):
        load(folder / "first.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("group: all\ntask: [first, secnd]\n", 'group all: no task "secnd"; did you mean "second"'),
        ("group: all\ntask:\n  - {group: inner, task: [nowhere]}\n", 'group inner: no task "nowhere" in .*harness'),
        ("group: all\ntask: first\n", "group all has no members: its `task` must be a list"),
        ("group: all\n", "group all has no members"),
        ("group: all\ntask: [3]\n", "group all: its member 3 names no task"),
        ("group: all\ntask: [{num_fewshot: 2}]\n", "group all: .* names no task"),
        ("group: all\ntask: [first, all]\n", "group all contains itself"),
        ("group: all\ntask: [first, {group: inner, task: [first]}]\n", "group all has the task first 2 times"),
        ("task: all\ninclude: gone.yaml\n", r"task file .*all\.yaml cannot be read: .*gone\.yaml"),
        ("task: [all]\n", r"all\.yaml names no task"),
        ('task: "a\\0b"\n', r"the name 'a\\x00b' has characters that cannot be printed"),
    ],
)
def test_a_bad_group_is_one_clear_line(folder: Path, text: str, message: str) -> None:
    path = write(folder / "all.yaml", text)
    with pytest.raises(UserError, match=message) as caught:
        Loader.load(_without_index(), str(path), encode)
    assert "\n" not in str(caught.value)


def _without_index() -> Loader:
    loader = Loader()
    loader._task_manager = type("Index", (), {"task_index": {}, "all_tasks": []})()
    return loader


# ----- code


CODE = """\
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()


def text(document):
    return document["question"]
"""
CALL = "doc_to_text: !function code.text\n"


def task_text(folder: Path, name: str, *lines: str) -> str:
    """A whole task without a `doc_to_text` of its own."""
    text = write_task(folder, name, make_items(4)).read_text()
    return "".join(line + "\n" for line in text.splitlines() if not line.startswith("doc_to_text")) + "".join(lines)


@pytest.mark.parametrize("place", ["file", "include", "member", "override"])
def test_functions_of_local_files_need_the_users_word(tmp_path: Path, place: str) -> None:
    write(tmp_path / "code.py", CODE)
    path = write(tmp_path / "task.yaml", task_text(tmp_path, "task", CALL))
    match place:
        case "include":
            path = write(tmp_path / "top.yaml", "include: task.yaml\ntask: top\n")
        case "member":
            path = write(tmp_path / "group.yaml", "group: all\ntask: [task]\n")
        case "override":
            write(tmp_path / "task.yaml", task_text(tmp_path, "task", "doc_to_text: question\n"))
            path = write(
                tmp_path / "group.yaml", "group: all\ntask: [{task: task, doc_to_text: !function code.text}]\n"
            )
    with pytest.raises(
        UserError, match=rf"task file .*\.yaml runs code \(line \d+: !function code.text\).*{WORD}"
    ) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "code.ran").exists()
    task = load(path, trusted=True)
    assert (tmp_path / "code.ran").exists()
    assert task.requests[0][0][0] == task.items[0].document["question"]


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("doc_to_text: !function os.system\n", r"line \d+: !function os\.system"),
        ("process_docs: !function os.system\n", "!function"),
        ("process_results: !function os.system\n", "!function"),
        ("custom_dataset: !function os.system\n", "!function"),
        ("fewshot_config: {sampler: !function os.system}\n", "!function"),
        ("class: !function os.system\n", "!function"),
        ("metric_list: [{metric: !function os.system, aggregation: mean, higher_is_better: true}]\n", "!function"),
        ("metric_list: [{metric: acc, aggregation: !function os.system}]\n", "!function"),
        ("metric_list: [{metric: ./evil.py, aggregation: mean, higher_is_better: true}]\n", r"metric: \./evil\.py"),
        ("metric_list: [{metric: acc, hf_evaluate: true, aggregation: mean}]\n", "metric: acc"),
        ("metric_list: [{metric: acc_nrm, aggregation: mean}]\n", 'did you mean "acc_norm"'),
        ("dataset_path: pandas\n", "pickles"),
        ("use_prompt: evil.yaml:all\n", "use_prompt"),
    ],
)
def test_whatever_runs_code_is_found(tmp_path: Path, lines: str, what: str) -> None:
    key = lines.partition(":")[0]
    kept = [line for line in task_text(tmp_path, "task").splitlines() if not line.startswith((key, "  - {metric"))]
    path = write(tmp_path / "task.yaml", "\n".join(kept) + "\n" + lines)
    with pytest.raises(UserError, match=f"runs code .*{what}.*{WORD}"):
        load(path)


@pytest.mark.parametrize("kind", [yaml.CSafeLoader, yaml.FullLoader])  # with libyaml, and without
def test_python_objects_in_yaml_are_code_too(tmp_path: Path, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "task.yaml", task_text(tmp_path, "task", "doc_to_text: !!python/name:os.system\n"))
    monkeypatch.setattr("lm_eval.tasks._yaml_loader._Base", kind)
    with pytest.raises(UserError, match=f"runs code.*python/name.*{WORD}"):
        load(path)


MINE = """\
include: {}
task: mine
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: rows.jsonl}}}}
test_split: test
validation_split: null
training_split: null
"""


def test_the_harness_own_functions_are_its_own_code(tmp_path: Path) -> None:
    theirs = harness_folder() / "hellaswag" / "hellaswag.yaml"
    assert "!function" in theirs.read_text()
    assert ships_with_harness(theirs)
    assert not ships_with_harness(tmp_path / "hellaswag.yaml")
    path = write(tmp_path / "mine.yaml", MINE.format(theirs))
    rows = '{"ctx_a": "It", "ctx_b": "rains", "activity_label": "Rain", "endings": ["a.", "b."], "label": "1"}\n'
    write(tmp_path / "rows.jsonl", rows * 4)
    assert load(path).items[0].gold == (1,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "template"),
    [
        ("doc_to_text", "classes: {{ ''.__class__.__mro__[1].__subclasses__() | length }}"),
        ("doc_to_text", "{{ cycler.__init__.__globals__.os.getcwd() }}"),
        ("doc_to_target", "{{ (answer.__class__.__name__ | length) * 0 }}"),
        ("doc_to_choice", "{{ [''.__class__.__name__, 'b', 'c', 'd'] }}"),
        ("description", "{{ ''.__class__.__name__ }}"),
        ("gen_prefix", "{{ ''.__class__.__name__ }}"),
    ],
)
def test_templates_of_local_files_reach_no_python(tmp_path: Path, key: str, template: str) -> None:
    path = write_task(tmp_path, "task", make_items(4))
    kept = [line for line in path.read_text().splitlines() if not line.startswith(key)]
    write(path, "\n".join([*kept, f'{key}: "{template}"']) + "\n")
    with pytest.raises(UserError, match=r"task .*unsafe.*--trust-task-code") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert len(load(path, trusted=True).items) == 4


def test_a_template_calls_nothing_but_methods_of_plain_data() -> None:
    document = {"picture": Path("/"), "words": ["a", "b"], "when": datetime.date(2026, 1, 2)}
    with rendering(trusted=False):
        plain = "{% for w in words %}{{ loop.index }}{{ w.upper() }}{% endfor %} {{ when.year }} {{ words.count('a') }}"
        assert utils.apply_template(plain, document) == "1A2B 2026 1"
        with pytest.raises(jinja2.exceptions.SecurityError, match="unsafe"):
            utils.apply_template("{{ picture.exists() }}", document)


def test_the_sandbox_renders_what_the_harness_renders(tmp_path: Path) -> None:
    path = write_task(tmp_path, "task", make_items(4))
    template = "{% set words = question.split() %}{{ words[::-1] | join(' ') }} {{ 'ab' | regex_replace('a', 'c') }}: "
    path.write_text(path.read_text().replace('"Question: {{question}}\\nAnswer:"', f'"{template}"'))
    assert [request[0] for request in load(path).requests] == [request[0] for request in load(path, True).requests]
    assert load(path).requests[0][0][0].endswith(" cb: ")


def test_the_harness_is_left_as_it_was() -> None:
    from lm_eval.tasks import _yaml_loader

    before = utils.env, _yaml_loader._make_loader
    with rendering(trusted=False):
        assert utils.env is not before[0]
        assert utils.env.from_string("{{ 1 }}") is utils.env.from_string("{{ 1 }}")
        with rendering(trusted=True), pytest.raises(jinja2.UndefinedError):
            utils.apply_template("{{ gone }}", {})
    with pytest.raises(UserError):
        load_file(Path("/dev/null"), False, nothing)
    assert (utils.env, _yaml_loader._make_loader) == before
    assert "code" not in sys.modules or not hasattr(sys.modules["code"], "text")
