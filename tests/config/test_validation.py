"""What trials are scored by: settings of generated answers, and the metrics of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from partune.config import Validation, dump, parse, validated
from partune.config.validation import ROW_METRICS, check_metric
from partune.errors import UserError
from partune.runtime import strict_yaml


def test_settings_of_answers_by_the_harness_names() -> None:
    assert Validation().generation == {}
    given = Validation(max_new_tokens=9, stop=("\n", "a\tb"), temperature=0.0).generation
    assert given == {"max_gen_toks": 9, "until": ["\n", "a\tb"], "temperature": 0.0}
    with pytest.raises(ValidationError):
        Validation(max_new_tokens=0)
    with pytest.raises(ValidationError):
        Validation(temperature=-0.1)


@pytest.mark.parametrize("text", [r"\text{", r"\n", "\n", r"\\", "\t", "###", " "])
def test_stop_strings_of_files_and_python_are_taken_as_they_are(text: str) -> None:
    assert Validation(stop=(text,)).stop == (text,)
    assert validated(Validation, {"stop": text}).stop == (text,)  # a bare string, as for tasks
    assert validated(Validation, {"stop": [text, "a"]}).stop == (text, "a")
    study = parse({"model": "m", "data": "d", "validation": {"stop": text}})
    written = strict_yaml.parse(dump(study).encode(), Path("study.yaml"))
    assert parse(written).validation.stop == (text,)


@pytest.mark.parametrize("value", ["", [""], ["a", ""]])
def test_an_empty_stop_string_is_refused_by_its_flag(value: Any) -> None:
    with pytest.raises(UserError, match=r"^stop: an empty text \(--stop-string ''\) would end every answer at once"):
        validated(Validation, {"stop": value})


@pytest.mark.parametrize("value", [3, [3], [None], {"a": 1}, [["a"]]])
def test_a_stop_string_is_text(value: Any) -> None:
    with pytest.raises(UserError, match=r"^stop"):
        validated(Validation, {"stop": value})


@pytest.mark.parametrize("metric", [None, *ROW_METRICS, "judge:good"])
def test_metrics_of_rows(metric: str | None) -> None:
    check_metric(Validation(metric=metric))
    assert Validation(metric=metric).rows_generate == (metric in ("exact_match", "f1", "rougeL", "judge:good"))


def test_metrics_of_tasks_need_one() -> None:
    with pytest.raises(ValueError, match=r"validation.metric: acc_norm needs a task \(--task\)"):
        check_metric(Validation(metric="acc_norm"))
    for metric, near in (("exact_mach", "exact_match"), ("rougel", "rougeL"), ("los", "loss")):
        with pytest.raises(ValueError, match=rf'no metric "{metric}" of rows; did you mean "{near}"\?'):
            check_metric(Validation(metric=metric))
    check_metric(Validation(metric="anything", tasks=("arc",)))  # the task is asked when it is loaded
