"""What this machine has, and whether partune works on it: one line each, with what to do about it.

The self-check fine-tunes the embedded demo's model for a few steps: learning rate 0 has to leave the base's answers as
they are, and trials of a pack have to answer as each does alone through PEFT.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from partune.errors import UserError
from partune.runtime.extras import command, require_finetune

if TYPE_CHECKING:
    from partune.objectives.finetune import FineTune
    from partune.trial import Observation, Trial

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
UNCHECKED_EXTRAS = ("dev",)
GIBIBYTE = 2**30
STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
LITTLE_MEMORY, LITTLE_DISK = 4 * GIBIBYTE, 5 * GIBIBYTE
PATIENCE = 3.0  # seconds that the Hub is waited for
STEPS = 5  # of the self-check's trainings


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what was found, and what to do unless all is well."""

    name: str
    verdict: Literal["ok", "warn", "FAIL"]
    found: str
    todo: str = ""


def examine(quick: bool = False) -> Iterator[Check]:
    """The checks in their order, each as soon as it is known. quick: without the self-check."""
    yield python()
    yield machine()
    yield devices()
    yield disk()
    yield libraries()
    yield from extras()
    yield hub()
    if quick:
        return
    try:
        require_finetune()
    except UserError as error:
        yield Check("self-check", "ok", f"not run: {error}")
    else:
        yield attempted("self-check", "learning rate 0 leaves the base's answers as they are", zero_is_base)
        yield attempted("self-check", "trials of a pack answer as each does alone through PEFT", packed_is_peft)


# ----- the machine


def python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def machine() -> Check:
    total, free = memory()
    found = f"{os.cpu_count()} cores, {total / GIBIBYTE:.1f} GiB of memory, {free / GIBIBYTE:.1f} GiB of it free"
    if free < LITTLE_MEMORY:
        return Check("machine", "warn", found, "end other programs, or take a small model")
    return Check("machine", "ok", found)


def memory() -> tuple[float, float]:
    """Bytes in all, and bytes free; nan where the system does not tell."""
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kibibytes = {words[0].rstrip(":"): float(words[1]) for words in lines}
        return 1024 * kibibytes["MemTotal"], 1024 * kibibytes["MemAvailable"]
    except (OSError, KeyError):
        return float("nan"), float("nan")


def devices() -> Check:
    try:
        import torch
    except ModuleNotFoundError:  # the search half alone
        return Check("devices", "ok", "not looked for: PyTorch, which fine-tuning brings, would tell")

    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            sizes = f"{total / GIBIBYTE:.0f} GiB, {free / GIBIBYTE:.0f} GiB free"
            names.append(f"cuda:{index} {torch.cuda.get_device_name(index)} ({sizes})")
        if not torch.cuda.is_bf16_supported():
            return Check("devices", "warn", "; ".join(names), "no bf16 here: --dtype fp16 saves memory, auto is fp32")
        return Check("devices", "ok", "; ".join(names))
    if torch.backends.mps.is_available():
        return Check("devices", "ok", "mps")
    if shutil.which("nvidia-smi") is not None:
        todo = f"PyTorch {torch.__version__} sees no GPU: install a build for CUDA (pytorch.org), or update the driver"
        return Check("devices", "warn", "cpu; there is an NVIDIA driver", todo)
    return Check("devices", "ok", "cpu only: fine for small models")


def disk() -> Check:
    free = shutil.disk_usage(".").free
    found = f"{free / GIBIBYTE:.1f} GiB free in the working folder"
    if not os.access(".", os.W_OK | os.X_OK):
        return Check("disk", "FAIL", f"{found}, which cannot be written in", "go elsewhere, or give --runs FOLDER")
    if free < LITTLE_DISK:
        return Check(
            "disk", "warn", found, "adapters and a merged model need room: --runs FOLDER puts studies elsewhere"
        )
    return Check("disk", "ok", found)


# ----- the libraries


def libraries() -> Check:
    """Those that partune needs, against what it asks for."""
    found, wrong = [], []
    for name, asked, there in requirements(None):
        if there is None or not there[1]:
            wrong.append(f'"{name}{asked}"')
        if there is not None:
            found.append(f"{name} {there[0]}")
    shown = ", ".join(found)
    if wrong:
        return Check("libraries", "FAIL", shown, f"missing or too old: pip install {' '.join(wrong)}")
    return Check("libraries", "ok", shown)


def extras() -> Iterator[Check]:
    """The optional parts; one that is not there is no fault."""
    names = importlib.metadata.metadata("partune").get_all("Provides-Extra") or []
    for name in names:
        if name in UNCHECKED_EXTRAS:
            continue
        if name == "litgpt":  # lives in an environment of its own
            found = shutil.which("litgpt")
            told = "litgpt is there" if found else "not there; --litgpt PATH names one (docs/litgpt.md)"
            yield Check("extra: litgpt", "ok", told)
            continue
        needed = list(requirements(name))
        lacking = [each for each, _, there in needed if there is None or not there[1]]
        there_are = ", ".join(f"{each} {there[0]}" for each, _, there in needed if there is not None)
        if name == "finetune" and lacking and all(there for _, _, there in needed):  # all there, and would be used
            yield Check(f"extra: {name}", "FAIL", there_are, f"too old ({', '.join(lacking)}): {command(name)}")
            continue
        told = there_are if not lacking else f"not there ({', '.join(lacking)}): {command(name)}"
        yield Check(f"extra: {name}", "ok", told)


