"""Load the YAML files that define tasks, and refuse code in them that the user has not trusted.

lm-evaluation-harness ("the harness") defines the format of these files and builds the tasks. Files that come with the
harness are trusted like its Python code. A local file is treated as data: it is refused if loading it would run Python
code, and its templates are rendered in Jinja's sandbox. With the setting `validation.trust_task_code`, local files may
run code, and their templates are rendered without the sandbox.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partune import errors
from partune.errors import UserError, suggestion
from partune.finetune.scoring.harness_names import CLOSE, check_name, names_in
from partune.runtime import strict_yaml
from partune.runtime.failures import OF_USERS, one_line
from partune.runtime.paths import suggestion_beside

if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry

Settings = dict[str, Any]

_RENDERING = threading.RLock()  # all threads share the harness's one Jinja environment, which `rendering` replaces
PICKLED = ("pandas",)  # dataset builders of the library `datasets` that read pickles, which can run any code


def check_file(name: str) -> Path | None:
    """Return the path of a task's YAML file; None if the name may be that of a harness task.

    Raises:
        UserError: There is no such file, and no file of the harness has the name.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or path.is_absolute() or name.startswith((".", "~")):
        raise UserError(f"no task file {name}{suggestion_beside(path)}")
    if importlib.util.find_spec("lm_eval") is not None:
        check_name(name, names_in(harness_folder()))
    return None


def harness_folder() -> Path:
    """Return the folder that holds the harness's own task files."""
    spec = importlib.util.find_spec("lm_eval")  # importing it takes seconds
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("lm_eval")
    return (Path(spec.origin).parent / "tasks").resolve()


def ships_with_harness(path: str | Path) -> bool:
    """Return whether a file is in the task folder of the installed harness."""
    return Path(path).resolve().is_relative_to(harness_folder())


def find_own(name: str) -> Path | None:
    """Return the harness's file that defines a task (not a group or a tag), or None."""
    return _find_definition(harness_folder(), name, "task")


def _find_definition(folder: Path, name: str, keys: str) -> Path | None:
    """Return the first file in a folder, in the harness's order, that has a line `KEY: name` for one of the keys."""
    # Search the text: the harness has thousands of files, and parsing them all as YAML takes long.
    line = re.compile(rf"""^["']?(?:{keys})["']?:[ \t]*["']?{re.escape(name)}["']?[ \t]*$""", re.MULTILINE)
    files = sorted(folder.glob("**/*.yaml"), key=Path.as_posix)
    return next((path for path in files if line.search(path.read_text(encoding="utf-8", errors="replace"))), None)


