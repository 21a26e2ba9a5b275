"""The exceptions with which a study stops itself."""

from __future__ import annotations


class StoppedError(RuntimeError):
    """A study stopped itself, as nothing worth having could come of it; its record is whole."""


class UntrustworthyError(StoppedError):
    """The objective's scores cannot be what they claim to be."""


class FutileError(StoppedError):
    """The objective fails in the same way again and again, and no trial has a score."""
