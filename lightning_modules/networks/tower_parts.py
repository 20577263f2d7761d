"""A tower as a sequence of parts, from its input to its output: embeddings, blocks, final norm and projection.

Layer-wise learning rates, freezing and counts of parameters go by these parts, whatever the family of the encoder.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from lightning_modules.networks.contract import Encoder

NORMS = (nn.LayerNorm, nn.RMSNorm)


class TowerParts(NamedTuple):
    """A tower, its name in the encoder, what comes before its first block, and its blocks in order."""

    name: str
    module: nn.Module
    embeddings: list[nn.Parameter]
    blocks: list[nn.Module]

    def depths(self) -> dict[int, int]:
        """The part that each parameter belongs to, by the parameter's ``id``: 0 for the embeddings, 1 to L for the
        blocks, L + 1 for what follows them.
        """
        depths = {id(parameter): len(self.blocks) + 1 for parameter in self.module.parameters()}
        depths |= {id(parameter): 0 for parameter in self.embeddings}
        for depth, block in enumerate(self.blocks, start=1):
            depths |= {id(parameter): depth for parameter in block.parameters()}
        return depths


def towers(encoder: Encoder) -> tuple[TowerParts, TowerParts]:
    """The image tower and the text tower."""
    return (
        TowerParts("image_tower", encoder.image_tower, encoder.image_embeddings(), encoder.image_blocks()),
        TowerParts("text_tower", encoder.text_tower, encoder.text_embeddings(), encoder.text_blocks()),
    )


def norms(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of all normalisation layers of a module."""
    return [p for layer in module.modules() if isinstance(layer, NORMS) for p in layer.parameters()]
