"""An encoder as a folder that transformers or open_clip load, with the same embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from datamodules.transforms import CLIP_MEAN, CLIP_STD
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.weights import openai_clip, transformers_clip
from lightning_modules.networks.weights.links import write


def save_transformers(config: EncoderConfig, state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` for ``transformers.CLIPModel.from_pretrained``."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    theirs = write(transformers_clip.links(config.image_layers, config.text_layers), state)
    save_file(theirs, path / "model.safetensors", metadata={"format": "pt"})
    transformers_clip.model_config(config).save_pretrained(path)


def save_open_clip(config: EncoderConfig, state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write ``open_clip_config.json`` and ``open_clip_model.safetensors`` for open_clip's ``local-dir:`` names."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    theirs = write(openai_clip.links(config.image_layers, config.text_layers), state)
    save_file(theirs, path / "open_clip_model.safetensors", metadata={"format": "pt"})
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    settings = {"model_cfg": openai_clip.model_config(config), "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n")
