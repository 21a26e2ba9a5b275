"""What is handed over. That PEFT and the harness read it is tested in finetune/test_adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune import Float, Int, Space, Study, UserError
from partune.export.export import export
from tests.support.simulated import SimulatedTuning

SPACE = Space(learning_rate=Float(1e-6, 1e-3, log=True), lora_r=Int(2, 64, log=True))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s", keep=2).run(6)


def test_the_best_adapter_is_copied_whole(study: Study, tmp_path: Path) -> None:
    out = export(tmp_path / "s", tmp_path / "deep" / "adapter")
    assert (out / "rate").read_text() == repr(study.best.config["learning_rate"])
    assert [each.name for each in out.parent.iterdir()] == ["adapter"]


def test_another_kept_trial_can_be_chosen(study: Study, tmp_path: Path) -> None:
    second = sorted(study.trials, key=lambda t: (-t.score, t.number))[1]
    out = export(tmp_path / "s", tmp_path / "second", trial=second.number)
    assert (out / "rate").read_text() == repr(second.config["learning_rate"])


def test_the_defaults_can_be_had_too(study: Study, tmp_path: Path) -> None:
    out = export(tmp_path / "s", tmp_path / "defaults", trial="defaults")
    assert (out / "rate").read_text() == "0.0002"


def test_a_card_goes_with_it_and_recipes_only_of_a_fine_tuning(study: Study, tmp_path: Path) -> None:
    out = export(tmp_path / "s", tmp_path / "out")
    assert study.verdict is not None
    assert study.verdict.sentence.split(" (")[0] in (out / "README.md").read_text()
    assert not (out / "recipes").exists()


def test_what_lies_beside_is_nobodys_draft(study: Study, tmp_path: Path) -> None:
    """Neither a folder of a name that a draft could have, nor what a link leads to."""
    for name in (".out.draft", ".out.tmp", "out.draft"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("mine")
    export(tmp_path / "s", tmp_path / "out")
    assert [path.read_text() for path in sorted(tmp_path.glob("*/thesis.tex"))] == ["mine"] * 3
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="link exists already and is never overwritten"):
        export(tmp_path / "s", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()


def test_refusals_are_one_line(study: Study, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists already and is never overwritten"):
        export(tmp_path / "s", tmp_path / "there")
    with pytest.raises(UserError, match='no recipe for "tlr"; did you mean "trl"'):
        export(tmp_path / "s", tmp_path / "out", recipes=["tlr"])
    worst = min(study.trials, key=lambda t: t.score).number
    with pytest.raises(
        UserError, match=rf"has no adapter of trial {worst}; it has: \d, \d \(`--keep` makes a study keep more\)"
    ):
        export(tmp_path / "s", tmp_path / "out", trial=worst)
    Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "empty").close()
    with pytest.raises(UserError, match="no trial has finished yet"):
        export(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
