"""Tiny random models of four architectures, a tokenizer trained on the spot, instructions and a task of choices."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as bpe
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from partune.finetune.model import Base
from partune.runtime.isolation import quiet

TEXT = "the pump valve motor gasket fails leaks needs oil water red blue green why what which answer is of a machine"
WORDS = TEXT.split()
PROMPTS = (  # of Alpaca, so that their words are tokens and rows are short
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request. Instruction: Input: Response:"
)
CONTEXT = 192

Row = dict[str, Any]


def make_tokenizer(pad: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a begin token before every text."""
    tokenizer = Tokenizer(bpe.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>", *(["<pad>"] if pad else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), PROMPTS] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>" if pad else None
    )


def make_model(kind: str, vocabulary: int, seed: int = 0) -> PreTrainedModel:
    """Two layers of width 32; larger initial weights than usual, so that the choices' likelihoods differ."""
    common: dict[str, Any] = {"vocab_size": vocabulary, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1}
    llama: dict[str, Any] = common | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match kind:
            case "llama":
                return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **llama)).eval()
            case "qwen2":
                return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, **llama)).eval()
            case "neox":
                return GPTNeoXForCausalLM(GPTNeoXConfig(**llama)).eval()
            case "gpt2":
                return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **common)).eval()
    raise ValueError(kind)


KINDS = ("llama", "qwen2", "neox", "gpt2")


def make_base(kind: str, tokenizer: PreTrainedTokenizerFast, dtype: str = "fp32", **settings: Any) -> Base:
    """A frozen base of another of transformers' architectures, as tiny; settings: of its configuration."""
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**shape | settings)).eval()
    model.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    return Base(model.requires_grad_(False), tokenizer, torch.device("cpu"), dtype)


def longrope(original: int) -> dict[str, Any]:
    """Settings of a `phi3` with LongRoPE (Phi-3.5, Phi-4-mini), whose original context has so many tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": original}
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    return {
        "sliding_window": None,
        "original_max_position_embeddings": original,
        "rope_parameters": rope | factors,
    }


def make_rows(count: int, seed: int = 0) -> list[Row]:
    """Alpaca rows of random words; every third has an input."""
    draw = random.Random(seed)

    def words(n: int) -> str:
        return " ".join(draw.choices(WORDS, k=n))

    return [
        {
            "instruction": words(draw.randint(2, 6)),
            "input": words(3) if i % 3 == 0 else "",
            "output": words(draw.randint(1, 5)),
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_items(count: int, seed: int = 0) -> list[Row]:
    """Questions with three or four choices of different lengths."""
    draw = random.Random(seed)
    items = []
    for i in range(count):
        choices = [" ".join(draw.choices(WORDS, k=draw.randint(1, 4))) for _ in range(3 + i % 2)]
        items.append(
            {"question": " ".join(draw.choices(WORDS, k=5)), "choices": choices, "answer": draw.randrange(len(choices))}
        )
    return items


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl
output_type: {kind}
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
{metrics}
metadata: {{version: 1.0}}
"""
METRIC = "  - {{metric: {name}, aggregation: mean, higher_is_better: true}}"


def write_task(
    folder: Path,
    name: str,
    items: list[Row],
    metrics: tuple[str, ...] = ("acc", "acc_norm"),
    kind: str = "multiple_choice",
) -> Path:
    """A local task: its YAML file, and its items beside it."""
    write_jsonl(folder / f"{name}.jsonl", items)
    listed = "\n".join(METRIC.format(name=metric) for metric in metrics)
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, kind=kind, metrics=listed))
    return folder / f"{name}.yaml"


LABELS = ("pump", "the pump", "oil valve")


def make_tickets(count: int, seed: int = 0) -> list[Row]:
    """Alpaca rows of random words whose outputs are labels, the first most often."""
    draw = random.Random(seed)
    return [
        {"instruction": " ".join(draw.choices(WORDS, k=5)), "output": draw.choices(LABELS, (5, 3, 1))[0]}
        for _ in range(count)
    ]
