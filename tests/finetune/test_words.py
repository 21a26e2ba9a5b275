"""Words of texts in any script; in English those of Google's rouge-score."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from partune.finetune.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Snake_case isn't 2 words", ["snake", "case", "isn", "t", "2", "words"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs belong to their words
        ("泵漏了 oil", ["泵", "漏", "了", "oil"]),
        ("ポンプABC", ["ポ", "ン", "プ", "abc"]),
        ("насос, ведёт!", ["насос", "ведёт"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("น้ำมัน", ["น้", "ำ", "มั", "น"]),  # a tone or vowel sign stays with its consonant
        ("?!", []),
    ],
)
def test_words_of_all_scripts(text: str, expected: list[str]) -> None:
    assert words(text) == tuple(expected)


@given(st.text(st.characters(codec="ascii")))
def test_in_ascii_they_are_rouge_scores(text: str) -> None:
    assert words(text) == tuple(DefaultTokenizer(use_stemmer=False).tokenize(text))
