"""Examples whose tokens are letters, for tests of how rows are held out and scored."""

from __future__ import annotations

import numpy as np

from partune.finetune.data import Examples


def examples_of(rows: list[tuple[str, str]]) -> Examples:
    """Examples of prompts and answers, one token a letter."""
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    return Examples(
        tokens=np.array([ord(letter) for prompt, answer in rows for letter in prompt + answer], np.int32),
        trained=np.concatenate([np.arange(len(p) + len(a)) >= max(1, len(p)) for p, a in rows]),
        starts=np.cumsum([0, *lengths]),
        numbers=np.arange(1, len(rows) + 1),
        rows=len(rows),
    )
