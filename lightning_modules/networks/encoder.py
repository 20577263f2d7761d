"""CLIP's two towers, or a model of timm beside CLIP's text tower, with dense image features and texts of any grain in
one pass.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from datamodules.batch import RaggedTexts
from datamodules.batching.tokenizer import EOT, VOCAB_SIZE, Tokenizer
from lightning_modules.networks.adapters import adapter_scale, merged, plain_state
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.contract import Encoder, ImageFeatures, TextFeatures
from lightning_modules.networks.flops import training_flops
from lightning_modules.networks.image_positions import stretch_grid
from lightning_modules.networks.image_tower import ImageTower
from lightning_modules.networks.long_context import CLIP_CONTEXT, KEPT, PositionTable, stretch_positions
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.row_tokenizer import row_tokenizer
from lightning_modules.networks.temperature import Temperature
from lightning_modules.networks.text_tower import TextTower
from lightning_modules.networks.timm_tower import TimmTower
from lightning_modules.networks.tower_parts import towers
from lightning_modules.networks.weights.checkpoint import Checkpoint, read_checkpoint
from lightning_modules.networks.weights.export import save_open_clip, save_transformers
from lightning_modules.networks.weights.parameter_map import POSITIONS, State, complain
from lightning_modules.networks.weights.towers import read_towers

IMAGE_POSITIONS = "image_tower.pos_embed"
POSITION_PARTS = tuple(POSITIONS.removesuffix("weight") + part for part in ("frozen", "trained"))


class DualEncoder(Encoder):
    """A CLIP: a vision transformer, or any image model of timm, and a causal text transformer."""

    settings = EncoderConfig
    formats = ("transformers", "open_clip")
    image_tower: ImageTower | TimmTower
    text_tower: TextTower

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self._config = replace(config, image_weights=None)  # read here once: a checkpoint has them
        self.image_tower = ImageTower(config) if config.image_tower is None else TimmTower(config)
        self.image_mean, self.image_std = config.image_mean, config.image_std
        if isinstance(self.image_tower, TimmTower):
            self.image_mean, self.image_std = self.image_tower.image_mean, self.image_tower.image_std
            self.interpolation = self.image_tower.interpolation
        self.text_tower = TextTower(config)
        self.temperature = Temperature(config.init_scale)

    @property
    @override
    def config(self) -> EncoderConfig:
        return self._config

    @property
    @override
    def grid(self) -> tuple[int, int]:
        return self.image_tower.grid

    @property
    @override
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.config.context_length)

    @override
    def image_blocks(self) -> list[nn.Module]:
        return list(self.image_tower.blocks)

    @override
    def text_blocks(self) -> list[nn.Module]:
        return list(self.text_tower.transformer.encoder.layers)

    @override
    def fix_row_lengths(self, lengths: Sequence[int]) -> None:
        self.text_tower.row_lengths = tuple(lengths)

    @override
    def with_grid(self, side: int) -> DualEncoder:
        """The same encoder on larger images: more patches of the same size. All weights but the table of image
        positions, which is stretched, are shared with this one. Raises ValueError for a side below 1, or one that the
        image tower cannot have.
        """
        if side < 1:
            raise ValueError(f"side must be at least 1 patch, got {side}")
        if isinstance(self.image_tower, TimmTower):
            larger = copy.copy(self)
            larger._modules = dict(self._modules)
            larger.image_tower = self.image_tower.with_grid(side)
            larger._config = replace(self.config, image_size=larger.image_tower.image_size)
            return larger
        state = merged(self.state_dict(keep_vars=True), adapter_scale(self))
        state[IMAGE_POSITIONS] = nn.Parameter(stretch_grid(state[IMAGE_POSITIONS].detach(), side))
        with torch.device("meta"):
            larger = DualEncoder(replace(self.config, image_size=side * self.config.patch_size))
        larger.load_state_dict(state, assign=True)
        larger.text_tower, larger.temperature = self.text_tower, self.temperature
        return larger.train(self.training)

    @override
    def training_flops(self, images: float, tokens: float, squares: float, dense: bool = True) -> float:
        image, text = towers(self)
        passes, forward = (image.passes(), text.passes()), self.image_tower.forward_flops(dense)
        return training_flops(self.config, images, tokens, squares, passes, forward)

    @override
    def encode_image(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> ImageFeatures:
        """Normalised pixels, of any precision, to features. With ``dense`` False CLIP's own image tower leaves patch
        features out, and its last block runs on the class token alone.

        Raises:
            ValueError: where the image is not ``image_size`` pixels square.
        """
        side = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(f"pixels must have shape [B, 3, {side}, {side}], got {list(pixels.shape)}")
        if isinstance(self.image_tower, TimmTower) and pixels.shape[0] == 0:
            return self._encode_no_image(pixels, dense)
        tokens = self.image_tower(pixels.to(self.dtype), dense)
        grid = self.grid if tokens.shape[1] > 1 else (0, 0)
        return ImageFeatures(unit(tokens[:, 0]), tokens[:, 1:].mT.unflatten(2, grid))

    @override
    def encode_text(self, texts: RaggedTexts) -> TextFeatures:
        """Unique texts to features, one vector each and one for each of their tokens.

        Raises:
            ValueError: where there is no text, or one is empty or longer than the context.
        """
        tokens = self.text_tower(texts)
        last = texts.offsets[1:].to(tokens.device) - 1
        return TextFeatures(unit(tokens[last]), tokens)

    @override
    def encode_rows(self, rows: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        place = torch.arange(rows.shape[1], device=rows.device)
        causal = (place[:, None] >= place)[None, None].expand(rows.shape[0], 1, -1, -1)
        positions = place[None].expand(rows.shape[0], -1)
        tower = self.text_tower
        hidden = tower.transformer(input_ids=rows, attention_mask=causal, position_ids=positions).last_hidden_state
        end = (rows == EOT).int().argmax(1)  # the first: what fills the row is the same id, and is not seen
        return unit(tower.projection(hidden.gather(1, end[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]))

    @override
    def row_tokenizer(self) -> str:
        return row_tokenizer(self.tokenizer, EOT)

    @property
    @override
    def row_length(self) -> None:
        return None

    @classmethod
    @override
    def reads(cls, weights: Path) -> bool:
        return True  # what no other family reads; a file that is no CLIP is refused with its parameters' names

    @classmethod
    @override
    def load(cls, source: str | Path, weights: Path, context_length: int | None = None) -> DualEncoder:
        """An encoder with the weights of a CLIP checkpoint, for texts of CLIP's tokenizer.

        Raises:
            ValueError: as ``from_pretrained``, and where the vocabulary is smaller than the tokenizer's.
        """
        encoder = cls.from_pretrained(source, context_length)
        if encoder.config.vocab_size < VOCAB_SIZE:
            raise ValueError(
                f"{weights}: the token embedding must have at least {VOCAB_SIZE} rows, the vocabulary of CLIP's "
                f"tokenizer, got {encoder.config.vocab_size}"
            )
        return encoder

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

    @override
    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that ``transformers.CLIPModel.from_pretrained`` loads, with the same embeddings; one that
        open_clip loads where the image tower is timm's.

        Args:
            folder: made where it is missing.
            dtype: of the weights in the file; float16 and bfloat16 halve it, and round the embeddings.
        """
        if isinstance(self.image_tower, TimmTower):
            self.save_open_clip(folder, dtype)
        else:
            save_transformers(self.config, _as(dtype, whole_state(self)), folder)

    @override
    def save(self, folder: str | Path, format: str, dtype: torch.dtype = torch.float32) -> None:
        if format == "open_clip":
            self.save_open_clip(folder, dtype)
        else:
            super().save(folder, format, dtype)

    @override
    def check_format(self, format: str) -> None:
        super().check_format(format)
        if isinstance(self.image_tower, TimmTower):
            self.image_tower.check_format(format)

    def save_open_clip(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that open_clip loads as ``local-dir:FOLDER``; arguments as in ``save_pretrained``.

        Raises:
            ValueError: where open_clip cannot hold the image tower.
        """
        self.check_format("open_clip")
        save_open_clip(self.config, self.input_format, _as(dtype, whole_state(self)), folder)


def _as(dtype: torch.dtype, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def position_table(encoder: Encoder) -> PositionTable:
    """The module that holds the text positions."""
    table = encoder.text_tower.get_submodule("transformer.embeddings.position_embedding")
    assert isinstance(table, PositionTable)
    return table


def whole_state(encoder: Encoder) -> State:
    """The state dict with the position table in one piece and adapters merged, as every other layout has it."""
    state = {name: tensor for name, tensor in plain_state(encoder).items() if name not in POSITION_PARTS}
    return {**state, POSITIONS: position_table(encoder).weight.detach()}


def load_state(encoder: Encoder, state: Mapping[str, Tensor], source: str = "the state dict") -> None:
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
