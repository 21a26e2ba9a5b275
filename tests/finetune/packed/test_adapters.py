"""A trial in a pack is the trial alone in PEFT: losses, weights, gradients, in every architecture and every slot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from scipy import stats
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune import adapter
from partune.finetune import model as models
from partune.finetune.data import Examples, tokenise
from partune.finetune.model import Base
from partune.finetune.packed.adapters import carrier, find_sites, initial
from partune.finetune.packed.head import Head
from partune.finetune.packed.residents import Job, Residents, Slot
from partune.finetune.training import attach, trained
from tests.support.peft_oracle import Weights, adapters, as_peft, largest, losses_differ, plain_loop, plain_peft
from tests.support.tiny import KINDS, longrope, make_base, make_rows, write_jsonl

ORDER = 3


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Examples:
    path = write_jsonl(tmp_path_factory.mktemp("packed") / "rows.jsonl", make_rows(14))
    return tokenise(config.Data(path=str(path)), tokenizer).cut(160, "answer")


def settings(**changes: Any) -> config.Training:
    default = {"learning_rate": 1e-2, "lora_r": 4, "lora_dropout": 0.0, "batch_size": 4, "steps": 5, "warmup_steps": 2}
    return config.Training(**default | changes)


# Different in everything that may differ; the batch sizes mix by accumulation.
TRIALS = (
    settings(lora_r=3, lora_alpha=8, learning_rate=1e-2, weight_decay=0.1, steps=50),
    settings(lora_r=8, lora_alpha=4, learning_rate=3e-3, weight_decay=0.0, steps=50, batch_size=2, schedule="linear"),
    settings(lora_r=1, lora_alpha=16, learning_rate=2e-3, weight_decay=0.5, steps=50, max_grad_norm=0.05),
)


def train(base: Base, examples: Examples, trials: Sequence[config.Training], seeds: Sequence[int]) -> Any:
    """The trials in one pack, slots as they stand at the end, and their weights by PEFT's names."""
    with carrier(base, trials[0].targets) as carrying:
        residents = Residents(carrying, Head(base))
        residents.arrange(
            [], [Slot(Job(each, examples, seed, ORDER)) for each, seed in zip(trials, seeds, strict=True)]
        )
        ended: dict[int, tuple[Slot, Any]] = {}
        names = list(range(len(trials)))
        while residents.slots:
            residents.step()
            for row, slot in enumerate(residents.slots):
                if slot.ended:
                    ended[names[row]] = slot, as_peft(residents.weights(row))
            names = [name for name in names if name not in ended]
            residents.arrange([row for row, slot in enumerate(residents.slots) if not slot.ended])
    return [ended[name] for name in range(len(trials))]


@pytest.mark.parametrize("kind", KINDS)
def test_in_fp64_loss_and_weights_are_pefts_within_1e_10_after_50_steps(
    doubles: dict[str, Base], examples: Examples, kind: str
) -> None:
    base = doubles[kind]
    found = train(base, examples, TRIALS, seeds=(7, 8, 9))
    for trial, seed, (slot, weights) in zip(TRIALS, (7, 8, 9), found, strict=True):
        expected = plain_loop(base, examples, trial, seed, ORDER)
        assert losses_differ(slot.losses, expected.losses) < 1e-10
        assert largest(weights, expected.weights) < 1e-10
        assert max(float(w.abs().max()) for name, w in weights.items() if "lora_B" in name) > 1e-3


def test_in_fp32_losses_are_pefts_within_1e_5_over_50_steps(base: Base, examples: Examples) -> None:
    found = train(base, examples, TRIALS, seeds=(7, 8, 9))
    for trial, seed, (slot, _) in zip(TRIALS, (7, 8, 9), found, strict=True):
        assert losses_differ(slot.losses, plain_loop(base, examples, trial, seed, ORDER).losses) < 1e-5


