"""Any CLIP checkpoint as the sizes and the weights of our encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.batching.image_transforms import CLIP_MEAN, CLIP_STD, Channels
from lightning_modules.networks.config import ACTIVATIONS, EncoderConfig
from lightning_modules.networks.long_context import KEPT
from lightning_modules.networks.weights import beta_clip, openai_clip, timm_clip, transformers_clip
from lightning_modules.networks.weights.checkpoint_format import Layout, Traceless, sizes
from lightning_modules.networks.weights.files import fetch, read_tensors
from lightning_modules.networks.weights.hub import OPEN_CLIP_CONFIG
from lightning_modules.networks.weights.open_clip_config import config_beside, read_config, three_numbers
from lightning_modules.networks.weights.parameter_map import State

LAYOUTS = (transformers_clip.LAYOUT, openai_clip.LAYOUT, beta_clip.LAYOUT)
TABLE, TRAINED_TABLE = "positional_embedding", "positional_embedding_res"  # Long-CLIP's and β-CLIP's pair


class Checkpoint(NamedTuple):
    """Sizes, and the weights under our names."""

    config: EncoderConfig
    state: State


def read_checkpoint(source: str | Path, activation: str | None = None) -> Checkpoint:
    """Read a transformers, OpenAI, open_clip, Long-CLIP or published β-CLIP checkpoint, or an export of a model with
    an image tower of timm.

    Args:
        source: a weights file, a folder, or a hub id.
        activation: of both towers, where no config file and no published recipe tells it.

    Raises:
        ValueError: where the file is truncated, the architecture another, a parameter missing or unknown, or the
            activation cannot be known.
        FileNotFoundError: where there is no such file.
    """
    path = fetch(source)
    state = read_tensors(path)
    beside = config_beside(path)
    if beside.is_file() and timm_clip.is_plain(*(settings := read_config(beside))):
        return Checkpoint(*timm_clip.read_state(settings[0], state, path))
    layout = recognise(state, str(path))
    long = TRAINED_TABLE in state
    hints = traceless(path, layout, "quick_gelu" if long and activation is None else activation)
    ours = layout.read(without_pooling(joined_tables(state)), str(path))
    config = sizes(ours, hints)
    if layout is transformers_clip.LAYOUT:
        mean, std = mean_and_std(read_pixel_format(path.parent), path.parent, CLIP_MEAN, CLIP_STD)
        config = replace(config, image_mean=mean, image_std=std)
    return Checkpoint(config, ours)


def recognise(state: Mapping[str, Tensor], source: str) -> Layout:
    """The layout whose image blocks a state dict has."""
    for layout in LAYOUTS:
        if layout.matches(state):
            return layout
    known = ", ".join(f"{layout.blocks[0]}0 ({layout.name})" for layout in LAYOUTS)
    names = ", ".join(sorted(state)[:4])
    raise ValueError(f"{source} is no CLIP with a vision transformer: looked for {known}; it has {names} ...")


def joined_tables(state: Mapping[str, Tensor]) -> State:
    """One position table from the pair that Long-CLIP and β-CLIP store: the first 20 rows of one, then the other's."""
    joined = dict(state)
    if TRAINED_TABLE in joined:
        joined[TABLE] = torch.cat([joined[TABLE][:KEPT], joined.pop(TRAINED_TABLE)[KEPT:]])
    return joined


def without_pooling(state: Mapping[str, Tensor]) -> State:
    """The dual encoder's part of a published β-CLIP."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(beta_clip.POOLING)}


def traceless(path: Path, layout: Layout, activation: str | None) -> Traceless:
    """Heads and activation, from the config file beside the weights or as given."""
    transformers_config, open_clip_config = path.with_name("config.json"), path.with_name(OPEN_CLIP_CONFIG)
    if layout is transformers_clip.LAYOUT and transformers_config.is_file():
        return transformers_clip.traceless(read_json(transformers_config), str(transformers_config))
    if layout is openai_clip.LAYOUT and open_clip_config.is_file():
        model = read_json(open_clip_config)["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        heads = vision.get("width", 768) // vision.get("head_width", 64), text.get("heads", 8)
        return Traceless("quick_gelu" if model.get("quick_gelu") else "gelu", *heads)
    if activation is None:
        missing = transformers_config if layout is transformers_clip.LAYOUT else open_clip_config
        raise ValueError(
            f"{path} does not tell its activation: put the model's {missing.name} beside it, or read it in Python by "
            f"DualEncoder.from_pretrained(..., activation=...), one of {', '.join(ACTIVATIONS)}"
        )
    return Traceless(activation)


def mean_and_std(pixels: Mapping[str, Any], folder: Path, mean: Channels, std: Channels) -> tuple[Channels, Channels]:
    """Of pixels that range from 0 to 1, by the settings of a folder's image processor; these where it names none.

    Raises:
        ValueError: where one is not three numbers.
    """
    if pixels.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return (
        three_numbers(pixels.get("image_mean") or mean, f"{folder}: image_mean of the image processor"),
        three_numbers(pixels.get("image_std") or std, f"{folder}: image_std of the image processor"),
    )


def read_pixel_format(folder: Path) -> dict[str, Any]:
    """The image processor's settings: a part of the processor's file, which transformers reads first, or a file of
    their own; empty where there is neither.
    """
    joint, alone = folder / "processor_config.json", folder / "preprocessor_config.json"
    if joint.is_file() and (settings := read_json(joint).get("image_processor")):
        return settings
    return read_json(alone) if alone.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A config file; ValueError where it is none."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is truncated or no JSON: {error}") from error
