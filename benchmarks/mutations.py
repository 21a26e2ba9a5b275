"""Break the source in one place at a time, and look whether the tests of that place notice.

    python benchmarks/mutations.py                        all of them; hours on a busy machine
    python benchmarks/mutations.py --only verdict record  those of some rooms
    python benchmarks/mutations.py --fast                 without the tests marked slow
    python benchmarks/mutations.py --check                only whether every fragment is where it is said to be

Each mutation replaces a short fragment of a file, in a copy of the tree. A fragment that moved to another file is found
there, as long as it is in one file alone. The table is in Markdown, for `benchmarks/mutations.md`.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (".*", "__pycache__", "site", "runs", "dist", "build", "*.egg-info")
LIMIT = 1800.0  # seconds, after which a mutation hangs, which counts as noticed


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        name: What goes wrong, in words.
        file: Below src/partune.
        old: The fragment, which is there once.
        new: What takes its place.
        tests: The test files, below tests, that should notice.
        pick: What pytest's -k takes of them, where the others cost much.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    pick: str = ""

    @property
    def room(self) -> str:
        return self.file.partition("/")[0]


class MisplacedError(Exception):
    """A fragment or a test file is not there."""


MUTATIONS = (
    # ----- space, trial, config
    Mutation(
        "integers on a log scale are cut off, not rounded",
        "space/hyperparameters.py",
        "value = math.floor(math.exp(bottom + u * (top - bottom)) + 0.5)",
        "value = math.floor(math.exp(bottom + u * (top - bottom)))",
        ("space/test_space.py",),
    ),
    Mutation(
        "the upper end of the axis is a value of its own",
        "space/hyperparameters.py",
        "np.minimum(np.floor(u * n), n - 1) + 0.5",
        "np.floor(u * n) + 0.5",
        ("space/test_space.py",),
    ),
    Mutation(
        "one more than a quarter passes a rung",
        "trial/rungs.py",
        "better >= max(1, len(scores) // ETA)",
        "better > max(1, len(scores) // ETA)",
        ("trial/test_rungs.py",),
    ),
    Mutation(
        "of equals at a rung the last goes on",
        "trial/rungs.py",
        "(score, -other) > rank",
        "(score, other) > rank",
        ("trial/test_rungs.py",),
    ),
    Mutation(
        "other contents than recorded are taken for the same",
        "trial/contents.py",
        "if there.digest != here.digest:",
        "if there.told != here.told:",
        ("trial/test_contents.py",),
    ),
    Mutation(
        "a file's relative chat template is read from the working folder",
        "config/file.py",
        '        ("data", "chat_template", Path.is_file),\n',
        "",
        ("config/test_file.py", "finetune/test_chats.py"),
    ),
    # ----- runtime
    Mutation(
        "a write beyond the user's quota is not tried again",
        "runtime/disk.py",
        "FULL = (errno.ENOSPC, errno.EDQUOT)",
        "FULL = (errno.ENOSPC,)",
        ("runtime/test_disk.py",),
    ),
    Mutation(
        "a URL's password is shown in messages",
        "runtime/urls.py",
        "[0] if secret == user else f",
        "[0] if secret else f",
        ("runtime/test_urls.py", "record/test_database.py"),
    ),
    # ----- optimizers
    Mutation(
        "a replay tells one result too many before a proposal",
        "optimizers/base.py",
        "scores) < trial.told_before:",
        "scores) <= trial.told_before:",
        ("optimizers/test_contract.py",),
    ),
    Mutation(
        "a stopped trial is taken for better than the best that is done",
        "optimizers/base.py",
        "return min(expected, max(",
        "return max(expected, max(",
        ("optimizers/test_base.py", "optimizers/test_contract.py", "study/test_study.py", "trial/test_rungs.py"),
    ),
    Mutation(
        "the seed and the number of a random point change places",
        "optimizers/sampling.py",
        "np.random.default_rng([self.seed, i])",
        "np.random.default_rng([i, self.seed])",
        ("optimizers/test_sampling.py",),
    ),
    Mutation(
        "SOO does not expand a leaf that equals v_max",
        "optimizers/soo.py",
        'score == v_max and self.compare == ">="',
        'score == v_max and self.compare == "="',
        ("optimizers/test_soo.py",),
    ),
    Mutation(
        "BaMSOO's bounds lack the factor two",
        "optimizers/bamsoo.py",
        "math.sqrt(2 * math.log(math.pi**2",
        "math.sqrt(math.log(math.pi**2",
        ("optimizers/test_bamsoo.py",),
    ),
    Mutation(
        "DIRECT passes over cells on a straight part of the hull",
        "optimizers/direct.py",
        "most > 0 and least <= most and",
        "most > 0 and least < most and",
        ("optimizers/test_direct.py",),
    ),
    Mutation(
        "SequOOL opens too few cells of a depth",
        "optimizers/sequool.py",
        "self.open(tree, h, h_max // h)",
        "self.open(tree, h, h_max // (h + 1))",
        ("optimizers/test_sequool.py",),
    ),
    Mutation(
        "annealing accepts the worse the more readily",
        "optimizers/annealing.py",
        "math.exp((candidate - current) / t)",
        "math.exp((current - candidate) / t)",
        ("optimizers/test_annealing.py",),
    ),
    Mutation(
        "crossover loses its spread beyond the parents",
        "optimizers/genetic.py",
        "1 / (2 - u * alpha)",
        "1 / (2 - alpha)",
        ("optimizers/test_genetic.py",),
    ),
    Mutation(
        "the surrogate is less sure where it has seen more",
        "optimizers/surrogate.py",
        'variance = self.signal - np.einsum("nm,nm->m", V, V)',
        'variance = self.signal + np.einsum("nm,nm->m", V, V)',
        ("optimizers/test_surrogate.py",),
    ),
    Mutation(
        "a failure counts as the best score where a process is fitted",
        "optimizers/surrogate.py",
        "np.where(finite, y, y[finite].min())",
        "np.where(finite, y, y[finite].max())",
        ("optimizers/test_surrogate.py",),
    ),
    Mutation(
        "logEI looks for the minimum",
        "optimizers/acquisition.py",
        "log_h((mean - best) / std)",
        "log_h((best - mean) / std)",
        ("optimizers/test_acquisition.py", "optimizers/test_bayes.py"),
    ),
    # ----- record
    Mutation(
        "two processes may lead one study: the lock is a shared one",
        "runtime/locks.py",
        "fcntl.LOCK_SH if shared else fcntl.LOCK_EX",
        "fcntl.LOCK_SH",
        ("runtime/test_locks.py", "record/test_drivers.py", "record/test_record.py"),
    ),
    Mutation(
        "the journal is written without its lock",
        "record/journal.py",
        "        self._lock.acquire()\n",
        "",
        ("record/test_journal.py", "record/test_record.py", "record/test_damage.py", "record/test_drivers.py"),
    ),
    Mutation(
        "the cut of a torn line takes the end of the line before",
        "record/journal.py",
        'rfind(b"\\n") + 1',
        'rfind(b"\\n")',
        ("record/test_journal.py", "record/test_damage.py"),
    ),
    Mutation(
        "a driver elsewhere is never taken for dead",
        "record/drivers.py",
        "time.monotonic() - since > self._patience",
        "time.monotonic() - since > 1e9",
        ("record/test_drivers.py",),
    ),
    # ----- finetune
    Mutation(
        "warm-up begins at learning rate 0",
        "finetune/training.py",
        "return (step + 1) / warmup",
        "return step / warmup",
        ("finetune/test_training.py",),
    ),
    Mutation(
        "a mask that is drawn by PEFT's engine is not scaled up",
        "finetune/dropout.py",
        ".view(x.shape) / (1 - self.rate)",
        ".view(x.shape)",
        ("finetune/test_dropout.py", "finetune/packed/test_adapters.py"),
    ),
    Mutation(
        "padding is trained on in packs",
        "finetune/packed/residents.py",
        "torch.where(batch.real, entropies, 0.0).sum(1)",
        "entropies.sum(1)",
        ("finetune/packed/test_residents.py", "finetune/packed/test_engine.py"),
    ),
    Mutation(
        "packed adapters are scaled by alpha / r twice the rank",
        "finetune/packed/adapters.py",
        "alpha / (r * share)",
        "alpha / (2 * r * share)",
        ("finetune/packed/test_adapters.py",),
    ),
    Mutation(
        "AdamW's second moment is corrected for a step too many",
        "finetune/packed/optimizer.py",
        "(1 - beta2**step) ** 0.5",
        "(1 - beta2 ** (step + 1)) ** 0.5",
        ("finetune/packed/test_optimizer.py", "finetune/packed/test_adapters.py", "finetune/packed/test_engine.py"),
    ),
    Mutation(
        "answers that share a row see each other",
        "finetune/packed/likelihoods.py",
        "sees = before & ((seen == TRUNK) | (seen == seer))",
        "sees = before & (seen >= TRUNK)",
        ("finetune/packed/test_likelihoods.py",),
    ),
    Mutation(
        "a request that is too long loses a token too many",
        "finetune/packed/likelihoods.py",
        "[-(context + 1) :]",
        "[-context:]",
        ("finetune/packed/test_likelihoods.py",),
    ),
    Mutation(
        "Granite's logits are multiplied by what divides them",
        "finetune/packed/head.py",
        "self.factor /= scaling",
        "self.factor *= scaling",
        ("finetune/packed/test_head.py",),
    ),
    Mutation(
        "another training goes on from a checkpoint",
        "finetune/packed/checkpoint.py",
        'if json.loads(metadata["identity"]) != json.loads(json.dumps(identity)):',
        'if not metadata["identity"]:',
        ("finetune/packed/test_checkpoint.py",),
    ),
    Mutation(
        "weights of the same shape have one digest",
        "finetune/digests.py",
        'digest(entry["dtype"], entry["shape"], *blocks)',
        'digest(entry["dtype"], entry["shape"])',
        ("finetune/test_digests.py",),
    ),
    Mutation(
        "the prompt is trained on with the answer",
        "finetune/data.py",
        'kinds == "answer", kinds == "never"',
        'kinds != "never", kinds == "never"',
        ("finetune/test_data.py",),
    ),
    # ----- verdict
    Mutation(
        "the first look at a study spends too little of the level",
        "verdict/paired.py",
        "(1 - SPENT) ** (look - 1)",
        "(1 - SPENT) ** look",
        ("verdict/test_paired.py", "verdict/test_fresh_runs.py"),
    ),
    Mutation(
        "what was observed is not among what is as large",
        "verdict/paired.py",
        "fair.sf(won - 1)",
        "fair.sf(won)",
        ("verdict/test_paired.py",),
    ),
    Mutation(
        "the smaller of two p-values counts",
        "verdict/paired.py",
        "comparison(max(upper, flips)",
        "comparison(min(upper, flips)",
        ("verdict/test_paired.py", "verdict/test_fresh_runs.py"),
    ),
    Mutation(
        "what two runs answer differently is counted twice",
        "verdict/variance.py",
        "max(0.0, items - rest)",
        "items",
        ("verdict/test_variance.py",),
    ),
    Mutation(
        "many items hide that the runs are few",
        "verdict/variance.py",
        "(self.items_df, self.runs_df)",
        "(self.items_df, self.items_df)",
        ("verdict/test_variance.py",),
    ),
    Mutation(
        "a confirmed trial that a round has dropped wins by few runs",
        "verdict/winner.py",
        "if not beaten(trial)",
        "if True",
        ("verdict/test_winner.py",),
    ),
    Mutation(
        "a winner whose fresh runs failed is better all the same",
        "verdict/paired.py",
        "if self.failed:\n            return ()",
        "if False:\n            return ()",
        ("verdict/test_paired.py", "verdict/test_fresh_runs.py"),
    ),
    Mutation(
        "a baseline after the first that is not beaten counts",
        "verdict/paired.py",
        "tuple(itertools.takewhile(lambda name: self._steps[name].better, self._steps))",
        "tuple(filter(lambda name: self._steps[name].better, self._steps))",
        ("verdict/test_paired.py", "study/test_baselines.py"),
    ),
    Mutation(
        "the samples of a repeated prompt are one",
        "finetune/scoring/answers.py",
        "key = index if prompt.settings.samples else prompt.tokens",
        "key = prompt.tokens",
        ("finetune/scoring/test_answers.py",),
    ),
    Mutation(
        "a chat template's end of an answer does not end it",
        "finetune/scoring/row_answers.py",
        "*([end] if end else [])",
        "*()",
        ("finetune/scoring/test_row_answers.py",),
    ),
    Mutation(
        "a confirmed score is divided by the further runs alone",
        "verdict/winner.py",
        "/ (1 + len(again))",
        "/ max(1, len(again))",
        ("verdict/test_winner.py",),
    ),
    Mutation(
        "Holm's correction is one test short",
        "verdict/repeats.py",
        "(len(ps) - k) * ps[i]",
        "max(1, len(ps) - k - 1) * ps[i]",
        ("verdict/test_repeats.py",),
    ),
    # ----- workers
    Mutation(
        "what kills its worker is run once more",
        "workers/cluster.py",
        "if task.strikes >= STRIKES:",
        "if task.strikes > STRIKES:",
        ("workers/test_queue.py", "workers/test_cluster.py"),
    ),
    Mutation(
        "calls that run alone are not counted apart",
        "workers/cluster.py",
        "return alone + math.ceil(",
        "return math.ceil(",
        ("workers/test_queue.py", "workers/test_cluster.py"),
    ),
    Mutation(
        "the first number that a batch system says is the job's",
        "workers/jobs.py",
        "[-1].groupdict()",
        "[0].groupdict()",
        ("workers/test_jobs.py",),
    ),
    # ----- study, integrations
    Mutation(
        "all trials of a study have one seed",
        "study/loop.py",
        "Purpose.SEARCH, proposal.number",
        "Purpose.SEARCH, 0",
        ("study/test_study.py", "study/test_loop.py"),
    ),
    Mutation(
        "a trial that another driver ended is told twice",
        "study/loop.py",
        "if self._state[trial.number].status.final or not",
        "if not self._state[trial.number].status.final and not",
        ("study/test_study.py", "study/test_loop.py", "record/test_drivers.py"),
    ),
    Mutation(
        "an Optuna study that minimises is maximised",
        "integrations/optuna.py",
        'Observation({"score": self._sign * trial.value',
        'Observation({"score": trial.value',
        ("integrations/test_optuna.py",),
    ),
    # ----- report, experiment, export, bench
    Mutation(
        "a study's name is not escaped in its page",
        "report/html/document.py",
        "<h1>{escape(heading)}</h1>",
        "<h1>{heading}</h1>",
        ("report/html/test_document.py", "report/html/test_page.py"),
    ),
    Mutation(
        "the standard error over repeats is that of one of them",
        "report/comparison/bounds.py",
        "statistics.stdev(values) / math.sqrt(len(values))",
        "statistics.stdev(values)",
        ("report/comparison/test_bounds.py", "report/comparison/test_comparison.py"),
    ),
    Mutation(
        "a failed training counts as missing in the calibration",
        "experiment/calibration.py",
        "np.where(np.isnan(table), -np.inf, table)",
        "np.where(np.isnan(table), 0.0, table)",
        ("experiment/test_calibration.py",),
    ),
    Mutation(
        "a recipe trains a fresh run with the seed that the settings fix",
        "export/chosen.py",
        "seed=trial.seed if training.seed is None or trial.order is not None else training.seed",
        "seed=trial.seed if training.seed is None else training.seed",
        ("export/test_chosen.py", "export/recipes/test_recipes.py", "export/test_handed_over.py"),
    ),
    Mutation(
        "what a worker did after the last trial began counts as before",
        "bench/scaling/makespans.py",
        "math.fsum(min(task.end, last) - task.begin for task in self.tasks)",
        "math.fsum(task.end - task.begin for task in self.tasks)",
        ("bench/scaling/test_makespans.py", "bench/scaling/test_scaling.py"),
    ),
)


def located(mutation: Mutation, root: Path) -> Path:
    """Return the file that holds a mutation's fragment; raises MisplacedError unless it is there once."""
    source = root / "src" / "partune"
    told = source / mutation.file
    files = [told] if told.is_file() and mutation.old in told.read_text(encoding="utf-8") else []
    files = files or [path for path in sorted(source.rglob("*.py")) if mutation.old in path.read_text(encoding="utf-8")]
    if not files:
        raise MisplacedError(f"FRAGMENT NOT FOUND in src/partune: {mutation.old!r}")
    if len(files) > 1 or files[0].read_text(encoding="utf-8").count(mutation.old) > 1:
        raise MisplacedError(f"FRAGMENT FOUND SEVERAL TIMES: {mutation.old!r}")
    return files[0]


