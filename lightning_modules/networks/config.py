"""The sizes of a dual encoder, as plain numbers that a YAML file can hold and a checkpoint can carry."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from datamodules.batching.image_transforms import CLIP_MEAN, CLIP_STD, Channels

ACTIVATIONS = ("quick_gelu", "gelu")
TIMM = "timm/"  # how names of timm's models begin
CLIP_ONLY = ("patch_size", "image_width", "image_layers", "image_heads", "image_mean", "image_std")  # its image tower's


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of both towers; the defaults are small, for the embedded data.

    Args:
        image_size: side of the square image in pixels.
        patch_size: side of a patch in pixels; divides ``image_size``.
        image_width: channels of the vision transformer.
        image_layers: its blocks.
        image_heads: its attention heads; divide ``image_width``.
        text_width: channels of the text transformer.
        text_layers: its layers.
        text_heads: its attention heads; divide ``text_width``.
        embed_dim: width of the joint space.
        vocab_size: of the tokenizer.
        context_length: the longest text in tokens, SOT and EOT included. A pretrained model whose positions cannot be
            stretched takes its own length where this is the default.
        activation: of both towers: "quick_gelu" (OpenAI's CLIP) or "gelu"; of the text tower alone where there is an
            ``image_tower``.
        frozen_positions: the first text positions, which are not trained; 20 for a stretched CLIP, 0 from scratch.
        init_scale: factor on cosines in the loss at the start of training.
        image_tower: ``timm/NAME``, any image model of timm, in place of CLIP's vision transformer. It has sizes of its
            own: ``patch_size``, ``image_width``, ``image_layers`` and ``image_heads`` must then stay at their defaults.
        image_weights: of that model: a weights file, a folder or a hub id with timm's names, or ``pretrained`` for
            those that timm itself would load; None: random. Checkpoints carry the weights: their encoder's settings
            have None here.
        image_mean: of pixels that range from 0 to 1, by channel; an ``image_tower`` has its own.
        image_std: their standard deviation.
    """

    image_size: int = 64
    patch_size: int = 8
    image_width: int = 128
    image_layers: int = 4
    image_heads: int = 4
    text_width: int = 128
    text_layers: int = 4
    text_heads: int = 4
    embed_dim: int = 128
    vocab_size: int = 49408
    context_length: int = 248
    activation: str = "quick_gelu"
    frozen_positions: int = 0
    init_scale: float = 1 / 0.07
    image_tower: str | None = None
    image_weights: str | None = None
    image_mean: Channels = CLIP_MEAN
    image_std: Channels = CLIP_STD

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "frozen_positions" else 1
            if isinstance(value, int) and value < least:
                raise ValueError(f"{field.name} must be at least {least}, got {value}")
        image_parts = (("image_size", "patch_size"), ("image_width", "image_heads"))
        if self.image_tower is None:
            if self.image_weights is not None:
                raise ValueError(
                    f"image_weights are those of image_tower, which must then be timm/NAME, got {self.image_weights!r}"
                )
        else:
            self._check_timm(self.image_tower)
            image_parts = ()
        for whole, part in (*image_parts, ("text_width", "text_heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} must be a multiple of {part} = {getattr(self, part)}, got {getattr(self, whole)}"
                )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.frozen_positions >= self.context_length:
            raise ValueError(
                f"frozen_positions must be below context_length = {self.context_length}, got {self.frozen_positions}"
            )
        if not all(map(math.isfinite, self.image_mean)):
            raise ValueError(f"image_mean must be finite, got {list(self.image_mean)}")
        if not all(math.isfinite(value) and value > 0 for value in self.image_std):
            raise ValueError(f"image_std must be positive and finite, got {list(self.image_std)}")
        if not (math.isfinite(self.init_scale) and self.init_scale > 0):
            raise ValueError(f"init_scale must be positive and finite, got {self.init_scale}")

    def _check_timm(self, name: str) -> None:
        if not name.startswith(TIMM) or name == TIMM:
            raise ValueError(f"image_tower must be timm/NAME, a model of timm, or null for CLIP's own, got {name!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in CLIP_ONLY and value != field.default:
                raise ValueError(
                    f"{field.name} is of CLIP's own image tower: with image_tower {name}, which has its own, leave it "
                    f"out (or {field.default}), got {value}"
                )


def vit_b_16() -> EncoderConfig:
    """The sizes of OpenAI's ViT-B/16, with 248 tokens of text."""
    return EncoderConfig(
        image_size=224,
        patch_size=16,
        image_width=768,
        image_layers=12,
        image_heads=12,
        text_width=512,
        text_layers=12,
        text_heads=8,
        embed_dim=512,
        frozen_positions=20,
    )


def vit_l_14() -> EncoderConfig:
    """The sizes of OpenAI's ViT-L/14, with 248 tokens of text."""
    return EncoderConfig(
        image_size=224,
        patch_size=14,
        image_width=1024,
        image_layers=24,
        image_heads=16,
        text_width=768,
        text_layers=12,
        text_heads=12,
        embed_dim=768,
        frozen_positions=20,
    )
