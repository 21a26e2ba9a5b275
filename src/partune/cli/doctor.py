"""Check this machine, and whether partune works on it, with one line per check and advice for each problem.

The self-check fine-tunes the demo's model for a few steps. With learning rate 0, the answers must be those of the
untouched base model. Trials that are trained together (a pack) must give the same answers as each trial that is trained
alone through PEFT.
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
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlsplit

from partune.errors import UserError
from partune.runtime.extras import install_command, require_finetune

if TYPE_CHECKING:
    from partune.objectives.finetune import FineTune
    from partune.trial import Observation, Trial

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
UNCHECKED_EXTRAS = ("dev",)
GIBIBYTE = 2**30
STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
LITTLE_MEMORY, LITTLE_DISK = 4 * GIBIBYTE, 5 * GIBIBYTE
PATIENCE = 3.0  # seconds to wait for the Hub
STEPS = 5  # of each training in the self-check


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: The name of the check.
        verdict: The result: ok, warn for a possible problem, FAIL for a problem that must be fixed.
        found: What the check found.
        todo: The advice for the user; empty if there is no problem.
    """

    name: str
    verdict: Literal["ok", "warn", "FAIL"]
    found: str
    todo: str = ""


def examine(quick: bool = False) -> Iterator[Check]:
    """Yield each check as soon as it is done.

    Args:
        quick: Whether to skip the self-check.
    """
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
        yield attempted("self-check", "learning rate 0 does not change the base model's answers", zero_is_base)
        same = "trials that train together answer like the same trials alone through PEFT"
        yield attempted("self-check", same, packed_is_peft)


# ----- the machine


def python() -> Check:
    """Check the interpreter."""
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def machine() -> Check:
    """Check the processor and the memory."""
    total, free = memory()
    finding = f"{os.cpu_count()} cores, {total / GIBIBYTE:.1f} GiB of memory, {free / GIBIBYTE:.1f} GiB of it free"
    if free < LITTLE_MEMORY:
        return Check("machine", "warn", finding, "stop other programs, or use a smaller model")
    return Check("machine", "ok", finding)


def memory() -> tuple[float, float]:
    """Return the total and the free memory in bytes, or nan if the system does not report them."""
    # Linux only. Python's standard library cannot tell how much memory is available.
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kibibytes = {words[0].rstrip(":"): float(words[1]) for words in lines}
        return 1024 * kibibytes["MemTotal"], 1024 * kibibytes["MemAvailable"]
    except (OSError, KeyError):
        return float("nan"), float("nan")


def devices() -> Check:
    """Check which devices PyTorch can train on."""
    try:
        import torch
    except ModuleNotFoundError:  # partune[finetune] is not installed
        return Check("devices", "ok", "not checked, because PyTorch is not installed; only fine-tuning needs a device")

    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            sizes = f"{total / GIBIBYTE:.0f} GiB, {free / GIBIBYTE:.0f} GiB free"
            names.append(f"cuda:{index} {torch.cuda.get_device_name(index)} ({sizes})")
        if not torch.cuda.is_bf16_supported():
            return Check(
                "devices",
                "warn",
                "; ".join(names),
                "the GPU has no bf16, so `--dtype auto` means fp32; `--dtype fp16` saves memory",
            )
        return Check("devices", "ok", "; ".join(names))
    if torch.backends.mps.is_available():
        return Check("devices", "ok", "mps")
    if shutil.which("nvidia-smi") is not None:
        todo = f"PyTorch {torch.__version__} sees no GPU: install a CUDA build (pytorch.org), or update the driver"
        return Check("devices", "warn", "only the CPU, although an NVIDIA driver is installed", todo)
    return Check("devices", "ok", "cpu only: fine for small models")


def disk() -> Check:
    """Check the working folder, where studies are by default."""
    free = shutil.disk_usage(".").free
    finding = f"{free / GIBIBYTE:.1f} GiB free in the working folder"
    if not os.access(".", os.W_OK | os.X_OK):
        return Check(
            "disk", "FAIL", f"{finding}, which is not writable", "change to another folder, or use `--runs FOLDER`"
        )
    if free < LITTLE_DISK:
        return Check(
            "disk",
            "warn",
            finding,
            "adapters and merged models need space: keep studies elsewhere with `--runs FOLDER`",
        )
    return Check("disk", "ok", finding)


# ----- the libraries


def libraries() -> Check:
    """Check that the required libraries are installed and new enough."""
    versions, wrong = [], []
    for need in requirements(None):
        if not need.fits:
            wrong.append(f'"{need.name}{need.versions}"')
        if need.installed is not None:
            versions.append(f"{need.name} {need.installed}")
    shown = ", ".join(versions)
    if wrong:
        return Check("libraries", "FAIL", shown, f"missing or too old: run `pip install {' '.join(wrong)}`")
    return Check("libraries", "ok", shown)


def extras() -> Iterator[Check]:
    """Check the optional parts of partune. A part that is not installed is not a problem."""
    names = importlib.metadata.metadata("partune").get_all("Provides-Extra") or []
    for name in names:
        if name in UNCHECKED_EXTRAS:
            continue
        if name == "litgpt":  # a command in another environment, because its requirements conflict with partune's
            installed = shutil.which("litgpt")
            state = "litgpt is installed" if installed else "not found; `--litgpt PATH` sets its path (docs/litgpt.md)"
            yield Check("extra: litgpt", "ok", state)
            continue
        needed = list(requirements(name))
        lacking = ", ".join(need.name for need in needed if not need.fits)
        versions = ", ".join(f"{need.name} {need.installed}" for need in needed if need.installed is not None)
        complete = all(need.installed is not None for need in needed)
        if name == "finetune" and lacking and complete:  # `tune` would use the old libraries
            yield Check(f"extra: {name}", "FAIL", versions, f"too old ({lacking}): {install_command(name)}")
            continue
        state = f"not installed ({lacking}): {install_command(name)}" if lacking else versions
        yield Check(f"extra: {name}", "ok", state)


