"""Find the data's files, or its data set on the Hugging Face Hub, and read the rows in order."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import lzma
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partune import config
from partune.errors import UserError
from partune.finetune.rows.jsons import read_json
from partune.finetune.rows.tables import SEPARATORS, name_labels, read_parquet, read_text_table
from partune.finetune.rows.values import Places, Row
from partune.runtime.failures import one_line
from partune.runtime.isolation import quiet
from partune.runtime.paths import suggestion_beside

JSONS, TEXT_TABLES = (".json", ".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*JSONS, *TEXT_TABLES, ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
READABLE = "training data is a .json, .jsonl, .csv, .tsv or .parquet file (also .gz, .bz2, .xz, .zst)"
SPREADSHEETS = (".xlsx", ".xls", ".ods")


@dataclass(frozen=True)
class Source:
    """The rows of the data as they were read.

    Attributes:
        rows: The rows, in order.
        files: The number of files; 0 for a data set of the Hub.
        places: Where the rows come from.
        unread: The names of the data files in a folder that do not belong to the split.
        separators: The separators of text tables that differ from what the file's name says, in words ("semicolons").
    """

    rows: list[Row]
    files: int = 0
    separators: tuple[str, ...] = ()
    places: Places | None = None
    unread: tuple[str, ...] = ()


def read(data: config.Data) -> Source:
    """Read the rows of files or of a data set's split, in order.

    Raises:
        UserError: The rows cannot be read. The message names the file and the number of the line.
    """
    files = find_files(data)
    counts: list[tuple[str, int]] = []
    if files is None:
        rows, separators = _read_dataset(data), dict[str, None]()
    else:
        rows, separators = [], {}
        for path in files:
            more, separator = _read_file(path)
            rows += more
            counts.append((str(path), len(more)))
            separators |= {SEPARATORS.get(separator, separator): None} if separator else {}
    if not rows:
        raise UserError(f"{data.path} has no rows")
    return Source(
        rows[: data.limit],
        len(files or ()),
        tuple(separators),
        Places(data.path, tuple(counts)),
        tuple(_unread(data, files)) if files is not None else (),
    )


def _unread(data: config.Data, files: list[Path]) -> list[str]:
    """Return the names of the readable files in the data's folders that are not among the files that were read."""
    folders = [folder for name in data.paths if (folder := Path(name).expanduser()).is_dir()]
    within = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    known = {path.resolve() for path in files}
    return [path.name for path in within if plain_suffix(path) in SUFFIXES and path.resolve() not in known]


def read_rows(data: config.Data) -> list[Row]:
    """Return the rows of files or of a data set's split, in order; raise UserError if they cannot be read."""
    return read(data).rows


def find_files(data: config.Data) -> list[Path] | None:
    """Return the files of the data, or None for a data set that `datasets` reads.

    Raises:
        UserError: A file does not exist or is not readable.
    """
    files: list[Path] = []
    for name in data.paths:
        if not name:
            raise UserError(f'{data.path} names an empty file before or after a comma: give the files as "a.csv,b.csv"')
        path = Path(name).expanduser()
        if path.is_file():
            _require_readable(path)
            files.append(path)
            continue
        within = _files_within(path, data) if path.is_dir() else None
        if within is not None:
            files += within
        elif not path.is_dir() and (
            plain_suffix(path) in SUFFIXES or path.is_absolute() or name.startswith((".", "~")) or len(data.paths) > 1
        ):
            raise UserError(f"no data file {name}{suggestion_beside(path)}")
        elif len(data.paths) > 1:
            raise UserError(f"{name} is a data set, which cannot be combined with other files")
        else:
            return None
    return files


def is_file_name(name: str) -> bool:
    """Return whether a name ends like a data file's."""
    return plain_suffix(Path(name)) in SUFFIXES


