"""The demo's files: a small base model, rows of each form and two tasks about an invented factory."""

from pathlib import Path

DIRECTORY = Path(__file__).parent / "files"
SEED = 0
# The names of the rows for the flag `--data`, and their files.
ROWS = {
    "demo": "instructions.jsonl",
    "demo:labels": "rows/labels.csv",
    "demo:pairs": "rows/pairs.jsonl",
    "demo:conversations": "rows/conversations.jsonl",
    "demo:texts": "rows/texts.jsonl",
}


def locate_rows(path: str) -> str:
    """Return the path of data, in which names of the demo's rows are replaced by the paths of their files.

    If a file or folder has such a name, the name means that file or folder.

    Args:
        path: A path or a name, or several with commas.

    Raises:
        ValueError: A name begins like one of the demo, but the demo has no such rows.
    """
    names = [name.strip() for name in path.split(",")]
    embedded = [name for name in names if (name in ROWS or name.startswith("demo:")) and not Path(name).exists()]
    if unknown := [name for name in embedded if name not in ROWS]:
        raise ValueError(f"the demo has the rows {', '.join(ROWS)}, and not {unknown[0]}")
    return ",".join(str(DIRECTORY / ROWS[name]) if name in embedded else name for name in names) if embedded else path
