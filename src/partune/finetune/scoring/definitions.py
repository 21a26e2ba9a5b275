"""Definitions of tasks: YAML files, found as lm-evaluation-harness finds them, and what in them would run as code.

Files that come with the harness are trusted as its own code is. A local file is data: what in it would run as Python
needs the user's word (`validation.trust_task_code`), and its templates are rendered in Jinja's sandbox.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partune.errors import UserError, suggestion
from partune.runtime import strict_yaml
from partune.runtime.failures import one_line
from partune.runtime.paths import suggestion_beside

if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry

Settings = dict[str, Any]

_RENDERING = threading.RLock()  # the harness has one environment for all templates
PICKLED = ("pandas",)  # builders of `datasets` that read pickles


def check_file(name: str) -> Path | None:
    """Return the file that a task's name means, None for a name of the harness; raise UserError where it is missing."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or path.is_absolute() or name.startswith((".", "~")):
        raise UserError(f"no task file {name}{suggestion_beside(path)}")
    return None


def harness_folder() -> Path:
    """Return the folder of the tasks that come with the harness."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).resolve().parent


def ships_with_harness(path: str | Path) -> bool:
    """Return whether a file is one of the installed harness's own."""
    return Path(path).resolve().is_relative_to(harness_folder())


def find_own(name: str) -> Path | None:
    """Return the harness's file of a plain task, found by its text: parsing all of its files takes long."""
    return _defining(harness_folder(), name, "task")


def _defining(folder: Path, name: str, keys: str) -> Path | None:
    """Return the first file of a folder, in the harness's order, with a line that gives one of the keys this name."""
    # By text: the harness has thousands of files, and parsing them all as YAML takes long.
    line = re.compile(rf"""^["']?(?:{keys})["']?:[ \t]*["']?{re.escape(name)}["']?[ \t]*$""", re.MULTILINE)
    files = sorted(folder.glob("**/*.yaml"), key=Path.as_posix)
    return next((path for path in files if line.search(path.read_text(encoding="utf-8", errors="replace"))), None)


