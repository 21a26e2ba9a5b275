"""Recipes: each key is one of the tool's own, each value the study's.

keys.json holds the keys that the tools know, read from the very versions that are named in it: the fields of
`SFTConfig`, of axolotl's pydantic models, of LLaMA-Factory's argument classes, the signature of LitGPT's
`finetune_lora`. With these versions installed, the recipes of the embedded demo were read by all four, and TRL's and
LitGPT's were run.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from partune import config
from partune.export.chosen import Chosen
from partune.export.export import TOOLS
from partune.export.recipes import axolotl, litgpt, llamafactory, trl
from partune.export.recipes.write import RECIPES
from partune.finetune.data import alpaca_prompt, tokenise
from tests.finetune.test_data import spaced_tokenizer
from tests.support.chosen import chosen

KEYS: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "keys.json").read_text())
CHATS = {"path": "acme/chats", "split": "test", "limit": 500, "chat_template": "{{ messages }}"}
NEOX = ("query_key_value", "dense")
CASES = {
    "plain": chosen(),
    "steps": chosen(training={"steps": 40, "warmup_steps": 5, "micro_batch_size": 6, "schedule": "linear"}),
    "sgd": chosen(training={"optimizer": "sgd", "momentum": 0.9, "schedule": "constant", "lora_alpha": 7.5}),
    "all": chosen(data={"path": "rows.jsonl.gz", "loss_on": "all", "limit": 9}, dtype="fp32", targets=NEOX),
    "quantized": chosen(model={"path": "acme/base", "revision": "v2", "quantize": "nf4", "trust_remote_code": True}),
    "chat": chosen(rows="chat", data=CHATS),
    "dropout": chosen(dropout={"resid_pdrop": 0.1, "embd_pdrop": 0.1}),
    "whole": chosen(dtype="fp16", targets=("model.layers.0.self_attn.q_proj", "lm_head")),
}


def keys(tool: str, part: str) -> set[str]:
    return set(KEYS[tool][part].split())


def script(case: Chosen) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of SFTConfig and LoraConfig in TRL's script."""
    tree = ast.parse(trl.recipe(case)[trl.FILE])
    calls = {
        node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {each.arg for each in calls["SFTTrainer"].keywords} <= keys("trl", "SFTTrainer")
    config_, lora = (
        {k.arg or "": ast.literal_eval(k.value) for k in calls[n].keywords} for n in ("SFTConfig", "LoraConfig")
    )
    return config_, lora


def test_there_is_a_recipe_for_every_tool_that_the_command_line_names() -> None:
    assert tuple(RECIPES) == TOOLS
    versions = {"trl": trl.VERSION, "litgpt": litgpt.VERSION, "axolotl": axolotl.VERSION}
    assert {tool: KEYS[tool]["version"] for tool in TOOLS} == {**versions, "llamafactory": llamafactory.VERSION}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_key_is_one_that_the_tool_knows(case: Chosen) -> None:
    import peft
    import transformers

    arguments, lora = script(case)
    assert set(arguments) <= keys("trl", "SFTConfig")
    assert peft.LoraConfig(**lora).r == 16
    assert arguments["optim"] in [each.value for each in transformers.training_args.OptimizerNames]
    assert arguments["lr_scheduler_type"] in [each.value for each in transformers.SchedulerType]

    found = yaml.safe_load(axolotl.recipe(case)[axolotl.FILE])
    assert set(found) <= keys("axolotl", "config")
    for data in found["datasets"]:
        assert set(data) <= keys("axolotl", "dataset")
        assert set(data["type"] if isinstance(data["type"], dict) else ()) <= keys("axolotl", "prompts")

    files = llamafactory.recipe(case)
    assert set(yaml.safe_load(files[llamafactory.FILE])) <= keys("llamafactory", "arguments")
    described = json.loads(files[llamafactory.DATA_FILE])["study"]
    for part, names in (("dataset", described), ("columns", described["columns"]), ("tags", described.get("tags", {}))):
        assert set(names) <= keys("llamafactory", part)

    found = yaml.safe_load(litgpt.recipe(case)[litgpt.FILE])
    assert set(found) <= keys("litgpt", "finetune_lora")
    assert set(found["train"]) <= keys("litgpt", "train")
    assert set(found["eval"]) <= keys("litgpt", "eval")
    assert set(found["data"]["init_args"]) <= keys("litgpt", "data.JSON")


def test_every_tool_is_told_the_same_training() -> None:
    case = CASES["plain"]
    arguments, lora = script(case)
    other = yaml.safe_load(axolotl.recipe(case)[axolotl.FILE])
    third = yaml.safe_load(llamafactory.recipe(case)[llamafactory.FILE])
    fourth = yaml.safe_load(litgpt.recipe(case)[litgpt.FILE])
    optimizer = fourth["optimizer"]["init_args"]
    for expected, *found in (
        (16, lora["r"], other["lora_r"], third["lora_rank"], fourth["lora_r"]),
        (32, lora["lora_alpha"], other["lora_alpha"], third["lora_alpha"], fourth["lora_alpha"]),
        (0.05, lora["lora_dropout"], other["lora_dropout"], third["lora_dropout"], fourth["lora_dropout"]),
        (2e-4, arguments["learning_rate"], other["learning_rate"], third["learning_rate"], optimizer["lr"]),
        (0.01, arguments["weight_decay"], other["weight_decay"], third["weight_decay"], optimizer["weight_decay"]),
        ("cosine", arguments["lr_scheduler_type"], other["lr_scheduler"], third["lr_scheduler_type"]),
        (
            4,
            arguments["warmup_steps"],
            other["warmup_steps"],
            third["warmup_steps"],
            fourth["train"]["lr_warmup_steps"],
        ),
        (16, arguments["per_device_train_batch_size"], other["micro_batch_size"], fourth["train"]["micro_batch_size"]),
        (1, arguments["gradient_accumulation_steps"], other["gradient_accumulation_steps"]),
        (2, arguments["num_train_epochs"], other["num_epochs"], third["num_train_epochs"]),
        (126, fourth["train"]["max_steps"]),  # twice the 63 batches of 1001 examples
        (300, arguments["max_length"], other["sequence_len"], third["cutoff_len"], fourth["train"]["max_seq_length"]),
        (1.0, arguments["max_grad_norm"], other["max_grad_norm"], third["max_grad_norm"]),
        (7, arguments["seed"], other["seed"], third["seed"], fourth["seed"]),
        (False, other["train_on_inputs"], third["train_on_prompt"], not fourth["data"]["init_args"]["mask_prompt"]),
    ):
        assert found == [expected] * len(found)
    assert lora["target_modules"] == other["lora_target_modules"] == third["lora_target"].split(",")
    assert (fourth["lora_query"], fourth["lora_projection"], fourth["lora_mlp"]) == (True, True, False)
    assert (arguments["model_init_kwargs"]["dtype"], other["bf16"], third["bf16"]) == ("bfloat16", True, True)
    assert fourth["precision"] == "bf16-true"


def test_steps_and_micro_batches_are_the_studys() -> None:
    arguments, _ = script(CASES["steps"])
    assert (arguments["max_steps"], arguments["warmup_steps"]) == (40, 5)
    assert "num_train_epochs" not in arguments
    assert (arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]) == (4, 4)


