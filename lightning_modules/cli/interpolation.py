"""Models between a run's start and its trained weights, for ``lightning export`` and ``evaluate --interpolate``.

Weights are (1 - share) · start + share · trained (WiSE-FT, arXiv 2109.01903). Modules that the method added have no
start and stay as trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.checkpoints.weight_interpolation import interpolated
from lightning_modules.cli.read_checkpoint import encoder_of, pooling_of
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import Encoder, TextConditionedPooling, load_encoder


class Line(NamedTuple):
    """The weights between a run's start and its checkpoint."""

    start: Encoder
    trained: Encoder
    pooling: TextConditionedPooling | None
    words: dict[str, Any]  # about both

    def at(self, share: float) -> Encoder:
        """The encoder with ``share`` of the trained weights. Raises ValueError where the start is of another size."""
        return interpolated(self.trained, self.start, share)

    def model(self, share: float, device: torch.device) -> tuple[EvaluationModel, dict[str, Any]]:
        """The encoder at ``share`` as benchmarks use it, and plain words about it."""
        return EvaluationModel(self.at(share), device, self.pooling), {**self.words, "interpolation": share}


def line_of(checkpoint: Path, saved: dict[str, Any], start: str | None = None, weights: str = "trained") -> Line:
    """The line of a checkpoint, as ``read_checkpoint.read`` returns it, to the weights that its run started from.

    Args:
        checkpoint: its path.
        saved: its content.
        start: the source of the weights to start from; None: the run's ``pretrained``.
        weights: the ``trained`` ones of the checkpoint, or their running average (``averaged``).

    Raises:
        ValueError: where the run was trained from scratch, or the start cannot be loaded.
    """
    origin = saved[KEY]
    source = start or origin.get("start") or origin["settings"].get("pretrained")
    if source is None:
        raise ValueError(f"{checkpoint} was trained from scratch: --start SOURCE names weights to interpolate from")
    trained = encoder_of(saved, weights)
    try:
        before = load_encoder(source, trained.context_length)
    except (ValueError, OSError) as error:
        remedy = "" if start is not None else "; --start SOURCE names another"
        raise ValueError(f"the start of {checkpoint.name} cannot be loaded: {error}{remedy}") from error
    words = {name: origin[name] for name in ("method", "steps", "commit", "encoder")}
    return Line(before, trained, pooling_of(saved), {"source": str(checkpoint), **words, "start": source})
