"""Divide texts into words, for comparisons of texts in any script."""

from __future__ import annotations

import regex

# Scripts without spaces between words; each character counts as a word.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
# In other scripts, a word is a run of letters, combining marks and digits.
WORD = regex.compile(rf"{UNSPACED}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--{UNSPACED}]+", regex.V1)


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, without case and punctuation."""
    return tuple(WORD.findall(text.casefold()))
