"""`partune bench chaos`: kill the processes of a study again and again, and check that its record is still right.

Dask's scheduler, the workers, and the driver (the process that runs the study's loop) are separate processes. Every few
seconds the benchmark kills one of them (SIGKILL). A process that ends is started again; for the driver, the command is
then `partune resume`. At the end, the record is compared with the record of the same study run undisturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partune.bench.meter import machine, versions
from partune.bench.options import Chaos, repeated_by
from partune.errors import UserError
from partune.record.place import JOURNAL
from partune.record.record import Record
from partune.runtime.limits import require_workers
from partune.runtime.network import LOOPBACK
from partune.runtime.paths import make_folder
from partune.space import Space
from partune.study import Study
from partune.trial import Config, Status
from partune.workers.certificates import FILES, environment_of, read_certificates, write_certificates
from partune.workers.local import UNSEEN, Keeper

SPACE = {"x": {"float": [0.0, 1.0]}, "y": {"float": [1e-6, 1e-2], "log": True}}
SECONDS = "PARTUNE_CHAOS_SECONDS"  # the environment variable that tells workers the mean length of a trial, in seconds
KINDS = ("worker", "scheduler", "driver")
# Numbers in Optuna's journal: of the operation that sets a trial's state; of the states COMPLETE, PRUNED and FAIL.
SET_STATE, FINAL = 6, (1, 2, 3)
STALL = 300.0  # seconds without a new result after which the study counts as stuck


def work(config: Config) -> float:
    """Return the score of a configuration after a pause, whose length depends on the configuration alone."""
    time.sleep(float(os.environ.get(SECONDS, "0")) * (0.5 + float(config["x"])))
    return unhurried(config)


def unhurried(config: Config) -> float:
    """Return the score of a configuration without a pause."""
    return -((float(config["x"]) - 0.3) ** 2)


class Service:
    """A process that is started again whenever it exits, until it exits with status 0.

    Args:
        command: A function that returns the command to run; it is called before every start.
        log: The file to append the process's output to.

    Attributes:
        starts: The number of times that the process was started.
        finished: Whether the process has exited with status 0.
    """

    def __init__(self, command: Callable[[], Sequence[str]], log: Path) -> None:
        self.starts, self.finished = 0, False
        self._command, self._log = command, log
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def kill(self) -> bool:
        """Kill the process, and return whether it was alive."""
        alive = self._process is not None and self._process.poll() is None
        if self._process is not None:
            self._process.kill()
        return alive

    def stop(self) -> None:
        """Kill the process and do not start it again."""
        self._stopped.set()
        self.kill()
        self._thread.join()

    def _keep(self) -> None:
        while not self._stopped.is_set():
            with self._log.open("ab") as log:
                # In a session of its own, so that Ctrl-C in the terminal reaches the benchmark only. The benchmark then
                # stops all processes.
                self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, start_new_session=True)
            self.starts += 1
            if self._process.wait() == 0:
                self.finished = True
                return
            self._stopped.wait(0.5)  # without this pause, a command that fails at once would run in a busy loop


@dataclass(frozen=True)
class Damage:
    """The effect of the kills on a study.

    Attributes:
        trials: The number of distinct configurations on record.
        lost: The number of the budget's trials that are not done.
        doubled: The number of trials with more than one result in the journal.
        differing: The number of trials whose configuration, status or score is not the same in the undisturbed study.
        kills: The number of kills of each kind of process.
        seconds: The duration of the study, in seconds.
    """

    trials: int
    lost: int
    doubled: int
    differing: int
    kills: Mapping[str, int]
    seconds: float


def bench(options: Chaos, tell: Callable[[str], object]) -> Path:
    """Run the study while its processes are killed, compare its record with an undisturbed study, and write the table.

    Args:
        options: The options of the benchmark.
        tell: Called with a line of text after every kill.

    Returns:
        The folder that holds the table.

    Raises:
        UserError: An option is not valid, the folder exists already, or the study is stuck.
    """
    require_workers(options.workers)
    out = make_folder(Path(options.out), new=True)
    import torch

    damage = under_fire(options, out, tell)
    rows = {
        "trials on record": damage.trials,
        "trials lost": damage.lost,
        "trials with two results": damage.doubled,
        "trials that differ from the undisturbed study": damage.differing,
        **{f"kills: {kind}": damage.kills.get(kind, 0) for kind in KINDS},
        "kills in all": sum(damage.kills.values()),
        "seconds": round(damage.seconds),
    }
    (out / "table.csv").write_text("what,count\n" + "".join(f"{k},{v}\n" for k, v in rows.items()), encoding="utf-8")
    about = (f"- machine: {machine(torch.device('cpu'), 1)}", f"- versions: {versions(['distributed', 'optuna'])}")
    lines = [f"- command: `{repeated_by('chaos', options)}`", *about, "", "| what | count |", "|---|---|"]
    table = "\n".join([*lines, *(f"| {name} | {count} |" for name, count in rows.items())]) + "\n"
    (out / "table.md").write_text(table, encoding="utf-8")
    return out


def under_fire(options: Chaos, out: Path, tell: Callable[[str], object]) -> Damage:
    """Run the study and kill its processes until it is done, and return the damage.

    Args:
        options: The options of the benchmark.
        out: The folder to write to.
        tell: Called with a line of text after every kill.

    Raises:
        UserError: The study is stuck.
    """
    port, began = free_port(), time.monotonic()
    address = f"tls://{LOOPBACK}:{port}"
    tls = out / "tls"
    write_certificates(tls)
    files = [part for kind, name in FILES.items() for part in (f"--tls-{kind}", str(tls / name))]
    directory = out / "study"
    (out / "space.yaml").write_text(json.dumps(SPACE), encoding="utf-8")
    python = (sys.executable, "-m")
    address_flags = ("--host", LOOPBACK, "--port", str(port), "--protocol", "tls", *files)
    scheduler = (*python, "dask", "scheduler", *address_flags, *UNSEEN, "--no-show")
    begin = (
        *(*python, "partune.cli", "tune", "--objective", f"{__name__}:work", "--space", str(out / "space.yaml")),
        *("--algorithm", "sobol", "--seed", str(options.seed), "--budget", str(options.trials)),
        *("--scheduler", address, "--tls", str(tls), "--runs", str(out), "--name", directory.name),
    )
    again = (*python, "partune.cli", "resume", str(directory))
    environment = {SECONDS: str(options.seconds), "OMP_NUM_THREADS": "1"}
    services = {
        "scheduler": Service(lambda: scheduler, out / "scheduler.log"),
        "driver": Service(lambda: again if directory.is_dir() else begin, out / "driver.log"),
    }
    settings = {**environment, **environment_of(read_certificates(tls))}
    workers = [Keeper(address, settings, out / "scratch") for _ in range(options.workers)]
    kills: Counter[str] = Counter()
    chance = random.Random(options.seed)
    watch = Watch(directory)
    # The pause between kills grows while no trial ends. Otherwise, on a busy machine, no process would live long enough
    # to do any work.
    before, slower = 0, 1.0
    try:
        while not services["driver"].finished:
            time.sleep(chance.uniform(0.5, 1.5) * options.every * slower)
            done = watch.done()
            before, slower = done, 1.0 if done > before else 1.5 * slower
            if services["driver"].finished:
                break
            kind = chance.choice(KINDS)
            victim = chance.choice(workers) if kind == "worker" else services[kind]
            kills[kind] += victim.kill()  # adds 0 if the process was dead already
            tell(f"{done} of {options.trials} trials done; {sum(kills.values())} kills, the last one of a {kind}")
    finally:
        services["driver"].stop()
        for worker in workers:
            worker.stop()
        services["scheduler"].stop()
        for left in (tls, out / "scratch"):
            shutil.rmtree(left, ignore_errors=True)
    return damage(directory, options, kills, time.monotonic() - began)


class Watch:
    """The progress of a study, as its journal shows it.

    Args:
        directory: The directory of the study.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._best, self._since = 0, time.monotonic()

    def done(self) -> int:
        """Return the number of trials that are done; raise UserError if none has ended for STALL seconds."""
        count = len(results(self._directory))
        if count > self._best:
            self._best, self._since = count, time.monotonic()
        elif time.monotonic() - self._since > STALL:
            raise UserError(
                f"the study is stuck: {count} trials are done, and no other has ended for {STALL:g} seconds. "
                f"Its log may say why: {self._directory.parent / 'driver.log'}"
            )
        return count


