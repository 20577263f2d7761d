"""The contract of dual encoders: what methods, validation, benchmarks, export and explanation use of a model, whatever
its family. What a family lacks (a class token, a causal text tower) is handled inside its encoder.

Everything that a method or a benchmark compares has unit norm. What must be averaged first (patches inside a box,
tokens of a phrase) is also there as it was before normalisation: ``dense`` and ``tokens``.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from datamodules.batch import RaggedTexts
from datamodules.batching.image_transforms import CLIP_MEAN, CLIP_STD
from datamodules.batching.input_format import InputFormat
from datamodules.batching.tokenizer import TextTokenizer
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.temperature import LogitBias, Temperature
from lightning_modules.networks.weights.files import fetch

logger = logging.getLogger("grainclip")
SHOWN = 200  # characters of a setting that people are shown


class ImageFeatures(NamedTuple):
    """Output of an image tower."""

    image: Float[Tensor, "B D"]  # the image embedding, unit norm
    dense: Float[Tensor, "B D h w"]  # patch features, not normalised: pool, then normalise; 0 by 0 where there are none

    @property
    def tokens(self) -> Float[Tensor, "B P D"]:
        """Patch features row by row, P = h w, not normalised."""
        return patch_tokens(self.dense)

    @property
    def patches(self) -> Float[Tensor, "B P D"]:
        """Patch features row by row, unit norm."""
        return unit(self.tokens)


class TextFeatures(NamedTuple):
    """Output of a text tower."""

    text: Float[Tensor, "U D"]  # one vector per unique text, unit norm
    tokens: Float[Tensor, "T D"]  # every token, in the order of ``RaggedTexts.tokens``, not normalised


class EncoderSizes(Protocol):
    """The settings that an encoder is built from: a frozen dataclass of plain numbers, strings and dictionaries."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def image_size(self) -> int:
        """Side of the square image in pixels."""
        ...

    @property
    def context_length(self) -> int:
        """The longest text in tokens."""
        ...

    @property
    def embed_dim(self) -> int:
        """Width of the joint space."""
        ...


def patch_tokens(dense: Float[Tensor, "B D h w"]) -> Float[Tensor, "B P D"]:
    """A dense map as patch tokens, row by row."""
    return dense.flatten(2).mT


