"""Write the files that LitGPT reads, read those that it writes, and manage the scratch folder."""

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
from partune.finetune.rows.files import read
from partune.finetune.rows.forms import normalise
from partune.finetune.rows.values import Row

WEIGHTS, LORA, SETTINGS = "lit_model.pth", "lit_model.pth.lora", "model_config.yaml"

# Maps (context, continuation) to the log-likelihood of the continuation, and whether it is the greedy one.
Answers = dict[tuple[str, str], tuple[float, bool]]


def read_data(data: config.Data) -> list[Row]:
    """Return the rows that are not empty, normalised as for the other engines.

    Raises:
        UserError: The rows are not Alpaca rows, or use a field that LitGPT does not have.
    """
    source = read(data)
    rows = normalise(data, source.rows, source.places)
    if rows.form != "alpaca":
        known = "Alpaca rows only (instruction, input, output)"
        raise UserError(f"{data.path}: LitGPT reads {known}, not {rows.layout} rows")
    for number, row in rows.rows:
        if more := [name for name in ("system", "history") if row[name]]:
            raise UserError(
                f"{data.path}, row {number}: LitGPT does not support {' and '.join(more)}; "
                "use `--engine packed`, or remove this from the rows"
            )
    return [row for _, row in rows.rows if row["instruction"].strip() or row["output"].strip()]


def write_data(rows: Sequence[Row], folder: Path) -> Path:
    """Write the folder that LitGPT's JSON data module reads: train.json with all rows, and val.json.

    LitGPT requires validation rows. It computes their loss for two batches before training, which does not affect the
    training. So val.json repeats the first two training rows, and no row is withheld from training.

    Args:
        rows: Alpaca rows.
        folder: The folder to write; an existing one is replaced.

    Returns:
        The folder.
    """
    plain = [{key: row.get(key) or "" for key in ("instruction", "input", "output")} for row in rows]
    with written(folder) as draft:
        for name, part in (("train", plain), ("val", plain[:2])):
            (draft / f"{name}.json").write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")
    return folder


def require_own(scratch: Path) -> None:
    """Raise UserError if a scratch folder contains anything that partune did not make and might replace."""
    ours = {"base", "data", "trials", "convert_to_litgpt.log"}
    for folder, names in ((scratch, ours), (scratch / "data", {"train.json", "val.json"})):
        present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if foreign := [name for name in present if name not in names]:
            raise UserError(
                f"{folder} contains {foreign[0]}, and the content of a scratch folder may be replaced; "
                "name an empty or new folder"
            )


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Provide an empty folder for a trial's files, and delete all but the logs afterwards."""
    # Files left by a trial that was killed must not be mistaken for this trial's files.
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
    """Read the answers to all requests from the results.json of `litgpt evaluate`.

    Raises:
        StepError: The file contains no samples.
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
