"""Rows, prompts, tokens and masks."""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from partune import config
from partune.demo import DIRECTORY
from partune.errors import UserError
from partune.finetune import data as instructions
from partune.finetune.data import IGNORED, Chat, Examples, tokenise
from partune.finetune.rows.forms import normalise
from tests.support.tiny import make_rows, make_tokenizer, write_jsonl

ROWS = [
    {"instruction": "Name a pump.", "input": "", "output": "The red pump"},
    {"instruction": "Say why.", "input": "It leaks.", "output": "Größe ✓ 漢字 🙂"},
    {"instruction": "Say no more.", "output": "oil"},
]
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}</s>{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}\n{% endfor %}"
)
CHAT = [
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "Because of ✓ oil."},
    {"role": "user", "content": "really?"},
    {"role": "assistant", "content": "yes"},
]


def data(path: Path | str, **fields: Any) -> config.Data:
    return config.Data(path=str(path), **fields)


def answers(examples: Examples, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The text of each example's trained tokens."""
    found = []
    for i in range(len(examples)):
        tokens, trained = examples.example(i)
        found.append(tokenizer.decode(tokens[trained]))
    return found


# ----- rows


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.json.gz", "rows.jsonl.gz", "lines.json"])
def test_rows_are_read_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"
    text = lines if "jsonl" in name or name.startswith("lines") else json.dumps(ROWS, ensure_ascii=False)
    raw = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert instructions.read_rows(data(tmp_path / name)) == ROWS
    assert instructions.read_rows(data(tmp_path / name, limit=2)) == ROWS[:2]


def test_separators_within_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    rows = [{"instruction": "a\u2028b\u0085c", "output": "d\x1ce"}]
    assert instructions.read_rows(data(write_jsonl(tmp_path / "rows.jsonl", rows))) == rows


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    assert instructions.read_rows(data(tmp_path / "rows.json")) == ROWS


def test_a_folder_is_read_as_a_data_set(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set" / "train.jsonl", ROWS[:1])
    assert instructions.read_rows(data(tmp_path / "set")) == ROWS[:1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.jsonl",
            b'{"instruction": "a", "output": "b"}\n{"instruction"\n',
            "rows.jsonl, line 2 is not valid JSON",
        ),
        ("rows.json", b"[1, 2", "rows.json is not valid JSON"),
        ("rows.json", b"[]", "rows.json has no rows"),
        ("rows.txt", b"a,b", r"rows.txt: training data is a .json, .jsonl, .csv"),
        ("rows.json.gz", b"no gzip", "cannot read"),
        ("rows.json", b"\xff\xfe[", "is not UTF-8: byte 0"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        instructions.read_rows(data(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "alpaca.jsonl", ROWS)
    with pytest.raises(UserError, match=r'no data file .*; did you mean "alpaca.jsonl"'):
        instructions.read_rows(data(tmp_path / "alpacca.jsonl"))


def test_an_unknown_data_set_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no data file nobody/nothing, and no such data set"):
        instructions.read_rows(data("nobody/nothing"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": "a"}], "rows.jsonl has the columns a: say which is which, for example --columns text=a"),
        ([ROWS[0], {"instruction": "a"}], 'row 2: "output" is missing; it has instruction'),
        ([ROWS[0], {"instruction": 3, "output": ""}], 'row 2: "instruction" must be text, got 3'),
        ([ROWS[0], ["a"]], "row 2: a row is a mapping, got list"),
        ([{"messages": "hello"}], 'row 1: "messages" must be a list'),
        ([{"messages": CHAT}, {"messages": [{"role": "user"}]}], 'row 2: message 1 has no text "content"'),
        ([{"messages": CHAT}, {"instruction": "a"}], "row 2, has instruction, but row 1, has messages: a study reads"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=message):
        normalise(data(path), instructions.read_rows(data(path)))


# ----- Alpaca


def test_prompts_are_alpacas_to_the_letter() -> None:
    assert instructions.alpaca_prompt(ROWS[0]) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName a pump.\n\n### Response:\n"
    )
    assert instructions.alpaca_prompt(ROWS[1]) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n"
        "### Instruction:\nSay why.\n\n### Input:\nIt leaks.\n\n### Response:\n"
    )
    assert "{input}" in instructions.alpaca_prompt({"instruction": "{input} and {x}", "output": ""})


def test_trained_tokens_are_exactly_the_answer_and_its_end(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = tokenise(data(write_jsonl(tmp_path / "rows.jsonl", ROWS)), tokenizer)
    assert answers(examples, tokenizer) == [row["output"] + "</s>" for row in ROWS]
    for i, row in enumerate(ROWS):
        tokens, trained = examples.example(i)
        assert tokenizer.decode(tokens[~trained]) == "<s>" + instructions.alpaca_prompt(row)
    assert examples.summary["examples"] == examples.rows == 3


@pytest.mark.parametrize("template", ["<s> $A </s>", "<s> $A <pad>", "<s> $A <pad> </s>"])
def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt(tmp_path: Path, template: str) -> None:
    from tokenizers import processors

    tokenizer, path = make_tokenizer(), write_jsonl(tmp_path / "rows.jsonl", ROWS[:1])
    expected = tokenise(data(path), tokenizer)
    ends = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1), ("<pad>", 2)])
    tokenizer._tokenizer.post_processor = ends
    examples = tokenise(data(path), tokenizer)
    assert examples.tokens.tolist() == expected.tokens.tolist()
    assert answers(examples, tokenizer) == ["The red pump</s>"]


def test_empty_records_are_dropped_and_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    empty = {"instruction": " ", "input": "", "output": ""}
    half = {"instruction": "Say nothing.", "input": None, "output": ""}
    examples = tokenise(data(write_jsonl(tmp_path / "rows.jsonl", [ROWS[0], empty, half])), tokenizer)
    assert (len(examples), examples.rows, examples.empty) == (2, 3, 1)
    assert answers(examples, tokenizer)[1] == "</s>"
    with pytest.raises(UserError, match="all 2 rows are empty"):
        tokenise(data(write_jsonl(tmp_path / "none.jsonl", [empty, empty])), tokenizer)


def spaced_tokenizer(kind: str, added: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before every text: as Llama 2's, SentencePiece's newer forms, GPT-2's option.

    One "without" does not.
    """
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    specials = ["<unk>", "<s>", "</s>"]
    if kind in ("byte-level", "without"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "byte-level")
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        if kind == "llama":
            replaced = normalizers.Replace(" ", "▁")
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced])
        else:
            scheme: Any = "first" if kind == "metaspace-first" else "always"
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
        specials, alphabet = [*specials, *bytes_], []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(
        ["Below is an instruction. ### Response: the red pump leaks, it is static"] * 3, trainer
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


SPACED = ("llama", "metaspace", "metaspace-first", "byte-level")
ADDED = ("\n\n### Response:\n", "### Instruction:\n", "<sep>")
TEXTS = st.lists(
    st.sampled_from(
        ["the red pump", "it is", "static.", " ", "  ", "\n", "\n\n", "\t", ":", "Größe ✓ 🙂", "x", *ADDED]
    ),
    max_size=5,
).map("".join)


@functools.cache
def cached_tokenizer(kind: str, added: tuple[str, ...]) -> PreTrainedTokenizerFast:
    return spaced_tokenizer(kind, added)


@pytest.mark.slow
@pytest.mark.parametrize("added", [(), ADDED])
@pytest.mark.parametrize("kind", [*SPACED, "without"])
@given(instruction=TEXTS, output=TEXTS, history=st.lists(st.tuples(TEXTS, TEXTS), max_size=2))
def test_an_answers_text_follows_its_prompts_to_the_letter(
    kind: str, added: tuple[str, ...], instruction: str, output: str, history: list[tuple[str, str]]
) -> None:
    tokenizer = cached_tokenizer(kind, added)
    row = {"instruction": f"x{instruction}", "output": output, "history": history}
    with tempfile.TemporaryDirectory() as folder:
        whole = tokenise(data(write_jsonl(Path(folder) / "rows.jsonl", [row])), tokenizer)
    turns = instructions.alpaca_pieces(row)
    tokens, trained = whole.example(0)
    prompt = tokenizer(turns[0][0])["input_ids"]
    assert tokens[: len(prompt)].tolist() == prompt  # as when the model is asked
    borders = np.flatnonzero(np.diff([False, *trained, False])).reshape(-1, 2)
    assert len(borders) == len(turns)
    for (start, end), (_, answer) in zip(borders, turns, strict=True):
        assert tokenizer.decode(tokens[:end]) == tokenizer.decode(tokens[:start]) + answer + "</s>"
    if kind == "without":
        assert tokenizer.decode(tokens) == "".join(before + answer + "</s>" for before, answer in turns)
    everything, all_trained = whole.cut(10_000, "all").example(0)
    assert everything.tolist() == tokens.tolist()
    assert all_trained.tolist() == [False] + [True] * (len(tokens) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("added", [(), ADDED])
@pytest.mark.parametrize("kind", SPACED)
def test_no_space_is_put_before_an_answer(tmp_path: Path, kind: str, added: tuple[str, ...]) -> None:
    tokenizer = spaced_tokenizer(kind, added)
    outputs = ["static.", " spaced", "\nline", "a\n\nb ", "Größe ✓ 🙂", "", "\tcode\n    x = 1", "it<sep>is<sep>"]
    rows = [{"instruction": "Say it", "output": output} for output in outputs]
    examples = tokenise(data(write_jsonl(tmp_path / "rows.jsonl", rows)), tokenizer)
    for i, output in enumerate(outputs):
        tokens, trained = examples.example(i)
        assert tokenizer.decode(tokens) == tokenizer.decode(tokens[~trained]) + output + "</s>"
    chat = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "static."}] * 2
    assert chat_answers(tmp_path, tokenizer, CHATML, chat) == ["static.</s>static.</s>"]


def test_the_demos_answers_begin_with_their_first_word() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DIRECTORY / "model")
    examples = tokenise(data(DIRECTORY / "instructions.jsonl", limit=20), tokenizer)
    rows = [json.loads(line) for line in (DIRECTORY / "instructions.jsonl").read_text().splitlines()[:20]]
    assert answers(examples, tokenizer) == [row["output"] + tokenizer.eos_token for row in rows]


def test_an_answers_tokens_never_merge_with_what_is_around_it(tmp_path: Path) -> None:
    """Line breaks at a border would be one token, which belongs to neither side."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["a\n\n", ".\n\n\n"] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    template = (
        "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant\n{% endif %}"
    )
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\na."}] * 2
    assert len(fast("\n\n")["input_ids"]) == 1
    assert chat_answers(tmp_path, fast, template, chat) == ["\na.\na."]


def test_tokens_for_unknown_characters_are_counted(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "Say": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    rows = [{"instruction": "Say", "output": "Say no more"}]
    summary = tokenise(data(write_jsonl(tmp_path / "rows.jsonl", rows)), fast).summary
    words = instructions.alpaca_prompt(rows[0]).split()
    assert summary["unknown_tokens"] == len(words) - words.count("Say") + 2


# ----- chat


def chat_answers(path: Path, tokenizer: PreTrainedTokenizerFast, template: str, *rows: Any) -> list[str]:
    """The trained text of each example of chat rows, given as rows or as their messages."""
    whole = [row if isinstance(row, dict) else {"messages": row} for row in rows]
    examples = tokenise(data(write_jsonl(path / "chats.jsonl", whole), chat_template=template), tokenizer)
    return answers(examples, tokenizer)


def test_answers_are_found_by_prefix_difference(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = tokenise(data(write_jsonl(tmp_path / "c.jsonl", [{"messages": CHAT}]), chat_template=CHATML), tokenizer)
    text = tokenizer.apply_chat_template(CHAT, chat_template=CHATML, tokenize=False)
    assert tokenizer.decode(examples.tokens) == text
    assert answers(examples, tokenizer) == ["Because of ✓ oil.</s>yes</s>"]


def test_answers_are_found_by_the_templates_own_marks(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert chat_answers(tmp_path, tokenizer, MARKED, CHAT) == ["Because of ✓ oil.</s>yes</s>"]


def test_marks_and_prefixes_agree(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    plain = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    plain += "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    path = write_jsonl(tmp_path / "c.jsonl", [{"messages": CHAT}])
    marked, found = (tokenise(data(path, chat_template=template), tokenizer) for template in (MARKED, plain))
    assert marked.tokens.tolist() == found.tokens.tolist()
    assert marked.trained.tolist() == found.trained.tolist()


def test_the_chat_template_is_a_text_a_file_or_the_tokenizers(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(UserError, match="no chat template: set one"):
        Chat.of(tokenizer, None)
    tokenizer.chat_template = MARKED
    assert Chat.of(tokenizer, None).template == MARKED
    assert Chat.of(tokenizer, CHATML).template == CHATML
    (tmp_path / "chat.jinja").write_text(CHATML)
    assert Chat.of(tokenizer, str(tmp_path / "chat.jinja")).template == CHATML
    with pytest.raises(UserError, match=r'no chat template file .*; did you mean "chat.jinja"'):
        Chat.of(tokenizer, str(tmp_path / "chat.jinj"))


def test_chat_rows_become_examples(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    questions = [{"role": "user", "content": "who?"}]
    rows = [{"messages": CHAT}, {"messages": []}, {"messages": questions}, {"messages": CHAT[:2]}]
    examples = tokenise(data(write_jsonl(tmp_path / "c.jsonl", rows), chat_template=CHATML), tokenizer)
    assert (len(examples), examples.empty) == (3, 1)
    cut = examples.cut(1000, "answer")
    assert (len(cut), cut.untrainable) == (2, 1)
    assert answers(cut, tokenizer) == ["Because of ✓ oil.</s>yes</s>", "Because of ✓ oil.</s>"]


def test_a_template_that_fails_is_named_with_its_row(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_jsonl(tmp_path / "chat.jsonl", [{"messages": CHAT}])
    with pytest.raises(UserError, match="row 1: the chat template fails: no system turn"):
        tokenise(data(path, chat_template="{{ raise_exception('no system turn') }}"), tokenizer)


# ----- examples


def make_examples(lengths: list[int], prompts: list[int]) -> Examples:
    """Examples whose tokens count up from 1; the first `prompts[i]` are the prompt."""
    return Examples(
        tokens=np.arange(1, sum(lengths) + 1, dtype=np.int32),
        trained=np.concatenate([np.arange(n) >= p for n, p in zip(lengths, prompts, strict=True)]),
        starts=np.cumsum([0, *lengths]),
        numbers=np.arange(1, len(lengths) + 1),
        rows=len(lengths),
    )


def test_over_long_examples_are_cut_and_counted() -> None:
    cut = make_examples([4, 9, 6], [2, 7, 3]).cut(6, "answer")
    assert (len(cut), cut.truncated, cut.untrainable, cut.rows) == (2, 1, 1, 3)
    assert cut.lengths.tolist() == [4, 6]
    assert cut.example(1)[0].tolist() == [14, 15, 16, 17, 18, 19]
    assert cut.example(1)[1].tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("max_length", [1, 2, 5, 100])
@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_cutting_equals_cutting_one_by_one(max_length: int, loss_on: Any) -> None:
    whole = make_examples([4, 9, 1, 6], [2, 7, 0, 6])
    expected = []
    for i in range(len(whole)):
        tokens, trained = (array[:max_length].tolist() for array in whole.example(i))
        trained = [place > 0 and (mark or loss_on == "all") for place, mark in enumerate(trained)]
        if any(trained):
            expected.append((tokens, trained))
    cut = whole.cut(max_length, loss_on)
    assert [tuple(array.tolist() for array in cut.example(i)) for i in range(len(cut))] == expected
    assert cut.untrainable == len(whole) - len(expected)


def test_padding_is_masked_and_never_the_end_of_sequence() -> None:
    tokenizer = make_tokenizer(pad=False)
    assert tokenizer.pad_token_id is None
    examples = make_examples([3, 5], [1, 2])
    ids, attention, labels = examples.batch([0, 1])
    assert ids.tolist() == [[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]]
    assert attention.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert labels.tolist() == [[IGNORED, 2, 3, IGNORED, IGNORED], [IGNORED, IGNORED, 6, 7, 8]]
    assert tokenizer.eos_token_id not in ids[attention == 0]


def test_a_batch_is_padded_to_its_own_longest(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = tokenise(data(write_jsonl(tmp_path / "rows.jsonl", make_rows(9))), tokenizer)
    short = int(examples.lengths.argmin())
    assert examples.batch([short])[0].shape == (1, examples.lengths.min())
    assert examples.batch(range(9))[0].shape == (9, examples.lengths.max())
