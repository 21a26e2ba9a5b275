"""Export an adapter in PEFT's format, or a model with the adapter merged in, to a new folder.

adapter/
  README.md                   the model card
  adapter_config.json, ...    or model.safetensors, config.json, ... of the merged model
  tokenizer.json, ...         the tokenizer, with the chat template used in training
  recipes/                    files that repeat the training with other tools
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from partune import config
from partune.errors import UserError, suggestion
from partune.export.card import Exported, card
from partune.export.check import Check, check, reference_run
from partune.export.chosen import Chosen, tilde
from partune.export.recipes.write import RECIPES, write
from partune.export.repeat import study_file
from partune.export.usage import Tokenizer
from partune.record.record import Record
from partune.report.plain_data import Summary
from partune.report.summary import summarise
from partune.report.verdict_words import lost_words
from partune.runtime.disk import draft_of
from partune.runtime.extras import require_finetune
from partune.runtime.paths import as_path, command_on
from partune.trial import Trial
from partune.trial.contents import differences
from partune.trial.names import Baseline, FurtherBaseline, WinnerScoring

FOLDER = "recipes"  # the name of the folder for recipes inside the export
TOKENIZER = "tokenizer_config.json"  # a file that every saved tokenizer has


def export(
    directory: Path,
    out: Path,
    trial: int | str | None = None,
    merge: bool = False,
    storage: str | None = None,
    recipes: Collection[str] = tuple(RECIPES),
    anyway: bool = False,
    quantize: str | None = None,
    checked: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """Write an adapter, or the model with it merged in, to a new folder, with a model card.

    Args:
        directory: The study's directory.
        out: The folder to write, which must not exist yet.
        trial: The number of the trial, or the name of a baseline; "defaults" is the first one. None means the winner.
        merge: Write the model with the adapter merged in, instead of the adapter.
        storage: The URL of the study's database; needed if it requires a password or the database has moved.
        recipes: The tools for which recipes are written. A recipe is a file with which the tool trains the trial again.
            "none" writes no recipes.
        anyway: Whether to export in three doubtful cases too: the verdict shows the winner worse than the untouched
            base model; the saved adapter, loaded again, gave other answers than those on record; the adapter was
            trained on a base model in 4 bits and is to be merged.
        quantize: The form of the merged model's weights, nf4 or int8; None leaves them as they are.
        checked: Whether to load the export, score it on the study's held-out items, and state in the card how much
            score it lost against the adapter in the study.
        tell: Called with that statement.

    Returns:
        The path of the folder.

    Raises:
        UserError: The study has no such adapter, the export is refused, or the folder cannot be written.
    """
    if "none" in recipes and len(set(recipes)) > 1:
        raise UserError(f"`--recipe` accepts either none or names of tools, got {', '.join(recipes)}")
    for tool in recipes:
        if tool not in (*RECIPES, "none"):
            raise UserError(f'no recipe for "{tool}"{suggestion(tool, (*RECIPES, "none"))}')
    if quantize is not None:
        _require_quantization(quantize, merge)
    out = as_path(out)
    record = Record.open(directory, read_only=True, storage=storage)
    if os.path.lexists(out):
        raise UserError(f"{out} exists already and is never overwritten; choose another folder")
    summary = summarise(record)
    best = summary["best"]
    run: Trial | None = None  # the fresh run whose adapter ships instead of the trial's own
    if trial is None:
        if best is None:
            raise UserError(
                f"{directory}: no trial has finished yet; continue the study with `{command_on('resume', directory)}`"
            )
        trial = int(best["trial"])
        run = _shipped(record, trial) if best["ships"] == "fresh" else None
    if best is not None and trial == best["trial"] and not anyway:
        _refuse_doubtful(summary, directory)
    trained = _baseline(record, trial) if isinstance(trial, str) else trial
    adapter = record.adapter(WinnerScoring.JUDGED if run is not None else trained)
    if not adapter.is_dir():
        names = ", ".join(map(str, record.artifacts.adapters())) or "none"
        model = trial if isinstance(trial, str) else f"trial {trial}"
        raise UserError(f"{directory} has no adapter of {model}; it has: {names} (`--keep` makes a study keep more)")
    scored = None
    if checked:
        scored = reference_run(record, trained, run, None if best is None else int(best["trial"]), merge)
    _check(adapter)
    if not merge and (adapter / "adapter_model.safetensors").is_file():
        _check_fits(record, adapter)
    draft = draft_of(out)  # a folder beside `out`, renamed at the end so that `out` is never incomplete
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if merge:
            _merge(record, adapter, draft, anyway, quantize)
        else:
            _copy(adapter, draft)
        tools = [tool for tool in RECIPES if tool in recipes]
        found = _describe(record, summary, trial, run, adapter, draft, out, Exported(merge, quantize), tools, scored)
        draft.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if found is not None:
        tell(found.sentence)  # after the `try`, so that a terminal's OSError is not reported as the folder's
    return out


def _baseline(record: Record, name: str) -> Baseline | FurtherBaseline:
    """Return the run that trained a baseline's adapter; raise UserError if the study has no such baseline."""
    names = config.names_of(record.header.get("objective", {}))
    if name in ("defaults", *names[:1]):
        return Baseline.DEFAULTS
    if name not in names:
        raise UserError(f'{record.directory} has no baseline "{name}"{suggestion(name, names or ["defaults"])}')
    return FurtherBaseline(name)


