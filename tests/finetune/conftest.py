"""The saved models, data and tasks that these tests share."""

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
