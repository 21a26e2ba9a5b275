"""The saved models, data and tasks that these tests share."""

from tests.support.fixtures import *  # noqa: F403  (pytest finds fixtures by their names in this file)
