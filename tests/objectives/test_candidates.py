"""Which model a name means: a study stands for the adapter that its export would write."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from partune import FineTune, Float, Space, Study, config
from partune.errors import UserError
from partune.finetune.scoring.models import Candidate
from partune.objectives.candidates import named
from tests.support.simulated import SimulatedTuning
from tests.support.tuning import SPACE


@pytest.fixture(scope="module")
def studies(
    folders: dict[str, Path], data_file: Path, task_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two studies of one fine-tuning, which hand over the winner's first run and a fresh run."""
    root = tmp_path_factory.mktemp("studies")
    shutil.copytree(folders["llama"], root / "base")
    for ship in ("first", "best"):
        settings: dict[str, Any] = {"training": {"steps": 2}, "run": {"device": "cpu", "pack": 2}}
        tuner = FineTune(root / "base", data_file, task_file, **settings)
        options: dict[str, Any] = {"seeds": 2, "ship": ship} if ship == "best" else {"seeds": 0}
        Study(SPACE, tuner, "random", directory=root / ship, **options).run(2).close()
    return {name: root / name for name in ("first", "best", "base")}


@pytest.mark.slow
@pytest.mark.parametrize(("ship", "folder"), [("first", ""), ("best", "winner")])
def test_a_study_means_the_adapter_that_ships(studies: dict[str, Path], ship: str, folder: str) -> None:
    found = named(studies[ship], None)
    assert found.candidate.model == config.Model(path=str(studies["base"]))
    assert found.candidate.adapter is not None
    assert found.candidate.adapter.parent == studies[ship] / "adapters"
    assert (found.candidate.adapter.name == "winner") == bool(folder)
    assert (found.candidate.adapter / "adapter_config.json").is_file()
    assert found.words.endswith(f"the winner, on {studies['base']}")
    assert found.notes == ()
    assert [Path(name).name for name in found.chosen_by] == ["choices.yaml"]


@pytest.mark.slow
def test_the_base_of_a_study_is_compared_by_contents(
    studies: dict[str, Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = config.Model(path=str(shutil.copytree(studies["base"], tmp_path / "copy")))
    assert named(studies["first"], copy).candidate.model == copy
    with pytest.raises(UserError, match=r"is not the base model of .*first: it has other contents than the model's"):
        named(studies["first"], config.Model(path=str(folders["qwen2"])))
    quantized = copy.model_copy(update={"quantize": "nf4"})
    assert named(studies["first"], quantized).notes == (
        f"{studies['first']} trained its adapters on the base model in full precision, and here it is in 4 bits (nf4).",
    )


@pytest.mark.slow
def test_a_study_without_an_adapter_is_refused(studies: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(studies["first"], tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "adapters")
    with pytest.raises(UserError, match="s has no adapter of its winner, trial"):
        named(tmp_path / "s", None)
    space = Space(learning_rate=Float(1e-6, 1e-3, log=True))
    Study(space, SimulatedTuning(), "lhs", directory=tmp_path / "other").run(2).close()
    with pytest.raises(UserError, match="other is not a fine-tuning study, so it has no model"):
        named(tmp_path / "other", None)
    Study(space, SimulatedTuning(), "lhs", directory=tmp_path / "empty").close()
    with pytest.raises(UserError, match="empty: no trial has finished yet; continue the study with"):
        named(tmp_path / "empty", None)


def test_adapters_bases_models_and_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = config.Model(path="acme/base-1b", revision="v2", trust_remote_code=True)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert named("base", base).candidate == Candidate(base)
    assert named("adapter", base).candidate == Candidate(base, Path("adapter"))
    assert named("model", None).candidate == Candidate(config.Model(path="model"))
    assert named("acme/other", base).candidate == Candidate(config.Model(path="acme/other", trust_remote_code=True))
    for name in ("base", "adapter"):
        with pytest.raises(UserError, match=f"^{name} needs its base model: name it with `--model`$"):
            named(name, None)
    for name in ("./nowhere", "a/b/c", "/nowhere"):
        with pytest.raises(UserError, match=f"^no folder {name}"):
            named(name, base)
    (tmp_path / "samples").mkdir()
    with pytest.raises(UserError, match=r"^samples is neither an adapter's folder, nor"):
        named("samples", base)