def test_no_other_trials_rows_choose_frequencies(tokenizer: PreTrainedTokenizerFast, examples: Examples) -> None:
    """LongRoPE takes those of the longest row in a forward pass; in PEFT, of the trial's own (micro-)batch."""
    base = make_base("phi3", tokenizer, **longrope(int(np.median(examples.lengths))))
    base.model.double()
    trials = [
        settings(targets="all-linear", batch_size=size, micro_batch_size=micro)
        for size, micro in ((1, None), (2, None), (4, None), (6, 3))
    ]
    for trial, seed, (slot, weights) in zip(trials, range(4), train(base, examples, trials, range(4)), strict=True):
        with trained(base, examples, trial, seed, ORDER) as tuned:
            expected = adapters(tuned.model)
            assert losses_differ(slot.losses, tuned.losses) < 1e-5  # summed in fp32 there
        assert largest(weights, expected) < 1e-10
        if trial.micro_batch_size is None:
            plain = plain_loop(base, examples, trial, seed, ORDER)
            assert losses_differ(slot.losses, plain.losses) < 1e-10
            assert largest(weights, plain.weights) < 1e-10


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,lm_head", "down_proj"])
def test_any_linear_layer_carries_packs(doubles: dict[str, Base], examples: Examples, targets: str) -> None:
    base = doubles["llama"]
    trials = [settings(targets=targets, lora_dropout=rate, lora_r=r) for rate, r in ((0.0, 2), (0.2, 5))]
    for trial, seed, (slot, weights) in zip(trials, (1, 2), train(base, examples, trials, (1, 2)), strict=True):
        expected = plain_loop(base, examples, trial, seed, ORDER, counted=True)
        assert losses_differ(slot.losses, expected.losses) < 1e-10
        assert largest(weights, expected.weights) < 1e-10


@pytest.mark.parametrize("optimizer", ["sgd", "both"])
def test_optimisers_mix(doubles: dict[str, Base], examples: Examples, optimizer: str) -> None:
    base = doubles["llama"]
    sgd = settings(optimizer="sgd", momentum=0.9, learning_rate=0.05, weight_decay=0.0)
    trials = [sgd, settings() if optimizer == "both" else sgd.model_copy(update={"momentum": 0.0, "lora_r": 2})]
    for trial, seed, (_, weights) in zip(trials, (1, 2), train(base, examples, trials, (1, 2)), strict=True):
        assert largest(weights, plain_loop(base, examples, trial, seed, ORDER).weights) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_with_dropout_gradients_and_training_are_a_references_with_the_same_masks(
    doubles: dict[str, Base], examples: Examples, kind: str
) -> None:
    base = doubles[kind]
    trials = [
        settings(lora_dropout=rate, lora_r=r, steps=2, batch_size=3) for rate, r in ((0.3, 4), (0.0, 2), (0.6, 6))
    ]
    with carrier(base, "attention") as carrying:
        residents = Residents(carrying, Head(base))
        residents.arrange([], [Slot(Job(each, examples, seed, ORDER)) for seed, each in enumerate(trials)])
        residents.step()  # B is no longer zero: A's gradients are not either
        gradients: list[Any] = []
        assert residents.pack is not None
        assert residents.optimizer is not None
        step = residents.optimizer.step

        def spy(*arguments: Any) -> Any:
            pack = residents.pack
            assert pack is not None
            assert pack.gradients is not None
            A, B = pack.views(pack.gradients.clone())
            for k, r in enumerate(pack.ranks):
                assert all((a[k, :, r:] == 0).all() and (b[k, r:] == 0).all() for a, b in zip(A, B, strict=True))
                named = {s.name: (A[i][k, :, :r], B[i][k, :r]) for i, s in enumerate(pack.sites)}
                gradients.append(as_peft(named))
            return step(*arguments)

        residents.optimizer.step = spy  # type: ignore[method-assign]
        residents.step()
        weights = [as_peft(residents.weights(row)) for row in range(3)]
    for seed, trial in enumerate(trials):
        expected = plain_loop(base, examples, trial, seed, ORDER, counted=True)
        assert min(float(g.abs().max()) for g in expected.gradients.values()) > 1e-6
        assert largest(gradients[seed], expected.gradients) < 1e-10
        assert largest(weights[seed], expected.weights) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_begin_as_pefts_do(bases: dict[str, Base], kind: str) -> None:
    base, trial = bases[kind], settings(lora_r=5)
    found = as_peft(initial(find_sites(base, "attention"), 5, seed=11))
    with plain_peft(base, trial, seed=11) as model:
        expected = {
            n.removeprefix("base_model.model."): p.detach() for n, p in model.named_parameters() if "lora_" in n
        }
        assert largest(found, expected) == 0
    with base.lent(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        attach(base, trial)
        assert largest(found, adapters(base.model)) == 0


# ----- neighbours


def test_a_neighbour_that_breaks_changes_not_one_bit(base: Base, examples: Examples) -> None:
    """NaN at step 3 in one trial; the others go on as beside a sound one of the same rank."""
    trials = [settings(lora_r=4, lora_dropout=0.1), settings(lora_r=8), settings(lora_r=2, batch_size=2)]

    def run(broken: bool) -> tuple[list[torch.Tensor], list[Slot]]:
        with carrier(base, "attention") as carrying:
            residents = Residents(carrying, Head(base))
            residents.arrange([], [Slot(Job(each, examples, seed, ORDER)) for seed, each in enumerate(trials)])
            pack = residents.pack
            assert pack is not None
            seen = []
            for passes in range(8):
                if broken and passes == 4:
                    with torch.no_grad():
                        pack.values[1] = torch.nan
                residents.step()
                seen.append(pack.values.clone())
                if residents.slots[1].error is not None:
                    assert broken
                    assert (pack.values[1] == 0).all()
                    break
            return seen, residents.slots

    broken, slots = run(True)
    sound, _ = run(False)
    assert str(slots[1].error) == "loss diverged at step 3"
    assert len(broken) == 6
    for found, expected in zip(broken, sound, strict=False):
        for row in (0, 2):
            assert torch.equal(found[row], expected[row])


def test_no_trials_decay_norm_or_rate_reaches_another(doubles: dict[str, Base], examples: Examples) -> None:
    base, mine = doubles["llama"], settings(lora_r=4, max_grad_norm=0.01, weight_decay=0.2)
    alone = train(base, examples, [mine], (5,))[0][1]
    for change in ({"weight_decay": 50.0}, {"max_grad_norm": 1e-4}, {"learning_rate": 1.0}, {"lora_alpha": 500}):
        beside = train(base, examples, [settings(lora_r=4, **change), mine], (6, 5))[1][1]
        assert largest(beside, alone) < 1e-12


POOL = (
    settings(lora_r=2, lora_dropout=0.2, steps=4),
    settings(lora_r=8, steps=6, batch_size=2, learning_rate=3e-2),
    settings(lora_r=5, lora_dropout=0.5, steps=3, batch_size=5, weight_decay=0.3),
    settings(lora_r=1, steps=5, schedule="constant", micro_batch_size=1),
    settings(lora_r=16, lora_dropout=0.05, steps=4, batch_size=3, max_grad_norm=0.1),
)
ALONE: dict[int, Any] = {}


@hypothesis_settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.permutations(range(len(POOL))).flatmap(lambda p: st.integers(1, len(p)).map(lambda n: p[:n])))
def test_any_subset_in_any_order_and_slot_is_the_same(
    doubles: dict[str, Base], examples: Examples, chosen: list[int]
) -> None:
    base = doubles["qwen2"]
    for number in chosen:
        if number not in ALONE:
            ALONE[number] = train(base, examples, [POOL[number]], (number,))[0]
    found = train(base, examples, [POOL[number] for number in chosen], chosen)
    for number, (slot, weights) in zip(chosen, found, strict=True):
        assert losses_differ(slot.losses, ALONE[number][0].losses) < 1e-11
        assert largest(weights, ALONE[number][1]) < 1e-11
        assert slot.tokens == ALONE[number][0].tokens


