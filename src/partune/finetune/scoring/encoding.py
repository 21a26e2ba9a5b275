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


def request_encoder(base: Base) -> Callable[..., list[list[Request]]]:
    """Return a function that turns each request of the harness into one or more requests of partune.

    A rolling likelihood becomes one request per context window. A generation with `repeats` becomes one request per
    repeat. The function takes the requests and, optionally, entries of `generation_kwargs` that replace the tasks' own.

    Args:
        base: The base model, whose tokenizer and context length are used.
    """
    likelihoods, prompts = encoder(base), prompt_encoder(base)

    def whole(text: str) -> list[Request]:
        """Return the windows of a text, as HFLM makes them."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        tokens, start = prompts([text])[0], _first_token(base)
        windows = map(make_disjoint_window, get_rolling_token_windows(tokens, start, base.context, 1))
        return [(("", text), list(before), list(window)) for before, window in windows]

    def prompt(text: str, kwargs: Mapping[str, Any], task: str) -> Prompt:
        """Return a prompt; raise UserError if its settings are not supported."""
        try:
            settings = GenerationSettings.of(kwargs)
        except UserError as error:
            raise UserError(f"task {task}: {error}") from None
        try:
            settings.room(base.context)
        except UserError as error:
            raise UserError(
                f"task {task}: {error}; choose fewer, such as `--max-new-tokens {base.context // 2}`"
            ) from None
        return Prompt(text, tuple(prompts([text])[0]), settings)

    def encode(instances: list[Instance], changes: Mapping[str, Any] | None = None) -> list[list[Request]]:
        """Return partune's requests for each request of the harness."""
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
                one = prompt(text, with_changes(kwargs, changes or {}), str(instance.task_name))
                found.append([one] * (instance.repeats or 1))
        return found

    return encode


def with_changes(kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `generation_kwargs` of a task with some entries replaced.

    Args:
        kwargs: The task's entries.
        changes: The new entries.
    """
    kept = dict(kwargs)
    if "max_gen_toks" in changes:
        kept = {name: value for name, value in kept.items() if name not in LIMITS}
    if "temperature" in changes:
        greedy = ("top_p", "top_k") if changes["temperature"] == 0 else ()
        kept = {name: value for name, value in kept.items() if name not in ("do_sample", *greedy)}
    return kept | dict(changes)


def _first_token(base: Base) -> int:
    """Return the token that HFLM puts before a text without context."""
    start = base.tokenizer.bos_token_id
    return int(base.tokenizer.eos_token_id if start is None else start)
