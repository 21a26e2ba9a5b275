"""Files of every kind, compressed or not, several of them, folders and data sets; what is not found is one line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Image, List, Value

from partune import config
from partune.errors import UserError
from partune.finetune.rows.files import find_files, read, read_rows

ROWS = [{"question": f"why {i}?", "answer": f'because "{i}";\n of, ✓ Öl', "note": ""} for i in range(50)]
WRITERS: dict[str, Callable[[Path], Any]] = {
    ".jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    ".ndjson": lambda path: path.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS)),
    ".json": lambda path: path.write_text(json.dumps(ROWS, ensure_ascii=False, indent=1), encoding="utf-8"),
    ".csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    ".tsv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, sep="\t", encoding="utf-8-sig"),
    ".parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
}


def data(path: Path | str, **fields: Any) -> config.Data:
    return config.Data(path=str(path), **fields)


def refusal(path: Path | str, **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(data(path, **fields))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_has_the_rows_that_pandas_wrote(tmp_path: Path, suffix: str, compression: str) -> None:
    WRITERS[suffix](tmp_path / f"plain{suffix}")
    path = tmp_path / f"Rows{suffix.upper()}{compression}"
    path.write_bytes(COMPRESS[compression]((tmp_path / f"plain{suffix}").read_bytes()))
    assert read_rows(data(path)) == ROWS
    assert read_rows(data(path, limit=7)) == ROWS[:7]


def test_several_files_are_read_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("question,answer\n1,2\n")
    (tmp_path / "a,c.jsonl").write_text('{"question": "3", "answer": "4"}\n')
    (tmp_path / "a.jsonl").write_text('{"question": "5", "answer": "6"}\n')
    both = read(data(f"{tmp_path}/b.csv,{tmp_path}/a.jsonl"))
    assert [row["question"] for row in both.rows] == ["1", "5"]
    assert both.files == 2
    # A file whose name has a comma is one file.
    assert [row["question"] for row in read_rows(data(tmp_path / "a,c.jsonl"))] == ["3"]
    listed = config.validated(config.Data, {"path": [str(tmp_path / "b.csv"), str(tmp_path / "a.jsonl")]})
    assert read_rows(listed) == both.rows
    assert refusal(f"{tmp_path}/b.csv,{tmp_path}/d.csv").startswith(f"no data file {tmp_path}/d.csv; did you mean")
    assert refusal(f"{tmp_path}/b.csv,some/set") == "no data file some/set"
    assert read_rows(data(f"{tmp_path}/b.csv, {tmp_path}/a.jsonl")) == both.rows
    for path in (f"{tmp_path}/b.csv,", f",{tmp_path}/b.csv", f"{tmp_path}/b.csv, ,{tmp_path}/a.jsonl"):
        assert "names an empty file before or after a comma" in refusal(path)


def test_the_files_of_a_folder_belong_to_splits_as_for_datasets(tmp_path: Path) -> None:
    """Oracle: `datasets`, on texts that it does not change."""
    from datasets import load_dataset

    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for name, rows in (("train-0-of-2", ROWS[:2]), ("train-1-of-2", ROWS[2:3]), ("test-0-of-1", ROWS[3:])):
        pd.DataFrame(rows).to_parquet(folder / "data" / f"{name}.parquet")
    (folder / "README.md").write_text("# Rows\n")
    (folder / ".cache.json").write_text("{")
    for split in ("train", "test"):
        expected = load_dataset(str(folder), split=split, cache_dir=str(tmp_path / "cache"))
        assert read_rows(data(folder, split=split)) == [dict(row) for row in expected]
    message = refusal(folder, split="dev")
    assert message == f'{folder} has no files of the split "dev": choose one with --data-split, of train, test'


def test_all_files_of_a_folder_without_splits_are_read(tmp_path: Path) -> None:
    (tmp_path / "2.csv").write_text("text,id\nNA,007\n")
    (tmp_path / "1.csv.gz").write_bytes(gzip.compress(b"text,id\na,1\n"))
    assert read_rows(data(tmp_path)) == [{"text": "a", "id": "1"}, {"text": "NA", "id": "007"}]


def test_a_folder_with_files_of_several_kinds_is_refused(tmp_path: Path) -> None:
    assert "has no data file: training data is a .json" in refusal(tmp_path)
    (tmp_path / "a.csv").write_text("text\na\n")
    (tmp_path / "a.json").write_text("[]")
    assert "has files of several kinds, such as a.csv and a.json: name the files to use" in refusal(tmp_path)


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": Dataset.from_list(ROWS[:1]), "dev": Dataset.from_list(ROWS[1:])}).save_to_disk(
        str(tmp_path / "two")
    )
    assert read_rows(data(tmp_path / "one")) == ROWS
    assert read_rows(data(tmp_path / "two", split="dev")) == ROWS[1:]
    assert 'has no split "test": choose one with --data-split' in refusal(tmp_path / "two", split="test")
    assert 'has no split "test": choose one with --data-split' in refusal(tmp_path / "one", split="test")


def test_parts_of_a_saved_data_set_are_those_of_load_dataset(tmp_path: Path) -> None:
    """Oracle: `load_dataset` on files with the same rows."""
    from datasets import load_dataset

    splits = {"train": Dataset.from_list(ROWS[:40]), "validation": Dataset.from_list(ROWS[40:])}
    DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "files").mkdir()
    for name, rows in splits.items():
        rows.to_parquet(str(tmp_path / "files" / f"{name}.parquet"))
    for spec in ("train[:10%]", "train[-2:]", "validation[1:3]+train[:2]", "train[:1]+validation[50%:]"):
        expected = load_dataset(str(tmp_path / "files"), split=spec, cache_dir=str(tmp_path / "cache"))
        assert read_rows(data(tmp_path / "saved", split=spec)) == [dict(row) for row in expected]


def test_a_data_set_saved_alone_has_parts_too(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "set"))
    Dataset.from_list(ROWS, split="test").save_to_disk(str(tmp_path / "named"))
    assert read_rows(data(tmp_path / "set", split="train[:10%]")) == ROWS[:5]
    assert read_rows(data(tmp_path / "named")) == ROWS
    assert read_rows(data(tmp_path / "named", split="test[:2]")) == ROWS[:2]


@pytest.mark.parametrize("spec", ["train[", "train[:x]", "", "+", "train[:10%", "train[1:2:3]", "[:3]"])
def test_a_split_of_another_form_is_refused(tmp_path: Path, spec: str) -> None:
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "set"))
    message = f'"{spec}" is not a split: give --data-split a name or a part, such as train or "train[:10%]"'
    assert refusal(tmp_path / "set", split=spec) == message


def test_images_and_sounds_need_no_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = saved_with_images(tmp_path / "set", monkeypatch, Image())
    assert [row["text"] for row in rows] == ["a", "b"]
    assert rows[0]["image"] == {"bytes": b"no image", "path": None}


def test_rows_that_cannot_be_decoded_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        saved_with_images(tmp_path / "set", monkeypatch, List(Image()))
    message = f"cannot read the rows of {tmp_path / 'set'}: To support decoding images, please install 'Pillow'."
    assert str(caught.value) == message


def saved_with_images(folder: Path, monkeypatch: pytest.MonkeyPatch, feature: Any) -> list[dict[str, Any]]:
    """Save rows with images, and read them on a machine without Pillow."""
    monkeypatch.setattr("datasets.config.PIL_AVAILABLE", False)
    image = {"bytes": b"no image", "path": None}
    plain = {"bytes": Value("binary"), "path": Value("string")}
    are_lists = isinstance(feature, List)
    rows = Dataset.from_list([{"text": text, "image": [image] if are_lists else image} for text in "ab"])
    rows = rows.cast_column("image", List(plain) if are_lists else plain)
    rows.cast_column("image", feature).save_to_disk(str(folder))
    return read_rows(data(folder))


CARD = """---
configs:
- config_name: easy
  data_files: easy.csv
