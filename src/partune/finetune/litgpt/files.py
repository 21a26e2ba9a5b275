"""LitGPT through its command line: our settings as its arguments, its steps as processes, what they leave as answers.

LitGPT cannot share an environment with our transformers, so nothing of it is imported here: it is a program in a
virtual environment of its own. Written against LitGPT 0.5.13.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from partune.errors import UserError
from partune.finetune.adapter import written
from partune.finetune.data import Row
from partune.finetune.litgpt.program import StepError

WEIGHTS, LORA, SETTINGS = "lit_model.pth", "lit_model.pth.lora", "model_config.yaml"


Answers = dict[tuple[str, str], tuple[float, bool]]


# ----- settings as arguments


def write_data(rows: Sequence[Row], folder: Path) -> Path:
    """The folder that LitGPT's JSON data module reads: train.json with all rows, and val.json.

    It insists on validation rows and computes their loss for two batches before training, with no effect on it: the
    first two rows stand for them, none is lost for training.
    """
    plain = [{key: row.get(key) or "" for key in ("instruction", "input", "output")} for row in rows]
    with written(folder) as draft:
        for name, part in (("train", plain), ("val", plain[:2])):
            (draft / f"{name}.json").write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")
    return folder


# ----- checkpoints


def require_own(scratch: Path) -> None:
    """Raise UserError where a scratch folder holds what partune did not make, and might replace."""
    own = {"base", "data", "trials", "convert_to_litgpt.log"}
    for folder, names in ((scratch, own), (scratch / "data", {"train.json", "val.json"})):
        there = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
        if foreign := [name for name in there if name not in names]:
            raise UserError(
                f"{folder} holds {foreign[0]}, and a scratch folder's content may be replaced: give a new one"
            )


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A trial's scratch folder, empty at first; afterwards only its logs are there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix != ".log":
                path.unlink()


# ----- answers


def read_answers(path: Path) -> Answers:
    """What `litgpt evaluate` left of every request: by (context, continuation) the log-likelihood, and is it greedy.

    Its results.json holds the harness's samples. Raises StepError where it does not.
    """
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))["samples"]
        return {
            (str(context), str(continuation)): (float(answer[0][0]), bool(answer[0][1]))
            for documents in samples.values()
            for document in documents
            for (context, continuation), answer in zip(document["arguments"], document["resps"], strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StepError(f"litgpt evaluate left no samples in {path}: {type(error).__name__} {error}") from None