class Encoder(nn.Module, ABC):
    """A dual encoder of any family.

    All parameters are used inside the forward of a tower, of ``temperature`` or of ``bias``, so FSDP2 can gather each
    by itself. A subclass is a family: it is asked whether it reads a checkpoint, the youngest first, CLIP last.

    Attributes:
        image_tower, text_tower: the modules that are trained, frozen and sharded each by itself.
        temperature: the logit scale, the factor on cosines in the loss.
        bias: what a sigmoid loss adds to the scaled cosines; None where the family has none.
        image_mean, image_std: of the pixels, by channel, which range from 0 to 1.
        interpolation: of images that are resized, as Pillow calls it: ``bicubic``, ``bilinear``.
        formats: of the folders that ``save`` writes, the family's own first.
    """

    families: ClassVar[list[type[Encoder]]] = []
    settings: ClassVar[type]  # the dataclass that the family is built from
    image_tower: Any  # a module of the family's own class
    text_tower: Any
    temperature: Temperature
    bias: LogitBias | None
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    interpolation: str = "bicubic"
    formats: ClassVar[tuple[str, ...]] = ("transformers",)

    def __init__(self) -> None:
        super().__init__()
        self.bias = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Encoder.families.append(cls)
        torch.serialization.add_safe_globals([cls.settings])  # checkpoints contain them

    @property
    @abstractmethod
    def config(self) -> EncoderSizes:
        """The settings that the encoder was built from: ``build_encoder(config)`` has the same parameters."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches in ``ImageFeatures.dense``; 0 and 0 where the image tower gives none."""

    @property
    @abstractmethod
    def tokenizer(self) -> TextTokenizer:
        """Texts to the token ids that ``encode_text`` reads."""

    @abstractmethod
    def encode_image(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> ImageFeatures:
        """Normalised pixels, of any precision, to features.

        With ``dense`` False the caller reads no patch features: a family that is cheaper without leaves them out.
        """

    def _encode_no_image(self, pixels: Float[Tensor, "0 3 H W"], dense: bool) -> ImageFeatures:
        """Features of no image, for towers that cannot take none: those of a black one, left out, so that ranks run
        the tower equally often, and its weights get a gradient of zeros. Callers ask ``pixels.shape[0] == 0``: to an
        export with a free batch ``len(pixels)`` is a constant.
        """
        one = self.encode_image(pixels.new_zeros(1, *pixels.shape[1:]), dense)
        return ImageFeatures(*(features[:0] for features in one))

    @abstractmethod
    def encode_text(self, texts: RaggedTexts) -> TextFeatures:
        """Unique texts to features, one vector each and one for each of their tokens."""

    def encode_rows(self, rows: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Unit vectors of texts as ``row_tokenizer`` fills rows; in operations that torch.export can follow."""
        del rows
        raise ValueError(f"--format onnx cannot write the text tower of {type(self).__name__}'s family")

    def row_tokenizer(self) -> str:
        """A ``tokenizer.json`` that makes the rows of ``encode_rows``. Raises ValueError where there can be none."""
        raise ValueError(f"--format onnx cannot write the tokenizer of {type(self).__name__}'s family")

    @property
    def resizing(self) -> tuple[str, str]:
        """The way in which the family's own library makes squares of images, and its interpolation: ``shortest`` (that
        side is fitted, the centre kept) or ``squash``.
        """
        return "shortest", self.interpolation

    @property
    def row_length(self) -> int | None:
        """Tokens of each row of ``encode_rows``; None where it is the longest text of a batch."""
        return self.context_length

    @abstractmethod
    def image_blocks(self) -> list[nn.Module]:
        """The blocks of the image tower, from the pixels up: what is sharded, compiled and frozen one by one."""

    @abstractmethod
    def text_blocks(self) -> list[nn.Module]:
        """The blocks of the text tower, from the tokens up."""

    def image_embeddings(self) -> list[nn.Parameter]:
        """Parameters of the image tower that act before its first block: patches, class token, positions, norm."""
        return _before(self.image_tower, self.image_blocks())

    def text_embeddings(self) -> list[nn.Parameter]:
        """Parameters of the text tower that act before its first block: tokens and positions."""
        return _before(self.text_tower, self.text_blocks())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in both towers: activations are recomputed in the backward pass."""
        self.image_tower.set_grad_checkpointing(enable)
        self.text_tower.set_grad_checkpointing(enable)

    @abstractmethod
    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder of the family's own format, with the same embeddings.

        Args:
            folder: made where it is missing.
            dtype: of the weights in the file; float16 and bfloat16 halve it, and round the embeddings.
        """

    @classmethod
    @abstractmethod
    def reads(cls, weights: Path) -> bool:
        """True if the weights file, with the config file beside it, is of this family."""

    @classmethod
    @abstractmethod
    def load(cls, source: str | Path, weights: Path, context_length: int | None = None) -> Encoder:
        """An encoder with the weights of a checkpoint; see ``load_encoder``.

        Args:
            source: as the user named it.
            weights: its weights file, with the config file beside it.
            context_length: tokens of text; the checkpoint's if None.
        """

    def save(self, folder: str | Path, format: str, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder in one of the ``formats``; by default all of them are the family's own.

        Raises:
            ValueError: as ``check_format``.
        """
        self.check_format(format)
        self.save_pretrained(folder, dtype)

    def check_format(self, format: str) -> None:
        """Raises ValueError where ``save`` cannot write such a folder of this model."""
        if format not in self.formats:
            known = " or ".join(self.formats)
            raise ValueError(f"--format must be {known} for a model of {type(self).__name__}'s family, got {format}")

    @property
    def has_dense(self) -> bool:
        """True where the image tower gives patch features."""
        return self.grid[0] > 0

    @property
    def image_size(self) -> int:
        """Side of the square image in pixels."""
        return self.config.image_size

    @property
    def context_length(self) -> int:
        """The longest text in tokens."""
        return self.config.context_length

    @property
    def embed_dim(self) -> int:
        """Width of the joint space."""
        return self.config.embed_dim

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.image_tower.parameters()).dtype

    @property
    def logit_scale(self) -> Float[Tensor, " 1"]:
        """The factor on cosines in the loss: one over the temperature."""
        return self.temperature()

    @property
    def logit_bias(self) -> Float[Tensor, " 1"] | None:
        """The summand on scaled cosines in a sigmoid loss; None where the family has none."""
        return None if self.bias is None else self.bias()

    @property
    def input_format(self) -> InputFormat:
        """The form in which this encoder takes images and texts."""
        return InputFormat(self.tokenizer, self.image_mean, self.image_std, self.interpolation)

    def blocks(self) -> list[nn.Module]:
        """The blocks of both towers."""
        return [*self.image_blocks(), *self.text_blocks()]

    def fix_row_lengths(self, lengths: Sequence[int]) -> None:
        """Pack texts into rows of these lengths only, in ascending order: few shapes, for compiled blocks. Without
        effect where rows have one length.
        """
        del lengths

    def with_grid(self, side: int) -> Encoder:
        """The same encoder on images of ``side`` by ``side`` patches. Raises ValueError where the family cannot."""
        raise ValueError(
            f"{type(self).__name__} reads images of {self.image_size} pixels only, not {side} patches a side"
        )

    def training_flops(self, images: float, tokens: float, squares: float, dense: bool = True) -> float | None:
        """Useful operations of a training step; None where the family does not count them.

        Args:
            images: encoded.
            tokens: of all texts encoded.
            squares: sum of the squares of their lengths.
            dense: True where the losses read patch features.
        """
        del images, tokens, squares, dense

    def forward(self, pixels: Float[Tensor, "B 3 H W"], texts: RaggedTexts) -> tuple[ImageFeatures, TextFeatures]:
        """Both towers."""
        return self.encode_image(pixels), self.encode_text(texts)


