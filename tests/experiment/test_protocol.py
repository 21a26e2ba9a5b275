"""What an experiment is made of: the preset against LitGPT's own defaults, the plan, what is refused before work."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partune import config
from partune.config import parse as parse_study
from partune.errors import UserError
from partune.experiment.protocol import Plan, composed, dump, load, parse, preset
from partune.space import SPACES

OWN = {"model": "m", "data": "d.json", "validation": {"tasks": ["t"]}}
BRANIN: dict[str, Any] = {"objective": "branin", "search": {"budget": 5}}


def plan(**given: Any) -> Plan:
    protocol = {"repeats": 2, **given.pop("protocol", {})}
    return Plan(composed({**given, "protocol": protocol}, {}))


# ----- the preset


# The defaults of `litgpt finetune_lora`, and whether its loss leaves prompts out: LitGPT 0.5.13, finetune/lora.py.
SIGNATURE: dict[str, Any] = {
    "train.global_batch_size": 16,
    "train.lr_warmup_steps": 100,
    "train.epochs": 5,
    "optimizer": "AdamW",
    "lora_query": True,
    "lora_key": False,
    "lora_value": True,
    "lora_projection": False,
    "lora_mlp": False,
    "lora_head": False,
}
MASKED = False


def litgpt() -> Path | None:
    """Where LitGPT's package is: beside this Python, or in the environment whose command PARTUNE_LITGPT names."""
    if (spec := importlib.util.find_spec("litgpt")) is not None and spec.origin is not None:
        return Path(spec.origin).parent
    command = Path(os.environ.get("PARTUNE_LITGPT", "nowhere"))
    return next(command.resolve().parent.parent.glob("lib/python*/site-packages/litgpt"), None)


