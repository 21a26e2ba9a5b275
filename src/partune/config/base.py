"""The class of all sections of a study's file, and the types of paths in them."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from partune.runtime import paths


def flag(name: str) -> Any:
    """Return the metadata that gives a field's flag another name, because the field's own name would be ambiguous."""
    return Field(json_schema_extra={"flag": name})


class Section(BaseModel):
    """A part of a file, with typed fields.

    Attributes:
        shorthand: The field that a bare string stands for: `data: rows.json` is `data: {path: rows.json}`.
    """

    # Frozen, because threads share a study's settings. Infinity and nan are refused, because JSON has neither.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    shorthand: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if cls.shorthand is not None and isinstance(value, (str, os.PathLike)):
            return {cls.shorthand: os.fspath(value)}
        return value


def _checked_path(text: str) -> str:
    paths.as_path(text)
    return text


PathText = Annotated[str, AfterValidator(_checked_path)]  # a path, or a name that may be one
FolderText = Annotated[str, AfterValidator(lambda text: str(paths.as_path(text)))]  # a folder to write in
Names = Annotated[tuple[PathText, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
