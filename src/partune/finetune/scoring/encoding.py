"""Tokenise the requests of lm-evaluation-harness ("the harness"), each by its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from partune.errors import UserError
from partune.finetune.model import Base
from partune.finetune.scoring.base import Prompt, Request
from partune.finetune.scoring.decoding import LIMITS, GenerationSettings
from partune.finetune.scoring.harness import encoder
from partune.finetune.scoring.harness_generation import prompt_encoder

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


def request_encoder(base: Base, changes: Mapping[str, Any]) -> Callable[[list[Instance]], list[list[Request]]]:
    """Return a function that tokenises requests of the harness; each becomes one of ours, or several.

    A text whose likelihood is asked for as a whole becomes one request for each window of the model's context. An
    answer of which several samples are asked for becomes one request for each sample.

    Args:
        base: The base model, whose tokenizer and context length are used.
        changes: Entries of `generation_kwargs` that replace those of the tasks.
    """
    likelihoods, prompts = encoder(base), prompt_encoder(base)

    def whole(text: str) -> list[Request]:
        """Return the windows of a text, as HFLM makes them."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        tokens, start = prompts([text])[0], _first_token(base)
        windows = map(make_disjoint_window, get_rolling_token_windows(tokens, start, base.context, 1))
        return [(("", text), list(before), list(window)) for before, window in windows]

    def prompt(text: str, kwargs: Mapping[str, Any], task: str) -> Prompt:
        """Return a prompt; raise UserError if the task's settings cannot be used."""
        try:
            settings = GenerationSettings.of(changed(kwargs, changes))
        except UserError as error:
            raise UserError(f"task {task}: {error}") from None
        try:
            settings.room(base.context)
        except UserError as error:
            raise UserError(f"task {task}: {error}; `--max-new-tokens` sets another number") from None
        return Prompt(text, tuple(prompts([text])[0]), settings)

    def encode(instances: list[Instance]) -> list[list[Request]]:
        """Return our requests for each request of the harness."""
        simple = [instance for instance in instances if instance.request_type == "loglikelihood"]
        continuations = iter(likelihoods(simple) if simple else [])
        found: list[list[Request]] = []
        for instance in instances:
            if instance.request_type == "loglikelihood":
                found.append([next(continuations)])
            elif instance.request_type == "loglikelihood_rolling":
                found.append(whole(instance.args[0]))
            else:
                text, kwargs = instance.args[:2]
                found.append([prompt(text, kwargs, str(instance.task_name))] * (instance.repeats or 1))
        return found

    return encode


def changed(kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `generation_kwargs` of a task with some entries replaced.

    Args:
        kwargs: The task's entries.
        changes: The new entries.
    """
    kept = dict(kwargs)
    if "max_gen_toks" in changes:
        kept = {name: value for name, value in kept.items() if name not in LIMITS}
    if "temperature" in changes:
        kept = {name: value for name, value in kept.items() if name not in ("do_sample", "top_p", "top_k")}
    return kept | dict(changes)


def _first_token(base: Base) -> int:
    """Return the token that HFLM puts before a text without context."""
    start = base.tokenizer.bos_token_id
    return int(base.tokenizer.eos_token_id if start is None else start)
