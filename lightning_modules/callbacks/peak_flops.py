"""The operations a second that a device could do at best, by which the arithmetic of a step is divided."""

from __future__ import annotations

import torch
from lightning.fabric.utilities.throughput import get_available_flops

HALF = {"bf16": torch.bfloat16, "16": torch.float16}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second that the device could do at best; None where that is not known (as of any CPU)."""
    if device.type != "cuda":
        return None
    dtype = next((half for name, half in HALF.items() if precision.startswith(name)), torch.float32)
    return get_available_flops(device, dtype)
