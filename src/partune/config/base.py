"""The class of all sections of a study's file, and the types of paths in them."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from partune.runtime import paths


def flag(name: str, escapes: bool = False) -> Any:
    r"""Return metadata that renames a field's flag; the field's own name would be ambiguous.

    Args:
        name: The name of the flag, without the leading dashes.
        escapes: Whether the command line replaces escapes such as \n in the flag's values.
    """
    return Field(json_schema_extra={"flag": name, **({"escapes": True} if escapes else {})})


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


def _listed(value: Any) -> Any:
    """Return a bare string as a list of one; return anything else as it is."""
    return [value] if isinstance(value, str) else value


PathText = Annotated[str, AfterValidator(_checked_path)]  # a path, or a name that may be one
FolderText = Annotated[str, AfterValidator(lambda text: str(paths.as_path(text)))]  # a folder to write to
Names = Annotated[tuple[PathText, ...], BeforeValidator(_listed)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
