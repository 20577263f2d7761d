"""Reads a checkpoint's text-conditioned pooling, which some benchmarks use; plain CLIP has none."""

from __future__ import annotations

from typing import Any

from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.networks import TextConditionedPooling

POOLING = "pooling."  # how its weights' names begin in a checkpoint


def pooling_of(saved: dict[str, Any]) -> TextConditionedPooling | None:
    """The pooling block of a checkpoint as ``cli.export.read`` returns it; None where its method has none."""
    state = {n.removeprefix(POOLING): t for n, t in saved["state_dict"].items() if n.startswith(POOLING)}
    if not state:
        return None
    pooling = TextConditionedPooling(state["norm.weight"].shape[0], saved[KEY]["settings"]["pooling_heads"])
    pooling.load_state_dict(state)
    return pooling
