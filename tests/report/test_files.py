"""Writing the report, also while its study runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from partune import Study, UserError
from partune.report import files
from partune.report.facts import Facts
from partune.trial import Config
from tests.support.studies import PLANE, hill
from tests.support.waiting import PATIENCE, eventually


def test_a_report_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(PLANE, hill, "lhs", directory=tmp_path / "s").run(2)
    path = files.write(Facts(study.record))
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*report\.html: No space left on device"):
        files.write(Facts(study.record))
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir() if "report" in each.name] == ["report.html"]


def test_a_study_in_memory_has_nowhere_to_put_it() -> None:
    with pytest.raises(UserError, match="give it a directory"):
        files.write(Facts(Study(PLANE, hill, "lhs").run(1).record))


def test_a_running_study_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is read again until the budget is spent; where there is no news, nothing is written."""
    monkeypatch.setattr(files, "REFRESH", 0.1)
    monkeypatch.setattr(files, "PATIENCE", 0)
    monkeypatch.setattr(files, "page", lambda facts, refresh: f"{len(facts.done)} done, again in {refresh}")
    written: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (written.append(self.read_text()), replace(self, to))[1])
    gate = threading.Semaphore(0)

    def waiting(config: Config) -> float:
        gate.acquire(timeout=PATIENCE)
        return hill(config).score

    study = Study(PLANE, waiting, "lhs", directory=tmp_path / "s")
    runner = threading.Thread(target=study.run, args=(3,))
    follower = threading.Thread(target=files.follow, args=(tmp_path / "s",))
    study.record.plan(3)
    runner.start()
    follower.start()
    for done in range(3):
        eventually(lambda done=done: any(text.startswith(f"{done} done") for text in written))
        gate.release()
    runner.join(PATIENCE)
    follower.join(PATIENCE)
    assert not follower.is_alive()
    assert written[-1] == "3 done, again in None"
    assert {f"{done} done, again in 0.1" for done in range(3)} <= set(written)
    assert len(written) <= 8  # a proposal and a result of each trial, and the budget


@pytest.mark.slow
def test_live_the_page_grows_while_the_study_runs(tmp_path: Path) -> None:
    """`tune --live`: a process beside it writes, and leaves nothing behind."""
    (tmp_path / "own.py").write_text(
        "import time\nfrom pathlib import Path\nfrom partune import Float, Space\nspace = Space(x=Float(0, 1))\n"
        "class Slow:\n    space = space\n"
        "    def __call__(self, config):\n"
        "        while not Path('seen').exists():\n            time.sleep(0.05)\n"
        "        return config['x']\n"
    )
    flags = ["--objective", "own:Slow", "--algorithm", "lhs", "--budget", "12", "--name", "s", "--live"]
    code = "import sys; from partune.cli import main; sys.exit(main())"
    run = subprocess.Popen(
        [sys.executable, "-c", code, "tune", *flags], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    page = tmp_path / "runs" / "s" / "report.html"
    eventually(lambda: page.exists() or run.poll() is not None)
    assert run.poll() is None
    assert 'data-refresh="5"' in page.read_text(encoding="utf-8")
    (tmp_path / "seen").touch()
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0
    assert "Report: runs/s/report.html" in output
    assert 'data-refresh="0"' in page.read_text(encoding="utf-8")
    assert [each.name for each in page.parent.iterdir() if "report" in each.name] == ["report.html"]