def tests_of(mutation: Mutation, root: Path) -> list[str]:
    """Return the test files that are there: some are named for a day on which a file is divided."""
    there = [f"tests/{name}" for name in mutation.tests if (root / "tests" / name).is_file()]
    if not there:
        raise MisplacedError(f"NO TEST FILE: {', '.join(mutation.tests)}")
    return there


@contextmanager
def copied() -> Iterator[Path]:
    """Yield a copy of the working tree, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="partune-mutations-") as folder:
        root = Path(folder) / "tree"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        yield root


def tested(mutation: Mutation, root: Path, arguments: list[str]) -> tuple[str, float]:
    """Return what the tests say of one mutation, and the CPU seconds that they took."""
    path = located(mutation, root)
    tests = tests_of(mutation, root)
    whole = path.read_text(encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        path.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
        code, said = ran([*tests, *(["-k", mutation.pick] if mutation.pick else []), *arguments], root)
    finally:
        path.write_text(whole, encoding="utf-8")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    first = re.search(r"^(?:FAILED|ERROR) \S+?::(.+?)(?: - .*)?$", said, re.MULTILINE)
    if first is not None and code == 1:
        return f"by `{first[1]}`", seconds
    answers = {0: "NOT CAUGHT", 5: "NO TEST RAN", -1: "by hanging"}
    return answers.get(code, f"PYTEST ENDED WITH {code}, and no test that failed"), seconds


def ran(arguments: list[str], root: Path) -> tuple[int, str]:
    """Return pytest's exit status and its output; -1 for one that hangs."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(root / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ROOM", help="rooms, or parts of names")
    parser.add_argument("--fast", action="store_true", help="without the tests marked slow")
    parser.add_argument("--check", action="store_true", help="run nothing")
    given = parser.parse_args()
    chosen = [
        each
        for each in MUTATIONS
        if not given.only or any(word == each.room or word in each.name for word in given.only)
    ]
    missed = 0
    print("| what goes wrong | file | noticed | CPU s |\n|---|---|---|---|", flush=True)
    with copied() as root:
        for mutation in chosen:
            seconds = 0.0
            try:
                if given.check:
                    located(mutation, root)
                    tests_of(mutation, root)
                    said = "there"
                else:
                    said, seconds = tested(mutation, root, ["-m", "not slow"] if given.fast else [])
            except MisplacedError as error:
                said = str(error)
            missed += not said.startswith(("by ", "there"))
            print(f"| {mutation.name} | `{mutation.file}` | {said} | {seconds:.0f} |", flush=True)
    print(f"\n{len(chosen) - missed} of {len(chosen)}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
