"""Tasks of lm-evaluation-harness with their own YAML, code, filters and metrics, on small local documents."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from partune.finetune.scoring.definitions import harness_folder
from tests.support.tiny import WORDS

Document = dict[str, Any]
COUNT = 9

LOCAL = """\
include: {include}
task: {name}
tag: null
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files: {{train: {name}.jsonl, validation: {name}.jsonl, test: {name}.jsonl}}
{changes}"""

SHORT = """\
generation_kwargs: {until: ["Question:", "\\n", "er"], max_gen_toks: 12, do_sample: false}
"""


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def gsm8k(draw: random.Random) -> Document:
    return {"question": words(draw, 6), "answer": f"{words(draw, 4)} #### {draw.randrange(9)}"}


def triviaqa(draw: random.Random) -> Document:
    return {"question": words(draw, 5), "answer": {"aliases": [words(draw, 1), words(draw, 2)]}}


def nq_open(draw: random.Random) -> Document:
    return {"question": words(draw, 5), "answer": [words(draw, 1)]}


def drop(draw: random.Random) -> Document:
    answer = {
        "number": "3", "date": {"day": "", "month": "", "year": ""}, "spans": [], "worker_id": "", "hit_id": "",
    }  # fmt: skip
    others = {name: [] for name in ("number", "date", "spans", "worker_id", "hit_id")}
    return {
        "section_id": "1", "query_id": "q", "passage": words(draw, 9), "question": words(draw, 4),
        "answer": answer, "validated_answers": others,
    }  # fmt: skip


def translation(draw: random.Random) -> Document:
    return {"translation": {"en": words(draw, 6), "fr": words(draw, 6)}}


def lambada(draw: random.Random) -> Document:
    return {"text": words(draw, 7), "domain": None}


def wikitext(draw: random.Random) -> Document:
    return {"page": f"{words(draw, draw.randint(20, 90))} @-@ {words(draw, 3)} ."}


# For each task: its file among the harness's, the changes to it, and a document.
TASKS: dict[str, tuple[str, str, Callable[[random.Random], Document]]] = {
    "gsm8k": ("gsm8k/gsm8k.yaml", SHORT + "num_fewshot: 1\n", gsm8k),
    "triviaqa": ("triviaqa/default.yaml", SHORT, triviaqa),
    "nq_open": ("nq_open/nq_open.yaml", SHORT + "num_fewshot: 2\n", nq_open),
    "drop": ("drop/default.yaml", SHORT, drop),
    "wmt14-en-fr": ("translation/wmt14_en-fr.yaml", SHORT, translation),
    "gsm8k_cot_self_consistency": (
        "gsm8k/gsm8k-cot-self-consistency.yaml",
        SHORT + "num_fewshot: 0\nrepeats: 8\n",
        gsm8k,
    ),
    "lambada_openai": ("lambada/lambada_openai.yaml", "", lambada),
    "wikitext": ("wikitext/wikitext.yaml", "", wikitext),
}
GENERATING = tuple(TASKS)[:6]


def write_harness_task(folder: Path, name: str, seed: int = 0) -> Path:
    """Write a task of the harness, by its own YAML, with documents of its form; return the path of the YAML."""
    source, changes, document = TASKS[name]
    draw = random.Random(seed)
    documents = "".join(json.dumps(document(draw)) + "\n" for _ in range(COUNT))
    (folder / f"{name}.jsonl").write_text(documents)
    path = folder / f"{name}.yaml"
    path.write_text(LOCAL.format(include=harness_folder() / source, name=name, changes=changes))
    return path
