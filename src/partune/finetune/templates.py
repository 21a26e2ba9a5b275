"""Chat templates by name, for tokenizers that have none.

Each follows the published description of a format, with a system prompt and without tools. If the tokenizer has no
tokens for the format's marks, they are ordinary text, which a model can learn too.
"""

from __future__ import annotations

# OpenAI, "Chat Markup Language", openai-python v0.27, chatml.md
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Meta, "Llama 3: model cards and prompt formats"; contents are stripped, as in Meta's own code
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

# These formats have no system turn: the system prompt begins the user's first turn.
_SYSTEM_FIRST = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\n\n' %}"
)

# Mistral AI, "Tokenization: chat templates", the format of Mistral-7B-Instruct-v0.3
MISTRAL = (
    _SYSTEM_FIRST + "{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ ns.system + message['content'] }}[/INST]{% set ns.system = '' %}{% endif %}{% endfor %}"
)

# Google, "Gemma formatting and system instructions"
GEMMA = (
    _SYSTEM_FIRST + "{% elif message['role'] == 'assistant' %}<start_of_turn>model\n"
    "{{ message['content'] | trim }}<end_of_turn>\n"
    "{% else %}<start_of_turn>{{ message['role'] }}\n{{ ns.system + (message['content'] | trim) }}<end_of_turn>\n"
    "{% set ns.system = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

# Microsoft, model card of Phi-3-mini-4k-instruct, "Chat Format"
PHI3 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

# Hugging Face, model card of zephyr-7b-beta
ZEPHYR = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

# Stanford Alpaca's prompt in LitGPT's version, with more turns as in LLaMA-Factory: what Alpaca rows are trained as
ALPACA = (
    "{{ bos_token }}{% if messages and messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}"
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "{% endif %}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% elif message['role'] != 'system' %}{{ '\n\n### Instruction:\n' + message['content'] }}\n\n### Response:\n"
    "{% endif %}{% endfor %}"
)

TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi3": PHI3,
    "zephyr": ZEPHYR,
    "alpaca": ALPACA,
}

# The marks that are special tokens in the vocabularies of the formats' own models. Zephyr's and Alpaca's are ordinary
# text there too, and Mistral's are in the first versions.
SPECIAL_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "phi3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
}
