"""The names of the demo's rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune.demo import DIRECTORY, ROWS, locate_rows


@pytest.mark.parametrize(
    "path", ["mine.csv", "a.csv,b.csv", "demonstration", "org/demo", "./demo", " ", "", "demo.csv"]
)
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert locate_rows(path) == path


@pytest.mark.parametrize("name", ROWS)
def test_a_name_is_a_file_that_is_there(name: str) -> None:
    assert Path(locate_rows(name)) == DIRECTORY / ROWS[name]
    assert Path(locate_rows(name)).is_file()
    assert locate_rows(f"a.csv, {name}") == f"a.csv,{DIRECTORY / ROWS[name]}"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"the demo has the rows demo, demo:labels, .*, and not demo:label"):
        locate_rows("demo:labels,demo:label")
