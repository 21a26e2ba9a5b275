"""Compute digests of the inputs of a fine-tuning: the model's files, its tokenizer, the rows and the tasks' items.

Digests depend on contents only, not on paths or dates. They stay the same if a folder is copied or moved, or if the
same weights are split into files differently. Weights in safetensors of up to `WHOLE` bytes are digested completely.
Of larger weights, the digest covers the name, shape and type of each tensor and `SAMPLES` evenly spaced blocks of it,
including the first and the last. That is enough, because training, merging and quantization change weights everywhere.
Pickled weights are digested file by file instead of tensor by tensor, with the same limits.
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
    from partune.finetune.scoring.base import Task

# Total size in bytes up to which weights are read completely. Reading all weights of a large model would take minutes
# at every start of every worker. Samples of each tensor still distinguish one checkpoint from another.
WHOLE = 2**31
BLOCK, SAMPLES = 4096, 16
# Keys of config.json that have no influence on what the model computes.
IDLE = frozenset({"_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype"})


def of_rows(examples: Examples) -> Content:
    """Return the content of the training rows: the digest of their tokens and masks, and their number."""
    return Content(examples.digest, f"{examples.rows} rows")


def of_tasks(tasks: Sequence[Task]) -> Contents:
    """Return the contents of each task's items."""
    contents = {task.name: task.content for task in tasks}
    return {f"the items of task {name}": content for name, content in contents.items() if content is not None}


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Content:
    """Return the content of a tokenizer.

    It is not decisive: if a changed tokenizer matters, the tokens of the rows and items change too, and these decide.
    """
    # The parts of the tokenizer are digested, not its files, because another version of the library may write the
    # same tokenizer to different files.
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts: list[Any] = [tokenizer.get_vocab(), special]
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # Truncation and padding are left over from the last call, and not properties of the tokenizer.
        parts.append({key: value for key, value in backend.items() if key not in ("truncation", "padding")})
    return Content(digest(*parts), decisive=False)


def of_template(template: Any) -> Content:
    """Return the content of a chat template.

    It is not decisive: if a changed template matters, the tokens of the rows change too, and these decide.
    """
    return Content(digest(template), decisive=False)


def of_model(spec: config.Model) -> Contents:
    """Return the contents of a model's files: its weights, its configuration, and code that comes with it.

    Raises:
        UserError: A file cannot be read.
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
    """Return the folder of a model's files; for a Hugging Face id, that in the cache, or None if there is none."""
    folder = Path(spec.path).expanduser()
    if folder.is_dir():
        return folder
    from transformers.utils import cached_file

    try:
        settings = cached_file(spec.path, "config.json", revision=spec.revision, local_files_only=True)
    except OSError:  # an id that is not in the cache
        return None
    return None if settings is None else Path(settings).parent


def weight_files(folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Return the files from which a loader reads the weights, chosen in the loader's order of preference.

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
    """Return the digest of weights, which does not depend on how safetensors are split into files."""
    read_all = sum(path.stat().st_size for path in files) <= WHOLE
    tensors: dict[str, str] = {}
    for path in files:
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                # Each tensor has its own digest, because a checkpoint saved again in other shards is the same model.
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
                for name, entry in header.items():
                    if name != "__metadata__":
                        start, end = (8 + size + offset for offset in entry["data_offsets"])
                        blocks = _blocks(file.fileno(), start, end, read_all)
                        tensors[name] = digest(entry["dtype"], entry["shape"], *blocks)
            else:
                end = path.stat().st_size
                tensors[path.name] = digest(end, *_blocks(file.fileno(), 0, end, read_all))
    return digest(tensors)


def _blocks(file: int, start: int, end: int, read_all: bool) -> Iterator[bytes]:
    """Yield the bytes of a file from start to end: all of them, or evenly spaced samples."""
    if read_all or end - start <= SAMPLES * BLOCK:
        for offset in range(start, end, 2**24):
            yield os.pread(file, min(2**24, end - offset), offset)
        return
    for sample in range(SAMPLES):
        yield os.pread(file, BLOCK, start + (end - start - BLOCK) * sample // (SAMPLES - 1))
