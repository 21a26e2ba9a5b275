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
from peft import PeftModel
from safetensors.torch import load_file
from scipy import stats
from transformers import PreTrainedTokenizerFast

from partune import config
from partune.errors import UserError
from partune.finetune import adapter
from partune.finetune import model as models
from partune.finetune.data import Examples
from partune.finetune.model import Base
from partune.finetune.packed.adapters import Ragged, carrier, find_sites, initial
from partune.finetune.packed.head import Head
from partune.finetune.packed.residents import Job, Residents, Slot
from partune.finetune.training import attach, trained
from tests.support.packs import ORDER, settings, train
from tests.support.peft_oracle import Weights, adapters, as_peft, largest, losses_differ, plain_loop, plain_peft
from tests.support.tiny import KINDS

# Different in everything that may differ; the batch sizes mix by accumulation.
TRIALS = (
    settings(lora_r=3, lora_alpha=8, learning_rate=1e-2, weight_decay=0.1, steps=50),
    settings(lora_r=8, lora_alpha=4, learning_rate=3e-3, weight_decay=0.0, steps=50, batch_size=2, schedule="linear"),
    settings(lora_r=1, lora_alpha=16, learning_rate=2e-3, weight_decay=0.5, steps=50, max_grad_norm=0.05),
)


FIFTY = [pytest.param(kind, 50, marks=pytest.mark.thorough, id=f"{kind}-50") for kind in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [(KINDS[0], 25), *((kind, 12) for kind in KINDS[1:]), *FIFTY])
def test_in_fp64_loss_and_weights_are_pefts_within_1e_10(
    doubles: dict[str, Base], examples: Examples, kind: str, steps: int
) -> None:
    base, trials = doubles[kind], [trial.model_copy(update={"steps": steps}) for trial in TRIALS]
    found = train(base, examples, trials, seeds=(7, 8, 9))
    for trial, seed, (slot, weights) in zip(trials, (7, 8, 9), found, strict=True):
        expected = plain_loop(base, examples, trial, seed, ORDER)
        assert losses_differ(slot.losses, expected.losses) < 1e-10
        assert largest(weights, expected.weights) < 1e-10
        assert max(float(w.abs().max()) for name, w in weights.items() if "lora_B" in name) > 1e-3


@pytest.mark.slow
def test_in_fp32_losses_are_pefts_within_1e_5(base: Base, examples: Examples, thorough: bool) -> None:
    trials = [trial.model_copy(update={"steps": 50 if thorough else 20}) for trial in TRIALS]
    found = train(base, examples, trials, seeds=(7, 8, 9))
    for trial, seed, (slot, _) in zip(trials, (7, 8, 9), found, strict=True):
        assert losses_differ(slot.losses, plain_loop(base, examples, trial, seed, ORDER).losses) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all-linear", "q_proj,lm_head", "down_proj"])
def test_any_linear_layer_carries_packs(doubles: dict[str, Base], examples: Examples, targets: str) -> None:
    base = doubles["llama"]
    trials = [settings(targets=targets, lora_dropout=rate, lora_r=r) for rate, r in ((0.0, 2), (0.2, 5))]
    for trial, seed, (slot, weights) in zip(trials, (1, 2), train(base, examples, trials, (1, 2)), strict=True):
        expected = plain_loop(base, examples, trial, seed, ORDER, counted=True)
        assert losses_differ(slot.losses, expected.losses) < 1e-10
        assert largest(weights, expected.weights) < 1e-10


@pytest.mark.slow
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


@pytest.mark.slow
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


# ----- the base


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
@pytest.mark.thorough
def test_over_seeds_dropout_ends_where_pefts_own_does(base: Base, examples: Examples, thorough: bool) -> None:
    """Mean and spread of the final loss with our masks against `nn.Dropout`'s, at a level of one in a thousand; the
    same comparison tells a trial without dropout."""
    trial = settings(lora_dropout=0.5, lora_r=8, learning_rate=5e-3, steps=24, schedule="constant")
    seeds = range(16 if thorough else 8)

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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("trials", [[0, 0, 1, 2], [2, 0, 1, 0, 2, 2], [1], [2, 0], [2, 1, 0]])
def test_rows_of_any_trials_in_any_order_use_their_own_adapters(doubles: dict[str, Base], trials: list[int]) -> None:
    """Also in a smaller pack of only the trials that have rows."""
    base, draw = doubles["llama"], torch.Generator().manual_seed(0)
    ids = torch.randint(3, 300, (len(trials), 7), generator=draw)
    with carrier(base, "all-linear") as carrying, torch.no_grad():
        pack = carrying.new([settings(lora_r=r, lora_alpha=r + 1) for r in (3, 9, 1)], train=False)
        for trial, r in enumerate(pack.ranks):
            shapes = {site.name: ((site.d_in, r), (r, site.d_out)) for site in carrying.sites}
            drawn = {
                name: tuple(torch.randn(each, generator=draw) * 0.3 for each in pair) for name, pair in shapes.items()
            }
            pack.put(trial, drawn)  # type: ignore[arg-type]
        expected = []
        for trial, row in zip(trials, ids, strict=True):
            with carrying.carrying(pack.only([trial])):
                expected.append(base.model(row.unsqueeze(0)).logits)
        with carrying.carrying(pack, ragged=Ragged.of(np.array(trials), 3, torch.device("cpu"))):
            torch.testing.assert_close(base.model(ids).logits, torch.cat(expected))
        left, places = np.unique(trials, return_inverse=True)
        small = pack.only(left.tolist())
        assert small.ranks == tuple(pack.ranks[trial] for trial in left)
        with carrying.carrying(small, ragged=Ragged.of(places, len(left), torch.device("cpu"))):
            torch.testing.assert_close(base.model(ids).logits, torch.cat(expected))
    assert len({round(float(row.sum()), 6) for row in expected}) == len(trials)