def _before(tower: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Parameters that the tower registered before its first block's. A family that registers a projection or a final
    norm there names its embeddings itself.
    """
    first = {id(parameter) for block in blocks[:1] for parameter in block.parameters()}
    return [] if not first else list(takewhile(lambda parameter: id(parameter) not in first, tower.parameters()))


def load_encoder(source: str | Path, context_length: int | None = None) -> Encoder:
    """An encoder of any family with the weights of a checkpoint, recognised by its files.

    Args:
        source: a folder, a weights file, a hub id, or the name of a model that comes with the package.
        context_length: tokens of text; position tables are stretched, or cut, to it where the family allows. The
            checkpoint's if None.

    Raises:
        ValueError: naming what is missing, unknown, truncated or of another architecture.
        FileNotFoundError: where there are no weights.
    """
    weights = fetch(source)
    family = next(family for family in reversed(Encoder.families) if family.reads(weights))
    return family.load(source, weights, context_length)


def check_fixed_context(source: str | Path, own: int, asked: int | None) -> None:
    """Check the context that is asked of a family whose position tables are not stretched. None, and the default of
    ``encoder.context_length``, ask for nothing: texts are then read up to the checkpoint's own length, and a line says
    so.

    Raises:
        ValueError: where another context is asked for.
    """
    if asked in (None, own):
        return
    if asked != EncoderConfig.context_length:
        raise ValueError(f"encoder.context_length must be {own}, that of {source}, which is not stretched; got {asked}")
    logger.info("%s reads texts of %d tokens, its own; %d is the default of encoder.context_length", source, own, asked)


def build_encoder(config: EncoderSizes) -> Encoder:
    """A new encoder of these settings, of the family that has such settings."""
    family: Any = next(family for family in Encoder.families if family.settings is type(config))
    return family(config)


def plain_config(config: EncoderSizes) -> dict[str, Any]:
    """Settings as plain numbers and strings, with the name of their family where it is not CLIP's."""
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return fields if type(config) is Encoder.families[0].settings else {"family": type(config).__name__} | fields


def shown_config(plain: dict[str, Any]) -> dict[str, Any]:
    """Plain settings for people: of a long text (a tokenizer) its digest and length."""
    return {
        name: f"sha256 {hashlib.sha256(value.encode()).hexdigest()[:12]}, {len(value)} characters"
        if isinstance(value, str) and len(value) > SHOWN
        else value
        for name, value in plain.items()
    }


def config_of(plain: dict[str, Any]) -> EncoderSizes:
    """The settings that ``plain_config`` wrote."""
    name = plain.get("family", Encoder.families[0].settings.__name__)
    settings = next(family.settings for family in Encoder.families if family.settings.__name__ == name)
    return settings(**{field: value for field, value in plain.items() if field != "family"})
