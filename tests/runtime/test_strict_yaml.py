"""What a YAML file says in silence, or at great length, is one line; what it says plainly is read."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from partune import config
from partune.errors import UserError
from partune.runtime import strict_yaml

PRINTABLE = st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"])


def read(tmp_path: Path, content: str | bytes) -> Any:
    path = tmp_path / "study.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return strict_yaml.read(path)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}\n" for k in range(1, 40))
LADDER = "a0: &a0 [x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}]\n" for k in range(1, 400))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "its aliases stand for more than 100000 values"),
        (MERGES, "its aliases stand for more than 100000 values"),
        (LADDER, "its aliases are nested more than 50 deep"),
        ("a: &a [*a]", "an alias is inside the value that it stands for"),
        ("a: " + "[" * 20_000, "it is nested more than 50 deep"),
        ("a: " + "{b: " * 20_000, "it is nested more than 50 deep"),
        ("a: {b: 1, b: 2}", 'the key "b" appears twice'),
        ("a: 1\na: 2", 'the key "a" appears twice'),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}", 'the key "<<" appears twice'),
        ("a: {on: 1}", "a key must be a text, got True: put it in quotes"),
        ("a: {3: 1}", "a key must be a text, got 3"),
        ("a: {null: 1}", "a key must be a text, got None"),
        ("a: {[1, 2]: 1}", "a key must be a text, got [1, 2]"),
        ("a: [low, off, high]", "off among texts means true or false"),
        ("a: [Yes, 'No']", "Yes among texts means true or false"),
        ("a: 017", "017 begins with a zero: remove the zero"),
        ("a: -012", "-012 begins with a zero"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!int x", "is not valid YAML"),
        ("a: !!float [1]", "is not valid YAML"),
        ("a: !!bool maybe", "is not valid YAML"),
        ("a: !!timestamp soon", "is not valid YAML"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("a: 1\n--- \nb: 2", "expected a single document"),
        ("a:\n\tb: 1", "is not valid YAML"),
        ("a: *b", "undefined alias"),
        (b"\x00\x01\x02", "is not valid YAML"),
        (b"a: \xff\xfe", "is not UTF-8 text: byte 3 is 0xff"),
        ("a: 1\n".encode("utf-16"), "is not UTF-8 text: byte 0 is 0xff"),
        (b"a: " + b"x" * 2**20, "is larger than 256 KiB"),
    ],
    ids=range(31),
)
def test_hostile_files_end_in_one_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value)
    assert str(tmp_path / "study.yaml") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(UserError, match="is larger than 256 KiB"):
        strict_yaml.read(Path("/dev/zero"))


def test_merge_keys_stand_below_a_mappings_own(tmp_path: Path) -> None:
    content = "a: &a {x: 1, y: 2}\nb: &b {z: 3}\nc: {<<: [*a, *b], x: 4}\nd:\n  <<: *a\n  w: 5\n"
    found = read(tmp_path, content)
    assert found["c"] == {"x": 4, "y": 2, "z": 3}
    assert found["d"] == {"x": 1, "y": 2, "w": 5}
    assert found == yaml.safe_load(content)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E6", 1e6),
        (".5", 0.5),
        ("-1.", -1.0),
        ("+1_000.5", 1000.5),
        ("1_000", 1000),
        ("0", 0),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("12:30:00", "12:30:00"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("yes", True),
        ("[on, off]", [True, False]),
        ("[true, low]", [True, "low"]),
        ("'off'", "off"),
        ("~", None),
        ("", None),
        ("\ufeffx", "x"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any, tmp_path: Path) -> None:
    found = read(tmp_path, text)
    assert found == value
    assert type(found) is type(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(PRINTABLE),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1-:. "), inner, max_size=3),
        max_leaves=6,
    )
    | st.from_regex(r"[-+]?[0-9.:eExo_]{1,6}", fullmatch=True)
    | st.dates().map(datetime.date.isoformat)
)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    assert read(tmp_path_factory.getbasetemp(), strict_yaml.dump({"a": value})) == {"a": value}


def test_a_study_file_says_what_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("# nothing yet\n")
    with pytest.raises(UserError, match="a study's file must be a mapping of sections, got an empty file"):
        config.load(path)
    with pytest.raises(UserError, match="learning_rate: input should be a finite number, got inf"):
        config.validated(config.Training, {"learning_rate": math.inf})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB + "task: x\n", "its aliases stand for more than 100000 values"),
        ("task: " + "[" * 5000, "it is nested more than 50 deep"),
        ("- a\n- b", "got list"),
        ("", "got NoneType"),
        ("task: 3", "names no task"),
        (b"\x00", "special characters are not allowed"),
    ],
    ids=range(6),
)
def test_a_task_file_that_is_hostile_ends_in_one_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    from partune.finetune.scoring.definitions import load_file

    path = tmp_path / "task.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        load_file(path, trusted=False, harness=dict)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
