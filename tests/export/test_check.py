"""The check of an export: what it says hangs on the test, and it is refused where there is nothing to compare with."""

from __future__ import annotations

import errno
import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from partune import FineTune, Study, UserError
from partune.export import export as exports
from partune.export.check import Check
from partune.export.export import export
from partune.finetune import adapter as adapters
from partune.runtime.extras import install_command
from partune.study.recorded import load_study
from partune.verdict.models.answers import Question, answers
from partune.verdict.models.pairing import Measure, Paired
from tests.export.test_card import Tuning, hand_over
from tests.support.command import run
from tests.support.simulated import SimulatedTuning
from tests.support.tiny import make_tickets, write_jsonl
from tests.support.tuning import SPACE
from tests.verdict.models.test_answers import right_or_wrong


def found(won: int, lost: int, equal: int, same: bool = False, higher: bool = True) -> Check:
    a, b = right_or_wrong(won, lost, equal)
    sides = [np.array([side]) - (0.0 if higher else 1.0) for side in (a, b)]
    documents = tuple(f"{number:05}" for number in range(len(a)))
    pair = Paired("t", Measure("acc" if higher else "loss", "none", higher), documents, np.ones(len(a)), *sides)
    (answer,) = answers([Question("t", "task", [pair], [1.0])])
    return Check(answer, "the merged model", "bf16", same)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (found(5, 30, 65), "It lost 0.250 ± 0.054 (95 % interval 0.1"),
        (found(5, 30, 65), "below 0 is a gain). A loss is shown (p < 0.001; items worse: 30, better: 5)."),
        (found(30, 5, 65), "It lost -0.250 ± 0.054 (95 % interval -0.3"),
        (found(30, 5, 65), "A gain is shown (p < 0.001; items worse: 5, better: 30)."),
        (found(3, 4, 993), "No difference is shown (p = 1; items worse: 4, better: 3)."),
        (found(0, 0, 50), "It lost 0 (95 % interval -0.07"),
        (found(5, 30, 65, higher=False), "has loss 0.300; the adapter had 0.050 in the study. It lost 0.250 ± 0.054"),
        (
            found(0, 0, 50, same=True),
            "It lost nothing: all answers are the same but for rounding.",
        ),
    ],
)
def test_the_sentence_says_what_the_test_shows(check: Check, said: str) -> None:
    sentence = check.sentence.replace("\u00a0", " ")
    assert said in sentence
    assert sentence.startswith("Loaded from this folder in bf16 and scored on the ")


