"""Two models that are scored: the same answers as from samples of the harness, and refusals before any model loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import partune as pt
from partune import config
from partune.errors import UserError
from partune.finetune.contamination import Seen
from partune.finetune.scoring import models
from partune.finetune.scoring.models import Asked, Candidate, Scored
from partune.finetune.scoring.scores import Scores
from partune.objectives.candidates import Named
from partune.trial.names import ItemSet, ResultName
from partune.verdict.models import score
from tests.support.command import modules_after
from tests.support.harness_samples import lines, write_run

TASKS = ("large", "small")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with adapters a, a2 and b, a model, samples and rows."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a2", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    for name in ("model", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    write_run(tmp_path / "samples", {"large": lines([1, 0, 1])})
    (tmp_path / "rows.jsonl").write_text("{}")
    return tmp_path


def drawn(candidate: Candidate, task: str) -> dict[str, np.ndarray[Any, Any]]:
    name = candidate.adapter or Path(candidate.model.path)
    rng = np.random.default_rng(len(name.name) + 10 * name.name.startswith("a") + len(task))
    size = 200 if task == "large" else 6
    values = (rng.random(size) < (0.9 if name.name.startswith("a") else 0.6)).astype(float)
    named = {"doc_id": np.arange(size), "acc": values}
    return {str(ResultName(ItemSet.TEST, task, what)): array for what, array in named.items()}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `score_models` was asked for, which here draws right and wrong answers: A's are better."""
    calls: list[tuple[Any, ...]] = []

    def scored(candidates: list[Candidate], asked: Asked, dtype: str, device: str) -> list[Scored]:
        calls.append((list(candidates), asked, dtype, device))
        tasks = asked.validation.tasks or ("validation rows",)
        return [
            Scored(
                Scores({}, {name: array for task in tasks for name, array in drawn(candidate, task).items()}),
                dict.fromkeys(tasks, "acc"),
                frozenset(),
                str(asked.data and candidate.model.path == "other"),
            )
            for candidate in candidates
        ]

    monkeypatch.setattr(models, "score_models", scored)
    return calls


def test_each_task_is_an_answer_with_corrected_chances(place: Path, asked: list[Any]) -> None:
    found = pt.compare_models("a", "b", model="acme/base", tasks=list(TASKS), mean=True, margin=0.05, dtype="fp32")
    assert [answer.name for answer in found.answers] == [*TASKS, "mean"]
    for answer in found.answers[:2]:
        oracle = stats.binomtest(answer.won, answer.won + answer.lost).pvalue if answer.won + answer.lost else 1.0
        assert answer.p == pytest.approx(oracle)
        assert answer.test == "McNemar's exact test"
        assert answer.corrected >= answer.p
    assert found["large"].relation == "better"
    assert (found.a.paths, found.a.name) == ((Path("a"),), "an adapter on acme/base")
    ((candidates, items, dtype, _),) = asked
    assert [candidate.adapter for candidate in candidates] == [Path("a"), Path("b")]
    assert (items.validation.tasks, items.data, dtype) == (TASKS, None, "fp32")


def test_runs_with_other_seeds_are_runs_of_one_model(place: Path, asked: list[Any]) -> None:
    found = pt.compare_models(["a", "a2"], "base", model="acme/base", tasks="large")
    assert found["large"].comparison.runs == (2, 1)
    assert found.b.name == "acme/base"


def test_rows_are_named_by_their_file_and_come_with_a_note(place: Path, asked: list[Any]) -> None:
    found = pt.compare_models("a", "b", model={"path": "acme/base", "revision": "v2"}, data="rows.jsonl")
    assert [answer.name for answer in found.answers] == ["rows.jsonl"]
    assert found.notes == (
        "Rows that a model was trained on favour it. This comparison detects them only for studies, not for a and b.",
    )
    assert asked[0][0][0].model.revision == "v2"
    with pytest.raises(UserError, match="the models read the rows as different tokens"):
        pt.compare_models("model", "other", data="rows.jsonl")


