"""The package: its names, and what importing it costs."""

from __future__ import annotations

import pytest

from tests.support.command import modules_after


@pytest.mark.slow
def test_the_search_half_never_loads_transformers() -> None:
    code = (
        "import partune as pt\n"
        "pt.Study(pt.Space(x=pt.Float(0, 1)), lambda c: c['x'], 'bo', options={'n_init': 2}).run(3)"
    )
    assert not modules_after(code) & {"transformers", "peft", "lm_eval", "datasets"}


def test_all_names_are_there() -> None:
    import partune

    assert all(getattr(partune, name) is not None for name in partune.__all__)
    assert sorted(partune.__all__) == sorted(partune._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'Studdy'"):
        _ = partune.Studdy
