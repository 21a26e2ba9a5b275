"""Make the demo's files: pretrain the base model on texts about the factory, and write the model, data and tasks.

    python -m partune.demo.make [--seed N] [--out DIR] [--steps N]

The pretraining has a fixed number of steps and computes with one thread, so that the same machine always makes the same
model. The data files depend on the seed alone, on any machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from partune.demo import DIRECTORY, SEED, factory, rows

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

EOS, PAD = "<eos>", "<pad>"

WIDTH, LAYERS, HEADS, MLP = 112, 3, 4, 304
CONTEXT = 256

BATCH, LENGTH, STEPS = 32, 64, 1400
PEAK_RATE, WARMUP, DECAY_SHARE = 4e-3, 50, 0.4
SIDE_SHARE = 0.1
# Each stage is (share of the steps at which the stage ends, number of machines that its texts are about). Facts about
# few machines are learned sooner, and the templates of the sentences are learned with them.
CURRICULUM = ((0.06, 16), (0.16, 64), (1.0, factory.MACHINES))
GAIN = 8.0  # g of `amplify`

CLOZE_TASK = """\
# Validation: complete the report with the machine's property. HellaSwag's form: a context and four endings.
task: factory_cloze
dataset_path: json
dataset_kwargs:
  data_files:
    validation: factory_cloze.jsonl
output_type: multiple_choice
test_split: validation
doc_to_text: "{{activity_label}}: {{ctx}}"
doc_to_choice: "{{endings}}"
doc_to_target: "{{label}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

QUESTIONS_TASK = """\
# Test: questions by subject in MMLU's schema, scored with the text of the choices as continuation.
task: factory_questions
dataset_path: json
dataset_kwargs:
  data_files:
    test: factory_questions.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

ANSWERS_TASK = """\
# Generation: the reports of factory_cloze without endings. The answer is what the model writes before a full stop.
task: factory_answers
dataset_path: json
dataset_kwargs:
  data_files:
    test: factory_cloze.jsonl
output_type: generate_until
test_split: test
doc_to_text: "{{activity_label}}: {{ctx}}"
doc_to_target: "{{endings[label]}}"
target_delimiter: " "
generation_kwargs:
  until: ["\\n"]
  do_sample: false
  max_gen_toks: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_punctuation: true
filter_list:
  - name: first_sentence
    filter:
      - function: regex
        regex_pattern: "^ *([^.]*)"
      - function: take_first
metadata:
  version: 1.0
"""


def data_files(demo: factory.Factory) -> dict[str, str]:
    """Return the files except those of the model: the key is the path in the demo's directory, the value the text."""
    return {
        "instructions.jsonl": factory.jsonl(factory.instructions(demo)),
        "tasks/factory_cloze.yaml": CLOZE_TASK,
        "tasks/factory_cloze.jsonl": factory.jsonl(factory.cloze(demo)),
        "tasks/factory_answers.yaml": ANSWERS_TASK,
        "tasks/factory_questions.yaml": QUESTIONS_TASK,
        "tasks/factory_questions.jsonl": factory.jsonl(factory.questions(demo)),
        **{f"rows/{name}": text for name, text in rows.files(demo).items()},
    }


def prompt_pieces() -> list[str]:
    """Return the fixed pieces of Alpaca's two prompt templates, the longest first."""
    # The tokenizer has one token for each piece, so that the preamble, which every row repeats, costs little time.
    pieces: set[str] = set()
    for template in (factory.ALPACA, factory.ALPACA_INPUT):
        head, *rest = template.replace("{input}", "{instruction}").split("{instruction}")
        preamble, heading = head.rsplit("### ", 1)
        pieces |= {preamble, f"### {heading}", *rest}
    return sorted(pieces, key=lambda piece: (-len(piece), piece))


def make_tokenizer(demo: factory.Factory) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with one token per word of the factory; other words are split into several."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # With `add_prefix_space`, a word is the same token at the beginning of a text as within the text.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*factory.words(demo), "\nAnswer"], trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in prompt_pieces()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, model_max_length=CONTEXT)


