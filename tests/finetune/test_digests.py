"""Digests are of what is trained on and scored, wherever it lies; a study that stands on something else is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from partune import Float, Space, Study, config
from partune.errors import UserError
from partune.finetune import digests
from partune.objectives.finetune import FineTune
from partune.trial import Trial
from partune.workers.base import Workers
from tests.support.tiny import make_items, make_rows, write_jsonl, write_task

SPACE = Space(learning_rate=Float(1e-4, 1e-2, log=True))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Changes a JSON file, or each row of a JSON Lines file."""
    if path.suffix == ".jsonl":
        write_jsonl(path, [change(json.loads(line)) for line in path.read_text().splitlines()])
    else:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))


def retrain(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# ----- the model's files


def model(folder: Path) -> dict[str, str]:
    return {name: each.digest for name, each in digests.of_model(config.Model(path=str(folder))).items()}


@pytest.mark.parametrize("whole", [True, False])
def test_copied_and_divided_weights_are_the_same_and_changed_ones_are_not(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(digests, "WHOLE", 0)
        monkeypatch.setattr(digests, "BLOCK", 16)
    first = model(folders["llama"])
    assert set(first) == {"the model's weights", "the model's config.json"}
    copy = shutil.copytree(folders["llama"], tmp_path / "copy")
    os.utime(copy / "model.safetensors", (0, 0))
    assert model(copy) == first
    AutoModelForCausalLM.from_pretrained(copy).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert model(tmp_path / "parts")["the model's weights"] == first["the model's weights"]
    retrain(copy, lambda weights: {name: tensor + 1e-6 for name, tensor in weights.items()})
    changed = model(copy)
    assert [name for name in first if changed[name] != first[name]] == ["the model's weights"]


def test_a_byte_of_small_weights_and_a_setting_count(folders: dict[str, Path], tmp_path: Path) -> None:
    first, copy = model(folders["llama"]), shutil.copytree(folders["llama"], tmp_path / "copy")
    edit(
        copy / "config.json",
        lambda known: known | {"transformers_version": "0", "use_cache": False, "dtype": "float16"},
    )
    assert model(copy) == first
    edit(copy / "config.json", lambda known: known | {"rms_norm_eps": 1e-3})
    assert model(copy)["the model's config.json"] != first["the model's config.json"]
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    assert model(copy)["the model's weights"] != first["the model's weights"]


def test_large_weights_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All names and shapes, and of each tensor so many blocks, from its first byte to its last."""
    (tmp_path / "config.json").write_text("{}")
    tensor = torch.arange(10_000, dtype=torch.float32)
    save_file({"a": tensor, "b": tensor[:100].clone()}, tmp_path / "model.safetensors")
    monkeypatch.setattr(digests, "WHOLE", 1000)
    monkeypatch.setattr(digests, "BLOCK", 64)
    pread, read = os.pread, list[int]()
    monkeypatch.setattr(os, "pread", lambda file, size, place: read.append(size) or pread(file, size, place))
    first = model(tmp_path)
    assert sum(read) == digests.SAMPLES * 64 + 400
    for place in (0, -1):
        changed = tensor.clone()
        changed[place] = 7.5
        save_file({"a": changed, "b": tensor[:100].clone()}, tmp_path / "model.safetensors")
        assert model(tmp_path) != first
    save_file({"a": tensor, "c": tensor[:100].clone()}, tmp_path / "model.safetensors")
    assert model(tmp_path) != first


def test_pickled_weights_count_by_their_file(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["llama"], tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    first = model(copy)
    assert model(shutil.copytree(copy, tmp_path / "again")) == first
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, copy / "pytorch_model.bin")
    assert model(copy)["the model's weights"] != first["the model's weights"]


# ----- studies


@pytest.fixture
def place(folders: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(folders["llama"], tmp_path / "model")
    write_jsonl(tmp_path / "rows.jsonl", make_rows(12))
    write_task(tmp_path, "choices", make_items(12))
    return tmp_path


def tuner(place: Path, **sections: Any) -> FineTune:
    given = {"training": {"steps": 1, "batch_size": 2}, "run": {"device": "cpu", "pack": 1}} | sections
    return FineTune(place / "model", place / "rows.jsonl", place / "choices.yaml", **given)


def study(place: Path, join: bool = False, workers: Workers | None = None, **sections: Any) -> Study:
    own = tuner(place, **sections)
    return Study(SPACE, own, "random", directory=place / "s", resume=True, join=join, workers=workers)


def other_rows(place: Path) -> None:
    write_jsonl(place / "rows.jsonl", make_rows(6))


def other_answers(place: Path) -> None:
    edit(place / "rows.jsonl", lambda row: row | {"output": row["output"] + " oil"})


def other_labels(place: Path) -> None:
    edit(place / "choices.jsonl", lambda row: row | {"answer": 0})


def other_prompt(place: Path) -> None:
    text = (place / "choices.yaml").read_text()
    (place / "choices.yaml").write_text(text.replace("Question:", "Asked:"))


def other_weights(place: Path) -> None:
    retrain(place / "model", lambda weights: {name: 1.01 * tensor for name, tensor in weights.items()})


def other_vocabulary(place: Path) -> None:
    def swap(known: Any) -> Any:
        ids = known["model"]["vocab"]
        first, second = sorted(ids, key=ids.get)[-2:]
        ids[first], ids[second] = ids[second], ids[first]
        known["model"]["merges"] = []
        return known

    edit(place / "model" / "tokenizer.json", swap)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "rows": (other_rows, r"study began: the training rows \(12 rows then, 6 rows now\)\. New scores"),
    "answers": (other_answers, r"study began: the training rows\. New scores"),
    "labels": (other_labels, r"study began: the items of task choices\. New scores"),
    "prompt": (other_prompt, r"study began: the items of task choices\. New scores"),
    "weights": (other_weights, r"study began: the model's weights\. New scores"),
    "vocabulary": (
        other_vocabulary,
        r"study began: the items of task choices, the training rows \(and the tokenizer\)\. New scores",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("how", ["resume", "join"])
def test_a_study_does_not_go_on_with_other_contents(place: Path, change: str, how: str) -> None:
    make, said = CHANGES[change]
    study(place).close()
    before = (place / "s" / "journal.log").read_bytes()
    make(place)
    with pytest.raises(UserError, match=said) as caught:
        study(place, join=how == "join")
    assert "\n" not in str(caught.value)
    assert (place / "s" / "journal.log").read_bytes() == before


@pytest.mark.slow
def test_what_changes_nothing_is_no_change(place: Path, recwarn: pytest.WarningsRecorder) -> None:
    study(place).close()
    edit(place / "rows.jsonl", lambda row: {"id": 7, **row})
    edit(place / "choices.jsonl", lambda row: row | {"source": "a book"})
    (place / "model" / "README.md").write_text("More words.")
    (place / "s").rename(place / "elsewhere")
    (place / "elsewhere").rename(place / "s")
    study(place).close()
    assert not [each for each in recwarn if each.category is UserWarning]


@pytest.mark.slow
def test_another_chat_template_is_told_where_it_writes_the_same(place: Path, recwarn: pytest.WarningsRecorder) -> None:
    turn = "{% for m in messages %}{{ m.role + ':' + m.content + '\\n' }}{% endfor %}"
    asked = "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    messages = [{"role": "user", "content": "why leaks"}, {"role": "assistant", "content": "of oil"}]
    write_jsonl(place / "rows.jsonl", [{"messages": messages}] * 4)
    (place / "template.jinja").write_text(turn + asked)
    data = {"path": str(place / "rows.jsonl"), "chat_template": str(place / "template.jinja")}

    def again() -> Study:
        own = FineTune(place / "model", data, place / "choices.yaml", run={"device": "cpu", "pack": 1})
        return Study(SPACE, own, "random", directory=place / "s", resume=True)

    again().close()
    (place / "template.jinja").write_text(turn + asked + "{# a comment #}")
    again().close()
    (told,) = [str(each.message) for each in recwarn if each.category is UserWarning]
    assert told.startswith("changed since this study began: the chat template.")
    (place / "template.jinja").write_text(turn.replace("':'", "' says '") + asked.replace(":", " says "))
    with pytest.raises(UserError, match="study began: the training rows"):
        again()


# ----- workers, which load for themselves


class Elsewhere(Workers):
    """A worker of another process, as far as an objective can tell: what is submitted has been pickled."""

    remote = True
    count = 1

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(pickle.loads(pickle.dumps(_Call(fn, args)))())
        except Exception as error:
            future.set_exception(error)
        return future


class _Call:
    """A call whose function, a lambda perhaps, stays here."""

    kept: ClassVar[list[Any]] = []

    def __init__(self, fn: Any, args: tuple[Any, ...]) -> None:
        self.kept.append(fn)
        self.place, self.args = len(self.kept) - 1, args

    def __call__(self) -> Any:
        return self.kept[self.place](*self.args)


@pytest.mark.slow
def test_a_worker_compares_what_it_loaded_with_what_the_study_stands_on(place: Path) -> None:
    """Not with what another worker, or it itself, has."""
    first = study(place, workers=Elsewhere())
    sent = pickle.dumps(first.objective)
    first.close()
    trial = Trial(0, {"learning_rate": 1e-3}, seed=1)
    assert pickle.loads(sent).evaluate(trial).error is None
    other_labels(place)
    assert pickle.loads(sent).evaluate(trial).error is None  # it has loaded the items already
    pickle.loads(pickle.dumps(tuner(place)))  # and here another process takes its place
    with pytest.raises(UserError, match=r"^on \S+: changed since this study began: the items of task choices"):
        pickle.loads(sent).evaluate(trial)


@pytest.mark.slow
def test_a_worker_that_is_there_already_loads_a_new_studys_files(place: Path) -> None:
    """A scheduler's workers outlive a study; the next may have the same settings, and other rows in the same file."""
    study(place, workers=Elsewhere()).close()
    shutil.rmtree(place / "s")
    other_rows(place)
    second = study(place, workers=Elsewhere())
    assert second.record.contents["the training rows"].told == "6 rows"
    second.close()
    write_jsonl(place / "rows.jsonl", make_rows(12))
    with pytest.raises(UserError, match="the training rows"):
        study(place, workers=Elsewhere())
