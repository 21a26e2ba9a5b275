"""Files that LitGPT reads and writes: training rows, a trial's workplace, answers to the harness's requests."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from partune import config
from partune.errors import UserError
from partune.finetune.adapter import written
from partune.finetune.litgpt.program import StepError
from partune.finetune.rows import Row, normalise, read_rows

WEIGHTS, LORA, SETTINGS = "lit_model.pth", "lit_model.pth.lora", "model_config.yaml"


Answers = dict[tuple[str, str], tuple[float, bool]]


def read_data(data: config.Data) -> list[Row]:
    """Return the rows that hold something, as `tokenise` takes them; raise UserError for others than Alpaca's."""
    rows = normalise(data, read_rows(data))
    if rows.form != "alpaca":
        raise UserError(f"{data.path}: LitGPT's JSON data are Alpaca rows (instruction, input, output)")
    for number, row in rows.rows:
        if more := [name for name in ("system", "history") if row[name]]:
            raise UserError(
                f"{data.path}, row {number}: LitGPT's JSON data have no place for {' and '.join(more)}: "
                "take the packed engine, or rows without"
            )
    return [row for _, row in rows.rows if row["instruction"].strip() or row["output"].strip()]


def write_data(rows: Sequence[Row], folder: Path) -> Path:
    """Write the folder that LitGPT's JSON data module reads: train.json with all rows, and val.json.

    LitGPT insists on validation rows and computes their loss for two batches before training, with no effect on it: the
    first two rows stand for them, and none is lost for training.

    Args:
        rows: Alpaca rows.
        folder: Where to; what is there is replaced.

    Returns:
        The folder.
    """
    plain = [{key: row.get(key) or "" for key in ("instruction", "input", "output")} for row in rows]
    with written(folder) as draft:
        for name, part in (("train", plain), ("val", plain[:2])):
            (draft / f"{name}.json").write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")
    return folder


def require_own(scratch: Path) -> None:
    """Raise UserError where a scratch folder holds what partune did not make, and might replace."""
    ours = {"base", "data", "trials", "convert_to_litgpt.log"}
    for folder, names in ((scratch, ours), (scratch / "data", {"train.json", "val.json"})):
        present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if foreign := [name for name in present if name not in names]:
            raise UserError(
                f"{folder} holds {foreign[0]}, and a scratch folder's content may be replaced: give a new one"
            )


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Give a trial's scratch folder, empty at first; afterwards only its logs are there."""
    # What a killed trial left must not be taken for this one's.
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


def read_answers(path: Path) -> Answers:
    """Return what `litgpt evaluate` left of every request: log-likelihood, and whether it is greedy.

    They are found by (context, continuation). Its results.json holds the harness's samples.

    Raises:
        StepError: The file holds no samples.
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
