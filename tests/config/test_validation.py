"""What trials are scored by: settings of generated answers, and the metrics of rows."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from partune.config import Validation
from partune.config.validation import ROW_METRICS, check_metric


def test_settings_of_answers_by_the_harness_names() -> None:
    assert Validation().generation == {}
    given = Validation(max_new_tokens=9, stop=("\\n", "a\\tb"), temperature=0.0).generation
    assert given == {"max_gen_toks": 9, "until": ["\n", "a\tb"], "temperature": 0.0}
    with pytest.raises(ValidationError):
        Validation(max_new_tokens=0)
    with pytest.raises(ValidationError):
        Validation(temperature=-0.1)


@pytest.mark.parametrize("metric", [None, *ROW_METRICS, "judge:good"])
def test_metrics_of_rows(metric: str | None) -> None:
    check_metric(Validation(metric=metric))
    assert Validation(metric=metric).generates == (metric in ("exact_match", "f1", "rougeL", "judge:good"))


def test_metrics_of_tasks_need_one() -> None:
    with pytest.raises(ValueError, match=r"validation.metric: acc_norm needs a task \(--task\)"):
        check_metric(Validation(metric="acc_norm"))
    check_metric(Validation(metric="anything", tasks=("arc",)))  # the task is asked when it is loaded
