"""What is handed to other tools names nobody's home."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chosen import chosen
from tests.support.recipes import texts


def test_paths_are_from_the_recipes_folder_and_homes_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / "home" / "ada", tmp_path / "home" / "ada" / "lora"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    given = {"model": {"path": str(home / "models" / "base")}, "data": {"path": str(work / "rows.json")}}
    inside = chosen(**given, here=work / "out" / "recipes")
    assert (inside.base, inside.file) == ("~/models/base", "../../rows.json")
    assert chosen(**given, here=tmp_path / "out").file == "~/lora/rows.json"
    assert chosen(model={"path": "/home/bob/base"}).base == "~/base"
    assert chosen(model={"path": "/srv/base"}).base == "/srv/base"
    for text in texts(inside).values():
        assert str(home) not in text
    assert "Replace ~ by the path of the home folder" in texts(inside)["axolotl"]
    assert "MODEL = str(Path('~/models/base').expanduser())" in texts(inside)["trl"]