# ----- the base


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_bitwise_untouched(bases: dict[str, Base], examples: Examples, kind: str) -> None:
    base = bases[kind]
    modules = dict(base.model.named_modules())
    weights = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    train(base, examples, [settings(steps=2), settings(steps=2)], (0, 1))
    assert dict(base.model.named_modules()) == modules
    assert all(torch.equal(weight, weights[name]) for name, weight in base.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_learning_rate_zero_gives_the_bases_answers_bit_by_bit(base: Base, examples: Examples) -> None:
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        expected = base.model(ids).logits
    with carrier(base, "attention") as carrying:
        residents = Residents(carrying, Head(base))
        residents.arrange([], [Slot(Job(settings(learning_rate=0.0, weight_decay=0.5), examples, 0, ORDER))])
        residents.step()
        with carrying.carrying(residents.pack), torch.no_grad():
            assert torch.equal(base.model(ids).logits, expected)


def test_half_precision_keeps_fp32_adapters_and_trains_as_peft_does(
    folders: dict[str, Path], examples: Examples
) -> None:
    half = models.load(config.Model(path=str(folders["llama"])), "bf16", "cpu")
    trials = [settings(lora_dropout=0.1), settings(lora_r=2)]
    with carrier(half, "attention") as carrying:
        residents = Residents(carrying, Head(half))
        residents.arrange([], [Slot(Job(each, examples, 0, ORDER)) for each in trials])
        residents.step()
        assert residents.pack is not None
        assert residents.pack.values.dtype == torch.float32
        assert {each.dtype for each in residents.pack.A + residents.pack.B} == {torch.float32}
    for trial, seed, (slot, weights) in zip(trials, (0, 1), train(half, examples, trials, (0, 1)), strict=True):
        with trained(half, examples, trial, seed, ORDER) as alone:
            expected = adapters(half.model)
            assert losses_differ(slot.losses, alone.losses) < 0.02 * max(slot.losses)
        with trained(half, examples, trial, seed + 5, ORDER):
            other = adapters(half.model)
        assert distance(weights, expected) < 0.3 * distance(other, expected)


def distance(one: Weights, two: Weights) -> float:
    """Root of the sum of squared differences over all layers' B."""
    return sum(float((one[name] - two[name]).square().sum()) for name in two if "lora_B" in name) ** 0.5


# ----- targets


def test_experts_of_a_mixture_are_refused_in_one_line(tokenizer: PreTrainedTokenizerFast) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2, "num_local_experts": 2, "vocab_size": len(tokenizer)}
    model = MixtralForCausalLM(MixtralConfig(**shape)).eval()
    base = Base(model, tokenizer, torch.device("cpu"), "fp32")
    assert [site.name for site in find_sites(base, "attention")] == [
        f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"
    ]
    with pytest.raises(UserError, match="experts of a mixture") as caught:
        find_sites(base, "all-linear")
    assert "\n" not in str(caught.value)