class Requirement(NamedTuple):
    """A library that partune or one of its optional parts needs.

    Attributes:
        name: The name of the library.
        versions: The accepted versions, in pip's syntax.
        installed: The installed version, or None.
        fits: Whether an accepted version is installed.
    """

    name: str
    versions: str
    installed: str | None
    fits: bool


def requirements(extra: str | None) -> Iterator[Requirement]:
    """Yield the requirements of an optional part of partune, or of partune itself for None."""
    from packaging import requirements

    for text in importlib.metadata.requires("partune") or []:
        need = requirements.Requirement(text)
        marker = need.marker
        if marker is None:
            wanted = extra is None
        elif "extra" in str(marker):
            wanted = extra is not None and marker.evaluate({"extra": extra})
        else:
            wanted = extra is None and marker.evaluate()
        if not wanted or need.name == "partune":  # an extra may require another extra, such as partune[dask]
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            yield Requirement(need.name, str(need.specifier), None, False)
        else:
            fits = need.specifier.contains(version, prereleases=True)
            yield Requirement(need.name, str(need.specifier), version, fits)


def hub() -> Check:
    """Check whether models, data and tasks can be downloaded from Hugging Face."""
    switches = [
        f"{name}={os.environ[name]}" for name in OFFLINE if os.environ.get(name, "0").lower() not in ("", "0", "false")
    ]
    if switches:
        return Check("hub", "ok", f"offline ({', '.join(switches)}): only folders and cached downloads can be used")
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host, port = endpoint.hostname or "huggingface.co", endpoint.port or (80 if endpoint.scheme == "http" else 443)
    # Only open a connection, with a short limit. Behind a firewall, a download would wait for minutes.
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        todo = "check the network, or set HF_HUB_OFFLINE=1 to use folders and cached downloads only"
        return Check("hub", "warn", f"{host} does not answer ({error})", todo)
    return Check("hub", "ok", f"online, {host} answers: models, data and tasks can be named by their IDs")


# ----- the self-check


def attempted(name: str, holds: str, attempt: Callable[[], str | None]) -> Check:
    """Run one self-check and return its result.

    Args:
        name: The name of the check.
        holds: What must be true, as a sentence.
        attempt: A function that runs the check, and returns what is wrong, or None.
    """
    began = time.perf_counter()
    try:
        wrong = attempt()
    # A check that cannot run at all has failed too, and the user has to see the error.
    except (UserError, ImportError, OSError, RuntimeError) as error:
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())}"
    seconds = f"{time.perf_counter() - began:.0f} s"
    if wrong is None:
        return Check(name, "ok", f"{holds} ({seconds})")
    todo = (
        "do not trust scores here: try `--engine peft` or `--device cpu`, and report the output of "
        "`partune doctor --json`"
    )
    return Check(name, "FAIL", f"not true that {holds}: {wrong}", todo)


def zero_is_base() -> str | None:
    """Return how a training with learning rate 0 differs from the base model, or None if it does not."""
    tuner = demo_tuning("packed", "auto")
    base = tuner.score_base(frozenset({"search"}))
    zero = tuner.score_zero(trials()[0])
    return zero.error or tuner.disagreement(base, zero)


def packed_is_peft() -> str | None:
    """Check that a pack gives the same answers as its trials trained alone through PEFT, and as its saved adapters.

    The comparison is in fp32. Training together changes the order of additions. In lower precision, that alone would
    change the results so much that a small error could stay hidden.

    Returns:
        The first difference, or None if there is none.
    """
    packed, alone = demo_tuning("packed", "fp32"), demo_tuning("peft", "fp32")
    pair = trials()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(pair)) as pool:
        adapters = [Path(folder) / str(trial.number) for trial in pair]
        together = list(pool.map(packed.evaluate, pair, adapters))
        for trial, adapter, scored in zip(pair, adapters, together, strict=True):
            again = packed.reload(trial, adapter, scored)
            if scored.error is None and again is not None and again.error is not None:
                return f"an adapter on disk, loaded by PEFT: {again.error}"
    apart: list[Observation] = [alone.evaluate(trial) for trial in pair]
    for mine, theirs in zip(together, apart, strict=True):
        if wrong := mine.error or theirs.error or alone.disagreement(theirs, mine):
            return wrong
    return None


def demo_tuning(engine: str, dtype: str) -> FineTune:
    """Return a short fine-tuning of the demo, on the best device.

    Args:
        engine: The engine that trains: packed or peft.
        dtype: The precision of the base model.
    """
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
    """Return two trials that differ in rank, scale, dropout, learning rate and seed."""
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
    """Print each check as soon as it is done, and return all of them."""
    from partune.runtime.console import Console, line, text

    console, done = Console(soft_wrap=True), []
    for check in checks:
        done.append(check)
        console.print(line((f"{check.verdict:<4}", STYLES[check.verdict]), f"  {check.name}: {check.found}"))
        if check.todo:
            console.print(text(f"      -> {check.todo}"))
    return done


def as_data(checks: list[Check]) -> dict[str, object]:
    """Return the checks as data, for scripts."""
    return {
        "ok": all(check.verdict != "FAIL" for check in checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }
