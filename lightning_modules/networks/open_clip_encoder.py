"""Any model that open_clip builds and that is no plain CLIP: timm's towers (EVA, ConvNeXt, SigLIP, PE, MobileCLIP,
ViTamin), CLIPA, CLIP's ResNets, CoCa's contrastive part, towers and tokenizers of transformers'.

The library builds the model, reads its weights and tokenises; image size, pixels' mean and deviation and the context
are those of ``open_clip_config.json``. The context cannot be stretched. Left out are ``patch_dropout``, by which a
tower is trained faster on some of the patches, and CoCa's text decoder.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from datamodules.batch import RaggedTexts
from datamodules.batching.tokenizer import TextTokenizer
from lightning_modules.networks.adapters import adapter_scale, merged
from lightning_modules.networks.contract import Encoder, ImageFeatures, TextFeatures, check_fixed_context
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.open_clip_tokenizer import TextRows, read_tokenizer
from lightning_modules.networks.open_clip_towers import OpenClipImageTower, OpenClipTextTower
from lightning_modules.networks.row_tokenizer import row_tokenizer
from lightning_modules.networks.temperature import LogitBias, Temperature
from lightning_modules.networks.timm_tower import INTERPOLATIONS
from lightning_modules.networks.weights import timm_clip
from lightning_modules.networks.weights.export import save_weights
from lightning_modules.networks.weights.hub import OPEN_CLIP, OPEN_CLIP_CONFIG
from lightning_modules.networks.weights.open_clip_config import (
    channels,
    config_beside,
    is_plain_clip,
    read_config,
    text_model_config,
    tokenizer_files,
    unpack,
    write_config,
)
from lightning_modules.networks.weights.parameter_map import complain
from lightning_modules.networks.weights.unreadable import UNREADABLE, why_unreadable

CONTEXT = 77  # of a text_cfg that names none
DECODER = "text_decoder."  # CoCa's, which contrastive training does not use


@dataclass(frozen=True)
class OpenClipConfig:
    """A model of open_clip's, as its ``open_clip_config.json`` describes it.

    Args:
        model_cfg: sizes and kinds of the towers.
        preprocess_cfg: mean and standard deviation of pixels, and how images become squares.
        tokenizer_files: of a tokenizer of transformers', packed by ``weights.open_clip_config.pack``; "" for CLIP's.
        text_model: the ``config.json`` of a text tower of transformers'; None for open_clip's own.

    Raises:
        ValueError: where the image is no square, or has not three means and deviations.
    """

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    tokenizer_files: str = ""
    text_model: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        size = self.model_cfg["vision_cfg"].get("image_size", 224)
        if isinstance(size, (list, tuple)) and len(set(size)) != 1:
            raise ValueError(f"vision_cfg.image_size must be that of a square, got {list(size)}")
        for name in ("mean", "std"):
            channels(self.preprocess_cfg, name)

    @property
    def image_size(self) -> int:
        """Side of the square image in pixels."""
        size = self.model_cfg["vision_cfg"].get("image_size", 224)
        return size[0] if isinstance(size, (list, tuple)) else size

    @property
    def context_length(self) -> int:
        """The longest text in tokens."""
        return self.model_cfg["text_cfg"].get("context_length", CONTEXT)

    @property
    def embed_dim(self) -> int:
        """Width of the joint space."""
        return self.model_cfg["embed_dim"]


class OpenClipEncoder(Encoder):
    """A dual encoder whose towers and tokenizer are open_clip's.

    Args:
        config: its settings.
        model: the library's, with its text tower as a module of its own; None: a new one with random weights.

    Raises:
        ValueError: where open_clip does not build such a model, a tower makes no vectors of ``embed_dim`` numbers, or
            the text tower or the tokenizer is of an unknown kind.
    """

    settings = OpenClipConfig
    formats = ("open_clip",)
    image_tower: OpenClipImageTower
    text_tower: OpenClipTextTower

    def __init__(self, config: OpenClipConfig, model: Any = None) -> None:
        super().__init__()
        model = _build(config) if model is None else model
        self._config = config
        self._tokenizer, self._rows = _tokenizer_of(json.dumps(config.model_cfg), config.tokenizer_files)
        self.image_tower = OpenClipImageTower(model.visual, config.image_size)
        self.text_tower = OpenClipTextTower(model.text, config.context_length)
        largest = 100.0 if model.logit_bias is None else math.inf  # a sigmoid loss has no need of a bound
        self.temperature = Temperature(largest=largest)
        self.bias = None if model.logit_bias is None else LogitBias()
        with torch.no_grad():
            self.temperature.log_scale.copy_(model.logit_scale.reshape(1))
            if self.bias is not None:
                self.bias.logit_bias.copy_(cast(Tensor, model.logit_bias).reshape(1))
        for name, shape in (("vision_cfg", self.image_tower.shape), ("text_cfg", self.text_tower.shape)):
            if shape != [config.embed_dim]:
                raise ValueError(f"{name} must make one vector of {config.embed_dim} numbers, got {shape}")
        self.image_mean = channels(config.preprocess_cfg, "mean")
        self.image_std = channels(config.preprocess_cfg, "std")
        given = config.preprocess_cfg.get("interpolation")
        self.interpolation = given if given in INTERPOLATIONS else "bicubic"

    @property
    @override
    def config(self) -> OpenClipConfig:
        return self._config

    @property
    @override
    def grid(self) -> tuple[int, int]:
        return self.image_tower.grid

    @property
    @override
    def tokenizer(self) -> TextTokenizer:
        return self._tokenizer

    @override
    def image_blocks(self) -> list[nn.Module]:
        return self.image_tower.blocks()

    @override
    def text_blocks(self) -> list[nn.Module]:
        return self.text_tower.blocks()

    @override
    def image_embeddings(self) -> list[nn.Parameter]:
        projection = getattr(self.image_tower.visual, "proj", None)  # registered beside the embeddings
        return [parameter for parameter in super().image_embeddings() if parameter is not projection]

    @override
    def text_embeddings(self) -> list[nn.Parameter]:
        projection = getattr(self.text_tower.text, "text_projection", None)
        return [parameter for parameter in super().text_embeddings() if parameter is not projection]

    @override
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.image_tower.visual.set_grad_checkpointing(enable)
        self.text_tower.set_grad_checkpointing(enable)

    @override
    def encode_image(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> ImageFeatures:
        """Normalised pixels, of any precision, to features; patch features whatever ``dense`` says.

        Raises:
            ValueError: where the image is not ``image_size`` pixels square.
        """
        side = self.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(f"pixels must have shape [B, 3, {side}, {side}], got {list(pixels.shape)}")
        if pixels.shape[0] == 0:
            return self._encode_no_image(pixels, dense)
        pooled, patches = self.image_tower(pixels.to(self.dtype))
        return ImageFeatures(unit(pooled), patches)

    @override
    def encode_text(self, texts: RaggedTexts) -> TextFeatures:
        """Unique texts to features, one vector each and one for each of their tokens.

        Raises:
            ValueError: where there is no text, or one is empty or longer than the context.
        """
        pooled, tokens = self.text_tower(*self._rows(texts))
        return TextFeatures(unit(pooled), tokens)

    @property
    @override
    def resizing(self) -> tuple[str, str]:
        return self.config.preprocess_cfg.get("resize_mode", "shortest"), self.interpolation

    @override
    def encode_rows(self, rows: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        if self._rows.dropped is not None:
            rows = rows.masked_fill(rows == self._rows.dropped, 0)
        if self._rows.last is not None:
            rows = torch.cat([rows, torch.full_like(rows[:, :1], self._rows.last)], dim=1)
        return unit(self.text_tower(rows, torch.zeros(1, dtype=torch.long, device=rows.device))[0])

    @override
    def row_tokenizer(self) -> str:
        return row_tokenizer(self.tokenizer, self._rows.pad, self._rows.pad_left, self.row_length)

    @property
    @override
    def row_length(self) -> int:
        return self._rows.length - (self._rows.last is not None)

    @classmethod
    @override
    def reads(cls, weights: Path) -> bool:
        file = config_beside(weights)
        if not file.is_file():
            return False
        settings = read_config(file)
        return not (is_plain_clip(*settings) or timm_clip.is_plain(*settings))

    @classmethod
    @override
    def load(cls, source: str | Path, weights: Path, context_length: int | None = None) -> OpenClipEncoder:
        """An encoder with the weights of a folder or a hub repository in open_clip's layout.

        Raises:
            ValueError: where ``context_length`` is another than the model's, the file lacks parameters or has unknown
                ones, or open_clip does not build the model.
        """
        import open_clip

        config = _config_of(weights)
        check_fixed_context(source, config.context_length, context_length)
        model = _build(config)
        try:
            keys: Any = open_clip.load_checkpoint(model, str(weights), strict=False)
        except UNREADABLE as error:
            raise ValueError(f"{weights} does not fit its {OPEN_CLIP_CONFIG}: {why_unreadable(error)}") from error
        complain("lacks", keys.missing_keys, str(weights))
        complain("has unknown", [name for name in keys.unexpected_keys if not name.startswith(DECODER)], str(weights))
        return cls(config, model)

    @override
    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that open_clip loads as ``local-dir:FOLDER``, with the same embeddings; adapters are merged.

        Args:
            folder: made where it is missing.
            dtype: of the weights in the file; float16 and bfloat16 halve it, and round the embeddings.
        """
        path, config = Path(folder), self._config
        path.mkdir(parents=True, exist_ok=True)
        scale = adapter_scale(self)
        state = {f"visual.{name}": value for name, value in merged(self.image_tower.visual.state_dict(), scale).items()}
        head = "text." if _has_text_apart(config.model_cfg) else ""
        state |= {f"{head}{name}": value for name, value in merged(self.text_tower.text.state_dict(), scale).items()}
        shape = [1] if config.model_cfg.get("nonscalar_logit_scale") else []
        state["logit_scale"] = self.temperature.log_scale.reshape(shape)
        if self.bias is not None:
            state["logit_bias"] = self.bias.logit_bias.reshape(shape)
        weights = {n: v.detach().to(dtype if v.is_floating_point() else v.dtype).contiguous() for n, v in state.items()}
        save_weights(weights, path / OPEN_CLIP[0])
        unpack(config.tokenizer_files, path)
        write_config(path / OPEN_CLIP_CONFIG, config.model_cfg, config.preprocess_cfg)


def _has_text_apart(model: Mapping[str, Any]) -> bool:
    """True where open_clip keeps the text tower as a module of its own, and its name in front of its parameters."""
    return bool(model.get("custom_text")) or bool(model["text_cfg"].get("hf_model_name"))


def _config_of(weights: Path) -> OpenClipConfig:
    """The settings beside a weights file, CoCa's without the decoder, with all that is read from other files."""
    model, preprocess = read_config(config_beside(weights))
    model = copy.deepcopy(model)
    if model.pop("multimodal_cfg", None) is not None:
        for section in (model["vision_cfg"], model["text_cfg"]):
            section.pop("output_tokens", None)
    text = model["text_cfg"]
    files = tokenizer_files(weights.parent, text["hf_tokenizer_name"]) if text.get("hf_tokenizer_name") else ""
    name = text.get("hf_model_name")
    return OpenClipConfig(model, preprocess, files, text_model_config(name) if name else None)


def _build(config: OpenClipConfig) -> Any:
    """A new model of the library's, with its text tower as a module of its own."""
    import open_clip

    model = copy.deepcopy(config.model_cfg)
    model["vision_cfg"] |= {"output_tokens": False, "patch_dropout": 0.0}
    model["text_cfg"] |= {"output_tokens": False}
    with tempfile.TemporaryDirectory() as folder:
        if config.text_model is not None:
            model["text_cfg"]["hf_model_name"] = folder
            Path(folder, "config.json").write_text(json.dumps(config.text_model), encoding="utf-8")
        write_config(Path(folder, OPEN_CLIP_CONFIG), model, config.preprocess_cfg)
        try:
            with _quiet():
                return open_clip.create_model(
                    f"local-dir:{folder}", load_weights=False, pretrained_text=False, force_custom_text=True
                )
        except Exception as error:  # of open_clip, timm or transformers: whatever a setting is at fault with
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
            raise ValueError(f"open_clip {open_clip.__version__} does not build the model: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warnings that a model has random weights: they are read afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@lru_cache(maxsize=4)
def _tokenizer_of(model: str, files: str) -> tuple[TextTokenizer, TextRows]:
    """The tokenizer of a ``model_cfg`` in JSON, with the packed files, and its rows."""
    model_cfg = json.loads(model)
    with tempfile.TemporaryDirectory() as folder:
        unpack(files, Path(folder))
        write_config(Path(folder, OPEN_CLIP_CONFIG), model_cfg, {})
        return read_tokenizer(Path(folder), model_cfg["text_cfg"])