# ----- files


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_files_are_pefts(bases: dict[str, Base], kind: str, tmp_path: Path) -> None:
    base, trial = bases[kind], settings(lora_r=3, lora_alpha=7)
    with carrier(base, "attention") as carrying:
        weights = initial(carrying.sites, 3, seed=2)
        carrying.save(trial, weights, tmp_path / "ours")
    with plain_peft(base, trial, seed=2):
        pass
    with base.lent(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        adapter.save(attach(base, trial), tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert largest(ours, theirs) == 0
    ours_json, theirs_json = (
        json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs")
    )
    for settings_of in (ours_json, theirs_json):
        settings_of["target_modules"] = sorted(settings_of["target_modules"])  # PEFT keeps them as a set
    assert ours_json == theirs_json
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == sorted(
        path.name for path in (tmp_path / "theirs").iterdir()
    )


def test_a_saved_adapter_is_the_pack_in_peft(base: Base, examples: Examples, tmp_path: Path) -> None:
    ids = torch.arange(14).reshape(2, 7)
    trial = settings(lora_r=3, lora_alpha=9, learning_rate=0.05)
    with carrier(base, "attention") as carrying:
        residents = Residents(carrying, Head(base))
        residents.arrange([], [Slot(Job(each, examples, 0, ORDER)) for each in (settings(lora_r=8), trial)])
        for _ in range(4):
            residents.step()
        carrying.save(trial, residents.weights(1), tmp_path / "adapter")
        with carrying.carrying(carrying.loaded([(trial, residents.weights(1))])), torch.no_grad():
            expected = base.model(ids).logits
    with base.lent() as model, torch.no_grad():
        plain = base.model(ids).logits
        found = PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert float((found - plain).abs().max()) > 1e-3
    assert np.isfinite(found.numpy()).all()


@pytest.mark.slow
def test_over_seeds_dropout_ends_where_pefts_own_does(base: Base, examples: Examples) -> None:
    """Mean and spread of the final loss with our masks against `nn.Dropout`'s, at a level of one in a thousand; the
    same comparison tells a trial without dropout."""
    trial = settings(lora_dropout=0.5, lora_r=8, learning_rate=5e-3, steps=24, schedule="constant")
    seeds = range(16)

    def final(losses: Sequence[float]) -> float:
        return float(np.mean(losses[-6:]))

    def ours(changed: config.Training) -> list[float]:
        return [final(slot.losses) for slot, _ in train(base, examples, [changed] * len(seeds), seeds)]

    def p_value(one: list[float], two: list[float]) -> tuple[float, float]:
        means = stats.ttest_ind(one, two, equal_var=False).pvalue
        return float(means), float(stats.levene(one, two).pvalue)

    theirs = [final(plain_loop(base, examples, trial, seed, ORDER).losses) for seed in seeds]
    assert min(p_value(ours(trial), theirs)) > 1e-3
    assert p_value(ours(trial.model_copy(update={"lora_dropout": 0.0})), theirs)[0] < 1e-3


def test_packs_train_the_same_where_accelerate_moves_what_blocks_read(folders: Any, examples: Examples) -> None:
    """As it does where a base is spread over several devices; here, all of them are the CPU."""
    plain, spread = (models.load(config.Model(path=str(folders["llama"])), "fp32", "cpu") for _ in range(2))
    for block in (*models.blocks(spread.model), spread.model.get_output_embeddings()):
        add_hook_to_module(block, AlignDevicesHook(execution_device=torch.device("cpu"), place_submodules=False))
    trials = [settings(lora_dropout=0.2), settings(lora_r=8, targets="attention")]
    for (mine, weights), (theirs, expected) in zip(
        train(spread, examples, trials, (1, 2)), train(plain, examples, trials, (1, 2)), strict=True
    ):
        assert mine.losses == theirs.losses
        assert largest(weights, expected) == 0
