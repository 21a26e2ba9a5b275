"""Text that Markdown shows as it is."""

from __future__ import annotations

import pytest

from partune.runtime.markdown import code, fenced, plain, table


def test_nothing_in_a_plain_text_is_a_mark() -> None:
    assert plain("*a* [b](c) <d> `e` f_g _h_\ni") == r"\*a\* \[b\](c) \<d\> \`e\` f_g \_h\_ i"


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a|b", r"`a\|b`"), ("", "`  `"), ("a\n b", "`a b`")],
)
def test_code_in_a_line(content: str, expected: str) -> None:
    assert code(content) == expected


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert fenced("a\n````\n", "yaml") == "`````yaml\na\n````\n`````"
    assert fenced("a") == "```\na\n```"


def test_the_first_row_of_a_table_is_its_head() -> None:
    assert table([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
