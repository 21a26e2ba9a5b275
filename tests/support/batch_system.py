"""A batch system that is played: sbatch, squeue, scancel and oarstat are scripts over a folder of jobs.

Each job is a file that holds its state.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from partune.errors import UserError
from partune.workers.jobs import Jobs
from tests.support import ROOT

DOCUMENTS = ROOT / "docs"
RECIPES = {  # the settings of batch systems in the documents, by document and number
    f"{document.stem}-{number}": text
    for document in sorted(DOCUMENTS.glob("*.md"))
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL))
    if re.search(r"^system:", text, re.MULTILINE)
}
SCRIPTS = {
    "sbatch": """
        [ -e "$PLAYED/calls" ] && echo "sbatch" >> "$PLAYED/calls"
        [ -e "$PLAYED/mute" ] && { echo "done"; exit 0; }
        number=1
        until mkdir "$PLAYED/taken/$number" 2>/dev/null; do number=$((number + 1)); done
        if [ -e "$PLAYED/limit" ] && [ "$number" -gt "$(cat "$PLAYED/limit")" ]; then
            rmdir "$PLAYED/taken/$number"
            printf 'sbatch: error: too many jobs\\n for you\\n' >&2; exit 1
        fi
        echo PENDING > "$PLAYED/jobs/$number"
        echo "Submitted batch job $number"
        """,
    "squeue": """
        [ -e "$PLAYED/down" ] && exit 1
        echo "$@" >> "$PLAYED/questions"
        for job in "$PLAYED"/jobs/*; do [ -e "$job" ] && echo "$(basename "$job") $(cat "$job")"; done; true
        """,
    "scancel": """
        [ -e "$PLAYED/down" ] && exit 1
        case $(cat "$PLAYED/jobs/$1") in PENDING | RUNNING) echo CANCELLED > "$PLAYED/jobs/$1" ;; esac
        """,
    "qsub": 'cp "$1" "$PLAYED/jobs/7"; echo 7.server',
    "qdel": 'rm "$PLAYED/jobs/7"',
}


class System:
    """The batch system's side, and the cluster's: what jobs do, which workers are there, what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.need = 0
        self.there: dict[str, int] = {}  # the workers' tasks
        self.leaving: set[str] = set()
        self.failure: UserError | None = None

    # ----- as `Demand`

    @property
    def names(self) -> set[str]:
        return set(self.there)

    def dismiss(self, names: Collection[str]) -> bool:
        if any(self.there.get(name) for name in names):
            return False
        self.leaving |= self.there.keys() & set(names)
        return True

    def fail(self, error: UserError) -> None:
        self.failure = error

    # ----- as the batch system

    @property
    def states(self) -> dict[str, str]:
        return {path.name: path.read_text().strip() for path in sorted((self.folder / "jobs").iterdir())}

    def turn(self, number: int, state: str) -> None:
        (self.folder / "jobs" / str(number)).write_text(f"{state}\n")

    @staticmethod
    def numbers(jobs: Jobs) -> list[str]:
        """The jobs' numbers by the order of their names: those submitted at once get theirs in any order."""
        return [jobs._jobs.workers[name].job_id for name in jobs._jobs.worker_spec]

    def script(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def put(self, name: str, text: str = "") -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name
