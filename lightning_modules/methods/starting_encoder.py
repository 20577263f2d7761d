"""The encoder that training starts from: new, or of a checkpoint that fits the settings."""

from __future__ import annotations

from datamodules.batching.tokenizer import VOCAB_SIZE
from lightning_modules.networks import Encoder, EncoderConfig
from lightning_modules.networks.contract import EncoderSizes, build_encoder, load_encoder


def starting_encoder(config: EncoderSizes, pretrained: str | None) -> Encoder:
    """The encoder to train.

    Args:
        config: its settings; of a pretrained one only the context, which it is stretched or cut to.
        pretrained: source of the weights; None: at random.

    Raises:
        ValueError: where the checkpoint's images have another size than ``config.image_size``, it brings another image
            tower, or the vocabulary is smaller than the tokenizer's.
        FileNotFoundError: where there is no such checkpoint.
    """
    if isinstance(config, EncoderConfig) and config.vocab_size < VOCAB_SIZE:
        raise ValueError(f"encoder.vocab_size must be at least {VOCAB_SIZE}, the tokenizer's, got {config.vocab_size}")
    if pretrained is None:
        return build_encoder(config)
    encoder = load_encoder(pretrained, config.context_length)
    for name in ("image_tower", "image_weights"):
        wanted, of_source = getattr(config, name, None), getattr(encoder.config, name, None)
        if wanted not in (None, of_source):
            raise ValueError(
                f"encoder.{name} must be null where pretrained {pretrained} brings the image tower"
                f"{'' if of_source is None else f' {of_source}'}, got {wanted}"
            )
    if encoder.image_size != config.image_size:
        raise ValueError(
            f"encoder.image_size must be {encoder.image_size}, the image size of {pretrained}, "
            f"got {config.image_size}: the data is scaled to it"
        )
    return encoder
