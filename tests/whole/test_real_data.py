"""Real formats at their real size: Alpaca, HellaSwag, MMLU, and a pretrained Llama of 260,032 parameters.

The files stand beside the checkout, in ../shared/data; the project ships none of them, and skips this without them.
"""

from __future__ import annotations

import bz2
import csv
import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import ROOT

DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data beside the checkout")

torch = pytest.importorskip("torch")

import lm_eval.tasks  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: E402

from partune import config  # noqa: E402
from partune.finetune.data import Examples, alpaca_prompt, read_rows, tokenise  # noqa: E402
from partune.objectives.finetune import FineTune  # noqa: E402
from partune.space import SPACES  # noqa: E402
from partune.trial import Status, Trial  # noqa: E402
from tests.support.stories import convert, read_pieces, reference_encode  # noqa: E402

ALPACA = DATA / "alpaca" / "alpaca_data.json.gz"
ALPACA_2K = DATA / "alpaca" / "alpaca_2k.json"
HELLASWAG = DATA / "hellaswag" / "rubrikscube_hellaswag_val_subset.jsonl"
HELLASWAG_WHOLE = DATA / "hellaswag" / "hellaswag_val_full.txt.bz2"
MMLU = DATA / "mmlu" / "mmlu.zip"
STORIES = DATA / "stories260K"
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
HARNESS = Path(lm_eval.tasks.__file__).parent


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories260K")
    convert(STORIES / "stories260K.bin", STORIES / "tok512.bin", folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(stories: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(stories)


@pytest.fixture(scope="module")
def hellaswag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The harness's own definition of the task, on the local items."""
    path = tmp_path_factory.mktemp("hellaswag") / "hellaswag_local.yaml"
    (path.parent / "items.jsonl").write_bytes(HELLASWAG.read_bytes())
    path.write_text(
        f"include: {HARNESS}/hellaswag/hellaswag.yaml\ntask: hellaswag_local\ndataset_path: json\ndataset_name: null\n"
        "dataset_kwargs: {data_files: {validation: items.jsonl}}\ntraining_split: null\n"
    )
    return path


SUBJECTS = ("abstract_algebra", "anatomy", "moral_scenarios")
FEWEST = 12  # items of the first subject, where not all are there


@pytest.fixture(scope="module")
def mmlu(tmp_path_factory: pytest.TempPathFactory, thorough: bool) -> Path:
    """Three subjects by the harness's own template, as a group weighted by size; all items in thorough runs."""
    folder = tmp_path_factory.mktemp("mmlu")
    with zipfile.ZipFile(MMLU) as archive:
        for subject in SUBJECTS:
            for split in ("dev", "test"):
                text = archive.read(f"data/{split}/{subject}_{split}.csv").decode()
                rows = [
                    {"question": question, "choices": choices, "answer": "ABCD".index(answer)}
                    for question, *choices, answer in csv.reader(io.StringIO(text))
                ]
                if subject == SUBJECTS[0] and split == "test" and not thorough:
                    rows = rows[:FEWEST]
                lines = "".join(json.dumps(row) + "\n" for row in rows)
                (folder / f"{subject}_{split}.jsonl").write_text(lines)
            (folder / f"{subject}.yaml").write_text(
                f"include: {HARNESS}/mmlu/default/_default_template_yaml\ntask: local_{subject}\ndataset_path: json\n"
                f"dataset_kwargs: {{data_files: {{dev: {subject}_dev.jsonl, test: {subject}_test.jsonl}}}}\n"
                f'description: "Questions about {subject}.\\n\\n"\n'
            )
    members = ", ".join(f"local_{subject}" for subject in SUBJECTS)
    (folder / "mmlu.yaml").write_text(
        f"group: local_mmlu\ntask: [{members}]\n"
        "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]\nmetadata: {version: 1}\n"
    )
    return folder / "mmlu.yaml"


def check_examples(examples: Examples, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast) -> None:
    """Some examples decode to their rows."""
    for i in range(0, len(rows), 997):
        tokens, trained = examples.example(i)
        assert tokenizer.decode(tokens[trained]) == rows[i]["output"] + "</s>"
        assert tokenizer.decode(tokens[~trained][1:]) == alpaca_prompt(rows[i])
        assert tokens[0] == tokenizer.bos_token_id


# ----- instructions


@pytest.mark.thorough  # test_two_thousand_rows_of_alpaca reads the same form
def test_the_whole_of_alpaca_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    spec = config.Data(path=str(ALPACA))
    rows = read_rows(spec)
    assert len(rows) == 52_002
    assert rows[0]["instruction"] == "Give three tips for staying healthy."
    assert sum(bool(row["input"]) for row in rows) == 20_679
    examples = tokenise(spec, tokenizer)
    assert (len(examples), examples.empty) == (52_002, 0)
    check_examples(examples, rows, tokenizer)
    cut = examples.cut(256, "answer")
    assert cut.lengths.max() == 256
    assert cut.truncated == (examples.lengths > 256).sum() > 10_000
    assert len(cut) + cut.untrainable == 52_002
    assert cut.trained.sum() < examples.cut(256, "all").trained.sum()


@pytest.mark.slow
def test_two_thousand_rows_of_alpaca(tokenizer: PreTrainedTokenizerFast) -> None:
    spec = config.Data(path=str(ALPACA_2K))
    rows = read_rows(spec)
    assert len(rows) == 2000
    assert rows[0]["output"] == "Although he was late, he still managed to arrive on time."
    examples = tokenise(spec, tokenizer)
    check_examples(examples, rows, tokenizer)
    assert not all(row["output"].isascii() for row in rows)


# ----- the model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv.xz", "rows.parquet", "semicolons.csv"])
def test_alpaca_as_a_table_has_the_rows_of_its_json(name: str, tmp_path: Path) -> None:
    import pandas as pd

    rows = read_rows(config.Data(path=str(ALPACA_2K)))
    table, path = pd.DataFrame(rows), tmp_path / name
    if name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        separator = {"rows.csv": ",", "rows.tsv.xz": "\t", "semicolons.csv": ";"}[name]
        table.to_csv(path, index=False, sep=separator)
    assert read_rows(config.Data(path=str(path))) == rows


@pytest.mark.slow
def test_the_story_goes_on_as_it_should(stories: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_pretrained(stories)
    assert model.num_parameters() == 260_032
    ids = torch.tensor([[tokenizer.bos_token_id]])
    with torch.no_grad():
        for _ in range(50):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert tokenizer.decode(ids[0], skip_special_tokens=True).startswith(STORY)


@pytest.mark.slow
def test_the_tokenizer_is_llama2cs(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = read_pieces(STORIES / "tok512.bin")
    texts = [
        STORY,
        "Größe ✓ 漢字 🙂\n\ttabs",
        *(row["output"] for row in read_rows(config.Data(path=str(ALPACA_2K)))[:40]),
    ]
    for text in filter(None, texts):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == reference_encode(pieces, text)
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


# ----- tasks


@pytest.mark.slow
def test_all_of_hellaswag_has_four_endings_and_a_label() -> None:
    lines = bz2.decompress(HELLASWAG_WHOLE.read_bytes()).decode().splitlines()
    assert len(lines) == 6 * 10_042
    assert set(Counter(lines[1::6])) == set("0123")


@pytest.mark.slow
def test_hellaswag_by_the_harness_definition(stories: Path, hellaswag: Path) -> None:
    tuner = FineTune(stories, ALPACA_2K, hellaswag, validation={"limit": 50}, run={"device": "cpu"})
    tuner.check(SPACES["lora"])
    base = tuner.score_base()
    items = [json.loads(line) for line in HELLASWAG.read_text().splitlines()[:50]]
    (task,) = {id(part.task): part.task for part in tuner.engine.materials.scorer.parts}.values()
    assert [item.gold for item in task.items] == [(row["label"],) for row in items]
    first = task.requests[task.items[0].requests]
    assert first[3][0] == (
        "Pole vault: Pole vault is a sport where you run with a pole and stop and swing your body. A few women",
        " are in the gym practicing to do this pole vault, trying to do their best.",
    )
    assert base.scores["score"] == base.scores["search/hellaswag_local/acc_norm"]


@pytest.mark.slow
def test_mmlu_subjects_are_pooled_by_size(stories: Path, hellaswag: Path, mmlu: Path, thorough: bool) -> None:
    first, others = (100, 120) if thorough else (FEWEST, 30)
    tuner = FineTune(
        stories,
        ALPACA_2K,
        hellaswag,
        validation={"limit": 10},
        test={"tasks": [str(mmlu)], "limit": others},
        run={"device": "cpu"},
    )
    found = tuner.score_base({"test"})
    acc = found.items["test/local_mmlu/acc"]
    assert len(acc) == first + others + others
    assert found.scores["test/local_mmlu"] == pytest.approx(acc.mean())
    assert 0.1 < found.scores["test/local_mmlu"] < 0.4  # at chance
    assert found.items["test/local_mmlu/loglikelihood"].shape == (len(acc), 4)


# ----- all together


@pytest.mark.slow
def test_a_real_model_on_real_rows_scored_on_real_items(
    stories: Path, hellaswag: Path, tmp_path: Path, thorough: bool
) -> None:
    items = 200 if thorough else 60  # half of them to search
    tuner = FineTune(
        stories,
        {"path": str(ALPACA_2K), "max_length": 256},
        hellaswag,
        validation={"limit": items},
        training={"steps": 8, "batch_size": 8},
        run={"device": "cpu", "pack": 1},
    )
    tuner.check(SPACES["lora"])
    base, zero = tuner.score_base(), tuner.score_zero(Trial(0, tuner.defaults))
    assert tuner.disagreement(base, zero) is None
    found = tuner.evaluate(Trial(1, {"learning_rate": 5e-3, "lora_r": 8}, seed=1), tmp_path / "adapter")
    assert found.status is Status.DONE, found.error
    assert 0.1 < found.score < 0.5
    assert len(found.items["search/hellaswag_local/acc"]) == items // 2
    # A few steps on instructions already change what stories' model thinks of everyday English.
    name = "search/hellaswag_local/loss"
    assert np.abs(found.items[name] - base.items[name]).max() > 0.1
    again = tuner.score_adapter(tmp_path / "adapter")  # through PEFT, which sums in another order
    np.testing.assert_allclose(again.items[name], found.items[name], atol=1e-4)
