"""What all sections share: unknown keys, texts that stand for a field, and paths."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from partune.config import Data, FolderText, Section, Validation, flag


class Folder(Section):
    shorthand = "out"
    out: FolderText
    size: int = 1


def test_a_text_stands_for_the_field_that_the_section_names() -> None:
    assert Folder.model_validate("x/../y").out == "x/../y"
    assert Data.model_validate("rows.json").path == "rows.json"


def test_unknown_keys_numbers_without_a_value_and_broken_paths_are_refused() -> None:
    for wrong in ({"out": "a", "siz": 2}, {"out": "a\0b"}, {"out": "a", "size": "many"}):
        with pytest.raises(ValidationError):
            Folder.model_validate(wrong)
    with pytest.raises(ValidationError):
        Validation.model_validate({"temperature": float("inf")})
    with pytest.raises(ValidationError):
        Folder(out="a").size = 3  # type: ignore[misc]


def test_one_name_is_a_list_of_names() -> None:
    assert Validation(tasks="arc").tasks == ("arc",)  # type: ignore[arg-type]
    assert flag("task").json_schema_extra == {"flag": "task"}
