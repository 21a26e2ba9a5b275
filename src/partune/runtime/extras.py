"""Check whether the optional parts of partune are installed, and give the command that installs them.

The command installs from where partune itself was installed: a clone, a repository or a package index.
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

HERE = Path(__file__).parents[3]  # the root of the clone, if partune runs from a clone

# Names to import.
FINETUNE = ("torch", "transformers", "peft", "lm_eval", "datasets", "accelerate", "safetensors", "regex", "rouge_score")


def require_finetune(what: str = "fine-tuning", modules: Iterable[str] = FINETUNE) -> None:
    """Check that modules for fine-tuning are installed.

    Args:
        what: The name, in the message, of the feature that needs the modules.
        modules: The names of the modules.

    Raises:
        UserError: A module is missing. The message has the command that installs it.
    """
    # Look for the modules without importing them, because the import of torch takes seconds.
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}, not installed here: {install_command('finetune')}")


def require_packages(what: str, packages: Iterable[str]) -> None:
    """Check that packages for an optional feature are installed, apart from those that partune has an extra for.

    Args:
        what: The name, in the message, of the feature that needs the packages.
        packages: The names of the packages, which are also those of their modules.

    Raises:
        UserError: A package is missing. The message has the command that installs it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}")


def install_command(extra: str, pip: str = "pip install") -> str:
    """Return the complete command that installs an optional part of partune.

    Args:
        extra: The name of the part in pyproject.toml.
        pip: The beginning of the command.
    """
    return f"{pip} {_source(extra)}"


def _source(extra: str) -> str:
    """Return what pip should install: the clone, folder, wheel or repository of partune, or the release."""
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
    """Return the URL that partune was installed from and the kind of repository, both empty for a package index."""
    try:
        text = importlib.metadata.distribution("partune").read_text("direct_url.json")
        form = json.loads(text or "{}")
        return str(form.get("url", "")), str(form.get("vcs_info", {}).get("vcs", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return "", ""