def test_prompts_are_the_studys() -> None:
    prompts = yaml.safe_load(axolotl.recipe(CASES["plain"])[axolotl.FILE])["datasets"][0]["type"]
    row = {"instruction": "Do.", "input": "This.", "output": "Done."}
    assert prompts["format"].format(**row) == alpaca_prompt(row)
    assert prompts["no_input_format"].format(**row) == alpaca_prompt({**row, "input": ""})


ROWS = [
    {"instruction": "Name a pump.", "output": "P-1"},
    {"instruction": "What is wrong?", "input": "Pump P-1 is loud.", "output": "A bearing."},
    {"instruction": "Say nothing.", "input": None, "output": ""},
    {"instruction": "Be long. " * 40, "output": "Cut."},
    {"instruction": " ", "output": ""},
]
DOLLYS = [
    {"instruction": "When?", "context": "It was May.", "response": "In May."},
    {"instruction": "Now?", "response": "No.", "system": "Be terse.", "history": [["Why?", "Rust."], ["So?", " Oil."]]},
    {"instruction": "Which?", "response": "the red</s>the pump\n\n### Response:\nleaks"},
]


@pytest.mark.parametrize("loss_on", ["answer", "all"])
@pytest.mark.parametrize("rows", [ROWS, DOLLYS])
@pytest.mark.parametrize("spaced", [False, True])
def test_the_script_trains_on_the_very_tokens_of_the_study(
    loss_on: str, rows: list[dict[str, Any]], spaced: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from partune.demo import DIRECTORY

    tokenizer = spaced_tokenizer("llama") if spaced else AutoTokenizer.from_pretrained(DIRECTORY / "model")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = config.Data(path=str(tmp_path / "rows.json"), max_length=60, loss_on=loss_on)  # type: ignore[arg-type]
    expected = tokenise(data, tokenizer).cut(60, data.loss_on)
    section = {"path": "rows.json", "max_length": 60, "loss_on": loss_on}
    text = trl.recipe(chosen(data=section, fields=expected.summary["fields"]))[trl.FILE]
    known: dict[str, Any] = {"tokenizer": tokenizer}
    plain = [
        node
        for node in ast.parse(text).body
        if isinstance(node, (ast.FunctionDef, ast.Import))
        or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))
    ]
    exec(compile(ast.Module(plain, []), "recipe", "exec"), known)
    found = [known["tokenised"](row) for row in rows if known["has_text"](row)]
    found = [each for each in found if known["has_loss"](each)]
    assert len(found) == len(expected)
    for i, each in enumerate(found):
        tokens, trained = expected.example(i)
        assert each["input_ids"] == tokens.tolist()
        assert [label != -100 for label in each["labels"]][1:] == trained.tolist()[1:]