def load_file(path: Path, trusted: bool, harness: Callable[[], Mapping[str, Entry]]) -> tuple[str, Any]:
    """Load the tasks of a YAML file; a group finds its members in the file's folder, then among the harness's.

    Args:
        path: the file of a task or a group.
        trusted: whether code that local files name may run.
        harness: gives all that the harness knows, by name; slow, and called only where a name is not found otherwise.

    Returns:
        The file's label, and what the harness's `TaskManager.load` answers.

    Raises:
        UserError: The file, or one that its group names, cannot be read, names something that is not there, or would
            run code that is not trusted.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry, Kind

    with nullcontext() if trusted else _functions_refused():
        settings = _settings(path, trusted)
        label = settings.get("group") or settings.get("task")
        if not isinstance(label, str):
            raise UserError(f"{path} is no task: it has neither task nor group")
        if not label.isprintable():
            raise UserError(f"task file {path}: the name {label!r} has characters that cannot be printed")
        if "group" not in settings:
            return label, TaskManager(include_defaults=False).load([settings])
        manager = TaskManager(include_defaults=False, include_path=str(path.parent))
        manager.task_index[label] = Entry(label, Kind.GROUP, None, cfg=settings)
        _Members(manager.task_index, path.parent, trusted, harness).make_ready(settings, (label,))
        return label, manager.load([label])


class _Members:
    """Finds, reads and checks what a group names, so that the harness can build it from the index.

    Args:
        index: The entries of the group's folder; gets what is found among the harness's.
        folder: The group's folder.
        trusted: Whether code that local files name may run.
        harness: Gives all that the harness knows.
    """

    def __init__(
        self, index: dict[str, Entry], folder: Path, trusted: bool, harness: Callable[[], Mapping[str, Entry]]
    ) -> None:
        self._index = index
        self._folder = folder
        self._trusted = trusted
        self._harness = harness
        self._ready: set[str] = set()

    def make_ready(self, settings: Mapping[str, Any], within: tuple[str, ...]) -> None:
        """Make all members of a group ready to be built; `within`: the names of the groups around them."""
        members = settings.get("task")
        if not isinstance(members, list) or not members:
            raise UserError(f"group {within[-1]} has no members: its `task` has to be a list of tasks")
        for member in members:
            given = member if isinstance(member, Mapping) else {"task": member}
            name = given.get("group", given.get("task"))
            if not isinstance(name, str):
                raise UserError(f"group {within[-1]}: {member!r} names no task")
            if "group" in given and isinstance(given.get("task"), list) and not self._known(name):
                self.make_ready(given, (*within, name))  # a group within the group
            elif "dataset_path" not in given or self._known(name):  # else a task within the group
                self._make_member_ready(name, within)

    def _make_member_ready(self, name: str, within: tuple[str, ...]) -> None:
        from lm_eval.tasks._index import Kind

        if name in within:
            raise UserError(f"group {name} contains itself")
        if name in self._ready:
            return
        self._ready.add(name)
        entry = self._find(name, within[-1])
        if entry.kind is Kind.TAG:
            for tagged in sorted(entry.tags):
                self._make_member_ready(tagged, within)
            return
        settings: Mapping[str, Any] = entry.cfg or {}
        if entry.yaml_path is not None and not ships_with_harness(entry.yaml_path):
            settings = _settings(entry.yaml_path, self._trusted)
            self._index[name] = dataclasses.replace(entry, yaml_path=None, cfg=settings)  # built from `cfg`, then
        if entry.kind is Kind.GROUP:
            self.make_ready(settings, (*within, name))

    def _known(self, name: str) -> bool:
        """Return whether a name is found without the harness's whole index."""
        from lm_eval.tasks._index import TaskIndex

        if name not in self._index and (path := find_own(name)) is not None:
            entry = TaskIndex.entry_from_path(path)
            assert entry is not None
            self._index[name] = entry
        return name in self._index

    def _find(self, name: str, group: str) -> Entry:
        """Return the definition of a name; raises UserError where there is none, or its file cannot be read."""
        if name not in self._index:
            broken = _defining(self._folder, name, "task|group")
            if broken is not None:
                _read(broken)
        if not self._known(name):
            for known, entry in self._harness().items():
                self._index.setdefault(known, entry)
        if name not in self._index:
            offer = suggestion(name, difflib.get_close_matches(name, self._index, n=1))
            raise UserError(
                f'group {group}: no task "{name}"{offer or f" in {self._folder} or among those of the harness"}'
            )
        return self._index[name]


def _settings(path: Path, trusted: bool) -> Settings:
    """Return a file's settings, its data files found beside it; raises UserError for code that is not trusted."""
    settings = _read(path)
    if not trusted and not ships_with_harness(path) and (code := _code_in(settings)):
        raise _untrusted(path, code)
    return _anchored(settings, path)


def _read(path: Path) -> Settings:
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        strict_yaml.check(Path(path))
        settings: Settings = load_yaml(path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"task file {path} cannot be read: {one_line(error)}") from None
    return settings


