"""A study's keyword arguments: those of a study's file are the file's, and none gets lost between the two."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from partune import Float, Space, Study, UserError
from partune.config import Run, Search, parse
from partune.study.settings import IN_RUN, IN_SEARCH, FileKeywords, Keywords, Settings, file_keywords

SPACE = Space(x=Float(0, 1))
GIVEN: dict[str, Any] = {"options": {"n": 3}, "keep": 2, "confirm": 4, "seeds": 2, "ship": "best", "stop": "rungs"}


def test_what_a_file_says_is_named_once() -> None:
    assert set(IN_SEARCH) <= set(Search.model_fields)
    assert set(IN_RUN) <= set(Run.model_fields)
    assert set(get_type_hints(FileKeywords)) == {*IN_SEARCH, *IN_RUN} == set(GIVEN)


def test_every_keyword_is_a_setting() -> None:
    plain = set(get_type_hints(Keywords)) - {*IN_SEARCH, *IN_RUN}
    assert plain == set(Settings.__dataclass_fields__) - {"search", "run"}


def test_defaults_are_the_files() -> None:
    assert (Settings.of().search, Settings.of().run) == (Search(), Run())
    assert (Settings.of(keep="all").kept, Settings.of(keep=3).kept) == (None, 3)


def test_a_file_and_python_give_the_same_settings() -> None:
    search = {name: GIVEN[name] for name in IN_SEARCH}
    run = {name: GIVEN[name] for name in IN_RUN}
    config = parse({"objective": "branin", "search": search, "run": run})
    assert file_keywords(config) == GIVEN
    settings = Settings.of(**file_keywords(config))
    assert {name: getattr(settings.search, name) for name in IN_SEARCH} == search
    assert {name: getattr(settings.run, name) for name in IN_RUN} == run


def test_a_keyword_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TypeError, match="kep"):
        Study(SPACE, "sphere", kep=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"noisy": "yes"}, "noisy must be true, false or None, got 'yes'"),
        ({"options": {"x": {1}}}, "an algorithm's options are recorded"),
        ({"options": [1]}, "options: input should be a valid dictionary"),
        ({"confirm": "3"}, "confirm: input should be a valid integer"),
    ],
)
def test_what_makes_no_sense_is_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Settings.of(**given)