@pytest.mark.parametrize(
    ("a", "b", "options", "said"),
    [
        ("a", "b", {"model": "m"}, "models are scored on tasks .* or on rows .*: name one of the two$"),
        ("a", "b", {"model": "m", "tasks": "t", "data": "rows.jsonl"}, "name one of the two, not both$"),
        ("a", "b", {"tasks": "t"}, "^a needs its base model: name it with `--model`$"),
        ("base", "b", {"tasks": "t"}, "^base needs its base model"),
        (
            "a",
            "samples",
            {"model": "m", "tasks": "t"},
            "^a is a model, but samples holds samples of lm-evaluation-harness: compare models with models",
        ),
        (
            "samples",
            "samples",
            {"data": "rows.jsonl"},
            "^options such as `--model` and `--data` are for models, but samples",
        ),
        ("samples", "nowhere", {"limit": 3}, "are for models, but samples holds samples of"),
        ("a", "./a", {"model": "m", "tasks": "t"}, r"^a and \./a are the same model"),
        ("base", "m", {"model": "m", "tasks": "t"}, "^base and m are the same model"),
        ("model", "other", {"model": "m", "tasks": "t"}, "^`--model m` has no effect, because A and B are whole"),
        ("a", "b", {"model": "m", "tasks": "t", "filter": "none"}, "^`--filter` is for samples"),
        ("a", "b", {"model": "m", "tasks": "t", "higher_is_better": True}, "^`--better` is for samples"),
        ("a", "b", {"model": "m", "tasks": ["t", "t"], "mean": True}, "^a mean needs at least two tasks"),
        ("a", "b", {"model": "m", "tasks": "t", "margin": 1}, "^a margin of 1 is too large for scores from 0 to 1"),
        ("a", "b", {"model": "m", "data": "rows.jsonl", "limit": 5}, "^`--limit`, .* are for tasks; rows have"),
        ("a", "b", {"model": "m", "data": "rows.jsonl", "confirm_run_unsafe_code": True}, "are for tasks; rows have"),
        ("a", "b", {"model": "m", "tasks": "t", "generation": {"max_new_tokens": 0}}, "max_new_tokens: input "),
        ("a", "b", {"model": "m", "tasks": "t", "generation": {"top_k": 3}}, 'unknown key "top_k"'),
        ("a", "b", {"model": "m", "data": "rows.jsonl", "fewshot": 0}, "^`--limit`, .* are for tasks; rows have"),
        ("a", [], {"model": "m", "tasks": "t"}, "^each of the two models needs at least one folder"),
    ],
)
def test_refusals_are_one_line_before_any_model_loads(
    place: Path, asked: list[Any], a: Any, b: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as found:
        pt.compare_models(a, b, **options)
    assert "\n" not in str(found.value)
    assert asked == []


def test_two_ids_of_the_hub_are_models(place: Path, asked: list[Any]) -> None:
    pt.compare_models("acme/a", "acme/b", tasks="t")
    assert [candidate.model.path for candidate in asked[0][0]] == ["acme/a", "acme/b"]
    (place / "out").mkdir()
    with pytest.raises(UserError, match="out/a"):
        pt.compare_models("out/a", "out/b", tasks="t")
    assert len(asked) == 1


def test_how_answers_are_generated_is_passed_on(place: Path, asked: list[Any]) -> None:
    generation = {"max_new_tokens": 7, "stop": ["."], "temperature": 0}
    pt.compare_models("a", "b", model="m", tasks="t", generation=generation, confirm_run_unsafe_code=True)
    validation = asked[0][1].validation
    assert validation.generation == {"max_gen_toks": 7, "until": ["."], "temperature": 0.0}
    assert validation.confirm_run_unsafe_code


@pytest.mark.slow
def test_samples_need_no_model_libraries(place: Path) -> None:
    write_run(place / "second", {"large": lines([0, 1, 0])})
    loaded = modules_after("import partune as pt; pt.compare_models('samples', 'second')")
    assert not loaded & {"torch", "transformers", "peft", "lm_eval", "safetensors"}


def test_a_study_is_told_that_chose_its_winner_by_what_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quiz.yaml").touch()
    chosen = Named(Candidate(config.Model(path="m")), "", chosen_by=(str(tmp_path / "quiz.yaml"), "piqa"))
    places = {"runs/a": chosen, "b": Named(Candidate(config.Model(path="m")), "")}
    (note,) = score._selection_notes(places, ["quiz.yaml", "arc_easy"])
    assert note.startswith("SELECTION: runs/a chose its winner among its trials by items of quiz.yaml.")
    assert list(score._selection_notes(places, ["other.yaml", "arc_easy"])) == []


def test_what_studies_were_trained_on_is_said() -> None:
    (note,) = score._seen_notes(["runs/a", "runs/b"], [Seen("rows.jsonl", 9, 3, 1), Seen("new", 9, 0, 0)], "row")
    assert note.startswith(
        "CONTAMINATION: 3 of the 9 rows of rows.jsonl occur in the training data of runs/a and runs/b, and 1 more share"
    )
    (note,) = score._seen_notes(["runs/a"], "gone.json does not exist", "item")
    assert note == "Whether items are in the training data of runs/a is not known: gone.json does not exist."
