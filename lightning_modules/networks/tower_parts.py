"""A tower as a sequence of parts, from its input to its output: embeddings, blocks, final norm and projection.

Layer-wise learning rates, freezing and counts of parameters go by these parts, whatever the family of the encoder.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from lightning_modules.networks.adapters import is_adapter
from lightning_modules.networks.contract import Encoder

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


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

    def passes(self) -> float:
        """Cost of a training step in units of a forward pass: 3 where all is trained, 1 where nothing is.

        A block costs one pass more where it or what comes before it is trained (the gradient of its activations), and
        its trained share more (that of its weights). Adapters are too small to count; parts that are not blocks count
        as the mean of the blocks.
        """
        if not self.blocks:
            return 3.0
        reached, cost = any(parameter.requires_grad for parameter in self.embeddings), 0.0
        for block in self.blocks:
            sizes = [(p.numel(), p.requires_grad) for name, p in block.named_parameters() if not is_adapter(name)]
            reached = reached or any(parameter.requires_grad for parameter in block.parameters())
            share = sum(size for size, is_trained in sizes if is_trained) / sum(size for size, _ in sizes)
            cost += 1 + reached + share
        return cost / len(self.blocks)


def towers(encoder: Encoder) -> tuple[TowerParts, TowerParts]:
    """The image tower and the text tower."""
    return (
        TowerParts("image_tower", encoder.image_tower, encoder.image_embeddings(), encoder.image_blocks()),
        TowerParts("text_tower", encoder.text_tower, encoder.text_embeddings(), encoder.text_blocks()),
    )


def norms(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of all normalisation layers of a module: of torch's own classes, and of libraries' classes that
    are called a norm and whose parameters are all directly on them (timm's ``RmsNorm``, transformers' ``T5LayerNorm``).
    """
    return [p for layer in module.modules() if _is_norm(layer) for p in layer.parameters(recurse=False)]


def _is_norm(layer: nn.Module) -> bool:
    if isinstance(layer, NORMS):
        return True
    own, all_parameters = (list(layer.parameters(recurse=recurse)) for recurse in (False, True))
    return "norm" in type(layer).__name__.lower() and len(own) == len(all_parameters)
