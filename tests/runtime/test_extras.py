"""Commands that install: they work where partune is, from a clone too."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from partune.runtime import extras
from tests.support import ROOT

INSTALL = re.compile(r"""pip install (?:-e )?(?P<what>"[^"]*"|'[^']*'|[^\s`)"']+)""")


def test_from_a_clone_the_clone_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert extras.install_command("dask") == f"pip install -e {shlex.quote(f'{ROOT}[dask]')}"
    clone = tmp_path / "my clone"
    (clone / "src" / "partune").mkdir(parents=True)
    (clone / "pyproject.toml").touch()
    monkeypatch.setattr(extras, "HERE", clone)
    assert shlex.split(extras.install_command("dask", "V/bin/pip install"))[2:] == ["-e", f"{clone}[dask]"]


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        ({"url": "file:///FOLDER", "dir_info": {}}, "FOLDER[dask]"),
        ({"url": "file:///FOLDER/partune-1.whl", "archive_info": {}}, "FOLDER/partune-1.whl[dask]"),
        ({"url": "file:///FOLDER/gone", "dir_info": {}}, "partune[dask]"),
        (
            {"url": "https://host.example/p.git", "vcs_info": {"vcs": "git"}},
            "partune[dask] @ git+https://host.example/p.git",
        ),
        ({}, "partune[dask]"),
        (None, "partune[dask]"),
    ],
)
def test_elsewhere_it_is_where_partune_came_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: Any, what: str
) -> None:
    class Installed:
        @staticmethod
        def read_text(name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin).replace("/FOLDER", str(tmp_path))

    (tmp_path / "partune-1.whl").touch()
    monkeypatch.setattr(extras, "HERE", tmp_path / "site-packages")
    monkeypatch.setattr(extras.importlib.metadata, "distribution", lambda name: Installed)
    assert shlex.split(extras.install_command("dask"))[2] == what.replace("FOLDER", str(tmp_path))


def test_no_page_or_message_installs_from_an_index_what_is_not_on_it() -> None:
    """Until partune is released; and every extra that is named is one."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = []
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for path in [
        *pages,
        *(ROOT / "docs").rglob("*.ipynb"),
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "examples").rglob("*.md"),
    ]:
        if path.name == "extras.py":
            continue
        for match in INSTALL.finditer(path.read_text(encoding="utf-8")):
            what = match["what"].strip("\"'")
            assert not what.startswith("partune"), f"{path}: {match[0]}"
            if (extras_named := re.search(r"^\.\[([\w,]+)\]$", what)) is not None:
                names = extras_named[1].split(",")
                assert known.keys() >= set(names), f"{path}: {match[0]}"
                found += names
    assert {"finetune", "dask", "dashboard", "litgpt", "postgresql", "quantize"} <= set(found)
