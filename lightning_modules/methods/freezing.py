"""Parts of the towers that are not trained.

A frozen parameter has no gradient and no state in the optimiser; it still lies in checkpoints. Frozen are a whole tower
(LiT, arXiv 2111.07991: the image tower), a tower's first blocks, or all of it but its normalisation layers. Autograd
keeps no activations of what stands before the first trained parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_modules.networks import Encoder
from lightning_modules.networks.lora import LoraConfig
from lightning_modules.networks.tower_parts import TowerParts, norms, towers

WORDS = ("none", "all", "all_but_norms")
Extent = Literal["none", "all", "all_but_norms"] | int


@dataclass(frozen=True)
class FreezeConfig:
    """Frozen parts of both towers.

    Args:
        image_tower: ``none``; ``all``, projection included; ``all_but_norms``: only normalisation layers are trained;
            or a number of blocks: the embeddings and so many blocks from the input on (0: the embeddings alone).
        text_tower: the same.
        feature_cache_gib: memory in GiB, on the device, for what the frozen first blocks of the image tower make of
            each image; 0: it is computed anew each time. Of use where the same pixels come again: ``Squash``, or
            ``RandomCrop`` with ``views``.
    """

    image_tower: Extent = "none"
    text_tower: Extent = "none"
    feature_cache_gib: float = 0.0

    def __post_init__(self) -> None:
        for name in ("image_tower", "text_tower"):
            value = getattr(self, name)
            if isinstance(value, bool) or (value not in WORDS and not (isinstance(value, int) and value >= 0)):
                raise ValueError(f"freeze.{name} must be {', '.join(WORDS)} or a number of blocks, got {value!r}")
        if not 0 <= self.feature_cache_gib < float("inf"):
            raise ValueError(f"freeze.feature_cache_gib must be 0 or more, got {self.feature_cache_gib}")


def freeze_towers(encoder: Encoder, config: FreezeConfig, lora: LoraConfig | None) -> None:
    """Freeze parts of the encoder.

    Raises:
        ValueError: where a tower has fewer blocks, has no norms to train, or gets adapters, which freeze it anyway.
    """
    for tower in towers(encoder):
        extent: Extent = getattr(config, tower.name)
        if extent == "none":
            continue
        if lora is not None and lora.adapts(tower.name):
            raise ValueError(
                f"freeze.{tower.name} must be none where lora.{tower.name} adapts the tower (adapters freeze all its "
                f"other weights), got {extent!r}"
            )
        if isinstance(extent, int):
            _freeze_first(tower, extent)
        else:
            tower.module.requires_grad_(False)
        if extent == "all_but_norms":
            _train_norms(tower)


def _train_norms(tower: TowerParts) -> None:
    found = norms(tower.module)
    if not found:
        raise ValueError(
            f"freeze.{tower.name} must be none, all or a number of blocks where the tower has no normalisation layers "
            "with weights, got all_but_norms"
        )
    for parameter in found:
        parameter.requires_grad_(True)


def _freeze_first(tower: TowerParts, count: int) -> None:
    if count > len(tower.blocks):
        raise ValueError(f"freeze.{tower.name} must be at most {len(tower.blocks)}, the tower's blocks, got {count}")
    for parameter in (*tower.embeddings, *(p for block in tower.blocks[:count] for p in block.parameters())):
        parameter.requires_grad_(False)
