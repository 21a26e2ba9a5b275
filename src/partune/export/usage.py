"""Write the parts of the model card that say how to load, prompt and serve the export."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from partune.export.chosen import Chosen, name_of
from partune.finetune.data import PROMPT, PROMPT_WITH_INPUT
from partune.finetune.model import DTYPES
from partune.runtime.markdown import fenced

HERE = "this/folder"  # the export, in the code of the card
SERVERS = ("vllm", "transformers")
QUESTION = "Name the three primary colours."
BEGINNING = "The three primary colours are"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM 0.8 to 0.12 accept for --max-lora-rank, from 8

FOUR_BITS = """\
four_bits = BitsAndBytesConfig(  # the precision of the base model in training and scoring
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.{dtype},
)"""
ANSWER = """\
output = model.generate(input_ids=tokens, attention_mask=inputs.attention_mask{cut}, max_new_tokens=200)
print(tokenizer.decode(output[0, tokens.shape[1] :], skip_special_tokens=True))"""


@dataclass(frozen=True)
class Tokenizer:
    """Facts about an export's tokenizer that its prompts depend on.

    Attributes:
        end: The number of tokens, such as EOS, that it appends to every text.
        parts: Whether its chat template takes the content of a message as a list of parts.
    """

    end: int = 0
    parts: bool = False


def usage(chosen: Chosen, merged: bool, tokenizer: Tokenizer | None, quantized: bool = False) -> list[str]:
    """Return the paragraphs of the card on how to use the export.

    Args:
        chosen: The settings with which the exported trial was trained.
        merged: Whether the export is a model with the adapter merged in.
        tokenizer: The tokenizer in the export; None if there is none.
        quantized: Whether the weights of the merged model are quantized.
    """
    return [
        "## How to load it",
        *(["The weights are quantized, so the loader needs bitsandbytes (`pip install bitsandbytes`)."] * quantized),
        _loading(chosen, merged, tokenizer is not None),
        *_prompts(chosen),
        "To get an answer, after the lines above:",
        fenced("\n".join(_example(chosen, tokenizer)), "python"),
        "## How to serve it",
        *_serving(chosen, merged, tokenizer is not None),
    ]


def _base(chosen: Chosen) -> str:
    """Return the name of the base model in the code of the card."""
    return chosen.model.path if chosen.has_id else f"path/to/{name_of(chosen.model.path)}"


def _loading(chosen: Chosen, merged: bool, tokenizer: bool) -> str:
    base = HERE if merged else _base(chosen)
    options = "" if chosen.model.revision is None or merged else f", revision={chosen.model.revision!r}"
    options += ", trust_remote_code=True" if chosen.model.trust_remote_code else ""
    tokenizer_arguments = f"{HERE!r}" if tokenizer else f"{base!r}{options}"
    four_bits = not merged and chosen.model.quantize != "none"
    if four_bits:
        options += ", quantization_config=four_bits"
    lines = [
        *(["import torch"] if four_bits else []),
        *([] if merged else ["from peft import PeftModel"]),
        f"from transformers import AutoModelForCausalLM, AutoTokenizer{', BitsAndBytesConfig' if four_bits else ''}",
        "",
        *(FOUR_BITS.format(dtype=DTYPES[chosen.dtype]).splitlines() if four_bits else []),
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer_arguments})",
        f"model = AutoModelForCausalLM.from_pretrained({base!r}{options})",
        *([] if merged else [f'model = PeftModel.from_pretrained(model, "{HERE}")']),
    ]
    return fenced("\n".join(lines), "python")


def _prompts(chosen: Chosen) -> list[str]:
    if chosen.rows == "chat":
        if chosen.template is None:
            return ["The adapter was trained on chats, rendered with the tokenizer's chat template."]
        return ["The adapter was trained on chats, rendered with this template:", fenced(chosen.template)]
    if chosen.rows == "completion":
        return ["The adapter was trained on prompts as they are, without a template, each followed by its completion."]
    if chosen.rows == "text":
        return ["The adapter was trained on plain texts, without prompts."]
    return [
        "The adapter was trained with Alpaca's prompts, without an input:",
        fenced(PROMPT),
        "and with an input:",
        fenced(PROMPT_WITH_INPUT),
    ]


def _example(chosen: Chosen, tokenizer: Tokenizer | None) -> list[str]:
    """Return the code that prompts the loaded model as in training, and prints its answer."""
    end = 0 if tokenizer is None else tokenizer.end
    cut = f"[:, :-{end}]" if end and chosen.rows != "chat" else ""
    if chosen.rows == "chat":
        content = f'[{{"type": "text", "text": "{QUESTION}"}}]' if tokenizer and tokenizer.parts else f'"{QUESTION}"'
        lines = [
            *([] if tokenizer or chosen.template is None else [f"tokenizer.chat_template = {chosen.template!r}"]),
            f'messages = [{{"role": "user", "content": {content}}}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ").to(model.device)",
        ]
    else:
        prompt = PROMPT.format(instruction=QUESTION) if chosen.rows == "alpaca" else BEGINNING
        lines = [f'prompt = """{prompt}"""', 'inputs = tokenizer(prompt, return_tensors="pt").to(model.device)']
    note = "  # without what the tokenizer appends to every text, such as EOS" if cut else ""
    return [*lines, f"tokens = inputs.input_ids{cut}{note}", *ANSWER.format(cut=cut).splitlines()]


def _serving(chosen: Chosen, merged: bool, tokenizer: bool) -> list[str]:
    """Return paragraphs on serving the export with vLLM and with `transformers serve`, which loads no adapters."""
    trust = ["--trust-remote-code"] if chosen.model.trust_remote_code else []
    # vLLM uses the tokenizer's chat template. The base model's tokenizer may have another template than the export's.
    own = ["--tokenizer", HERE] if tokenizer and not merged and chosen.rows == "chat" else []
    if merged:
        return [fenced("\n".join(shlex.join([server, "serve", HERE, *trust]) for server in SERVERS), "sh")]
    rank = next((rank for rank in RANKS if rank >= chosen.training.lora_r), None)
    without = "`transformers serve` loads no adapters: export with `--merge`, and serve that folder."
    if rank is None:
        return [f"vLLM loads no adapters of a rank above {RANKS[-1]}. {without}"]
    command = [
        "vllm",
        "serve",
        _base(chosen),
        *(["--revision", chosen.model.revision] if chosen.model.revision is not None else []),
        *trust,
        *own,
        *(["--quantization", "bitsandbytes"] if chosen.model.quantize != "none" else []),
        "--enable-lora",
        *("--max-lora-rank", str(rank)),
        *("--lora-modules", f"tuned={HERE}"),
    ]
    return [fenced(shlex.join(command), "sh"), f"vLLM's requests name the model `tuned`. {without}"]
