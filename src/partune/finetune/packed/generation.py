"""Generate answers to prompts with all trials of a pack in the same forward passes.

    rows of a forward pass   (R, T): trial by trial; at first R = K b, one row per trial and prompt

Without sampling, the tokens are those that transformers' `generate` would give for each adapter and prompt alone:

- Prompts are sorted by length and divided into batches. The tokens with which all prompts of a batch begin, such as
  worked examples, are encoded and kept once per trial (`prefix`). The rest is encoded in passes with padding on the
  right, which does not affect the real tokens of a causal model. Then each pass adds one token to all rows of the
  batch, with keys and values from a cache.
- A row that has ended leaves the batch. Trials may then have different numbers of rows.
- Rows share passes only if their lengths have the same rotary frequencies, from the prompt to the last token.

Not every model can be decoded in this way: padding would change a recurrent state. So whenever rows become longer than
any checked before, a row of that length and a shorter one are decoded this way and compared with passes over whole
rows. If the logits differ, or rotary frequencies change as a row grows, transformers' `generate` answers one prompt
after another, each for all trials at once. If they differ only when the rows share a prefix, no prefix is shared.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from partune.finetune.model import Base, check_vocabulary
from partune.finetune.packed.adapters import Carrier, Pack, PackedLinear, Ragged
from partune.finetune.packed.cache import JoinedCache, RoomyLayer, empty_cache
from partune.finetune.packed.head import ELEMENTS, Head
from partune.finetune.packed.likelihoods import TOKENS, carrying
from partune.finetune.packed.prefix import Prefix, attending
from partune.finetune.positions import frequencies
from partune.finetune.scoring.decoding import Draws, Ends, GenerationSettings, chooser, fitted, next_tokens
from partune.runtime.failures import is_out_of_memory, one_line
from partune.runtime.isolation import quiet

if TYPE_CHECKING:
    from transformers import Cache

MEMORY = 1 << 29  # bytes of keys and values of a batch on a CPU; on a GPU, it is a quarter of the free memory
CACHED = 4  # the capacity of a batch's cache, in passes of `tokens`, while the memory per token is not known
SHARED = 8  # the smallest number of common first tokens of a batch's prompts that are encoded only once
STEPS = 3  # the number of tokens that a check decodes one by one
LEAST = 4 * STEPS  # the smallest number of tokens of the longer row in a check
# Settings of a model's generation_config.json that change logits, apart from sampling, and their neutral values.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "min_length": (0,), "min_new_tokens": (0,),
    "guidance_scale": (1, 1.0), "remove_invalid_values": (False,), "bad_words_ids": (), "sequence_bias": (),
    "forced_bos_token_id": (), "forced_eos_token_id": (), "exponential_decay_length_penalty": (),
    "suppress_tokens": (), "begin_suppress_tokens": (), "watermarking_config": (), "penalty_alpha": (),
}  # fmt: skip

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

log = logging.getLogger(__name__)


@dataclass
class Rows:
    """Rows that are decoded together.

    Attributes:
        pack: The adapters of the trials, including some that may have no rows left; None for the base model alone.
        trial: (R,), the trial of each row in the pack.
        number: (R,), each row's index in the batch at its start.
        positions: (R, 1), the position of each row's next token.
        real: (R, n), which tokens in the cache are not padding.
        cache: The keys and values of each row's own tokens so far.
        prefix: The keys and values of the tokens before them, which all rows of a trial share; None if there are none.
        ragged: Which rows each trial has; None if each trial has b rows, one trial after another.
    """

    pack: Pack | None
    trial: Ints
    number: Ints
    positions: Tensor
    real: Tensor
    cache: Cache
    prefix: Prefix | None = None
    ragged: Ragged | None = None

    @property
    def cache_bytes(self) -> int:
        """The number of bytes of all keys and values."""
        parts = [part for layer in self.cache.layers for part in (layer.keys, layer.values) if part is not None]
        return sum(part.numel() * part.element_size() for part in parts)

    def keep(self, going: Bools) -> Tensor:
        """Drop rows, and padding that all other rows share; return the indices of the rows that stay, (R,).

        The last rows move to the places of dropped rows, so that few rows are copied. When half of the trials have no
        rows left, the adapters of these trials are dropped.

        Args:
            going: (R,), whether each row stays.
        """
        count = int(going.sum())
        places, moved = np.flatnonzero(~going[:count]), count + np.flatnonzero(going[count:])
        order = np.arange(count)
        order[places] = moved
        rows = torch.from_numpy(order).to(self.real.device)
        self.trial, self.number = self.trial[order], self.number[order]
        self.positions, self.real = self.positions[rows], self.real[rows]
        shared = 0 if self.prefix is None else self.prefix.length
        start = self.real.shape[1] - (int(self.positions.max()) - shared)
        self.real = self.real[:, start:]
        for layer in self.cache.layers:
            if isinstance(layer, RoomyLayer):
                layer.keep(count, torch.from_numpy(places), torch.from_numpy(moved), start)
        if self.pack is not None:
            left = np.unique(self.trial)
            if 2 * len(left) <= len(self.pack):
                self.pack, self.trial = self.pack.only(left.tolist()), np.searchsorted(left, self.trial)
                self.prefix = None if self.prefix is None else self.prefix.only(left.tolist())
            self.ragged = Ragged.of(self.trial, len(self.pack), self.real.device)
        return rows


class PackedGeneration:
    """Generate answers with a base model and with packs of adapters on it.

    Args:
        base: The base model.
        head: The head of the base model.
        tokens: The number of tokens in a forward pass, over all trials; None takes the default of the device.
    """

    def __init__(self, base: Base, head: Head, tokens: int | None = None) -> None:
        self.base, self.head = base, head
        self.tokens = tokens or TOKENS.get(base.device.type, TOKENS["cpu"])
        self.cached = CACHED * self.tokens  # the number of tokens in a batch's cache
        self._frequencies = frequencies(base.model.config)
        self._token_bytes = 0  # the bytes of a token's keys and values; 0 while they are not known
        self._checked = 0  # the largest number of tokens of a row for which a check has passed
        self._failed = math.inf  # the smallest number for which one has failed
        # Whether rows may be decoded together. The first check is made at once, the next ones for longer rows.
        self.shares = True  # whether what prompts have in common at their beginning may be encoded once
        self.joint = not _special(base)
        self.joint = self.joint and self._agrees(LEAST)
        if tokens is None and self._token_bytes:
            self.cached = self._memory() // self._token_bytes

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        carrier: Carrier | None = None,
        pack: Pack | None = None,
        before_pass: Callable[[], None] = lambda: None,
    ) -> list[list[list[int]]]:
        """Return the tokens of one answer per prompt, for each trial of the pack or for the base model alone.

        An answer ends with an end token, a token that completes a stop string, or the last token that is allowed.

        Args:
            prompts: The tokens of the prompts. Those that are too long lose their beginning.
            settings: How answers are generated.
            carrier: The base model with layers that apply the pack; None for the base model alone.
            pack: The trials' adapters.
            before_pass: Called before each forward pass. It may raise an exception to interrupt the generation.

        Raises:
            UserError: A prompt is empty or has a token that the model does not know, or the context is too short.
        """
        K = 1 if pack is None else len(pack)
        fit, _ = fitted(prompts, settings.room(self.base.context))
        check_vocabulary(self.base, "a prompt", max((max(prompt) for prompt in fit), default=0))
        task = _Task(fit, settings, carrier, pack, K, before_pass)
        answers: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(K)]
        together, alone = self._groups(task)
        for group in together:
            while group:
                size = min(self._size(task, group), len(group))
                try:
                    found = self._decode(task, group[:size])
                except Exception as error:
                    if not is_out_of_memory(error) or size == 1:
                        raise
                    # The next batch has half as many prompts. Memory may have run out in a pass over prompts, too.
                    self.cached = size // 2 * self._row(task, group) * task.K
                    self.tokens = min(self.tokens, max(self._row(task, group) * task.K, self.tokens // 2))
                else:
                    for index, by_trial in zip(group[:size], found, strict=True):
                        for trial, tokens in enumerate(by_trial):
                            answers[trial][index] = tokens
                    group = group[size:]
                    continue
                if self.base.device.type == "cuda":
                    torch.cuda.empty_cache()
        for index in alone:
            for trial, tokens in enumerate(self._plain(task, index)):
                answers[trial][index] = tokens
        return answers

    def _groups(self, task: _Task) -> tuple[list[list[int]], list[int]]:
        """Return groups of prompts that may share passes, the longest first, and the prompts that may not.

        If memory runs out, it then does so in the first batches.
        """
        order = sorted(range(len(task.prompts)), key=lambda index: -len(task.prompts[index]))
        groups: dict[Hashable, list[int]] = {}
        alone = []
        for index in order:
            length = len(task.prompts[index])
            last = length + task.settings.max_new_tokens - 1
            key = self._frequencies and self._frequencies(length)
            if self._frequencies is not None and key != self._frequencies(last):
                alone.append(index)
            else:
                groups.setdefault(key, []).append(index)
        together = []
        for group in groups.values():
            longest = self._row(task, group)
            if self.joint and self._checked < longest < self._failed and not self._agrees(longest):
                self._failed = longest
            if self.joint and longest < self._failed:
                together.append(group)
            else:
                alone += group
        return together, alone

    def _size(self, task: _Task, group: Sequence[int]) -> int:
        """Return how many prompts of a group, sorted by length, the next batch has."""
        common = self._common([task.prompts[index] for index in group])
        return max(1, self.cached // (task.K * (self._row(task, group) - common)))

    def _row(self, task: _Task, group: Sequence[int]) -> int:
        """Return the number of tokens of the longest row of a group, sorted by length, including its answer."""
        return len(task.prompts[group[0]]) + task.settings.max_new_tokens

    # ----- together

    @torch.inference_mode()
    def _decode(self, task: _Task, batch: Sequence[int]) -> list[list[list[int]]]:
        """Return the answers to a batch of prompts, the longest first: for each prompt, one per trial."""
        K, b, most = task.K, len(batch), task.settings.max_new_tokens
        prompts = [task.prompts[index] for index in batch]
        draws = Draws([task.settings.seed] * (K * b), list(batch) * K) if task.settings.samples else None
        ends = Ends(self.base, task.settings.until)
        rows, states = self._encode(task, prompts, self._common(prompts))
        written: Ints = np.zeros((K * b, most), np.int64)
        counts: Ints = np.full(K * b, most)
        live = np.ones(K * b, bool)  # for each row that the batch began with
        for step in range(most):
            chosen = self._choose(task, rows, states, None if draws is None else draws.at(step, rows.number))
            written[rows.number, step] = chosen.cpu().numpy()
            ended = ends.ended(written[rows.number, : step + 1]) & live[rows.number]
            counts[rows.number[ended]] = step + 1
            live[rows.number[ended]] = False
            going = live[rows.number]
            if step + 1 == most or not going.any():
                break
            if not going.all():
                chosen = chosen[rows.keep(going)]
            task.before_pass()
            states = self._step(task, rows, chosen)
        tokens = [row[:count].tolist() for row, count in zip(written, counts, strict=True)]
        return [tokens[index::b] for index in range(b)]

    def _encode(self, task: _Task, prompts: Sequence[Sequence[int]], begin: int) -> tuple[Rows, Tensor]:
        """Return the rows of encoded prompts, and the states (R, d) of their last tokens.

        Args:
            task: The pack.
            prompts: The tokens of the prompts, the longest first.
            begin: How many tokens at the beginning of all prompts are encoded only once; fewer than any prompt has.
        """
        K, b, device = task.K, len(prompts), self.base.device
        lengths, shared = [len(prompt) for prompt in prompts], empty_cache()
        if begin:
            task.before_pass()
            with carrying(task.carrier, task.pack):
                self.head.hidden(torch.tensor([prompts[0][:begin]] * K, device=device), cache=shared)
        prefix = Prefix.of(shared) if begin else None
        joined, states, first = JoinedCache(K, b, lengths[0] - begin), [], 0
        while first < b:
            width = lengths[first] - begin
            # Attention copies the beginning to every row, so the pass is also limited by the memory for it.
            most = min(self.tokens // (K * width), self.cached // (K * (begin + width)))
            part = prompts[first : first + max(1, most)]
            ids = np.zeros((len(part), width), np.int64)
            for row, prompt in enumerate(part):
                ids[row, : len(prompt) - begin] = prompt[begin:]
            cache = empty_cache()
            positions = torch.arange(begin, begin + width, device=device).unsqueeze(0)
            task.before_pass()
            with carrying(task.carrier, task.pack), attending(self.base.model, prefix, positions):
                passed = torch.from_numpy(ids).to(device).repeat(K, 1)
                hidden = self.head.hidden(passed, positions=positions, cache=cache)  # (K m, T, d)
            own = [length - begin for length in lengths[first : first + len(part)]]
            last = torch.tensor(own, device=device).repeat(K) - 1
            states.append(hidden[torch.arange(len(last), device=device), last].view(K, len(part), -1))
            joined.add(cache, first, own)
            first += len(part)
        positions = torch.tensor(lengths, device=device).repeat(K).unsqueeze(1)  # (K b, 1)
        real = torch.arange(lengths[0] - begin, device=device) >= lengths[0] - positions
        rows = Rows(task.pack, np.repeat(np.arange(K), b), np.arange(K * b), positions, real, joined.cache(), prefix)
        return rows, torch.cat(states, 1).flatten(0, 1)

    def _common(self, prompts: Sequence[Sequence[int]]) -> int:
        """Return how many tokens the prompts have in common at their beginning, if it pays to encode them only once.

        Every prompt keeps a token of its own, whose state predicts its first new token.
        """
        if not self.shares:
            return 0
        ordered = sorted(map(list, prompts))
        first, last = ordered[0], ordered[-1]  # in lexicographic order, so that all others lie between these two
        most = min(map(len, prompts)) - 1 if len(prompts) > 1 else 0
        common = next((n for n in range(most) if first[n] != last[n]), most)
        same = self._frequencies is None or self._frequencies(common) == self._frequencies(len(prompts[0]))
        return common if common >= SHARED and same else 0

    def _step(self, task: _Task, rows: Rows, tokens: Tensor) -> Tensor:
        """Return the states (R, d) after one more token of each row.

        Args:
            task: The prompts and the pack.
            rows: The rows; the tokens are appended to them.
            tokens: (R,), the tokens.
        """
        rows.real = torch.cat([rows.real, rows.real.new_ones(len(tokens), 1)], 1)
        seeing = attending(self.base.model, rows.prefix, rows.positions, rows.ragged)
        with carrying(task.carrier, rows.pack, rows.ragged), seeing:
            hidden = self.head.hidden(tokens.unsqueeze(1), rows.real, rows.positions, rows.cache)  # (R, 1, d)
        rows.positions = rows.positions + 1
        return hidden[:, 0]

    def _choose(self, task: _Task, rows: Rows, states: Tensor, draws: npt.NDArray[np.float64] | None) -> Tensor:
        """Return the next token of each row, (R,), in chunks of rows whose logits fit in memory."""
        vocabulary = int(self.base.model.config.get_text_config().vocab_size)
        size = max(1, ELEMENTS.get(self.base.device.type, ELEMENTS["cpu"]) // vocabulary)
        if isinstance(self.base.model.get_output_embeddings(), PackedLinear):
            size = len(states)  # chunks cannot be used, because each would need rows of all trials
        chosen = []
        for start in range(0, len(states), size):
            with carrying(task.carrier, rows.pack, rows.ragged):
                logits = self.head.logits(states[start : start + size].unsqueeze(1))[:, 0]  # (r, V)
            some = None if draws is None else draws[start : start + size]
            chosen.append(next_tokens(logits, task.settings, some))
        return torch.cat(chosen)

    # ----- alone

    @torch.inference_mode()
    def _plain(self, task: _Task, index: int) -> list[list[int]]:
        """Return the answers that transformers' `generate` gives to one prompt, one per trial.

        All rows have the same length at all times, so that any model can compute them together.
        """
        from transformers import LogitsProcessorList, StoppingCriteriaList

        ends, K = Ends(self.base, task.settings.until), task.K
        prompt = torch.tensor([task.prompts[index]] * K, device=self.base.device)
        length = prompt.shape[1]
        draws = Draws([task.settings.seed] * K, [index] * K) if task.settings.samples else None
        choose = chooser(task.settings, draws, length, task.before_pass)

        def ended(ids: Tensor, _: Tensor, **__: Any) -> Tensor:
            """Return whether each answer ends with its last token."""
            return torch.from_numpy(ends.ended(ids[:, length:].cpu().numpy())).to(ids.device)

        with quiet(), carrying(task.carrier, task.pack):
            whole = cast(Any, self.base.model).generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                num_beams=1,
                max_new_tokens=task.settings.max_new_tokens,
                eos_token_id=list(ends.tokens) or None,
                pad_token_id=ends.tokens[0] if ends.tokens else 0,
                logits_processor=LogitsProcessorList([cast(Any, choose)]),
                stopping_criteria=StoppingCriteriaList([cast(Any, ended)]),
            )
        written = whole[:, length:].cpu().numpy()
        counts = ends.lengths(written)
        return [row[:count].tolist() for row, count in zip(written, counts, strict=True)]

    # ----- checks

    def _agrees(self, length: int) -> bool:
        """Return whether decoding rows together gives the logits of passes over whole rows, up to rounding.

        If it does so only for rows that share no prefix, prefixes are no longer shared.

        Args:
            length: The number of tokens of the longer row.
        """
        length = max(LEAST, min(length, self.base.context))
        shorter = length // 2 if self._frequencies is None else length - 1  # rows of one pass have equal frequencies
        if self._frequencies is not None and self._frequencies(length) != self._frequencies(shorter - STEPS):
            return self.joint
        agrees, common = self._follows(length, shorter, 0), shorter - STEPS - 1
        if self.shares and (self._frequencies is None or self._frequencies(length) == self._frequencies(common)):
            self.shares = agrees and self._follows(length, shorter, common)
        return agrees

    @torch.inference_mode()
    def _follows(self, longer: int, shorter: int, common: int) -> bool:
        """Return whether decoding two rows together gives the logits of passes over whole rows, up to rounding.

        The base model decodes the rows. The shorter one is dropped before the last token.

        Args:
            longer: The number of tokens of the longer row.
            shorter: The number of tokens of the shorter row.
            common: How many tokens at the beginning of both rows are encoded only once.
        """
        probe = self.head.sentence()[0].tolist()
        long = (probe * (longer // len(probe) + 1))[:longer]
        both = [long, long[:shorter]]
        try:
            expected = []
            for row in both:
                hidden = self.head.hidden(torch.tensor([row], device=self.base.device))
                expected.append(self.head.logits(hidden[:, -STEPS - 1 : -1])[0])  # (STEPS, V)
            task = _Task([], GenerationSettings(), None, None, 1, lambda: None)
            rows, states = self._encode(task, [row[:-STEPS] for row in both], common)
            agrees = True
            for step in range(STEPS):
                logits = self.head.logits(states)
                agrees &= self.head.same(logits.float(), torch.stack([expected[n][step] for n in rows.number]).float())
                if step == STEPS - 1:
                    break
                if step == STEPS - 2:
                    rows.keep(np.array([True, False]))
                tokens = [both[n][step - STEPS] for n in rows.number]
                states = self._step(task, rows, torch.tensor(tokens, device=self.base.device))
        except Exception as error:  # models raise exceptions of any type
            if is_out_of_memory(error):
                raise
            log.debug(
                "%s cannot decode rows together with %d tokens in common: %s",
                type(self.base.model).__name__,
                common,
                one_line(error),
            )
            return False
        if not common:
            self._checked = max(self._checked, longer)
            self._token_bytes = rows.cache_bytes // (longer - 1)
        return agrees

    def _memory(self) -> int:
        """Return the number of bytes that a batch's keys and values may have."""
        if self.base.device.type != "cuda":
            return MEMORY
        return torch.cuda.mem_get_info(self.base.device)[0] // 4


@dataclass(frozen=True)
class _Task:
    """What to generate: the arguments of `generate`, and K, the number of trials."""

    prompts: list[list[int]]
    settings: GenerationSettings
    carrier: Carrier | None
    pack: Pack | None
    K: int
    before_pass: Callable[[], None]


def _special(base: Base) -> bool:
    """Return whether the model's generation settings change logits, such as a repetition penalty."""
    config = base.model.generation_config
    return any(
        (value := getattr(config, name, None)) is not None and value not in neutral for name, neutral in NEUTRAL.items()
    )
