"""The stand-in for LitGPT's command, installed as an executable, and what it was asked."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import torch

from tests.support import fake_litgpt


def install(folder: Path, **behaviour: str) -> Path:
    """The stand-in as an executable."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "litgpt"
    command.write_text(f"#!{sys.executable}\n{Path(fake_litgpt.__file__).read_text(encoding='utf-8')}")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    torch.save({"model": lora(4)}, folder / "lora.pth")
    behave(command, **behaviour)
    return command


def lora(r: int) -> dict[str, torch.Tensor]:
    """LoRA weights of the tiny Llama, as LitGPT names and stacks them: q, k and v (widths 32, 16, 16), projection."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"attn.qkv.lora_A": (3 * r, 32), "attn.qkv.lora_B": (64, r)}
    shapes |= {"attn.proj.lora_A": (r, 32), "attn.proj.lora_B": (32, r)}
    return {
        f"transformer.h.{block}.{name}": torch.randn(*shape, generator=draw)
        for block in range(2)
        for name, shape in shapes.items()
    }


def behave(command: Path, **behaviour: str) -> None:
    (command.parent / "behaviour.json").write_text(json.dumps(behaviour))


def calls(command: Path, step: str | None = None) -> list[dict[str, Any]]:
    path = command.parent / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [call for call in map(json.loads, lines) if step in (None, call["step"])]
