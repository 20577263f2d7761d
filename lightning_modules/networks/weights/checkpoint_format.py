"""A layout: how one family of checkpoints names CLIP's parameters.

Sizes are read off the weights themselves, once they carry our names; only the number of heads and the activation leave
no trace there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.weights.parameter_map import POSITIONS, Link, State, read

HEAD_WIDTH = 64  # of every CLIP that OpenAI and its successors released, unless a config file says otherwise


class Layout(NamedTuple):
    """One family of checkpoints.

    ``blocks`` are the prefixes of the image and of the text blocks, before their number; ``links`` makes the links for
    given numbers of blocks; ``ignored`` are names that carry no weights.
    """

    name: str
    blocks: tuple[str, str]
    links: Callable[[int, int], list[Link]]
    ignored: Collection[str] = ()

    def matches(self, state: Mapping[str, Tensor]) -> bool:
        """True if the state dict has blocks of these names."""
        return any(name.startswith(self.blocks[0] + "0.") for name in state)

    def read(self, state: Mapping[str, Tensor], source: str) -> State:
        """The state dict under our names.

        Raises:
            ValueError: naming what is missing, or what is there and unknown.
        """
        image, text = (depth(state, prefix) for prefix in self.blocks)
        return read(self.links(image, text), state, f"{source} ({self.name} names)", self.ignored)


class Traceless(NamedTuple):
    """Settings that the weights do not tell."""

    activation: str
    image_heads: int | None = None
    text_heads: int | None = None


def depth(state: Mapping[str, Tensor], prefix: str) -> int:
    """The number of blocks under a prefix, at least one, so that an empty tower is named as missing."""
    numbered = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for name in state if (match := numbered.match(name))), default=1)


def sizes(state: Mapping[str, Tensor], traceless: Traceless) -> EncoderConfig:
    """The encoder that a state dict under our names belongs to."""
    patch = state["image_tower.patch_embed.proj.weight"]
    positions = state[POSITIONS]
    side = math.isqrt(state["image_tower.pos_embed"].shape[1] - 1)
    image_width, text_width = patch.shape[0], positions.shape[1]
    return EncoderConfig(
        image_size=side * patch.shape[-1],
        patch_size=patch.shape[-1],
        image_width=image_width,
        image_layers=depth(state, "image_tower.blocks."),
        image_heads=traceless.image_heads or max(image_width // HEAD_WIDTH, 1),
        text_width=text_width,
        text_layers=depth(state, "text_tower.transformer.encoder.layers."),
        text_heads=traceless.text_heads or max(text_width // HEAD_WIDTH, 1),
        embed_dim=state["text_tower.projection.weight"].shape[0],
        vocab_size=state["text_tower.transformer.embeddings.token_embedding.weight"].shape[0],
        context_length=positions.shape[0],
        activation=traceless.activation,
        init_scale=state["temperature.log_scale"].float().exp().item(),
    )
