"""The size of a pack: its arithmetic, and the probes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.finetune.data import tokenise
from partune.finetune.model import Base
from partune.finetune.packed import capacity
from partune.finetune.packed.capacity import GAIN, MOST, Memory, alike, choose, doubled, like, probe
from partune.finetune.packed.head import Head
from tests.support.tiny import make_rows, write_jsonl


@given(
    base=st.floats(0, 1e10),
    adapter=st.floats(1, 1e8),
    token=st.floats(1, 1e6),
    tokens=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    budget=st.floats(1e9, 1e11),
)
def test_the_memory_model_is_recovered_from_three_probes(
    base: float, adapter: float, token: float, tokens: tuple[int, int], budget: float
) -> None:
    short, long = tokens[0], sum(tokens)

    def peak(trials: int, n: int) -> float:
        return base + trials * (adapter + n * token)

    found = Memory.fit((short, peak(1, short)), (short, peak(2, short)), (long, peak(1, long)))
    for trials in (1, 7, 30):
        each = found.base + trials * (found.adapter + long * found.token)
        assert each == pytest.approx(peak(trials, long), rel=1e-5, abs=10)
    fits = found.fits(long, budget)
    assert 1 <= fits <= MOST
    if fits > 1:
        assert peak(fits, long) <= budget * 1.001
    if fits < MOST:
        assert peak(fits + 1, long) > budget * 0.999


@pytest.mark.parametrize(
    ("overhead", "each", "most", "expected"),
    [(0.0, 1.0, 32, 1), (1.0, 1e-9, 32, 32), (1.0, 1e-9, 12, 8), (1.0, 1.2, 32, 4), (1.0, 0.3, 32, 16)],
)
def test_packs_are_doubled_while_that_pays(overhead: float, each: float, most: int, expected: int) -> None:
    """A step of K trials takes overhead + K each: doubling gains (overhead / 2K) / (overhead / K + each)."""
    assert doubled(lambda trials: overhead + trials * each, most) == expected
    share = overhead / expected + each
    if 2 * expected <= most:
        assert overhead / (2 * expected) / share < GAIN


def test_a_pack_that_does_not_fit_is_not_chosen() -> None:
    def seconds(trials: int) -> float:
        if trials > 4:
            raise torch.OutOfMemoryError("no room")
        return 1.0

    assert doubled(seconds, 32) == 4


@pytest.mark.slow
def test_probes_measure_and_leave_nothing_behind(
    base: Base, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", make_rows(20))
    examples = tokenise(config.Data(path=str(path)), tokenizer).cut(160, "answer")
    settings = config.Training(batch_size=4)
    modules = dict(base.model.named_modules())
    state = torch.get_rng_state()
    found = probe(base, Head(base), settings, alike(30, 5, 20), 2)
    assert found.tokens == 4 * 30
    assert found.seconds > 0
    asked: list[int] = []

    def measured(*arguments: object) -> capacity.Probe:
        asked.append(arguments[4])  # type: ignore[arg-type]
        return probe(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "probe", measured)
        chosen = choose(base, Head(base), settings, examples)
    assert asked == [2**n for n in range(len(asked))]
    assert chosen in (asked[-1], asked[-1] // 2)
    assert dict(base.model.named_modules()) == modules
    assert torch.equal(state, torch.get_rng_state())
    typical = like(examples)
    assert set(typical.lengths) == {round(examples.lengths.mean())}
    assert set(typical.trained_lengths) == {round(examples.trained_lengths.mean())}


def test_on_a_gpu_memory_bounds_the_pack(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers of a GPU that is not there: 10 GB of base, 0.1 GB an adapter, 1 MB a token, 80 GB in all."""

    def measured(*arguments: object) -> capacity.Probe:
        examples, trials = arguments[3], arguments[4]
        tokens = 4 * int(examples.lengths[0])  # type: ignore[attr-defined]
        return capacity.Probe(tokens, 1.0, 10e9 + trials * (1e8 + tokens * 1e6))  # type: ignore[operator]

    monkeypatch.setattr(capacity, "probe", measured)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80e9, 80e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    found = capacity.fitting(base, Head(base), config.Training(batch_size=4), alike(1000, 500, 64))
    assert found == int((0.9 * 80e9 - 10e9) / (1e8 + 4 * 1000 * 1e6))
