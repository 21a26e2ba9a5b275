"""Flags and the definition of a study: each field has one, and what is given becomes a file's mapping."""

from __future__ import annotations

from pathlib import Path

import pytest

from partune import config
from partune.cli import main
from partune.cli.flags import CONFIG, as_typed, given, unescaped
from partune.cli.parser import Parser, add_study


def flags(*arguments: str) -> dict[str, object]:
    parser = Parser()
    add_study(parser)
    return given(parser.parse_args(arguments))


def test_every_field_of_the_definition_has_a_flag_of_its_own() -> None:
    parser = Parser()
    add_study(parser)  # argparse refuses two flags of one name
    dests = {action.dest for action in parser._actions}
    for name, field in config.StudyConfig.model_fields.items():
        section = next(
            (
                each
                for each in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(each, type) and issubclass(each, config.Section)
            ),
            None,
        )
        if section is None:
            assert CONFIG + name in dests or name == "version"
        else:
            assert {f"{CONFIG}{name}.{inner}" for inner in section.model_fields} - {f"{CONFIG}search.options"} <= dests


def test_flags_override_the_file() -> None:
    file = {"model": "file-model", "data": {"path": "d", "max_length": 64}, "validation": {"tasks": ["a"]}}
    given = flags("--max-length", "128", "--task", "b", "--task", "c", "--trust-remote-code", "--keep", "all")
    found = config.parse(config.merged(file, given))
    assert found.model == config.Model(path="file-model", trust_remote_code=True)
    assert found.data == config.Data(path="d", max_length=128)
    assert found.validation == config.Validation(tasks=("b", "c"))
    assert found.run.keep == "all"


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r"\n", "\n"),
        (r"a\tb\n\n", "a\tb\n\n"),
        (r"\\n", r"\n"),
        (r"\\text{", r"\text{"),
        (r"\\\n", "\\\n"),
        ("end\\", "end\\"),
        ("\n", "\n"),
        ("", ""),
        ("</s>", "</s>"),
        (r"\x41", r"\x41"),
    ],
)
def test_escapes_are_replaced_once(typed: str, text: str) -> None:
    assert unescaped(typed) == text


def test_only_stop_strings_have_escapes() -> None:
    assert flags("--stop-string", r"\n\n", "--stop-string", r"\\n") == {"validation": {"stop": ["\n\n", r"\n"]}}
    assert flags("--data", r"a\n.csv") == {"data": {"path": r"a\n.csv"}}


@pytest.mark.parametrize(
    ("typed", "message", "expected"),
    [
        ("--validation-split 2", "validation.split: too large", "--validation-split: too large"),
        ("--seed 1", "validation.split: too large", "validation.split: too large"),
        ("--baseline x", "baseline.0: no recipe", "--baseline: no recipe"),
        ("--task x", "validation.tasks.3: no task", "--task: no task"),
        ("--stop none", "run.stop: wrong, not validation.stop", "--stop: wrong, not validation.stop"),
        ("--max-length 0", "max_length: too small", "--max-length: too small"),  # a section checked by itself
        ("--momentum 1", "training.momentum would do nothing.", "--momentum would do nothing."),
        (
            "--batch-size 1 --micro-batch-size 2",
            "training.micro_batch_size 2 would have no effect: training.batch_size is 1; leave it out",
            "--micro-batch-size 2 would have no effect: --batch-size is 1; leave it out",
        ),
        ("--model m", "model would have no effect", "--model would have no effect"),
        ("--data d", "data set d has no rows", "data set d has no rows"),
        ("--validation-data d", "no file a/validation.data", "no file a/validation.data"),
        ("--validation-data d", "no file validation.data.csv", "no file validation.data.csv"),
    ],
)
def test_a_message_names_what_was_typed(typed: str, message: str, expected: str) -> None:
    parser = Parser()
    add_study(parser)
    assert as_typed(message, parser.parse_args(typed.split())) == expected


def test_a_file_keeps_the_paths_of_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("model: demo\ndata: demo\nvalidation: {split: 2}\n")
    assert main(["tune", str(file), "--seed", "1"]) == 2
    assert capsys.readouterr().err.startswith("partune: error: validation.split: input should be less than 1")
    assert main(["tune", str(file), "--validation-split", "3"]) == 2
    assert capsys.readouterr().err.startswith("partune: error: --validation-split: input should be less than 1")