def requirements(extra: str | None) -> Iterator[tuple[str, str, tuple[str, bool] | None]]:
    """What partune, or an extra of it, needs: name, which versions; the one that is there, and whether it will do."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("partune") or []:
        need = Requirement(text)
        marker = need.marker
        if marker is None:
            wanted = extra is None
        elif "extra" in str(marker):
            wanted = extra is not None and marker.evaluate({"extra": extra})
        else:
            wanted = extra is None and marker.evaluate()
        if not wanted or need.name == "partune":
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            yield need.name, str(need.specifier), None
        else:
            yield need.name, str(need.specifier), (version, need.specifier.contains(version, prereleases=True))


def hub() -> Check:
    """Whether models, data and the harness's tasks come from Hugging Face or from this machine alone."""
    told = [
        f"{name}={os.environ[name]}" for name in OFFLINE if os.environ.get(name, "0").lower() not in ("", "0", "false")
    ]
    if told:
        return Check("hub", "ok", f"offline ({', '.join(told)}): folders, and what is cached")
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host, port = endpoint.hostname or "huggingface.co", endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        todo = "set HF_HUB_OFFLINE=1 to use folders and what is cached without waiting, or mend the network"
        return Check("hub", "warn", f"{host} does not answer ({error})", todo)
    return Check("hub", "ok", f"online, {host} answers: models, data and the harness's tasks may be named by id")


# ----- does it work?


def attempted(name: str, holds: str, attempt: Callable[[], str | None]) -> Check:
    """A self-check's line. holds: what has to be so; attempt: answers what is wrong, None where nothing is."""
    began = time.perf_counter()
    try:
        wrong = attempt()
    except (UserError, ImportError, OSError, RuntimeError) as error:
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())}"
    took = f"{time.perf_counter() - began:.0f} s"
    if wrong is None:
        return Check(name, "ok", f"{holds} ({took})")
    todo = "scores cannot be trusted here: try --engine peft or --device cpu, and report what doctor --json says"
    return Check(name, "FAIL", f"not so: {holds}: {wrong}", todo)


def zero_is_base() -> str | None:
    """How the base and a training with learning rate 0 differ, in the precision that trials would have."""
    tuner = demo_tuning("packed", "auto")
    base = tuner.score_base(frozenset({"search"}))
    zero = tuner.score_zero(trials()[0])
    return zero.error or tuner.disagreement(base, zero)


def packed_is_peft() -> str | None:
    """How trials of a pack differ from the same trials alone through PEFT, in fp32, or from their adapters on disk."""
    packed, alone = demo_tuning("packed", "fp32"), demo_tuning("peft", "fp32")
    several = trials()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(several)) as pool:
        adapters = [Path(folder) / str(each.number) for each in several]
        together = list(pool.map(packed.evaluate, several, adapters))
        for trial, adapter, scored in zip(several, adapters, together, strict=True):
            again = packed.reload(trial, adapter, scored)
            if scored.error is None and again is not None and again.error is not None:
                return f"an adapter on disk, loaded by PEFT: {again.error}"
    apart: list[Observation] = [alone.evaluate(each) for each in several]
    for mine, theirs in zip(together, apart, strict=True):
        if wrong := mine.error or theirs.error or alone.disagreement(theirs, mine):
            return wrong
    return None


def demo_tuning(engine: str, dtype: str) -> FineTune:
    """A short fine-tuning of the embedded demo on the best device."""
    from partune.demo import DIRECTORY
    from partune.objectives.finetune import FineTune

    tuner = FineTune(
        DIRECTORY / "model",
        {"path": str(DIRECTORY / "instructions.jsonl"), "max_length": 128},
        DIRECTORY / "tasks" / "factory_cloze.yaml",
        validation={"limit": 60, "metric": "acc_norm"},
        training={"steps": STEPS, "batch_size": 8, "dtype": dtype},
        run={"engine": engine, "pack": len(trials())},
    )
    tuner.declare(trials()[0].config)
    return tuner


def trials() -> list[Trial]:
    """Two that differ in all that a pack has to keep apart."""
    from partune.trial import Trial

    first: dict[str, float] = {
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
    }
    return [
        Trial(0, first, seed=1),
        Trial(1, {**first, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.3, "learning_rate": 3e-4}, seed=2),
    ]


def tell(checks: Iterator[Check]) -> list[Check]:
    """Prints each line as soon as it is known; returns all."""
    from partune.runtime.console import Console, line, text

    console, told = Console(soft_wrap=True), []
    for each in checks:
        told.append(each)
        console.print(line((f"{each.verdict:<4}", STYLES[each.verdict]), f"  {each.name}: {each.found}"))
        if each.todo:
            console.print(text(f"      -> {each.todo}"))
    return told


def as_data(checks: list[Check]) -> dict[str, object]:
    """All of it for scripts."""
    return {
        "ok": all(each.verdict != "FAIL" for each in checks),
        "checks": [dataclasses.asdict(each) for each in checks],
    }