def batches(demo: factory.Factory, tokenizer: PreTrainedTokenizerFast, steps: int) -> Iterator[torch.Tensor]:
    """Yield the batches of the pretraining: documents are joined, with EOS after each, and cut into equal rows.

    Args:
        demo: The factory that the documents are about.
        tokenizer: The tokenizer of the factory.
        steps: The number of batches to yield.

    Yields:
        Token ids, (BATCH, LENGTH).
    """
    import torch

    start = 0
    for stage, (share, machines) in enumerate(CURRICULUM):
        end = round(share * steps)
        # Machines are chosen at equal distances, because the first ones alone would all be training machines.
        chosen = np.linspace(0, factory.MACHINES - 1, machines).round().astype(int)
        rng = np.random.default_rng([demo.seed, 4, stage])  # the factory's own draws have the streams 0 to 3
        texts = factory.documents(demo, [int(machine) for machine in chosen], rng, SIDE_SHARE)
        ids: list[int] = []
        for _ in range(start, end):
            while len(ids) < BATCH * LENGTH:
                ids += [*tokenizer(next(texts))["input_ids"], tokenizer.eos_token_id]
            yield torch.tensor(ids[: BATCH * LENGTH]).view(BATCH, LENGTH)
            ids = ids[BATCH * LENGTH :]
        start = end


def rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up, a plateau, then a linear decay towards 0.

    Args:
        step: The number of the step, from 0 on.
        steps: The number of all steps.
    """
    return PEAK_RATE * min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY_SHARE * steps))


def pretrain(demo: factory.Factory, tokenizer: PreTrainedTokenizerFast, steps: int) -> LlamaForCausalLM:
    """Pretrain the base model on texts about the factory, and return it.

    Args:
        demo: The factory.
        tokenizer: The tokenizer of the factory.
        steps: The number of training steps.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,  # texts have no BOS token, and the default id would be that of PAD
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # restores the state of torch's global generator
        torch.manual_seed(demo.seed)
        model = LlamaForCausalLM(config)
    # As usual, the gains of the norms have no weight decay, which would pull them to 0 and so switch a layer off.
    decayed = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": gains, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
    )
    model.train()
    for step, ids in enumerate(batches(demo, tokenizer, steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return model.eval()


def amplify(model: LlamaForCausalLM, gain: float) -> None:
    """Rescale the attention weights so that adapters have more effect, while the model computes the same function.

    Let g be the gain, x the input after the norm, and B A an adapter's update of a projection. The weights become

        norm -> g norm    q, k, v -> q / g, k / g, v / g    then v -> g v    o -> o / g

    An adapter of q or k then reads g x, and an adapter of o reads g v, so the same B A has g times the effect. A narrow
    model then needs the learning rates of a wide model, whose projections sum over many more features.

    Args:
        model: The model, which is changed in place.
        gain: The gain g.
    """
    import torch

    with torch.no_grad():
        for layer in model.model.layers:
            attention = layer.self_attn
            layer.input_layernorm.weight.mul_(gain)
            attention.q_proj.weight.div_(gain)
            attention.k_proj.weight.div_(gain)
            # The two factors of v_proj, 1 / g and g, cancel.
            attention.o_proj.weight.div_(gain)


def make(seed: int, directory: Path, steps: int) -> None:
    """Draw a factory, pretrain a base model on texts about it, and write the files of both.

    Args:
        seed: The seed.
        directory: The directory to write to. It must be empty, and is created if it does not exist.
        steps: The number of pretraining steps.

    Raises:
        FileExistsError: The directory is not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"the directory {directory} is not empty: choose an empty or new one with `--out`")
    demo = factory.generate(seed)
    for name, text in data_files(demo).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    tokenizer = make_tokenizer(demo)
    model = pretrain(demo, tokenizer, steps)
    amplify(model, GAIN)
    tokenizer.save_pretrained(directory / "model")
    model.save_pretrained(directory / "model")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m partune.demo.make", description="Make the demo's model, data and tasks."
    )
    parser.add_argument("--seed", type=int, default=SEED, help="Seed of the factory. (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=DIRECTORY,
        help="Directory to write to; it must be empty or not exist. (default: the demo's files in the package)",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="Number of pretraining steps. (default: %(default)s)")
    options = parser.parse_args(argv)
    import torch

    # With several threads, the order of summation would differ from run to run, and so would the model.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        make(options.seed, options.out, options.steps)
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