def test_fields_of_the_rows_are_handed_on_or_what_is_not_is_said() -> None:
    fields = {"instruction": "instruction", "input": "context", "output": "response", "history": "history"}
    texts = _texts(chosen(fields=fields))
    prompts = yaml.safe_load(texts["axolotl"])["datasets"][0]["type"]
    assert (prompts["field_input"], prompts["field_output"]) == ("context", "response")
    columns = json.loads(llamafactory.recipe(chosen(fields=fields))[llamafactory.DATA_FILE])["study"]["columns"]
    known = {"prompt": "instruction", "query": "context", "response": "response", "history": "history"}
    assert columns == known
    said = {tool: " ".join(text.replace("\n#", " ").split()) for tool, text in texts.items()}
    for tool, name in (("axolotl", "axolotl"), ("litgpt", "LitGPT")):
        assert f"The study used the rows' history; {name} does not" in said[tool]
    for tool in ("trl", "llamafactory"):
        assert "The study used the rows'" not in said[tool]
    assert "Rename the rows' fields first: context to input, response to output." in said["litgpt"]
    chats = _texts(chosen(rows="chat", fields={"messages": "messages", "tools": "tools", "weight": "weight"}, apart=3))
    for tool, text in chats.items():
        flat = " ".join(text.replace("\n#", " ").split())
        assert f"The study used the rows' {'weight' if tool == 'trl' else 'tools, weight'};" in flat
        assert "Answers that the chat template writes otherwise once a chat goes on (3) were trained" in flat


def test_what_a_tool_cannot_do_is_said() -> None:
    said = {tool: " ".join(re.findall(r"^[#-] (.*)$", each, re.M)) for tool, each in _texts(CASES["sgd"]).items()}
    assert "optimizer sgd" in said["litgpt"]
    assert "schedule constant" in said["litgpt"]
    for tool in ("litgpt", "axolotl", "llamafactory"):
        assert "lora_alpha is 7.5 in the study" in said[tool] or "lora_alpha 7.5" in said[tool]
    arguments, lora = script(CASES["sgd"])
    assert (arguments["optim"], arguments["optim_args"], lora["lora_alpha"]) == ("sgd", "momentum=0.9", 7.5)
    texts = _texts(CASES["all"])
    assert "Unpack the data first" in texts["litgpt"]
    assert "the study used the first 9" in texts["litgpt"]
    assert "Unpack the data first" in texts["llamafactory"]
    assert "LitGPT reads no chat rows" in _texts(CASES["chat"])["litgpt"]
    assert "adapt their kind in every block" in " ".join(_texts(CASES["whole"])["litgpt"].split("\n# "))


