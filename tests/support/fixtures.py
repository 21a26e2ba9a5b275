"""The fixtures of all tests that fine-tune, for their conftest.py: saved models, data, tasks and objectives."""

from tests.support.models import base, bases, data_file, doubles, folders, one_thread, task_file, test_file, tokenizer
from tests.support.tuning import make, tuner

__all__ = [
    "base",
    "bases",
    "data_file",
    "doubles",
    "folders",
    "make",
    "one_thread",
    "task_file",
    "test_file",
    "tokenizer",
    "tuner",
]
