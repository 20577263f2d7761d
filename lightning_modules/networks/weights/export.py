"""An encoder as a folder that transformers or open_clip load, with the same embeddings.

Images are prepared as CLIP's are (shortest side, then the centre; transformers' processor rounds the centre otherwise
where the longer side exceeds the square by 3, 7, 11, ... pixels, see the model card), texts by CLIP's tokenizer up to
the encoder's own context length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

from datamodules.atomic_write import atomic_write
from datamodules.batching.input_format import InputFormat
from datamodules.batching.tokenizer import vocabulary
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.weights import openai_clip, timm_clip, transformers_clip
from lightning_modules.networks.weights.parameter_map import write


def save_transformers(config: EncoderConfig, state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write what ``transformers.CLIPModel`` and ``CLIPProcessor`` load with ``from_pretrained``."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    theirs = write(transformers_clip.links(config.image_layers, config.text_layers), state)
    save_weights(theirs, path / "model.safetensors")
    transformers_clip.model_config(config).save_pretrained(path)
    processor(config).save_pretrained(path)


def processor(config: EncoderConfig) -> CLIPProcessor:
    """transformers' preparation of images and texts for an encoder of these sizes."""
    vocab: Any  # transformers hands both on to tokenizers, which wants other types than transformers declares
    merges: Any
    vocab, merges = vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=config.context_length)
    side = config.image_size
    images = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(config.image_mean),
        image_std=list(config.image_std),
    )
    return CLIPProcessor(images, tokenizer)


def save_open_clip(config: EncoderConfig, pixels: InputFormat, state: Mapping[str, Tensor], folder: str | Path) -> None:
    """Write ``open_clip_config.json`` and ``open_clip_model.safetensors`` for open_clip's ``local-dir:`` names."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if config.image_tower is None:
        links, model = openai_clip.links(config.image_layers, config.text_layers), openai_clip.model_config(config)
    else:
        links, model = timm_clip.written(config, state), timm_clip.model_config(config)
    save_weights(write(links, state), path / "open_clip_model.safetensors")
    preprocess = {"mean": pixels.mean, "std": pixels.std, "interpolation": pixels.interpolation}
    settings = {"model_cfg": model, "preprocess_cfg": preprocess | {"resize_mode": "shortest"}}
    (path / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def save_weights(state: Mapping[str, Tensor], file: Path) -> None:
    """Write the weights file whole or not at all, readable by whoever may read new files of this user."""
    with atomic_write(file) as draft:
        try:
            save_file(dict(state), draft, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, say
            raise OSError(0, str(error), str(draft)) from error
