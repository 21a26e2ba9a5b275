"""Compare packed decoding with one adapter after another: CPU-seconds per answer on the demo's model.

    python benchmarks/generation.py --adapters 8 --prompts 128 --rounds 5

The adapters are a Latin hypercube over the space `lora`, trained on the demo's instructions in one pack, as a study
would train them. The prompts are instructions of the demo, in turn without and with one or two worked examples before
them, so that their lengths differ. With `--same`, all begin with the same three examples. Answers are greedy, and end
with EOS or after `--tokens` tokens.

- `packed`: all adapters and prompts in common passes.
- `tuned`: one adapter after another, loaded by PEFT; transformers' `generate` on prompts sorted by length, in batches
  of the fastest size of those tried in this run, with its cache.
- `merged`: the same with the adapter merged into the model, also with the fastest batch size.
- `naive`: as `tuned`, one prompt at a time, for a few prompts only, scaled up.

The table also says how much of the time is spent on the prompts, until the first token of every answer. Loading and
merging adapters is not counted. Contenders take turns within a round, so that ratios are paired.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from partune import config
from partune.bench.meter import Stopwatch, machine, versions
from partune.demo import DIRECTORY
from partune.finetune import adapter as adapters
from partune.finetune.data import alpaca_prompt, tokenise
from partune.finetune.model import Base, load
from partune.finetune.packed.adapters import Carrier, Pack, Weights, carrier
from partune.finetune.packed.generation import PackedGeneration
from partune.finetune.packed.head import Head
from partune.finetune.packed.residents import Job, Residents, Slot
from partune.finetune.scoring.decoding import GenerationSettings
from partune.optimizers.sampling import LatinHypercube
from partune.runtime.isolation import own_generators, quiet
from partune.space import SPACES

TARGETS = "attention"
SIZES = (32, 64, 128, 256)  # the batch sizes that are tried
FEW = 6  # prompts of the naive contender

Answers = list[list[int]]


def make_prompts(base: Base, count: int, room: int, same: bool) -> Answers:
    """Return the tokens of prompts from the demo's instructions, with worked examples before them.

    Args:
        base: The base model.
        count: The number of prompts.
        room: The largest number of tokens of a prompt.
        same: Whether all prompts have the same three examples; if not, they have none, one or two of their own in turn.
    """
    lines = (DIRECTORY / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    prompts = []
    for index in range(count):
        shots = rows[-3:] if same else rows[len(rows) // 2 + index :][: index % 3]
        row = rows[index % len(rows)]
        text = "".join(f"{alpaca_prompt(shot)}{shot['output']}\n\n" for shot in shots) + alpaca_prompt(row)
        prompts.append(base.tokenizer(text)["input_ids"][-room:])
    return prompts


def train(base: Base, carrying: Carrier, count: int, steps: int) -> list[tuple[config.Training, Weights]]:
    """Return adapters of different configurations, trained in one pack.

    Args:
        base: The base model.
        carrying: The base model with layers that apply packs.
        count: The number of adapters.
        steps: The optimiser steps of each.
    """
    data = config.Data(path=str(DIRECTORY / "instructions.jsonl"), max_length=128)
    examples = tokenise(data, base.tokenizer)
    proposals = LatinHypercube(SPACES["lora"], seed=0).ask(count)
    trials = [
        config.Training(steps=steps, batch_size=8, warmup_steps=5, targets=TARGETS, **proposal.config)
        for proposal in proposals
    ]
    residents = Residents(carrying, Head(base))
    residents.arrange([], [Slot(Job(trial, examples, seed, 0)) for seed, trial in enumerate(trials)])
    while not all(slot.ended for slot in residents.slots):
        residents.step()
    return [(trial, residents.weights(row)) for row, trial in enumerate(trials)]


def generate(model: Any, base: Base, prompts: Answers, tokens: int, size: int) -> Answers:
    """Return the answers of transformers' `generate`, in batches of prompts that were sorted by length.

    Args:
        model: The model with an adapter.
        base: The base model, for its end token.
        prompts: The prompts.
        tokens: The largest number of tokens of an answer.
        size: The batch size.
    """
    end = base.tokenizer.eos_token_id
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: Answers = [[] for _ in prompts]
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        longest = len(prompts[batch[0]])
        ids = torch.full((len(batch), longest), base.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, longest - len(prompts[index]) :] = 1
        with torch.inference_mode():
            whole = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=tokens,
                eos_token_id=end,
                pad_token_id=base.tokenizer.pad_token_id,
            )
        for index, row in zip(batch, whole[:, longest:].tolist(), strict=True):
            answers[index] = row[: row.index(end) + 1] if end in row else row
    return answers


class Contenders:
    """The ways to generate the same answers.

    Args:
        base: The base model.
        prompts: The prompts.
        tokens: The largest number of tokens of an answer.
        folders: The adapters' folders.
    """

    def __init__(self, base: Base, prompts: Answers, tokens: int, folders: Sequence[Path]) -> None:
        self.base, self.prompts, self.tokens, self.folders = base, prompts, tokens, folders
        self.generation = PackedGeneration(base, Head(base))

    def packed(self, carrying: Carrier, pack: Pack, tokens: int) -> tuple[float, list[Answers]]:
        """Return the CPU-seconds of packed decoding, and the answers of each adapter.

        Args:
            carrying: The base model with layers that apply the pack.
            pack: The adapters.
            tokens: The largest number of tokens of an answer.
        """
        watch = Stopwatch(self.base.device)
        settings = GenerationSettings(max_new_tokens=tokens)
        answers = self.generation.generate(self.prompts, settings, carrying, pack)
        return watch.lap().cpu, answers

    def one_by_one(
        self, tokens: int, size: int, merged: bool = False, prompts: Answers | None = None
    ) -> tuple[float, list[Answers]]:
        """Return the CPU-seconds of one adapter after another, and the answers of each.

        Args:
            tokens: The largest number of tokens of an answer.
            size: The batch size.
            merged: Whether to merge each adapter into the model.
            prompts: Other prompts than all.
        """
        seconds, answers = 0.0, []
        for folder in self.folders:
            with self._adapted(folder, merged) as model:
                watch = Stopwatch(self.base.device)
                answers.append(generate(model, self.base, prompts or self.prompts, tokens, size))
                seconds += watch.lap().cpu
        return seconds, answers

    @contextmanager
    def _adapted(self, folder: Path, merged: bool) -> Iterator[Any]:
        with adapters.loaded(self.base, folder) as model, quiet():
            if merged:
                model.merge_adapter()
            try:
                yield model
            finally:
                if merged:
                    model.unmerge_adapter()


def shares(found: Sequence[Answers], expected: Sequence[Answers]) -> float:
    """Return the share of answers that are equal, token by token."""
    pairs = [pair for mine, theirs in zip(found, expected, strict=True) for pair in zip(mine, theirs, strict=True)]
    return sum(mine == theirs for mine, theirs in pairs) / len(pairs)


def main() -> None:
    """Train the adapters, find the batch sizes, take the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32, help="the largest number of tokens of an answer")
    parser.add_argument("--same", action="store_true", help="put the same three worked examples before all prompts")
    parser.add_argument("--steps", type=int, default=100, help="the steps of each adapter's training")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    base = load(config.Model(path=str(DIRECTORY / "model")), "fp32", "cpu")
    prompts = make_prompts(base, arguments.prompts, base.context - arguments.tokens, arguments.same)
    print(f"{machine(base.device, 1)}; {versions()}", flush=True)
    with tempfile.TemporaryDirectory() as root, own_generators(base.device):
        folders = [Path(root) / str(number) for number in range(arguments.adapters)]
        with carrier(base, TARGETS) as carrying:
            trained = train(base, carrying, arguments.adapters, arguments.steps)
            for folder, (settings, weights) in zip(folders, trained, strict=True):
                carrying.save(settings, weights, folder)
        run(Contenders(base, prompts, arguments.tokens, folders), trained, arguments.rounds)


