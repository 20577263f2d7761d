"""Reads a run's checkpoint for the commands: its content, its encoder, its text-conditioned pooling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.checkpoints.sharded import read_sharded
from lightning_modules.checkpoints.weight_interpolation import AVERAGED, TRAINED, interpolated
from lightning_modules.methods.known_methods import know_all_methods
from lightning_modules.networks import Encoder, TextConditionedPooling, build_encoder
from lightning_modules.networks.adapters import merged
from lightning_modules.networks.contract import config_of
from lightning_modules.networks.lora import LoraConfig
from lightning_modules.networks.weights.unreadable import UNREADABLE, why_unreadable

TEACHER, POOLING = "teacher.", "pooling."  # prefixes of their weights' names in a checkpoint


def encoder_of(saved: dict[str, Any], weights: str = "trained") -> Encoder:
    """The encoder that a checkpoint, as `read` returns it, stands for: adapters merged, and averaged with its teacher
    where the run asked.

    Raises ValueError where its running average (``averaged``) is asked for and there is none.
    """
    origin = saved[KEY]
    student, teacher = (
        {n.removeprefix(prefix): t for n, t in saved["state_dict"].items() if n.startswith(prefix)}
        for prefix in (AVERAGED if weights == "averaged" else TRAINED, TEACHER)
    )
    if not student:
        raise ValueError(f"the checkpoint holds no {weights} weights: the callback AverageWeights keeps an average")
    encoder = _filled(origin, student)
    return interpolated(encoder, _filled(origin, teacher), origin["student_share"]) if teacher else encoder


def _filled(origin: Mapping[str, Any], state: dict[str, Tensor]) -> Encoder:
    """An encoder of a checkpoint's sizes with weights of it, adapters merged."""
    lora = origin.get("lora")
    encoder = build_encoder(config_of(origin["encoder"]))
    encoder.load_state_dict(state if lora is None else merged(state, LoraConfig(**lora).scale))
    return encoder


def pooling_of(saved: dict[str, Any]) -> TextConditionedPooling | None:
    """The text-conditioned pooling in a checkpoint, as `read` returns it; None where its method has none."""
    state = {n.removeprefix(POOLING): t for n, t in saved["state_dict"].items() if n.startswith(POOLING)}
    if not state:
        return None
    pooling = TextConditionedPooling(state["norm.weight"].shape[0], saved[KEY]["settings"]["pooling_heads"])
    pooling.load_state_dict(state)
    return pooling


def check_there(checkpoint: Path) -> None:
    """Raise FileNotFoundError where there is no such checkpoint, naming those beside it."""
    if checkpoint.exists():
        return
    others = sorted(path.name for path in checkpoint.parent.glob("*.ckpt"))
    beside = f"; beside it: {', '.join(others[:4])}" if others else ""
    raise FileNotFoundError(f"{checkpoint}: no such checkpoint{beside}")


def read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's content: of one file, read without running code, or of a sharded one's folder."""
    check_there(checkpoint)
    know_all_methods()
    try:
        if checkpoint.is_dir():
            saved = read_sharded(checkpoint)
        else:
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if checkpoint.is_dir() and isinstance(error, ValueError):
            raise  # it names the folder and the reason
        raise ValueError(f"{checkpoint} is truncated or no checkpoint: {why_unreadable(error)}") from error
    if not isinstance(saved, dict) or KEY not in saved:
        raise ValueError(f"{checkpoint} was not written by GrainCLIP: it has no entry {KEY!r}")
    return saved