def results(directory: Path) -> list[int]:
    """Return the results in the journal, in order, each as Optuna's id of its trial.

    A result is a line that sets a trial's final state. A trial that was told twice has two results.

    Args:
        directory: The directory of the study.
    """
    # Optuna's own reader keeps one state per trial, which would hide a result that was told twice.
    journal = directory / JOURNAL
    if not journal.is_file():
        return []
    numbers = []
    for line in journal.read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):  # a kill can leave an incomplete line, which the next driver removes
            entry = json.loads(line)
            if entry.get("op_code") == SET_STATE and entry.get("state") in FINAL:
                numbers.append(entry["trial_id"])
    return numbers


def damage(directory: Path, options: Chaos, kills: Mapping[str, int], seconds: float) -> Damage:
    """Run the same study undisturbed, compare the record of the disturbed study with it, and return the differences.

    Args:
        directory: The directory of the disturbed study.
        options: The options of the benchmark.
        kills: The number of kills of each kind of process.
        seconds: The duration of the disturbed study, in seconds.
    """
    trials = Record.open(directory, read_only=True).trials()
    alone = Study(Space.parse(SPACE), unhurried, "sobol", options.seed).run(options.trials).trials
    result_counts = Counter(results(directory))
    expected = {trial.number: trial for trial in alone}
    # A trial that is missing from the record counts as lost, not as different.
    pairs = [(trial, expected[trial.number]) for trial in trials if trial.number in expected]
    return Damage(
        trials=len({json.dumps(dict(trial.config), sort_keys=True) for trial in trials}),
        lost=options.trials - sum(trial.status is Status.DONE for trial in trials),
        doubled=sum(count > 1 for count in result_counts.values()),
        differing=sum((a.config, a.status, a.score) != (b.config, b.status, b.score) for a, b in pairs),
        kills=kills,
        seconds=seconds,
    )


def free_port() -> int:
    """Return a TCP port that is free on this machine at the moment."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        return int(taken.getsockname()[1])
