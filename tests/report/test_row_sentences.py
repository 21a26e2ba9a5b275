"""The sentences about training data, beyond those that the command's tests read."""

from __future__ import annotations

from partune.finetune.contamination import Seen
from partune.report.data_notes import COMPARED
from partune.report.row_sentences import LONGEST, scored_notes, shortened


def test_rows_follow_the_last_sentence_about_them() -> None:
    found = Seen("arc", 9, 2, 1, ((3, "a"), (4, "b"), (5, "c")))
    (_, none), (last, rows), (how, _) = scored_notes([found])
    assert (none, rows, how) == ((), found.rows, COMPARED)
    assert last.startswith("1 more shares")
    assert [rows for _, rows in scored_notes([Seen("arc", 9, 0, 0)])] == [(), ()]
    assert list(scored_notes([])) == []


def test_a_long_text_is_cut_to_one_line() -> None:
    assert shortened("a\n\n b") == "a b"
    assert shortened("x" * LONGEST) == "x" * LONGEST
    assert len(shortened("x " * LONGEST)) == LONGEST
