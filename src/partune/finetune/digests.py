"""Digests of what a fine-tuning stands on: the model's files, its tokenizer, the rows and the tasks' items.

They are of contents, never of places or times: a folder that was copied or moved, and weights that were divided among
files in another way, are the same. Of weights in safetensors up to `WHOLE` bytes every byte counts; of larger ones
`SAMPLES` blocks of each tensor, evenly spaced, its first and last among them, besides all names, shapes and types: a
training, a merge or a quantization changes them everywhere. Pickled weights count by their file, in the same way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partune import config
from partune.errors import UserError
from partune.trial.contents import Content, Contents, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from partune.finetune.data import Examples
    from partune.finetune.scoring.tasks import Task

# Weights up to these bytes are read whole. Reading those of a large model would take minutes at every start, in every
# worker; samples of each tensor still tell another checkpoint apart.
WHOLE = 2**31
BLOCK, SAMPLES = 4096, 16
# Keys of config.json that do not change what the model computes.
IDLE = frozenset({"_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype"})


def of_rows(examples: Examples) -> Content:
    """Return the content of the training rows, as the tokens that are trained on."""
    return Content(examples.digest, f"{examples.rows} rows")


def of_tasks(tasks: Sequence[Task]) -> Contents:
    """Return the contents of tasks' items: prompts, choices, the right ones, and what else their metrics look at."""
    return {f"the items of task {task.name}": _items(task) for task in tasks}


def _items(task: Task) -> Content:
    looks_anywhere = [getattr(leaf.config, "process_results", None) is not None for leaf in task.leaves]
    items = [
        (
            task.leaves[item.leaf].task_name,
            item.gold,
            item.choices,
            task.requests[item.requests],
            _plain(item.document) if looks_anywhere[item.leaf] else None,  # a function of the task's own
        )
        for item in task.items
    ]
    return Content(digest(*items, task.metrics, sorted(task.weights.items())), f"{len(task.items)} items")


def _plain(value: Any) -> Any:
    """Return a document as JSON can say it; what it cannot (pictures) counts by its type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Content:
    """Return the content of a tokenizer; what it makes of rows and items counts there, and decides."""
    # A tokenizer of another version of its library may write its files otherwise and tokenise the same: what it is made
    # of counts, not the bytes of its files.
    parts: list[Any] = [
        tokenizer.get_vocab(),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    ]
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # Truncation and padding are set by whoever called it last, and say nothing of the tokenizer.
        parts.append({key: value for key, value in backend.items() if key not in ("truncation", "padding")})
    return Content(digest(*parts), decisive=False)


def of_template(template: Any) -> Content:
    """Return the content of a chat template; what it makes of rows counts there, and decides."""
    return Content(digest(template), decisive=False)


def of_model(spec: config.Model) -> Contents:
    """Return the contents of a model's files: its weights, its configuration, and code that comes with it.

    Raises:
        UserError: When a file cannot be read.
    """
    folder = find_folder(spec)
    if folder is None:
        return {}
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        contents = {"the model's config.json": Content(digest({k: v for k, v in settings.items() if k not in IDLE}))}
        if spec.trust_remote_code and (code := sorted(folder.glob("*.py"))):
            contents["the model's code"] = Content(
                digest(*(part for path in code for part in (path.name, path.read_bytes())))
            )
        files = weight_files(folder, settings)
        if files:
            contents["the model's weights"] = Content(_weights(files))
        return contents
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the files of model {spec.path} cannot be read: {' '.join(str(error).split())}") from None


def find_folder(spec: config.Model) -> Path | None:
    """Return the folder of a model's files: for an id the cache's, None where the cache has none."""
    folder = Path(spec.path).expanduser()
    if folder.is_dir():
        return folder
    from transformers.utils import cached_file

    try:
        settings = cached_file(spec.path, "config.json", revision=spec.revision, local_files_only=True)
    except OSError:  # an id whose files are elsewhere
        return None
    return None if settings is None else Path(settings).parent


def weight_files(folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Return the files that a loader takes the weights from, by its order of preference.

    Args:
        folder: The model's folder.
        settings: The object in its config.json.
    """
    names = [settings.get("transformers_weights"), "model.safetensors", "pytorch_model.bin", "lit_model.pth"]
    for name in filter(None, names):
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / part for part in sorted(set(parts))]
    return []


def _weights(files: Sequence[Path]) -> str:
    """Return the digest of weights, whatever files they are divided among."""
    whole = sum(path.stat().st_size for path in files) <= WHOLE
    tensors: dict[str, str] = {}
    for path in files:
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                # By tensor, not by file: a checkpoint that is saved again in other shards is the same model.
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
                for name, entry in header.items():
                    if name != "__metadata__":
                        start, end = (8 + size + offset for offset in entry["data_offsets"])
                        blocks = _blocks(file.fileno(), start, end, whole)
                        tensors[name] = digest(entry["dtype"], entry["shape"], *blocks)
            else:
                end = path.stat().st_size
                tensors[path.name] = digest(end, *_blocks(file.fileno(), 0, end, whole))
    return digest(tensors)


def _blocks(file: int, start: int, end: int, whole: bool) -> Iterator[bytes]:
    """Yield the bytes of a file from start to end: all of them, or evenly spaced samples."""
    if whole or end - start <= SAMPLES * BLOCK:
        for offset in range(start, end, 2**24):
            yield os.pread(file, min(2**24, end - offset), offset)
        return
    for sample in range(SAMPLES):
        yield os.pread(file, BLOCK, start + (end - start - BLOCK) * sample // (SAMPLES - 1))