def _check(adapter: Path) -> None:
    """Raise UserError if an adapter's files are missing or damaged."""
    from partune.finetune.adapter import check

    names = {file.name for file in adapter.iterdir()}
    if not names:
        raise UserError(f"{adapter} is empty; restore the adapter from a copy, or export another trial with `--trial`")
    if any(name.startswith("adapter_") for name in names):  # in PEFT's format
        require_finetune()
        check(adapter)


def _refuse_doubtful(summary: Summary, directory: Path) -> None:
    """Raise UserError if the winner is shown worse than the base model, or its adapter did not reload correctly."""
    if lost := lost_words(summary):
        raise UserError(f"{lost.removeprefix(' But ')} To export it anyway, add `--anyway`")
    if summary["verdict"] is not None and "base" in summary["verdict"]["worse_than"]:
        raise UserError(
            f"the winner of {directory} is shown worse than the untouched base model; continue the search with "
            f"`{command_on('resume', directory)} --budget N`, or export it anyway with `--anyway`"
        )


def _shipped(record: Record, winner: int) -> Trial:
    """Return the winner with the seeds of the fresh run whose adapter ships."""
    scored = record.anchors()[WinnerScoring.JUDGED]
    return dataclasses.replace(record.trials()[winner], seed=scored.seed, order=scored.order)


def _check_fits(record: Record, adapter: Path) -> None:
    """Raise UserError if PEFT would not load the adapter into the study's base model."""
    from partune.finetune.adapter import check_fits

    if (model := record.header["objective"].get("model")) is not None:
        check_fits(config.validated(config.Model, model), adapter)


def _require_quantization(form: str, merge: bool) -> None:
    """Raise UserError if this machine cannot quantize a model, or no merged model is written."""
    require_finetune()
    from partune.finetune.quantizing import require

    require(form)
    if not merge:
        raise UserError(f"`--quantize {form}` quantizes the merged model: add `--merge`")


def _merge(record: Record, adapter: Path, out: Path, anyway: bool, form: str | None) -> None:
    """Write the merged model; raise UserError if the base model is no longer the one that the study fine-tuned."""
    from partune.finetune.adapter import merge
    from partune.finetune.digests import of_model
    from partune.finetune.quantizing import quantize

    model = record.header["objective"].get("model")
    if model is None:
        raise UserError(f"{record.directory} is not a fine-tuning study, so it has no model to merge into")
    spec = config.validated(config.Model, model)
    if spec.quantize != "none" and not anyway:
        raise UserError(
            f"{record.directory} trained and scored its adapters on the base model in 4 bits ({spec.quantize}), but "
            "`--merge` merges into the base model in full precision, and this combination was never scored. Export the "
            "adapter without `--merge`: the model card says how to load the base model in 4 bits. Or add `--anyway`: "
            "the model card then warns that the combination was never scored, unless `--check` scores it"
        )
    changed, _ = differences(record.contents, of_model(spec))
    if changed:
        raise UserError(f"{spec.path} is not the base model that the study fine-tuned; restore {' and '.join(changed)}")
    if form is None:
        merge(spec, adapter, out)
        return
    whole = draft_of(out)
    try:
        merge(spec, adapter, whole)
        quantize(whole, out, form, spec.trust_remote_code)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _copy(adapter: Path, out: Path) -> None:
    """Copy the adapter's files; if the base model is in a home folder, keep only the last part of its path."""
    shutil.copytree(adapter, out)
    settings = out / "adapter_config.json"
    if settings.is_file():
        lora: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
        base = lora.get("base_model_name_or_path")
        if base is not None and tilde(base) != base:
            settings.write_text(json.dumps({**lora, "base_model_name_or_path": Path(base).name}, indent=2))


def _describe(
    record: Record,
    summary: Summary,
    which: int | str,
    run: Trial | None,
    adapter: Path,
    draft: Path,
    out: Path,
    exported: Exported,
    tools: Collection[str],
    scored: Trial | None,
) -> Check | None:
    """Write the model card and the recipes; check the export if there is a run on record to compare it with."""
    trial = run or (record.anchors()[_baseline(record, which)] if isinstance(which, str) else record.trials()[which])
    chosen, tokenizer, found = None, None, None
    if (adapter / "adapter_config.json").is_file() and "format" in record.loaded.get("data", {}):
        chosen = Chosen.of(record.header, record.loaded, trial, adapter, out / FOLDER)
        tokenizer = _save_tokenizer(chosen, draft)
        if tools:
            write(chosen, draft / FOLDER, tools)
        if scored is not None:
            found = check(record, scored, chosen, draft, exported.merged, exported.quantized)
    elif scored is not None:
        raise UserError(f"{adapter} is not in PEFT's format, so `--check` cannot load it: leave `--check` out")
    exported = dataclasses.replace(exported, tokenizer=tokenizer, check=found)
    study = None if chosen is None else study_file(record, summary)
    text = card(summary, study, which if isinstance(which, str) else trial, chosen, exported)
    (draft / "README.md").write_text(text, encoding="utf-8")
    return found


def _save_tokenizer(chosen: Chosen, draft: Path) -> Tokenizer | None:
    """Write the tokenizer with the chat template used in training; return None if the base model is not found here."""
    from partune.finetune.chats import Chat
    from partune.finetune.model import ending, load_tokenizer
    from partune.runtime.isolation import quiet

    try:
        tokenizer = load_tokenizer(chosen.model)
    except UserError:  # the base model has moved or is on another machine; the adapter can still be exported
        return None
    is_chat = chosen.rows == "chat"
    if chosen.template is not None and is_chat:
        tokenizer.chat_template = chosen.template
    with quiet():
        tokenizer.save_pretrained(str(draft))
        return Tokenizer(len(ending(tokenizer)), is_chat and Chat.of(tokenizer, None).parts)
