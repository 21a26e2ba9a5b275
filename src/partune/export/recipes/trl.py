"""Write a Python script that repeats a trial's training with TRL and PEFT, on exactly the same tokens."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from partune.export.chosen import Chosen, number
from partune.export.recipes.commented_yaml import bullets
from partune.finetune import data as instructions
from partune.finetune.model import DTYPES
from partune.finetune.training import BETAS, EPSILON

FILE = "train_trl.py"  # not trl.py: Python searches the script's folder first, and trl.py would hide the library
VERSION = "1.16.0"
# The optional fields of each format that TRL uses too.
READ = {"alpaca": ("system", "history"), "chat": ("tools", "chat_template_kwargs"), "completion": (), "text": ()}
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}

HEAD = '''\
"""Repeats a training of a partune study with TRL and PEFT; written for trl {version}.
{preparation}
    pip install trl peft
    python {file}

If you change per_device_train_batch_size or the number of devices, keep
per_device_train_batch_size x gradient_accumulation_steps x devices = {batch}.

Differences from the study:
{differences}
"""

{imports}

MODEL = {model}
DATA = {data}
'''

OPENINGS = '''\
OPENING = """{opening}"""
OPENING_WITH_INPUT = """{opening_with_input}"""
TURN = """{turn}"""
TURN_WITH_INPUT = """{turn_with_input}"""
'''

# The functions that encode a row. Each is written without the types of its arguments and result.
TOKENS = '''\
MAX_LENGTH = {max_length}
{openings}

{functions}


def tokenised(row):
    """Encode prompts and answers separately, so that an answer's tokens are just the answer and the end of sequence."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    tokens, labels = [], []
    for prompt, answer in {pieces}:
        prompt = continued(tokenizer, [prompt])[0] if tokens else tokenizer(prompt)["input_ids"]
        if not tokens and end and prompt[-1:] == end:
            del prompt[-1]
        answer = continued(tokenizer, [answer], exact=True)[0] + end
        tokens += prompt + answer
        labels += {labels}
    return {{"input_ids": tokens[:MAX_LENGTH], "labels": labels[:MAX_LENGTH]}}


def has_text(row):
    texts = {texts}
    return any((text or "").strip() for text in texts){history}


def has_loss(row):
    return any(label != -100 for label in row["labels"][1:])


'''

TEXTS = '''\
MAX_LENGTH = {max_length}