def _anchored(settings: Settings, path: Path) -> Settings:
    """Return settings with data files relative to their YAML file, where they are there, also of a group's members.

    The harness takes them from the working directory.
    """
    folder = path.resolve().parent

    def anchor(value: Any) -> Any:
        """Return the names of files within a value, absolute where the folder has them."""
        if isinstance(value, Mapping):
            return {key: anchor(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [anchor(inner) for inner in value]
        return str(folder / str(value)) if (folder / str(value)).exists() else value

    anchored = dict(settings)
    options = settings.get("dataset_kwargs")
    if isinstance(options, Mapping) and "data_files" in options:
        anchored["dataset_kwargs"] = {**options, "data_files": anchor(options["data_files"])}
    if isinstance(settings.get("task"), list):
        members = settings["task"]
        anchored["task"] = [_anchored(member, path) if isinstance(member, dict) else member for member in members]
    return anchored


# ----- code in a definition

ADVICE = "if you trust it, give --trust-task-code (validation.trust_task_code: true in a study's file)"


def _untrusted(path: str | Path, code: str) -> UserError:
    return UserError(f"task file {path} runs code ({code}): {ADVICE}")


def reason(error: Exception) -> str:
    """Return what an error of the harness says, in one line, with advice where a template left the sandbox."""
    from datasets.exceptions import DatasetGenerationError
    from jinja2.exceptions import SecurityError

    if isinstance(error, SecurityError):
        return f"a template reaches for Python ({one_line(error).rstrip('.')}): {ADVICE}"
    if isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        return f"the items cannot be read: {one_line(error.__cause__)}"  # the error itself says only that
    return one_line(error)


@contextmanager
def _functions_refused() -> Iterator[None]:
    """Refuse `!function` where it is read, before anything is imported, but in the harness's own files."""
    import yaml
    from lm_eval.tasks import _yaml_loader

    # The harness imports what `!function` names while it reads a file: to look at the file first would be to read it
    # by other rules than the harness's.
    loader_of = _yaml_loader._make_loader

    def refuse(_: Any, *parts: Any) -> Any:
        """Raise UserError in place of importing a function."""
        mark = parts[-1].start_mark
        raise _untrusted(mark.name, f"line {mark.line + 1}: {' '.join([parts[-1].tag, str(parts[-1].value)]).strip()}")

    def guarded(folder: Path, *, resolve_funcs: bool) -> Any:
        """Return the harness's loader of YAML, which imports nothing from other folders than its own."""
        loader = loader_of(folder, resolve_funcs=resolve_funcs)
        if resolve_funcs and not ships_with_harness(folder):
            yaml.add_constructor("!function", refuse, Loader=loader)
            yaml.add_multi_constructor("tag:yaml.org,2002:python/name:", refuse, Loader=loader)  # without libyaml
        return loader

    _yaml_loader._make_loader = guarded
    try:
        yield
    finally:
        _yaml_loader._make_loader = loader_of


def _code_in(settings: Mapping[str, Any]) -> str | None:
    """Return what in a task's or group's settings would run as code, although it is no `!function`; None if nothing."""
    import lm_eval.api.metrics  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import metric_registry

    for part in _nested(settings, set()):
        if not isinstance(part, Mapping):
            continue
        if part.get("dataset_path") in PICKLED:
            return f"dataset_path: {part['dataset_path']}, which reads pickles"
        if part.get("use_prompt") is not None:
            return f"use_prompt: {part['use_prompt']}"
        metrics = part.get("metric_list")
        for metric in metrics if isinstance(metrics, list) else ():
            name = metric.get("metric") if isinstance(metric, Mapping) else None
            if isinstance(name, str) and (metric.get("hf_evaluate") or name not in metric_registry):
                known = suggestion(name, difflib.get_close_matches(name, list(metric_registry), n=1))
                return f"metric: {name}, which is none of the harness's but a script of the library evaluate{known}"
    return None


def _nested(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a value and all within it, each once: aliases of YAML can repeat one without end."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _nested(inner, seen)


@contextmanager
def rendering(trusted: bool) -> Iterator[None]:
    """Let the harness compile a template when it first meets it, not once more for every document.

    Templates that are not trusted are rendered in Jinja's sandbox, where they reach no Python.
    """
    from lm_eval import utils

    with _RENDERING:
        plain = utils.env
        utils.env = plain.overlay() if trusted else _sandbox(plain)
        utils.env.from_string = functools.cache(utils.env.from_string)
        try:
            yield
        finally:
            utils.env = plain


def _sandbox(plain: Any) -> Any:
    from jinja2.sandbox import SandboxedEnvironment

    class Sandbox(SandboxedEnvironment):
        """Jinja's sandbox, in which only plain data of a document have attributes: an image's could write a file."""

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            home = type(obj).__module__.partition(".")[0]
            return home in ("builtins", "datetime", "jinja2") and super().is_safe_attribute(obj, attr, value)

    sandbox = Sandbox(loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline)
    sandbox.filters.update(plain.filters)
    return sandbox
