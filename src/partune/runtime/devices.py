"""List the GPUs that this process may use."""

from __future__ import annotations

import os
import subprocess

DEVICES_EACH = "PARTUNE_DEVICES_PER_WORKER"  # environment variable: the number of GPUs of each worker of a batch job


def devices() -> list[str]:
    """Return the GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    # Do not ask torch, which would initialise CUDA. This process only assigns GPUs to others and uses none.
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    # The other lines are MIG slices, which have no numbers.
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]
