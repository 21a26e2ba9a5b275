"""What a study hands over, scored as lm-evaluation-harness scores it, whatever the study is scored by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partune import Study
from partune.errors import UserError
from partune.export.export import export
from partune.objectives.finetune import FineTune
from partune.objectives.rescoring import rescore
from partune.record.record import Record
from partune.trial.names import ItemSet, WinnerScoring
from tests.support.tiny import make_tickets, write_jsonl
from tests.support.tuning import SPACE

VERDICT = frozenset({ItemSet.VERDICT})


@pytest.fixture(scope="module", params=["task", "loss", "labels"])
def study(
    request: pytest.FixtureRequest, folders: dict[str, Path], task_file: Path, data_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Study:  # fmt: skip
    root = tmp_path_factory.mktemp("rescored")
    rows = write_jsonl(root / "rows.jsonl", make_tickets(120)) if request.param == "labels" else root / "rows.jsonl"
    if request.param != "labels":
        shutil.copy(data_file, rows)
    tuner = FineTune(
        folders["llama"],
        rows,
        task_file if request.param == "task" else None,
        validation={} if request.param == "task" else {"split": 0.4},
        training={"steps": 4, "batch_size": 4},
        run={"device": "cpu", "pack": 2},
        seed=1,
    )
    study = Study(SPACE, tuner, "random", 1, root / "study", keep="all", seeds=0).run(2)
    study.close()
    return study


def recorded(study: Study) -> Mapping[str, np.ndarray[Any, Any]]:
    record = study.record
    return record.items("anchors", record.anchors()[WinnerScoring.JUDGED].number)


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True])
def test_an_export_is_scored_on_the_held_out_items_as_by_the_harness(study: Study, merge: bool, tmp_path: Path) -> None:
    directory = study.record.directory
    assert directory is not None
    assert isinstance(study.objective, FineTune)
    out = export(directory, tmp_path / "out", merge=merge, anyway=True)
    found = rescore(Record.open(directory, read_only=True), out, merge, "fp32")
    config = study.objective.config
    reference = FineTune(
        out if merge else config.model,  # type: ignore[arg-type]
        config.data,  # type: ignore[arg-type]
        validation=config.validation,
        run={"device": "cpu", "engine": "peft"},
        seed=1,
    )
    with reference as tuner:
        tuner.prepare()
        outcome = (
            tuner.engine.score_base("fp32", VERDICT) if merge else tuner.engine.score_adapter("fp32", out, VERDICT)
        )
    assert not isinstance(outcome.scores, Exception)
    expected, before = outcome.scores.items, recorded(study)
    assert found.keys() == expected.keys() == {name for name in before if name.startswith("verdict/")}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-3)
        np.testing.assert_allclose(values, before[name], atol=1e-3)


@pytest.mark.slow
def test_changed_rows_or_items_are_refused(study: Study, tmp_path: Path) -> None:
    directory = study.record.directory
    assert directory is not None
    assert isinstance(study.objective, FineTune)
    out = export(directory, tmp_path / "out", anyway=True)
    path = Path(study.objective.data.path)
    text = path.read_text()
    lines = text.splitlines()
    row = json.loads(lines[0])
    try:
        path.write_text("\n".join([json.dumps(row | {"instruction": "another one"}), *lines[1:]]) + "\n")
        with pytest.raises(UserError, match="changed since this study began: the training rows"):
            rescore(Record.open(directory, read_only=True), out, False, "fp32")
    finally:
        path.write_text(text)
