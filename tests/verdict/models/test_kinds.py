"""What a path or a name means: told by the files, never by the name of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune.verdict.models.kinds import kind_of, may_be_id


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "adapter"),
        (["adapter_config.json", "config.json"], "adapter"),
        (["journal.log"], "study"),
        (["storage.json"], "study"),
        (["config.json", "model.safetensors"], "model"),
        (["samples_arc_2026-01-02T03-04-05.jsonl"], "samples"),
        (["results_2026-01-02T03-04-05.json"], "samples"),
        ([], "samples"),
    ],
)
def test_files_tell_the_kind(files: list[str], kind: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    assert kind_of(tmp_path) == kind


def test_names_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind_of("base") == "base"
    assert kind_of("acme/base-1b") is None
    assert may_be_id("acme/base-1b")
    assert not any(map(may_be_id, ("acme", "./acme/base", "/acme/base", "acme/base/x", "acme/", "~/base")))
    (tmp_path / "out").mkdir()
    assert not may_be_id("out/a")  # a path that does not exist
    (tmp_path / "base").mkdir()
    assert kind_of("base") == "samples"
    (tmp_path / "samples.jsonl").write_text("")
    assert kind_of("samples.jsonl") == "samples"