@pytest.fixture(scope="module")
def study(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of labels, whose trials learn to give the first label always."""
    root = tmp_path_factory.mktemp("checked")
    rows = write_jsonl(root / "rows.jsonl", make_tickets(400))
    training = {"steps": 30, "batch_size": 8, "learning_rate": 0.01}
    tuner = FineTune(
        folders["llama"], rows, validation={"split": 0.5}, training=training, run={"device": "cpu", "pack": 2}
    )
    Study(SPACE, tuner, "random", directory=root / "study", keep="all", seeds=2, ship="best").run(2).close()
    return root / "study"


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True])
def test_an_export_that_answers_as_the_adapter_has_lost_nothing(study: Path, merge: bool, tmp_path: Path) -> None:
    flags = ["--merge"] if merge else []
    status, output, errors = run("export", str(study), str(tmp_path / "out"), "--check", "--anyway", *flags)
    assert (status, errors) == (0, "")
    what = "the merged model" if merge else "the base model with this adapter"
    assert f"scored on the 100 held-out items, {what} has acc " in output
    assert "It lost nothing" in output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Does this export score as the adapter?\n\nLoaded from this folder in fp32" in card
    load_study(study).export(tmp_path / "again", merge=merge, anyway=True, check=True)
    assert (tmp_path / "again" / "README.md").read_text() == card


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_a_quantized_model_is_told_with_its_loss(study: Path, form: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    plain, told = load_study(study).export(tmp_path / "plain", merge=True, anyway=True), list[str]()
    out = export(study, tmp_path / "out", merge=True, anyway=True, quantize=form, checked=True, tell=told.append)
    assert f"items, the merged model, quantized to {form}, has acc " in told[0]
    assert "(95 % interval -" in told[0]
    card = (out / "README.md").read_text()
    assert told[0] in card.replace("\\", "")
    assert f"in {4 if form == 'nf4' else 8} bits ({form})\n" in card
    assert "needs bitsandbytes" in card
    assert "not those of this model" not in card
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (plain, out)]
    assert sizes[1] < sizes[0]
    assert {path.name for path in out.iterdir()} == {path.name for path in plain.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "out"}


@pytest.mark.slow
def test_a_quantized_model_without_a_check_has_a_warning(study: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    out = export(study, tmp_path / "out", merge=True, anyway=True, quantize="nf4")
    assert "the model is quantized; the result was never scored" in (out / "README.md").read_text()


def test_quantization_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for options, said in (
        ({"quantize": "nf4"}, "`--quantize nf4` quantizes the merged model: add `--merge`"),
        ({"quantize": "fp8", "merge": True}, "`--quantize` accepts nf4 or int8, got fp8"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            export(tmp_path / "no study", tmp_path / "out", **options)  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    with pytest.raises(UserError, match=re.escape(f"needs bitsandbytes: {install_command('quantize')}")):
        export(tmp_path / "no study", tmp_path / "out", merge=True, quantize="int8")


@pytest.mark.slow
def test_a_damaged_merge_is_told_with_its_loss(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge = adapters.merge

    def damaging(model: Any, folder: Path, out: Path) -> None:
        merge(model, folder, out)
        weights = load_file(out / "model.safetensors")
        weights["lm_head.weight"] = -weights["lm_head.weight"]
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(adapters, "merge", damaging)
    told: list[str] = []
    out = export(study, tmp_path / "out", merge=True, anyway=True, checked=True, tell=told.append)
    assert "A loss is shown (p" in told[0]
    assert "A loss is shown" in (out / "README.md").read_text()


@pytest.mark.slow
def test_what_has_no_held_out_scores_is_refused_before_any_work(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_check", lambda adapter: pytest.fail("work has begun"))
    for number in (0, 1):  # a fresh run ships, so that no trial's own adapter was scored on the held-out items
        with pytest.raises(UserError, match=rf"`--check` needs scores .* has none of trial {number}: leave"):
            export(study, tmp_path / "out", trial=number, anyway=True, checked=True)
    Study(SPACE, SimulatedTuning(), "lhs", directory=tmp_path / "s").run(3).close()
    with pytest.raises(UserError, match="s is not a fine-tuning study, so `--check` has nothing to score"):
        export(tmp_path / "s", tmp_path / "out", checked=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_base_in_four_bits_is_checked_only_where_it_loads(tmp_path: Path) -> None:
    hand_over(tmp_path, Tuning(model={"path": "acme/base-1b", "quantize": "nf4"}))
    with pytest.raises(
        UserError, match=r"^`--check` loads the base model in 4 bits as in the study, which needs a CUDA"
    ):
        export(tmp_path / "s", tmp_path / "checked", anyway=True, checked=True)
    assert not (tmp_path / "checked").exists()


def test_a_closed_terminal_does_not_look_like_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = exports._describe

    def checked(*arguments: Any) -> Any:
        describe(*arguments)
        return SimpleNamespace(sentence="It lost nothing.")

    def closed(sentence: str) -> None:
        raise BrokenPipeError(errno.EPIPE, sentence)

    hand_over(tmp_path, Tuning())
    monkeypatch.setattr(exports, "_describe", checked)
    with pytest.raises(BrokenPipeError, match="It lost nothing"):
        export(tmp_path / "s", tmp_path / "checked", tell=closed)
    assert (tmp_path / "checked" / "README.md").is_file()


@pytest.mark.slow
def test_an_export_that_cannot_be_scored_is_not_written(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = exports._copy

    def cut(adapter: Path, out: Path) -> None:
        copy(adapter, out)
        settings = json.loads((out / "adapter_config.json").read_text())
        (out / "adapter_config.json").write_text(json.dumps(settings | {"r": settings["r"] + 1}))

    monkeypatch.setattr(exports, "_copy", cut)
    with pytest.raises(UserError, match="does not fit the base model"):
        export(study, tmp_path / "out", anyway=True, checked=True)
    assert list(tmp_path.iterdir()) == []