- config_name: hard
  data_files: [{split: train, path: hard.csv}, {split: dev, path: dev.csv}]
---
"""


def test_configurations_and_splits_are_chosen_by_their_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the Hub: a folder whose card names configurations is read by `datasets`."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    for name in ("easy", "hard", "dev"):
        (folder / f"{name}.csv").write_text(f"text\n{name}\n")
    assert read_rows(data(folder, config="easy")) == [{"text": "easy"}]
    assert read_rows(data(folder, config="hard", split="dev")) == [{"text": "dev"}]
    assert "has several configurations: choose one with --data-config" in refusal(folder)
    assert 'has no configuration "soft": choose one with --data-config' in refusal(folder, config="soft")
    assert 'has no split "test": choose one with --data-split' in refusal(folder, config="hard", split="test")


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_damaged_archive_is_one_line(tmp_path: Path, suffix: str) -> None:
    whole = COMPRESS[suffix](json.dumps(ROWS).encode())
    for content in (b"no archive", whole[: len(whole) // 2]):
        (tmp_path / f"rows.json{suffix}").write_bytes(content)
        assert refusal(tmp_path / f"rows.json{suffix}").startswith(f"cannot read {tmp_path}")


def test_files_are_found_without_being_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('"')
    assert find_files(data(tmp_path / "rows.csv")) == [tmp_path / "rows.csv"]
    assert find_files(data("acme/rows")) is None
    (tmp_path / "rows.txt").write_text("a")
    assert "rows.txt: training data is a .json, .jsonl, .csv, .tsv or .parquet file" in refusal(tmp_path / "rows.txt")


def test_the_other_files_of_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "notes.txt"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    source = read(data(tmp_path))
    assert [row["text"] for row in source.rows] == ["train.jsonl"]
    assert source.unread == ("test.jsonl",)
    assert read(data(tmp_path / "train.jsonl")).unread == ()


def test_a_link_to_nothing_is_not_proposed_as_itself(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(UserError) as caught:
        read(data(tmp_path / "rows.jsonl"))
    assert str(caught.value) == f"no data file {tmp_path / 'rows.jsonl'}"
