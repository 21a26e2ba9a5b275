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

import pytest
import yaml

from partune.export.recipes import axolotl, litgpt, llamafactory, trl
from partune.export.recipes.write import RECIPES
from tests.support.chosen import chosen
from tests.support.recipes import CASES, KEYS, script, texts


def test_recipes_are_written_for_the_versions_whose_keys_are_known() -> None:
    versions = {"trl": trl.VERSION, "litgpt": litgpt.VERSION, "axolotl": axolotl.VERSION}
    assert {tool: KEYS[tool]["version"] for tool in RECIPES} == {**versions, "llamafactory": llamafactory.VERSION}


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
        (0.0, arguments["weight_decay"], other["weight_decay"], third["weight_decay"], optimizer["weight_decay"]),
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


def test_fields_of_the_rows_are_handed_on_or_what_is_not_is_said() -> None:
    fields = {"instruction": "instruction", "input": "context", "output": "response", "history": "history"}
    files = texts(chosen(fields=fields))
    prompts = yaml.safe_load(files["axolotl"])["datasets"][0]["type"]
    assert (prompts["field_input"], prompts["field_output"]) == ("context", "response")
    columns = json.loads(llamafactory.recipe(chosen(fields=fields))[llamafactory.DATA_FILE])["study"]["columns"]
    known = {"prompt": "instruction", "query": "context", "response": "response", "history": "history"}
    assert columns == known
    said = {tool: " ".join(text.replace("\n#", " ").split()) for tool, text in files.items()}
    for tool, name in (("axolotl", "axolotl"), ("litgpt", "LitGPT")):
        assert f"The study used the rows' fields history; {name} ignores" in said[tool]
    for tool in ("trl", "llamafactory"):
        assert "The study used the rows'" not in said[tool]
    assert "Rename the rows' fields first: context to input, response to output." in said["litgpt"]
    chats = texts(
        chosen(rows="chat", fields={"messages": "messages", "tools": "tools", "weight": "weight"}, separate_answers=3)
    )
    for tool, text in chats.items():
        flat = " ".join(text.replace("\n#", " ").split())
        assert f"The study used the rows' fields {'weight' if tool == 'trl' else 'tools, weight'};" in flat
        assert "The chat template writes some answers (3) differently" in flat


def test_what_a_tool_cannot_do_is_said() -> None:
    said = {tool: " ".join(re.findall(r"^[#-] (.*)$", each, re.M)) for tool, each in texts(CASES["sgd"]).items()}
    assert "optimizer sgd" in said["litgpt"]
    assert "schedule constant" in said["litgpt"]
    for tool in ("litgpt", "axolotl", "llamafactory"):
        assert "lora_alpha is 7.5 in the study" in said[tool] or "lora_alpha 7.5" in said[tool]
    arguments, lora = script(CASES["sgd"])
    assert (arguments["optim"], arguments["optim_args"], lora["lora_alpha"]) == ("sgd", "momentum=0.9", 7.5)
    files = texts(CASES["all"])
    assert "Unpack the data first" in files["litgpt"]
    assert "the study used the first 9" in files["litgpt"]
    assert "Unpack the data first" in files["llamafactory"]
    assert "LitGPT cannot read chats" in texts(CASES["chat"])["litgpt"]
    assert "adapt all layers of a type, in every block" in " ".join(texts(CASES["whole"])["litgpt"].split("\n# "))


NASTY = 'a: {b} #c\n"q" \'s\' <script> \\x `t` """ ${HOME} %s é'


@pytest.mark.parametrize("tool", RECIPES)
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


@pytest.mark.parametrize("tool", RECIPES)
@pytest.mark.parametrize("end", ["", '"', "\\", "\n# x: 1\nlora_r: 1\n", "\u2028y: 1"])
def test_whatever_is_in_a_name_stays_in_its_comment(tool: str, end: str) -> None:
    """Oracle: the same recipe with a plain name, apart from the comments."""
    nasty, plain = (
        chosen(
            data={"path": f"{name}.csv", "columns": {"instruction": name, "output": "y"}},
            layout="alpaca",
            fields={"instruction": name, "output": "y", "history": name},
        )
        for name in (NASTY + end, "plain")
    )
    for name, text in RECIPES[tool](nasty).items():
        other = RECIPES[tool](plain)[name]
        if name.endswith(".py"):
            found, expected = (ast.dump(ast.Module(ast.parse(each).body[1:], [])) for each in (text, other))
        else:
            found, expected = (str(yaml.safe_load(each)) for each in (text, other))
        assert found == expected


def test_a_bases_own_dropout_is_off_in_every_recipe() -> None:
    """As in the study. Oracle: what transformers makes of the arguments that a recipe gives it."""
    from transformers import GPT2Config

    case = chosen(dropout={"resid_pdrop": 0.1, "attn_pdrop": 0.1, "text_config.attention_dropout": 0.1})
    loaded, _ = script(case)
    given = {name: value for name, value in loaded["model_init_kwargs"].items() if "drop" in name}
    settings, unknown = GPT2Config.from_dict(GPT2Config().to_dict(), return_unused_kwargs=True, **given)
    assert (settings.resid_pdrop, settings.attn_pdrop, settings.embd_pdrop, unknown) == (0.0, 0.0, 0.1, {})
    files = texts(case)
    assert yaml.safe_load(files["axolotl"])["overrides_of_model_config"] == {"resid_pdrop": 0.0, "attn_pdrop": 0.0}
    said = {tool: " ".join(text.replace("\n#", " ").split()) for tool, text in files.items()}
    for tool in ("trl", "axolotl"):
        assert "First set text_config.attention_dropout to 0 in the base model's config.json" in said[tool]
    everything = "First set resid_pdrop, attn_pdrop, text_config.attention_dropout to 0 in the base model's config.json"
    assert everything in said["llamafactory"]
    assert "config.json first" not in said["litgpt"]  # its models have no dropout
    assert not any("config.json first" in text for text in texts(chosen()).values())
