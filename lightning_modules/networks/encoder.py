"""The dual encoder: CLIP's two towers, with dense image features and texts of any grain in one pass.

Everything that a method or a benchmark compares has unit norm. What must be averaged first (patches inside a box,
tokens of a phrase) is also there as it was before normalisation: ``dense`` and ``tokens``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from datamodules.batch import RaggedTexts
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.image_tower import ImageTower
from lightning_modules.networks.long_context import CLIP_CONTEXT, KEPT, PositionTable, stretch_positions
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.temperature import Temperature
from lightning_modules.networks.text_tower import TextTower
from lightning_modules.networks.weights.checkpoint import Checkpoint, read_checkpoint
from lightning_modules.networks.weights.export import save_open_clip, save_transformers
from lightning_modules.networks.weights.parameter_map import POSITIONS, State, complain
from lightning_modules.networks.weights.towers import read_towers

POSITION_PARTS = tuple(POSITIONS.removesuffix("weight") + part for part in ("frozen", "trained"))


class ImageFeatures(NamedTuple):
    """Output of the image tower."""

    image: Float[Tensor, "B D"]  # CLIP's image embedding (class token), unit norm
    dense: Float[Tensor, "B P D"]  # patch tokens, row by row, not normalised: pool, then normalise

    @property
    def patches(self) -> Float[Tensor, "B P D"]:
        """Patch tokens of unit norm."""
        return unit(self.dense)


class TextFeatures(NamedTuple):
    """Output of the text tower."""

    text: Float[Tensor, "U D"]  # one vector per unique text (its EOT), unit norm
    tokens: Float[Tensor, "T D"]  # every token, in the order of ``RaggedTexts.tokens``, not normalised


class DualEncoder(nn.Module):
    """Two towers and a temperature.

    All parameters are used inside the forward of a tower or of ``temperature``, so FSDP2 can gather each by itself.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.image_tower = ImageTower(config)
        self.text_tower = TextTower(config)
        self.temperature = Temperature(config.init_scale)

    @property
    def scale(self) -> Float[Tensor, " 1"]:
        """The logit scale, the factor on cosines in the loss: one over the temperature."""
        return self.temperature()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in both towers: activations are recomputed in the backward pass."""
        self.image_tower.set_grad_checkpointing(enable)
        self.text_tower.set_grad_checkpointing(enable)

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks of both towers: what is sharded, and compiled, one by one."""
        return [*self.image_tower.blocks, *self.text_tower.transformer.encoder.layers]

    def encode_image(self, pixels: Float[Tensor, "B 3 H W"]) -> ImageFeatures:
        """Normalised pixels, of any precision, to features.

        Raises:
            ValueError: where the image is not ``image_size`` pixels square.
        """
        side = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(f"pixels must have shape [B, 3, {side}, {side}], got {list(pixels.shape)}")
        tokens = self.image_tower(pixels.to(self.image_tower.projection.weight.dtype))
        return ImageFeatures(unit(tokens[:, 0]), tokens[:, 1:])

    def encode_text(self, texts: RaggedTexts) -> TextFeatures:
        """Unique texts to features, one vector each and one for each of their tokens.

        Raises:
            ValueError: where there is no text, or one is empty or longer than the context.
        """
        tokens = self.text_tower(texts)
        last = texts.offsets[1:].to(tokens.device) - 1
        return TextFeatures(unit(tokens[last]), tokens)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        context_length: int | None = None,
        frozen_positions: int | None = None,
        activation: str | None = None,
    ) -> DualEncoder:
        """An encoder with the weights of a CLIP checkpoint.

        Args:
            source: a folder, a weights file or a hub id: transformers, OpenAI, open_clip, Long-CLIP, published β-CLIP.
            context_length: tokens of text; the position table is stretched, or cut, to it. The checkpoint's if None.
            frozen_positions: rows of that table which are not trained. If None, 20 where the context is longer than
                the 77 tokens that CLIP was trained with, else 0.
            activation: "quick_gelu" or "gelu"; needed only where no config file tells it.

        Raises:
            ValueError: naming what is missing, unknown, truncated or of another architecture.
            FileNotFoundError: where there are no weights.
        """
        return cls._filled(read_checkpoint(source, activation), str(source), context_length, frozen_positions)

    @classmethod
    def from_towers(
        cls,
        image: str | Path,
        text: str | Path,
        context_length: int | None = None,
        frozen_positions: int | None = None,
    ) -> DualEncoder:
        """An encoder made of a timm CLIP image tower and a transformers CLIP text tower.

        Args:
            image: a folder, a weights file or a hub id of timm's; its head is the projection.
            text: a folder or a hub id of ``CLIPTextModelWithProjection``, or of a whole ``CLIPModel``.
            context_length: as in ``from_pretrained``.
            frozen_positions: as in ``from_pretrained``.
        """
        return cls._filled(read_towers(image, text), f"{image} with {text}", context_length, frozen_positions)

    @classmethod
    def _filled(
        cls, checkpoint: Checkpoint, source: str, context_length: int | None, frozen_positions: int | None
    ) -> DualEncoder:
        config, state = checkpoint
        context = config.context_length if context_length is None else context_length
        if frozen_positions is None:
            frozen_positions = KEPT if context > CLIP_CONTEXT else 0
        encoder = cls(replace(config, context_length=context, frozen_positions=frozen_positions))
        load_state(encoder, state, source)
        return encoder

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that ``transformers.CLIPModel.from_pretrained`` loads, with the same embeddings.

        Args:
            folder: made where it is missing.
            dtype: of the weights in the file; float16 and bfloat16 halve it, and round the embeddings.
        """
        save_transformers(self.config, _as(dtype, whole_state(self)), folder)

    def save_open_clip(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that open_clip loads as ``local-dir:FOLDER``; arguments as in ``save_pretrained``."""
        save_open_clip(self.config, _as(dtype, whole_state(self)), folder)

    def forward(self, pixels: Float[Tensor, "B 3 H W"], texts: RaggedTexts) -> tuple[ImageFeatures, TextFeatures]:
        """Both towers."""
        return self.encode_image(pixels), self.encode_text(texts)


def _as(dtype: torch.dtype, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in state.items()}


def position_table(encoder: DualEncoder) -> PositionTable:
    """The module that holds the text positions."""
    table = encoder.text_tower.get_submodule("transformer.embeddings.position_embedding")
    assert isinstance(table, PositionTable)
    return table


def whole_state(encoder: DualEncoder) -> State:
    """The state dict with the position table in one piece, as every other layout has it."""
    state = {name: tensor for name, tensor in encoder.state_dict().items() if name not in POSITION_PARTS}
    return {**state, POSITIONS: position_table(encoder).weight.detach()}


def load_state(encoder: DualEncoder, state: Mapping[str, Tensor], source: str = "the state dict") -> None:
    """Fill the encoder; the position table is stretched, or cut, to the encoder's context.

    Raises:
        ValueError: naming parameters that are missing, unknown or of another shape.
    """
    context = encoder.config.context_length
    table = state[POSITIONS]
    table = table[:context] if len(table) >= context else stretch_positions(table, context)
    state = {**state, POSITIONS: table}
    current = whole_state(encoder)
    complain("lacks", current.keys() - state.keys(), source)
    complain("has unknown", state.keys() - current.keys(), source)
    complain("has of another shape", [name for name in current if current[name].shape != state[name].shape], source)
    position_table(encoder).load_table(table)
    encoder.load_state_dict({name: t for name, t in state.items() if name != POSITIONS}, strict=False)
