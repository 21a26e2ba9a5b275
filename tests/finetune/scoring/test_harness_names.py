"""Names are looked up as in the harness's own index, only much faster."""

from __future__ import annotations

from pathlib import Path

import lm_eval
import pytest

from partune.errors import UserError
from partune.finetune.scoring.harness_names import check_name, names_in

FOLDER = Path(lm_eval.__file__).parent / "tasks"


@pytest.mark.slow
@pytest.mark.thorough
def test_every_name_in_the_index_of_the_harness_is_found() -> None:
    from lm_eval.tasks import TaskManager

    named, listed = names_in(FOLDER)
    assert {str(name) for name in TaskManager().task_index} <= named | listed


@pytest.mark.parametrize("name", ["hellaswag", "mmlu", "arc_easy", "wikitext", "gsm8k", "ai2_arc", "leaderboard"])
def test_tasks_groups_and_tags_are_names(name: str) -> None:
    check_name(name, names_in(FOLDER))


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r'^no task "helaswag"; did you mean "hellaswag"\?$'):
        check_name("helaswag", names_in(FOLDER))
    with pytest.raises(UserError, match=r'^no task "q7q7q7q7"; name a task of lm-evaluation-harness or a YAML file$'):
        check_name("q7q7q7q7", names_in(FOLDER))


def test_every_form_of_a_definition_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: \"one\"\ntag:\n  - two\n  - 'three'  # a tag\n")
    (tmp_path / "_included").write_text("tag: [four, five]\n")
    (tmp_path / "b.yaml").write_text("group: six\ntask:\n  - one\n  - task: seven\n")
    (tmp_path / "c.txt").write_text("task: eight\n")
    named, listed = names_in(tmp_path)
    assert named == {"one", "four", "five", "six"}
    assert {"two", "three"} <= listed