NASTY = 'a: {b} #c\n"q" \'s\' <script> \\x `t` """ ${HOME} %s é'


@pytest.mark.parametrize("tool", TOOLS)
def test_whatever_is_in_a_name_stays_a_value(tool: str) -> None:
    case = chosen(model={"path": NASTY, "revision": NASTY}, data={"path": NASTY + ".json"}, targets=("q\n: proj",))
    for name, text in RECIPES[tool](case).items():
        if name.endswith(".py"):
            assigned = {
                node.targets[0].id: node.value
                for node in ast.parse(text).body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            assert ast.literal_eval(assigned["MODEL"]) == NASTY
            assert ast.literal_eval(assigned["DATA"]) == NASTY + ".json"
        elif name.endswith(".json"):
            assert json.loads(text)["study"]["file_name"] == NASTY + ".json"
        else:
            found = yaml.safe_load(text)
            plain = yaml.safe_load(RECIPES[tool](chosen(model={"path": "m", "revision": "r"}))[name])
            assert set(found) == set(plain)
            assert NASTY in found.values() or tool == "litgpt"  # which wants a folder of its own


def test_paths_are_from_the_recipes_folder_and_homes_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / "home" / "ada", tmp_path / "home" / "ada" / "lora"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    given = {"model": {"path": str(home / "models" / "base")}, "data": {"path": str(work / "rows.json")}}
    inside = chosen(**given, here=work / "out" / "recipes")
    assert (inside.base, inside.file) == ("~/models/base", "../../rows.json")
    assert chosen(**given, here=tmp_path / "out").file == "~/lora/rows.json"
    assert chosen(model={"path": "/home/bob/base"}).base == "~/base"
    assert chosen(model={"path": "/srv/base"}).base == "/srv/base"
    for text in _texts(inside).values():
        assert str(home) not in text
    assert "Write the home folder out" in _texts(inside)["axolotl"]
    assert "MODEL = str(Path('~/models/base').expanduser())" in _texts(inside)["trl"]


def _texts(case: Chosen) -> dict[str, str]:
    return {tool: "\n".join(recipe(case).values()) for tool, recipe in RECIPES.items()}


def test_a_bases_own_dropout_is_off_in_every_recipe() -> None:
    """As in the study. Oracle: what transformers makes of the arguments that a recipe gives it."""
    from transformers import GPT2Config

    case = chosen(dropout={"resid_pdrop": 0.1, "attn_pdrop": 0.1, "text_config.attention_dropout": 0.1})
    loaded, _ = script(case)
    given = {name: value for name, value in loaded["model_init_kwargs"].items() if "drop" in name}
    settings, unknown = GPT2Config.from_dict(GPT2Config().to_dict(), return_unused_kwargs=True, **given)
    assert (settings.resid_pdrop, settings.attn_pdrop, settings.embd_pdrop, unknown) == (0.0, 0.0, 0.1, {})
    texts = _texts(case)
    assert yaml.safe_load(texts["axolotl"])["overrides_of_model_config"] == {"resid_pdrop": 0.0, "attn_pdrop": 0.0}
    said = {tool: " ".join(text.replace("\n#", " ").split()) for tool, text in texts.items()}
    for tool in ("trl", "axolotl"):
        assert "Set text_config.attention_dropout to 0 in the base's config.json first" in said[tool]
    everything = "Set resid_pdrop, attn_pdrop, text_config.attention_dropout to 0 in the base's config.json first"
    assert everything in said["llamafactory"]
    assert "config.json first" not in said["litgpt"]  # its models have no dropout
    assert not any("config.json first" in text for text in _texts(chosen()).values())
