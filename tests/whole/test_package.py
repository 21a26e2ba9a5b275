"""What is published: the files of wheel and sdist; that version, Pythons and parts agree wherever they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import partune
from partune.runtime.extras import FINETUNE
from tests.support import ROOT
from tests.support.waiting import PATIENCE

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GITHUB = ROOT / ".github"


def read_workflow(name: str) -> Any:
    return yaml.safe_load((GITHUB / "workflows" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, folder)
    build = [sys.executable, "-m", "build", "--no-isolation", str(folder)]  # isolated, it would ask an index
    run = subprocess.run(build, text=True, capture_output=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "dist"


def sources() -> set[str]:
    files = (path for path in (ROOT / "src" / "partune").rglob("*") if path.is_file())
    return {path.relative_to(ROOT / "src").as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_no_other(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    described = {name for name in names if name.startswith(f"partune-{partune.__version__}.dist-info/")}
    assert names - described == sources()
    assert {name.rpartition("/")[2] for name in described} >= {"METADATA", "entry_points.txt", "LICENSE"}


@pytest.mark.slow
def test_the_sdist_holds_what_the_wheel_is_built_from(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    beside = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    assert names >= {f"src/{name}" for name in sources()} | beside
    assert not [name for name in names if name.startswith(("tests", "docs", "examples", ".venv"))]


def test_the_version_is_that_of_the_log_of_changes_and_of_the_citation() -> None:
    released = re.findall(r"^## \[(\d[^]]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert released[0][0] == citation["version"] == partune.__version__
    assert released[0][1] == str(citation["date-released"])
    assert PROJECT["project"]["dynamic"] == ["version"]


def test_the_pythons_that_are_named_are_those_of_the_tests() -> None:
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    matrix = read_workflow("tests.yml")["jobs"]["search"]["strategy"]["matrix"]["python"]
    assert matrix == pythons
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert PROJECT["tool"]["mypy"]["python_version"] == pythons[0]


def test_what_is_looked_for_before_a_fine_tuning_is_what_its_extra_installs() -> None:
    listed = PROJECT["project"]["optional-dependencies"]["finetune"]
    names = {re.split(r"[<>=]", each)[0].replace("-", "_") for each in listed}
    assert names == set(FINETUNE)
    assert not names & {re.split(r"[<>=]", each)[0] for each in PROJECT["project"]["dependencies"]}


@pytest.mark.parametrize("path", sorted(GITHUB.rglob("*.yml")), ids=lambda path: path.name)
def test_forms_and_workflows_are_yaml_and_call_what_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", text)) <= targets
    for named in re.findall(r"\b(?:tests|docs)/\S+", text):
        assert (ROOT / named).exists(), named
