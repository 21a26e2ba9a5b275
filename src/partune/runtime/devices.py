"""The GPUs that this process may use."""

from __future__ import annotations

import os
import subprocess

DEVICES_EACH = "PARTUNE_DEVICES_PER_WORKER"  # the environment variable that tells a batch job's workers how many


def devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    # Not torch: it would initialise CUDA in this process, which only hands the GPUs out and computes on none.
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    # Lines between are of MIG slices, which have no numbers of their own.
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]
