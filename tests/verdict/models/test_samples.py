"""The files of the harness: which of a folder are read, and one line for each that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partune.errors import UserError
from partune.verdict.models.samples import UNNAMED, entry, read
from tests.support.harness_samples import DATE, Line, header, lines, scored, write_run

OTHER = "2026-02-02T03-04-05"


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "PATH")


def test_a_run_is_read_with_its_results(tmp_path: Path) -> None:
    write_run(tmp_path / "out" / "model", {"one": lines([1, 0.5]), "two_2": lines([0, 1, 1], "f1", "strict")})
    found = read(tmp_path / "out")
    assert (found.path, found.model, [*found.tasks]) == (tmp_path / "out", "made-up", ["one", "two_2"])
    task = found.tasks["two_2"]
    assert [each.number for each in task.filters["strict"]] == [0, 1, 2]
    assert [each.scores for each in task.filters["strict"]] == [{"f1": 0}, {"f1": 1}, {"f1": 1}]
    assert task.setting("n-samples", "two_2", "effective") == 3
    assert task.setting("n-samples", "two_2", "effective", "more") is None
    assert entry({"a": {"b": 1}}, "a", "b") == 1


def test_a_folder_a_samples_file_and_a_results_file_are_all_places(tmp_path: Path) -> None:
    folder = write_run(tmp_path, {"one": lines([1, 0]), "two": lines([1])})
    write_run(tmp_path, {"three": lines([1])}, date=OTHER)
    assert [*read(folder).tasks] == ["one", "three", "two"]
    assert [*read(folder / f"samples_two_{DATE}.jsonl").tasks] == ["two"]
    assert [*read(folder / f"results_{OTHER}.json").tasks] == ["three"]
    renamed = (folder / f"samples_two_{DATE}.jsonl").rename(tmp_path / "mine.jsonl")
    assert [*read(renamed).tasks] == [UNNAMED]
    assert read(renamed).tasks[UNNAMED].results == {}
    assert read(renamed).model is None


def test_a_results_file_may_have_a_name_of_the_users(tmp_path: Path) -> None:
    """With --output_path NAME.json, samples lie beside NAME_DATE.json."""
    folder = scored(tmp_path, [1, 0])
    results = (folder / f"results_{DATE}.json").rename(folder / f"mine_{DATE}.json")
    assert read(folder).model == read(results).model == "made-up"


def test_groups_are_those_with_a_score_and_all_leaves(tmp_path: Path) -> None:
    tasks = {name: lines([1, 0]) for name in ("one", "two", "three")}
    data = header(tasks) | {
        "groups": {"all": {"acc,none": 0.5}, "some": {"acc,none": 0.5}, "gone": {"acc,none": 0.5}},
        "group_subtasks": {"all": ["some", "three"], "some": ["one", "two"], "gone": ["four"], "tag": ["one"]},
    }
    found = read(write_run(tmp_path, tasks, data))
    assert found.groups == {"all": ("one", "two", "three"), "some": ("one", "two")}
    data["group_subtasks"] = {"all": ["some"], "some": ["all", "one"]}  # in a circle
    (tmp_path / f"results_{DATE}.json").write_text(json.dumps(data))
    assert read(tmp_path).groups == {"all": ("one",), "some": ("one",)}


def test_old_files_do_not_list_their_metrics(tmp_path: Path) -> None:
    old: list[Line] = [{key: value for key, value in each.items() if key != "metrics"} for each in lines([1, 0])]
    path = write_run(tmp_path, {"t": old}, {})
    assert read(path).tasks["t"].metrics == ("acc",)


def test_places_without_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").startswith("PATH has no samples_*.jsonl of lm-evaluation-harness; score the")
    assert refused(tmp_path / "emtpy") == 'PATH does not exist; did you mean "empty"?'
    (tmp_path / f"results_{DATE}.json").write_text("{}")
    assert "there are no samples_*.jsonl with the same date" in refused(tmp_path / f"results_{DATE}.json")
    (tmp_path / "any.json").write_text("{}")
    assert "there are no samples_*.jsonl with the same date" in refused(tmp_path / "any.json")


def test_several_models_and_several_runs_in_a_folder_are_refused(tmp_path: Path) -> None:
    scored(tmp_path / "out" / "first", [1, 0])
    scored(tmp_path / "out" / "second", [1, 0])
    assert refused(tmp_path / "out") == (
        "PATH has the samples of several models (first, second): name the folder of one of them"
    )
    write_run(tmp_path / "out" / "first", {"t": lines([1, 1])}, date=OTHER)
    assert refused(tmp_path / "out" / "first") == (
        f"PATH has two runs of task t: samples_t_{DATE}.jsonl and samples_t_{OTHER}.jsonl; name the results_*.json of "
        "one of them instead"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "PATH is empty"),
        ("\n\n", "PATH is empty"),
        ('{"doc_id": 0', "PATH, line 1: broken JSON ("),
        ("[1, 2]", "PATH, line 1: not a sample of lm-evaluation-harness, got [1, 2]"),
        ("{}", "PATH, line 1: no doc_id"),
        ('{"doc_id": 0}', "PATH, line 1: no doc_hash, prompt_hash and target_hash"),
        ('{"doc_id": "0", "doc_hash": "a", "prompt_hash": "b", "target_hash": "c"}', "PATH, line 1: no doc_id"),
        ("[" * 100_000, "PATH, line 1: broken JSON (RecursionError"),
        ('{"doc_id": ' + "1" * 5000 + "}", "PATH, line 1: broken JSON (ValueError"),
    ],
    ids=range(9),
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / f"samples_t_{DATE}.jsonl"
    path.write_text(text)
    assert refused(path).startswith(message)


def test_a_broken_line_a_repeated_document_and_other_bytes_are_named(tmp_path: Path) -> None:
    path = scored(tmp_path, [1, 0, 1]) / f"samples_t_{DATE}.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-40])
    assert refused(path).startswith("PATH, line 3: broken JSON (")
    path.write_text(whole + whole.splitlines()[1])
    assert refused(path).startswith("PATH, line 4: doc_id 1 is there twice (filter none), as if two runs had written")
    path.write_bytes(whole.encode()[:200] + b"\xff")
    assert refused(path).startswith("PATH is not text in UTF-8 (invalid start byte")
    path.write_text(whole)
    results = tmp_path / f"results_{DATE}.json"
    for text in ("{", "[]"):
        results.write_text(text)
        assert str(results) in refused(path)
    path.unlink()
    path.mkdir()
    assert "no samples_*.jsonl" in refused(path)