def defaults(path: Path, name: str) -> dict[str, Any]:
    """A function's or data class's defaults, from its source: literals, and the arguments of calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next(n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == name)
    return dict(_pairs(found))


def _pairs(found: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, Any]]:
    if isinstance(found, ast.FunctionDef):
        given = found.args.defaults
        for argument, value in zip(found.args.args[-len(given) :], given, strict=True):
            if isinstance(value, ast.Call):
                yield from ((f"{argument.arg}.{k.arg}", _literal(k.value)) for k in value.keywords)
            else:
                yield argument.arg, _literal(value)
    else:
        for each in found.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value is not None:
                yield each.target.id, _literal(each.value)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def test_the_preset_is_what_litgpt_does_by_itself() -> None:
    """Where it departs, the study that it repeats did: one epoch, LoRA on q, k, v and the head."""
    ours = parse_study({**preset(), **OWN, "data": {**preset()["data"], "path": "d"}})
    assert ours.training.batch_size == SIGNATURE["train.global_batch_size"]
    assert ours.training.warmup_steps == SIGNATURE["train.lr_warmup_steps"]
    assert ours.training.optimizer == SIGNATURE["optimizer"].lower()
    assert (ours.data is not None and ours.data.loss_on == "all") is not MASKED
    assert (ours.training.schedule, ours.training.max_grad_norm) == ("cosine", 1e9)
    assert (ours.training.epochs, SIGNATURE["train.epochs"]) == (1, 5)
    assert preset()["training"]["targets"] == "q_proj,k_proj,v_proj,lm_head"


def test_so_says_litgpts_own_source() -> None:
    folder = litgpt()
    if folder is None:
        pytest.skip("LitGPT is not here: PARTUNE_LITGPT names its command in an environment of its own")
    source = folder / "finetune" / "lora.py"
    theirs, loop = defaults(source, "setup"), source.read_text(encoding="utf-8")
    assert {name: theirs[name] for name in SIGNATURE} == SIGNATURE
    assert {name for name in theirs if name.startswith("lora_") and isinstance(theirs[name], bool)} <= SIGNATURE.keys()
    assert defaults(folder / "data" / "alpaca.py", "Alpaca")["mask_prompt"] is MASKED
    assert "CosineAnnealingLR" in loop
    assert "clip_grad" not in loop


def test_the_preset_is_the_protocols() -> None:
    found = composed(OWN, {})
    assert (found.search.budget, found.protocol.algorithms) == (50, ("lhs", "bo", "soo", "bamsoo"))
    assert found.data == config.Data(path="d.json", loss_on="all")
    assert found.test.every_trial
    assert Plan(found).space == SPACES["lora-report"]


def test_what_a_user_gives_lies_over_the_preset_and_flags_over_the_file() -> None:
    file = {**OWN, "data": {"path": "d", "loss_on": "answer"}, "training": {"batch_size": 8}}
    found = composed(file, {"training": {"batch_size": 4}, "data": {"max_length": 64}})
    assert found.data == config.Data(path="d", loss_on="answer", max_length=64)
    assert (found.training.batch_size, found.training.warmup_steps) == (4, 100)


def test_without_a_model_it_is_the_embedded_default() -> None:
    found = composed({}, {"search": {"budget": 7}})
    assert found.model is not None
    assert Path(found.model.path).is_dir()
    assert (found.search.budget, found.protocol.processes) == (7, 2)
    assert parse(_safe(dump(found))) == found


def test_litgpt_as_the_engine_is_not_told_what_it_has_not() -> None:
    assert composed({**OWN, "run": {"engine": "litgpt"}}, {}).training.max_grad_norm == 1.0


def _safe(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


# ----- the plan


def test_its_studies_are_every_algorithm_with_every_seed() -> None:
    studies = plan(**OWN, protocol={"algorithms": "soo,lhs", "repeats": 2}).studies(3)
    assert list(studies) == ["soo-0", "lhs-0", "soo-1", "lhs-1"]
    assert {(each.search.algorithm, each.search.seed) for each in studies.values()} == {
        (name, seed) for name in ("soo", "lhs") for seed in (0, 1)
    }
    assert {each.training.epochs for each in studies.values()} == {3}
    assert (studies["soo-0"].run.pack, studies["lhs-0"].run.pack) == (1, "auto")  # as in its paper; as fits


def test_the_pack_is_the_users_where_one_is_given() -> None:
    assert plan(**OWN, run={"pack": 4}).studies(None)["soo-0"].run.pack == 4


def test_a_hypercube_is_as_large_as_the_budget() -> None:
    studies = plan(**{**OWN, "search": {"budget": 20}}).studies(None)
    assert (studies["lhs-0"].search.options, studies["bo-0"].search.options) == ({"size": 20}, {})


def test_the_calibration_trains_for_every_number_of_epochs_and_needs_no_test() -> None:
    found = plan(**{**OWN, "test": {"tasks": ["u"]}}, protocol={"calibration": 4, "most_epochs": 3}).calibration()
    assert (found.search.budget, found.search.options, found.test.tasks) == (12, {"configurations": 4}, ())
    assert isinstance(found.space, dict)
    assert found.space["epochs"] == {"int": [1, 3]}
    assert {**found.space, "epochs": None} == {**SPACES["lora-report"].describe(), "epochs": None}


def test_epochs_are_found_of_trainings_that_are_counted_in_them() -> None:
    assert plan(**OWN).calibrated
    assert not plan(**OWN, protocol={"calibration": 0}).calibrated
    assert not plan(**{**OWN, "training": {"steps": 10}}).calibrated
    assert not plan(**BRANIN).calibrated


# ----- refused before any work


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protocol": {"seeds": "0,0"}}, "seeds must not repeat, got 0,0"),
        ({"protocol": {"seeds": [1, 2, 3]}}, "3 seeds do not fit 2 repeats"),
        ({"protocol": {"algorithms": "bo,bo"}}, "algorithms must not repeat, got bo,bo"),
        ({"protocol": {"calibration": 2}}, "calibration must be 0 or at least 3 configurations, got 2"),
        ({"search": {"algorithm": "bo"}}, "search.algorithm cannot be set in an experiment: use `--algorithms`"),
        ({"run": {"workers": 2}}, "run.workers cannot be set in an experiment.*use `--processes`"),
        ({"run": {"storage": "sqlite:///x"}}, "run.storage cannot be set in an experiment"),
        ({"protocol": {"repeat": 3}}, 'unknown key "protocol.repeat"; did you mean "repeats"'),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        plan(**{**BRANIN, **given})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protocol": {"algorithms": "bo,bamso"}}, 'no algorithm "bamso"; did you mean "bamsoo"'),
        ({"protocol": {"algorithms": "auto,bo"}}, "names that `partune algorithms` lists, got 'auto'"),
        ({"protocol": {"algorithms": "bo", "repeats": 1}}, "compares at least two studies"),
        ({"protocol": {"upper": "none.yaml"}}, "cannot read none.yaml"),
    ],
)
def test_what_cannot_work_is_refused(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        plan(**{**BRANIN, **given}).check()
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_upper_bound_is_of_tasks_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "upper.yaml").write_text("u: 0.7\nt: 0.8\n")
    given = {**OWN, "test": {"tasks": ["u"]}}
    (tmp_path / "experiment.yaml").write_text(f"{dump(composed(given, {}))}protocol: {{upper: upper.yaml}}\n")
    found = Plan(composed(load(tmp_path / "experiment.yaml"), {}))  # a file's paths are relative to it
    assert found.upper() == {"u": 0.7, "t": 0.8}
    (tmp_path / "upper.yaml").write_text("v: 0.7\n")
    with pytest.raises(UserError, match="v is not one of the tasks t, u"):
        found.upper()
    (tmp_path / "upper.yaml").write_text("u: good\n")
    with pytest.raises(UserError, match="the score of u must be a number, got 'good'"):
        found.upper()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds something other than an experiment"):
        plan(**BRANIN, protocol={"out": str(tmp_path)}).check()


def test_another_experiment_does_not_go_on_in_the_folder_but_more_repeats_do(tmp_path: Path) -> None:
    first = plan(**BRANIN, protocol={"out": str(tmp_path)})
    first.begin()
    plan(**{**BRANIN, "search": {"budget": 6}}, protocol={"out": str(tmp_path)}).check()  # no study has begun
    (tmp_path / "lhs-0").mkdir()
    with pytest.raises(UserError, match=r"another experiment: search\.budget differs"):
        plan(**{**BRANIN, "search": {"budget": 6}}, protocol={"out": str(tmp_path)}).check()
    plan(**BRANIN, protocol={"out": str(tmp_path), "repeats": 3, "processes": 2}).check()