def load_file(path: Path, trusted: bool, harness: Callable[[], Mapping[str, Entry]]) -> tuple[str, Any]:
    """Load the task or the group of tasks that a YAML file defines.

    The members of a group are looked up first in the file's folder, then among the harness's tasks.

    Args:
        path: The file of a task or a group.
        trusted: Whether local files may run code.
        harness: Returns the harness's whole index (names and their entries). The call is slow, so it is made only for
            names that are not found in faster ways.

    Returns:
        The name of the task or group, and the result of the harness's `TaskManager.load`.

    Raises:
        UserError: The file, or the file of a member of its group, cannot be read, names a task that does not exist, or
            would run code that is not trusted.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry, Kind

    with nullcontext() if trusted else _functions_refused():
        settings = _settings(path, trusted)
        label = settings.get("group") or settings.get("task")
        if not isinstance(label, str):
            raise UserError(f"task file {path} names no task: it has neither the key `task` nor the key `group`")
        if not label.isprintable():
            raise UserError(f"task file {path}: the name {label!r} has characters that cannot be printed")
        if "group" not in settings:
            return label, TaskManager(include_defaults=False).load([settings])
        manager = TaskManager(include_defaults=False, include_path=str(path.parent))
        manager.task_index[label] = Entry(label, Kind.GROUP, None, cfg=settings)
        _Members(manager.task_index, path.parent, trusted, harness).make_ready(settings, (label,))
        return label, manager.load([label])


class _Members:
    """Find, read and check the members of a group, so that the harness can build the group from an index.

    Args:
        index: The tasks defined in the group's folder, by name. Members found among the harness's tasks are added.
        folder: The group's folder.
        trusted: Whether local files may run code.
        harness: Returns the harness's whole index (names and their entries); the call is slow.
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
        """Check all members of a group and put them into the index.

        Args:
            settings: The settings of the group.
            within: The names of the enclosing groups, outermost first; the last is this group's own name.
        """
        members = settings.get("task")
        if not isinstance(members, list) or not members:
            raise UserError(f"group {within[-1]} has no members: its `task` must be a list of tasks")
        for member in members:
            definition = member if isinstance(member, Mapping) else {"task": member}
            name = definition.get("group", definition.get("task"))
            if not isinstance(name, str):
                raise UserError(f"group {within[-1]}: its member {member!r} names no task")
            if "group" in definition and isinstance(definition.get("task"), list) and not self._is_indexed(name):
                self.make_ready(definition, (*within, name))  # the group's file defines this inner group itself
            elif "dataset_path" not in definition or self._is_indexed(name):
                self._make_member_ready(name, within)
            # Otherwise the group's file defines the task itself, and there is nothing to look up.

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
            # Without a path, the harness builds the entry from the settings that were checked here.
            self._index[name] = dataclasses.replace(entry, yaml_path=None, cfg=settings)
        if entry.kind is Kind.GROUP:
            self.make_ready(settings, (*within, name))

    def _is_indexed(self, name: str) -> bool:
        """Return whether a name is in the index, after adding the harness task of that name, if there is one."""
        from lm_eval.tasks._index import TaskIndex

        if name not in self._index and (path := find_own(name)) is not None:
            entry = TaskIndex.entry_from_path(path)
            assert entry is not None
            self._index[name] = entry
        return name in self._index

    def _find(self, name: str, group: str) -> Entry:
        """Return the index entry of a name; raise UserError if nothing has that name or its file cannot be read."""
        if name not in self._index:
            # The harness leaves files that it cannot parse out of its index. Reading such a file here raises the error.
            unparsed = _find_definition(self._folder, name, "task|group")
            if unparsed is not None:
                _read(unparsed)
        harness = names_in(harness_folder())
        if not self._is_indexed(name) and name in harness.named | harness.listed:
            for known, entry in self._harness().items():
                self._index.setdefault(known, entry)
        if name not in self._index:
            near = difflib.get_close_matches(name, self._index, n=1)
            near = near or difflib.get_close_matches(name, sorted(harness.named), 1, CLOSE)
            offer = suggestion(name, near)
            raise UserError(
                f'group {group}: no task "{name}"{offer or f" in {self._folder} or in lm-evaluation-harness"}'
            )
        return self._index[name]


def _settings(path: Path, trusted: bool) -> Settings:
    """Return a file's settings, with absolute paths of data files; raise UserError if it has untrusted code."""
    settings = _read(path)
    if not trusted and not ships_with_harness(path) and (code := _code_in(settings)):
        raise _untrusted(path, code)
    return _with_absolute_data_files(settings, path)


def _read(path: Path) -> Settings:
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        strict_yaml.check(Path(path))
        settings: Settings = load_yaml(path)
    except UserError:
        raise
    except OF_USERS as error:
        raise UserError(f"task file {path} cannot be read: {reason(error)}") from None
    return settings


def _with_absolute_data_files(settings: Settings, path: Path) -> Settings:
    """Return a task's or group's settings, with absolute paths for data files that are beside its YAML file.

    The harness would look for relative paths in the working directory. Names of files that are not beside the YAML
    file stay as they are.
    """
    folder = path.resolve().parent

    def anchor(value: Any) -> Any:
        """Replace file names inside a value by absolute paths if the folder has these files."""
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
        anchored["task"] = [
            _with_absolute_data_files(member, path) if isinstance(member, dict) else member for member in members
        ]
    return anchored


