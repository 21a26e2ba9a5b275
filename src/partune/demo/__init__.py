"""The demo's files: a small base model, instructions and two tasks about an invented factory."""

from pathlib import Path

DIRECTORY = Path(__file__).parent / "files"
SEED = 0
