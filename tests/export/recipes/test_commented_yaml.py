"""Files with comments: whatever is in their values, they are read back as what was meant."""

from __future__ import annotations

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partune.export.recipes.commented_yaml import WIDTH, bullets, commented

VALUES = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.lists(st.text()))


@settings(deadline=None)
@example({"template": "a\x85b\u2028c\u2029d\n"})
@given(st.dictionaries(st.sampled_from(["lora_r", "datasets", "template"]), VALUES, min_size=1))
def test_what_is_written_is_read_back(given_settings: dict[str, object]) -> None:
    text = commented(["What it is.", "", "    command"], ["One thing."], given_settings)
    assert yaml.safe_load(text) == given_settings


def test_comments_come_first_and_settings_without_a_value_are_left_out() -> None:
    text = commented(["What it is."], ["One thing."], {"rank": 16, "steps": None, "template": "a\nb\n"})
    assert (
        text == "# What it is.\n#\n# Differences from the study:\n# - One thing.\n\nrank: 16\ntemplate: |\n  a\n  b\n"
    )


def test_bullets_are_broken_into_lines() -> None:
    lines = bullets(["word " * 40, "short"], "# ")
    assert [line[:4] for line in lines] == ["# - ", "#   ", "# - "]
    assert all(len(line) <= WIDTH for line in lines)