# ----- code in a definition

ADVICE = "if you trust it, add `--trust-task-code` (`validation.trust_task_code: true` in a study's file)"


def _untrusted(path: str | Path, code: str) -> UserError:
    return UserError(f"task file {path} runs code ({code}); {ADVICE}")


def reason(error: BaseException) -> str:
    """Return the message of an error that the harness raised, in one line, with advice if the sandbox raised it."""
    from datasets.exceptions import DatasetGenerationError
    from jinja2.exceptions import SecurityError

    if isinstance(error, SecurityError):
        return f"a template uses Python objects ({one_line(error).rstrip('.')}); {ADVICE}"
    if isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        return f"the items cannot be read: {one_line(error.__cause__)}"  # only the cause says why
    return errors.reason(error) if isinstance(error, SystemExit) else one_line(error)


@contextmanager
def _functions_refused() -> Iterator[None]:
    """Refuse the YAML tag `!function` in local files, before the function that it names is imported."""
    import yaml
    from lm_eval.tasks import _yaml_loader

    # The harness imports the function that `!function` names while it reads the file. Its loader is replaced by one
    # that refuses the tag at this point. A separate check before loading could parse the file differently.
    make_loader = _yaml_loader._make_loader

    def refuse(_: Any, *parts: Any) -> Any:
        """Raise UserError instead of importing the function."""
        mark = parts[-1].start_mark
        raise _untrusted(mark.name, f"line {mark.line + 1}: {' '.join([parts[-1].tag, str(parts[-1].value)]).strip()}")

    def guarded(folder: Path, *, resolve_funcs: bool) -> Any:
        """Return the harness's YAML loader, which refuses functions unless the folder is the harness's own."""
        loader = make_loader(folder, resolve_funcs=resolve_funcs)
        if resolve_funcs and not ships_with_harness(folder):
            yaml.add_constructor("!function", refuse, Loader=loader)
            # Without libyaml, the harness's loader also accepts this tag.
            yaml.add_multi_constructor("tag:yaml.org,2002:python/name:", refuse, Loader=loader)
        return loader

    _yaml_loader._make_loader = guarded
    try:
        yield
    finally:
        _yaml_loader._make_loader = make_loader


def _code_in(settings: Mapping[str, Any]) -> str | None:
    """Return the first setting of a task or group that would run code, besides `!function`; None if there is none."""
    import lm_eval.api.metrics  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import metric_registry

    for section in _nested(settings, set()):
        if not isinstance(section, Mapping):
            continue
        if section.get("dataset_path") in PICKLED:
            return f"dataset_path: {section['dataset_path']}, which reads pickles"
        if section.get("use_prompt") is not None:
            return f"use_prompt: {section['use_prompt']}"
        # A task that computes its metrics itself only names them in this list.
        metrics = () if callable(section.get("process_results")) else section.get("metric_list")
        for metric in metrics if isinstance(metrics, list) else ():
            name = metric.get("metric") if isinstance(metric, Mapping) else None
            if isinstance(name, str) and (metric.get("hf_evaluate") or name not in metric_registry):
                known = suggestion(name, difflib.get_close_matches(name, list(metric_registry), n=1))
                return f"metric: {name}, which the harness loads as a script of the library `evaluate`{known}"
    return None


def _nested(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a value and all values nested in it, each once: YAML aliases can make a value contain itself."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _nested(inner, seen)


@contextmanager
def rendering(trusted: bool) -> Iterator[None]:
    """Within this context, let the harness compile each template once instead of once per document.

    Templates that are not trusted are rendered in Jinja's sandbox, which keeps them away from Python's internals.
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
        """Jinja's sandbox, with access to the attributes of plain data only: an image's `save` could write a file."""

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            home = type(obj).__module__.partition(".")[0]
            return home in ("builtins", "datetime", "jinja2") and super().is_safe_attribute(obj, attr, value)

    sandbox = Sandbox(loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline)
    sandbox.filters.update(plain.filters)
    return sandbox