def tokenised(row):
    """Encode a text and the end of sequence. All of these tokens are trained on."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    tokens = tokenizer(row["text"].removesuffix(tokenizer.eos_token or ""))["input_ids"]
    if end and tokens[-1:] == end:
        del tokens[-1]
    tokens = (tokens + end)[:MAX_LENGTH]
    return {{"input_ids": tokens, "labels": tokens}}


def has_text(row):
    return bool(row["text"].strip())


def has_loss(row):
    return len(row["labels"]) > 1


'''

BODY = """\
tokenizer = AutoTokenizer.from_pretrained({tokenizer})
{prepare}
trainer = SFTTrainer(
    model=MODEL,
    processing_class=tokenizer,
    train_dataset=dataset,
    peft_config=LoraConfig(
{lora}
    ),{quantization}
    args=SFTConfig(
{arguments}
    ),
)
trainer.train()
trainer.save_model()
"""

QUANTIZATION = """
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype={dtype!r},
    ),"""


def trainer_arguments(chosen: Chosen) -> dict[str, Any]:
    """Return the settings of the training under the names that the Trainer of transformers uses."""
    training = chosen.training
    adamw = training.optimizer == "adamw"
    betas = {"adam_beta1": BETAS[0], "adam_beta2": BETAS[1], "adam_epsilon": EPSILON}
    return {
        "per_device_train_batch_size": chosen.micro_batch,
        "gradient_accumulation_steps": chosen.accumulation,
        "num_train_epochs": number(training.epochs) if training.steps is None else None,
        "max_steps": training.steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": SCHEDULES[training.schedule],
        "warmup_steps": chosen.warmup,
        "optim": "adamw_torch" if adamw else "sgd",
        "optim_args": None if adamw else f"momentum={training.momentum}",
        "weight_decay": training.weight_decay,
        **(betas if adamw else {}),
        "max_grad_norm": training.max_grad_norm,
        "seed": chosen.seed,
        "data_seed": chosen.order_seed,
    }


def recipe(chosen: Chosen) -> Mapping[str, str]:
    """Return the recipe: the key is the name of the script, the value its text."""
    training, data, model = chosen.training, chosen.data, chosen.model
    chat = chosen.rows == "chat"
    dtype = DTYPES[chosen.dtype]
    differences = [
        *chosen.differences(),
        *chosen.dropout_advice(takes=True),
        *chosen.unused_data("TRL", *READ[chosen.rows]),
    ]
    if chat and data.loss_on == "answer":
        differences.append(
            "TRL finds the answers by the {% generation %} marks of the chat template; add them if they are missing."
        )
    alpha = training.lora_alpha
    lora = {
        "r": training.lora_r,
        "lora_alpha": number(alpha),
        "lora_dropout": training.lora_dropout,
        "target_modules": list(chosen.targets),
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    loading = {
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code or None,
        "use_safetensors": True if model.safetensors else None,
        "dtype": dtype,
        **chosen.dropout_off,
    }
    arguments = {
        "output_dir": "trained-trl",
        "model_init_kwargs": {name: value for name, value in loading.items() if value is not None},
        **trainer_arguments(chosen),
        "max_length": data.max_length,
        "packing": False,
        "assistant_only_loss": data.loss_on == "answer" if chat else None,
        "bf16": False,  # no autocast: as in the study, the base model is loaded in its own precision
        "fp16": False,
        "save_strategy": "no",
        "report_to": "none",
    }
    options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code or None}
    tokenizer_options = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
    quantized = model.quantize != "none"
    encodes = chosen.rows in ("alpaca", "completion")
    standard = [*(["import re"] if encodes else []), *(["from pathlib import Path"] if chosen.home_advice() else [])]
    imports = [
        *([*standard, ""] if standard else []),
        "from datasets import load_dataset",
        "from peft import LoraConfig",
        f"from transformers import AutoTokenizer{', BitsAndBytesConfig' if quantized else ''}",
        "from trl import SFTConfig, SFTTrainer",
    ]
    head = HEAD.format(
        version=VERSION,
        file=FILE,
        preparation=_in_docstring("\n".join(chosen.preparation())),
        batch=training.batch_size,
        differences=_in_docstring("\n".join(bullets(differences))),
        imports="\n".join(imports),
        model=_path(chosen.base),
        data=_path(chosen.file or data.path),
    )
    body = BODY.format(
        tokenizer=f"MODEL{tokenizer_options}",
        prepare="\n".join(_prepared(chosen)),
        lora=_arguments(lora),
        arguments=_arguments(arguments),
        quantization=QUANTIZATION.format(dtype=dtype) if quantized else "",
    )
    return {FILE: head + ("\n\n" if chat else _encoding(chosen)) + body}


def _encoding(chosen: Chosen) -> str:
    """Return the script's code that encodes rows other than chats."""
    if chosen.rows == "text":
        return TEXTS.format(max_length=chosen.data.max_length)
    labels = "[-100] * len(prompt) + answer" if chosen.data.loss_on == "answer" else "prompt + answer"
    if chosen.rows == "completion":
        return TOKENS.format(
            max_length=chosen.data.max_length,
            openings="",
            functions=_source(instructions.continued).rstrip(),
            pieces='[(row["prompt"], row["completion"].removesuffix(tokenizer.eos_token or ""))]',
            labels=labels,
            texts='(row["prompt"], row["completion"])',
            history="",
        )
    openings = OPENINGS.format(
        opening=instructions.OPENING,
        opening_with_input=instructions.OPENING_WITH_INPUT,
        turn=instructions.TURN,
        turn_with_input=instructions.TURN_WITH_INPUT,
    )
    return TOKENS.format(
        max_length=chosen.data.max_length,
        openings=openings,
        functions=f"{_source(instructions.alpaca_pieces)}\n\n{_source(instructions.continued)}".rstrip(),
        pieces=f"alpaca_pieces({_row(chosen)})",
        labels=labels,
        texts=f'(row["instruction"], row[{chosen.name_of("output")!r}])',
        history=' or bool(row.get("history"))',
    )


def _in_docstring(text: str) -> str:
    """Return a text escaped for use inside a docstring."""
    return text.replace("\\", "\\\\").replace('"', '\\"') if "\\" in text or '"""' in text else text


def _source(function: Callable[..., Any]) -> str:
    """Return the source of one of partune's functions, without the types of its arguments and result."""
    return re.sub(r"(?m)^(def \w+)\((.*)\) -> .*:$", _untyped, inspect.getsource(function))


def _untyped(signature: re.Match[str]) -> str:
    arguments = re.split(r", (?=\w+:)", signature[2])
    plain = [re.sub(r": [^=]+?(?= = |$)", "", argument) for argument in arguments]
    return f"{signature[1]}({', '.join(plain)}):".replace(" = ", "=")


def _row(chosen: Chosen) -> str:
    """Return a Python expression for `row`, with each renamed field also under its standard name in the format."""
    renamed = {standard: name for standard, name in chosen.names.items() if standard != name}
    pairs = "".join(f", {standard!r}: row.get({name!r})" for standard, name in renamed.items())
    return f"{{**row{pairs}}}" if renamed else "row"


def _prepared(chosen: Chosen) -> list[str]:
    """Return the statements of the script that load the data set."""
    where = '"json", data_files=DATA' if chosen.file is not None else "DATA"
    config = "" if chosen.data.config is None or chosen.converted else f", {chosen.data.config!r}"
    lines = [f"dataset = load_dataset({where}{config}, split={chosen.split!r})"]
    if chosen.rows != "chat":
        lines.append(
            "dataset = dataset.filter(has_text).map(tokenised, remove_columns=dataset.column_names).filter(has_loss)"
        )
    elif chosen.template is not None:
        lines.insert(0, f"tokenizer.chat_template = {chosen.template!r}")
    return lines


def _path(path: str) -> str:
    """Return a Python expression for a path."""
    return f"str(Path({path!r}).expanduser())" if path.startswith("~") else repr(path)


def _arguments(values: Mapping[str, Any]) -> str:
    return "\n".join(f"        {name}={value!r}," for name, value in values.items() if value is not None)
