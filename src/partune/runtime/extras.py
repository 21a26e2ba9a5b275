"""The optional parts: whether they are installed, and the command that installs them.

The command works where partune itself came from: a clone, a repository or an index.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from partune.errors import UserError

HERE = Path(__file__).parents[3]  # the clone, where partune runs from one

FINETUNE = ("torch", "transformers", "peft", "lm_eval", "datasets", "accelerate", "safetensors")  # as they are imported


def require_finetune(what: str = "fine-tuning", modules: Iterable[str] = FINETUNE) -> None:
    """Raise UserError, with the command that installs it, where a part of the fine-tuning half is missing.

    Args:
        what: What needs it, as the message names it.
        modules: The modules that it needs.
    """
    # Looked for, not imported: importing torch takes seconds, and this is asked before anything is loaded.
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}, not installed here: {install_command('finetune')}")


def install_command(extra: str, pip: str = "pip install") -> str:
    """Return the command that installs an optional part of partune, whole and ready to paste.

    Args:
        extra: The part's name in pyproject.toml.
        pip: How the command begins.
    """
    return f"{pip} {_source(extra)}"


def _source(extra: str) -> str:
    """Return what pip is to install: the clone, folder, wheel or repository partune came from, or the release."""
    if (HERE / "pyproject.toml").is_file() and (HERE / "src" / "partune").is_dir():
        return f"-e {shlex.quote(f'{HERE}[{extra}]')}"
    url, kind = _origin()
    parts = urlsplit(url)
    if parts.scheme == "file" and (origin := Path(url2pathname(parts.path))).exists():
        return shlex.quote(f"{origin}[{extra}]")
    if kind:
        return shlex.quote(f"partune[{extra}] @ {kind}+{url}")
    return f'"partune[{extra}]"'


def _origin() -> tuple[str, str]:
    """Return the address that partune was installed from, and the kind of its repository; empty for an index."""
    try:
        text = importlib.metadata.distribution("partune").read_text("direct_url.json")
        form = json.loads(text or "{}")
        return str(form.get("url", "")), str(form.get("vcs_info", {}).get("vcs", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return "", ""
