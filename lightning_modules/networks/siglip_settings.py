"""The settings of a SigLIP, as plain numbers and strings that a checkpoint can carry.

A run's checkpoint is whole without the folder that the run started from, so the tokenizer is one of the settings: the
text of its ``tokenizer.json``, packed (megabytes for SigLIP 2's 256,000 word pieces; their vectors take 800 MB).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from datamodules.batching.image_transforms import Channels
from datamodules.batching.library_tokenizer import LibraryTokenizer, unpacked

SIGLIP_CONTEXT = 64  # tokens of a text that SigLIP was trained with


@dataclass(frozen=True)
class SiglipSettings:
    """Sizes of both towers, and how texts and pixels are prepared.

    Args:
        image_size: side of the square image in pixels.
        patch_size: side of a patch in pixels; what is left of the image at the right and below is not read.
        image_width: channels of the image tower, and width of the joint space.
        image_hidden: channels within its MLPs.
        image_layers: its blocks.
        image_heads: its attention heads.
        text_width: channels of the text tower.
        text_hidden: channels within its MLPs.
        text_layers: its blocks.
        text_heads: its attention heads.
        vocab_size: rows of the table of tokens.
        context_length: tokens of every text, padding included.
        frozen_positions: the first text positions, which are not trained; 20 for a stretched table.
        activation: of both towers, by transformers' name.
        layer_norm_eps: of all norms.
        pad_id: the token that fills up texts.
        pad_side: ``right`` of the text, or ``left``.
        tokenizer: its ``tokenizer.json``, packed.
        special_tokens: names and texts of the special tokens, as transformers calls them: ``pad_token``, ``eos_token``.
        image_mean: of pixels that range from 0 to 1, by channel.
        image_std: their standard deviation, by channel.
        resample: PIL's number of the filter with which transformers' processor resizes images; 3: bicubic.
    """

    image_size: int
    patch_size: int
    image_width: int
    image_hidden: int
    image_layers: int
    image_heads: int
    text_width: int
    text_hidden: int
    text_layers: int
    text_heads: int
    vocab_size: int
    context_length: int
    frozen_positions: int
    activation: str
    layer_norm_eps: float
    pad_id: int
    pad_side: Literal["right", "left"]
    tokenizer: str
    special_tokens: dict[str, str]
    image_mean: Channels
    image_std: Channels
    resample: int

    @property
    def embed_dim(self) -> int:
        """Width of the joint space."""
        return self.image_width


@lru_cache(maxsize=4)
def tokenizer_of(packed_json: str, context_length: int) -> LibraryTokenizer:
    """The tokenizer of packed settings; built once."""
    return LibraryTokenizer(unpacked(packed_json), context_length)
