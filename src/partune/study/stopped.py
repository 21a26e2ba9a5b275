"""The exceptions that a study raises when it stops early."""

from __future__ import annotations


class StoppedError(RuntimeError):
    """The study stopped because its results would be useless; the record is complete, and the study can be resumed."""


class UntrustworthyError(StoppedError):
    """The objective's scores are wrong, because training with learning rate 0 changed the base model's answers."""


class FutileError(StoppedError):
    """Several trials failed with the same exception, and no trial has a score."""