def plain_suffix(path: Path) -> str:
    """Return the ending of a file's name in lower case, without that of its compression."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in COMPRESSED else suffix


def _require_readable(path: Path) -> None:
    if plain_suffix(path) in SPREADSHEETS:
        raise UserError(f"{path} is a spreadsheet: save it as a CSV file in UTF-8, and name that file")
    if plain_suffix(path) not in SUFFIXES:
        raise UserError(f"{path}: {READABLE}, a folder of such files, or a data set id")


def _files_within(folder: Path, data: config.Data) -> list[Path] | None:
    """Return the files of a split in a folder; None if only `datasets` can find them.

    The split follows from the files' names, as in `datasets`: train.csv and data/train-00000.parquet belong to the
    split train. If no name contains a split, all files belong to the split train.
    """
    is_saved = (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
    card = folder / "README.md"
    has_configs = card.is_file() and "\nconfigs:" in card.read_text(encoding="utf-8", errors="replace")
    is_part = not data.split.replace("_", "").replace(".", "").isalnum()  # such as "train[:10%]"
    if is_saved or has_configs or is_part or data.config is not None:
        return None
    from datasets.data_files import DataFilesList, EmptyDatasetError, get_data_patterns

    with quiet():
        try:
            splits = get_data_patterns(str(folder))
        except (EmptyDatasetError, FileNotFoundError):
            raise UserError(f"{folder} has no data file: {READABLE}") from None
        if data.split not in splits:
            raise UserError(
                f'{folder} has no files of the split "{data.split}": choose one with --data-split, '
                f"of {', '.join(map(str, splits))}"
            )
        found = [Path(name) for name in DataFilesList.from_patterns(splits[data.split], str(folder))]
    files = [path for path in found if plain_suffix(path) in SUFFIXES]
    if not files:
        raise UserError(f"{folder} has no data file of the split {data.split}: {READABLE}")
    kinds = {plain_suffix(path): path.name for path in files}
    if len(kinds) > 1:
        first, second = list(kinds.values())[:2]
        raise UserError(f"{folder} has files of several kinds, such as {first} and {second}: name the files to use")
    return files


def _read_file(path: Path) -> tuple[list[Row], str | None]:
    """Return the rows of a file, and the separator of a text table if it differs from the name's."""
    raw = _uncompressed(path)
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        return read_parquet(raw, path), None
    text = _decode(raw, path)
    if suffix in JSONS:
        return read_json(text, path), None
    rows, separator = read_text_table(text, path, TEXT_TABLES[suffix])
    return rows, separator if separator != TEXT_TABLES[suffix] else None


def _uncompressed(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        match path.suffix.lower():
            case ".gz":
                return gzip.decompress(raw)
            case ".bz2":
                return bz2.decompress(raw)
            case ".xz":
                return lzma.decompress(raw)
            case ".zst":
                import pyarrow as pa

                return bytes(pa.CompressedInputStream(pa.BufferReader(raw), "zstd").read())
        return raw
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec does not count the three bytes of a byte order mark.
        start = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        line = raw.count(b"\n", 0, start) + 1
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = " (it begins like UTF-16: save it as UTF-8)"
        else:
            hint = " (if it is Latin-1 or Windows-1252: `iconv -f WINDOWS-1252 -t UTF-8` rewrites it)"
        raise UserError(f"{path}, line {line}, is not UTF-8: byte {start} of the file{hint}") from None


def _read_dataset(data: config.Data) -> list[Row]:
    import datasets

    folder = Path(data.path).expanduser()
    with quiet():
        try:
            if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
                split: Any = _split_of(datasets.load_from_disk(str(folder)), data.split)
            else:
                split = datasets.load_dataset(data.path, data.config, split=data.split)
        except Exception as error:
            raise UserError(_missing(data, error)) from None
        for name, feature in split.features.items():
            # Images and sounds are not trained on. Decoding them takes time, and libraries that may be missing.
            if getattr(feature, "decode", None) is True:
                split = split.cast_column(name, dataclasses.replace(feature, decode=False))
        try:
            rows = [dict(row) for row in split]
        except Exception as error:
            raise UserError(f"cannot read the rows of {data.path}: {one_line(error)}") from None
        name_labels(rows, split.features)
    return rows


def _split_of(loaded: Any, spec: str) -> Any:
    """Return a split of a data set that was saved with `save_to_disk`.

    Args:
        loaded: A data set, or a mapping of splits to data sets.
        spec: The name of a split, or parts of splits such as "train[:10%]" and "train+dev", as for `load_dataset`.

    Raises:
        ValueError: The data set has no such split, or the text is not of this form.
    """
    from datasets import DatasetDict, ReadInstruction, concatenate_datasets

    # A data set that was saved alone is found by the default name, "train", and by the name that it had.
    splits = loaded if isinstance(loaded, DatasetDict) else {"train": loaded, str(loaded.split or "train"): loaded}
    if spec in splits:
        return splits[spec]
    instructions = ReadInstruction.from_spec(spec).to_absolute({name: len(rows) for name, rows in splits.items()})
    parts = [splits[part.splitname].select(range(part.from_, part.to)) for part in instructions]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _missing(data: config.Data, error: Exception) -> str:
    """Return why a data set cannot be read, and which flag helps."""
    cause = one_line(error)
    if "Config name is missing" in cause:
        return f"{data.path} has several configurations: choose one with --data-config ({cause})"
    if "BuilderConfig" in cause and "not found" in cause:
        return f'{data.path} has no configuration "{data.config}": choose one with --data-config ({cause})'
    if "Unrecognized instruction format" in cause:
        return f'"{data.split}" is not a split: give --data-split a name or a part, such as train or "train[:10%]"'
    if "Unknown split" in cause:
        return f'{data.path} has no split "{data.split}": choose one with --data-split ({cause})'
    return f"no data file {data.path}, and no such data set: {cause}"
