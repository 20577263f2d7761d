"""SigLIP (arXiv 2303.15343) and SigLIP 2 at a fixed resolution (arXiv 2502.14786), transformers' ``SiglipModel``.

Embeddings are those of transformers, normalised. SigLIP is trained with a sigmoid loss: its encoder has a logit bias
beside the logit scale, both from the checkpoint, and neither is bounded (released scales lie above CLIP's 100).

A checkpoint is a folder with ``config.json`` (``model_type: siglip``), weights, ``tokenizer.json``,
``tokenizer_config.json`` and, where mean and deviation are others than 0.5, ``preprocessor_config.json``. NaFlex
variants of SigLIP 2 (``model_type: siglip2``), which read patches of any aspect ratio, are not supported.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL.Image import Resampling
from torch import Tensor, nn
from typing_extensions import override

from datamodules.batch import RaggedTexts
from datamodules.batching.library_tokenizer import LibraryTokenizer
from lightning_modules.networks.contract import Encoder, ImageFeatures, TextFeatures
from lightning_modules.networks.encoder import load_state, whole_state
from lightning_modules.networks.long_context import KEPT
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.row_tokenizer import row_tokenizer
from lightning_modules.networks.siglip_settings import SIGLIP_CONTEXT, SiglipSettings, tokenizer_of
from lightning_modules.networks.siglip_towers import SiglipImageTower, SiglipTextTower
from lightning_modules.networks.temperature import LogitBias, Temperature
from lightning_modules.networks.weights.siglip import is_siglip, read_siglip, save_siglip

START_SCALE = 10.0  # both as in the paper, for a SigLIP from scratch
START_BIAS = -10.0


class SiglipEncoder(Encoder):
    """A SigLIP: a vision transformer with a pooling head, and a text transformer that reads padding too."""

    settings = SiglipSettings
    image_tower: SiglipImageTower
    text_tower: SiglipTextTower

    def __init__(self, config: SiglipSettings) -> None:
        super().__init__()
        self._config = config
        self.image_tower = SiglipImageTower(config)
        self.text_tower = SiglipTextTower(config)
        self.temperature = Temperature(START_SCALE, largest=math.inf)
        self.bias = LogitBias(START_BIAS)
        self.image_mean, self.image_std = config.image_mean, config.image_std
        self.interpolation = Resampling(config.resample).name.lower()

    @property
    @override
    def config(self) -> SiglipSettings:
        return self._config

    @property
    @override
    def grid(self) -> tuple[int, int]:
        side = self.config.image_size // self.config.patch_size
        return side, side

    @property
    @override
    def tokenizer(self) -> LibraryTokenizer:
        return tokenizer_of(self.config.tokenizer, self.config.context_length)

    @override
    def image_blocks(self) -> list[nn.Module]:
        return list(self.image_tower.transformer.encoder.layers)

    @override
    def text_blocks(self) -> list[nn.Module]:
        return list(self.text_tower.transformer.encoder.layers)

    @override
    def with_grid(self, side: int) -> SiglipEncoder:
        """The same encoder on larger images: more patches of the same size. All weights but the table of image
        positions, which is stretched, are shared with this one. Raises ValueError for a side below 1.
        """
        if side < 1:
            raise ValueError(f"side must be at least 1 patch, got {side}")
        shared = {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}
        larger = copy.deepcopy(self, shared)
        larger.image_tower.stretch(side)
        larger._config = replace(self.config, image_size=side * self.config.patch_size)
        return larger

    @override
    def encode_image(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> ImageFeatures:
        """Normalised pixels, of any precision, to features; patch features only where ``dense``.

        Raises:
            ValueError: where the image is not ``image_size`` pixels square.
        """
        side = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(f"pixels must have shape [B, 3, {side}, {side}], got {list(pixels.shape)}")
        if pixels.shape[0] == 0:
            return self._encode_no_image(pixels, dense)
        image, patches = self.image_tower(pixels.to(self.dtype), dense)
        return ImageFeatures(unit(image), patches.mT.unflatten(2, self.grid if dense else (0, 0)))

    @override
    def encode_text(self, texts: RaggedTexts) -> TextFeatures:
        """Unique texts to features, one vector each and one for each of their tokens.

        Raises:
            ValueError: where there is no text, or one is longer than the context.
        """
        text, tokens = self.text_tower(texts)
        return TextFeatures(unit(text), tokens)

    @property
    @override
    def resizing(self) -> tuple[str, str]:
        return "squash", self.interpolation

    @override
    def encode_rows(self, rows: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return unit(self.text_tower.transformer(input_ids=rows).pooler_output)

    @override
    def row_tokenizer(self) -> str:
        config = self.config
        return row_tokenizer(self.tokenizer, config.pad_id, config.pad_side == "left", config.context_length)

    @classmethod
    @override
    def reads(cls, weights: Path) -> bool:
        return is_siglip(weights)

    @classmethod
    @override
    def load(cls, source: str | Path, weights: Path, context_length: int | None = None) -> SiglipEncoder:
        """An encoder with the weights of a SigLIP.

        Args:
            source: as the user named it.
            weights: its weights file, with config, tokenizer and preprocessor files beside it.
            context_length: tokens of text, at least the model's own; its table of positions is stretched to more by
                Long-CLIP's rule, the first 20 rows kept and no longer trained. The model's own if None.

        Raises:
            ValueError: naming what is missing, unknown or of another kind, or a context that is too short.
        """
        settings, state = read_siglip(weights)
        own = settings.context_length
        context = own if context_length is None else context_length
        if context < own:
            raise ValueError(
                f"encoder.context_length must be at least {own}, the length of {source}, whose texts are always filled "
                f"up to it, got {context}"
            )
        frozen = KEPT if context > SIGLIP_CONTEXT else 0
        encoder = cls(replace(settings, context_length=context, frozen_positions=frozen))
        load_state(encoder, state, str(source))
        return encoder

    @override
    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that ``transformers.SiglipModel`` and ``SiglipProcessor`` load, with the same embeddings.

        Args:
            folder: made where it is missing.
            dtype: of the weights in the file; float16 and bfloat16 halve it, and round the embeddings.
        """
        save_siglip(self.config, {name: t.to(dtype) for name, t in whole_state(self).items()}, folder)