def run(ways: Contenders, trained: Sequence[tuple[config.Training, Weights]], rounds: int) -> None:
    """Find the batch sizes, take the rounds and print the table.

    Args:
        ways: The contenders.
        trained: The adapters.
        rounds: The number of rounds.
    """
    base, few, most = ways.base, ways.prompts[:FEW], ways.tokens

    def packed(tokens: int) -> tuple[float, list[Answers]]:
        with carrier(base, TARGETS) as carrying:
            return ways.packed(carrying, carrying.loaded(trained), tokens)

    sizes = {}
    for merged in (False, True):
        times = {
            size: ways.one_by_one(most, size, merged)[0] for size in SIZES if size <= max(SIZES[0], len(ways.prompts))
        }
        sizes[merged] = min(times, key=lambda size: times[size])
        listed = ", ".join(f"{size}: {seconds:.2f}" for size, seconds in times.items())
        print(f"{'merged' if merged else 'tuned'}, CPU-seconds by batch size: {listed}", flush=True)
    contenders: dict[str, Callable[[int], tuple[float, list[Answers]]]] = {
        "packed": packed,
        "tuned": lambda tokens: ways.one_by_one(tokens, sizes[False]),
        "merged": lambda tokens: ways.one_by_one(tokens, sizes[True], merged=True),
        "naive": lambda tokens: ways.one_by_one(tokens, 1, prompts=few),
    }
    _, answers = packed(most)
    lengths = [len(answer) for each in answers for answer in each]
    print(f"prompts of {min(map(len, ways.prompts))} to {max(map(len, ways.prompts))} tokens", end=", ")
    print(f"answers of {min(lengths)} to {max(lengths)}, {statistics.mean(lengths):.1f} on average", flush=True)
    print(*(f"{statistics.mean(map(len, each)):.1f}" for each in answers), "by adapter", flush=True)
    print(f"equal to those of tuned: {shares(answers, contenders['tuned'](most)[1]):.4f}", flush=True)
    scale = {"naive": len(ways.prompts) / len(few)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    first: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender(most)[0] * scale.get(name, 1.0))
            first[name].append(contender(1)[0] * scale.get(name, 1.0))
    print("| way | CPU-seconds | of these, prompts | times the CPU-seconds of packed |\n|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(times, seconds["packed"], strict=True)]
        print(
            f"| {name} | {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) "
            f"| {statistics.median(first[name]):.2f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()
