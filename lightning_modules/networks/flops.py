"""The useful arithmetic of a training step: matrix products of both towers, forward and backward, on real tokens.

A weight costs 2 operations a token forward, an attention 4 · length · width a token and layer; backward is twice the
forward, once for the activations and once for the weights: less where parts are frozen (``TowerParts.passes``). Norms,
biases, losses, the methods' own small modules and recomputed blocks do not count, padding neither: what is divided by
the hardware's peak is the work that had to be done (model FLOPs utilisation).
"""

from __future__ import annotations

from lightning_modules.networks.config import EncoderConfig


def image_flops(config: EncoderConfig, dense: bool = True) -> float:
    """Operations of CLIP's own image tower on one image, forward; without patch features where not ``dense``."""
    patches = (config.image_size // config.patch_size) ** 2
    length, width, depth = patches + 1, config.image_width, config.image_layers
    image = 2 * length * depth * 12 * width**2 + 4 * depth * length**2 * width
    image += 2 * patches * 3 * config.patch_size**2 * width + 2 * length * width * config.embed_dim
    # Without patch features the last block's output projection and MLP, and the projection, run on the class token.
    spared = 0 if dense else 2 * patches * (9 * width**2 + width * config.embed_dim)
    return float(image - spared)


def training_flops(
    config: EncoderConfig,
    images: float,
    tokens: float,
    squares: float,
    passes: tuple[float, float] = (3.0, 3.0),
    image: float | None = None,
) -> float:
    """Operations of a step.

    Args:
        config: sizes of the towers.
        images: encoded.
        tokens: of all texts encoded.
        squares: sum of the squares of their lengths.
        passes: of each tower, the image tower first: what a step costs in units of a forward pass.
        image: operations of the image tower on one image, forward; None: of CLIP's own.
    """
    text = 2 * tokens * (config.text_layers * 12 * config.text_width**2 + config.text_width * config.embed_dim)
    text += 4 * config.text_layers * squares * config.text_width
    return passes[0] * images * (image_flops(config) if image is None else image) + passes[1] * text
