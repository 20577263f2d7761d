"""Two towers from two places: a CLIP image tower in timm's layout and a CLIP text tower in transformers'.

timm keeps the projection as its classifier head, with a bias that CLIP does not have (so it must be zero). The
temperature comes with neither tower; a whole ``CLIPModel`` given for the text has one.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import CLIPTextConfig

from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.weights import transformers_clip
from lightning_modules.networks.weights.checkpoint import Checkpoint, read_json
from lightning_modules.networks.weights.checkpoint_format import Traceless, depth, sizes
from lightning_modules.networks.weights.files import fetch, read_tensors
from lightning_modules.networks.weights.parameter_map import Link, State, read, same

BIAS = "head.bias"


def timm_links(layers: int) -> list[Link]:
    """timm's image tower: our own names without the prefix."""
    all_links = [Link((f"image_tower.{name}",), (name,)) for name in ("cls_token", "pos_embed")]
    all_links += same("image_tower.patch_embed.proj", "patch_embed.proj", ".weight")
    all_links += [*same("image_tower.norm_pre", "norm_pre"), *same("image_tower.norm", "norm")]
    all_links += same("image_tower.projection", "head", ".weight")
    for i in range(layers):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            all_links += same(f"image_tower.blocks.{i}.{part}", f"blocks.{i}.{part}")
    return all_links


def read_towers(image: str | Path, text: str | Path) -> Checkpoint:
    """Join timm's image tower and transformers' text tower (``CLIPTextModelWithProjection`` or a whole ``CLIPModel``).

    Raises:
        ValueError: where one lacks parameters or has unknown ones, both do not lead to the same space, or
            texts end otherwise than with CLIP's tokenizer.
        FileNotFoundError: where there is no such file, or no ``config.json`` beside the text tower.
    """
    image_state, (text_state, hints) = image_tower(fetch(image)), text_tower(fetch(text))
    widths = image_state["image_tower.projection.weight"].shape[0], text_state["text_tower.projection.weight"].shape[0]
    if widths[0] != widths[1]:
        raise ValueError(f"{image} and {text} must project to the same width, got {widths[0]} and {widths[1]}")
    state = {"temperature.log_scale": torch.tensor([math.log(EncoderConfig.init_scale)]), **image_state, **text_state}
    return Checkpoint(sizes(state, hints), state)


def image_tower(path: Path) -> State:
    """The image tower under our names."""
    state = read_tensors(path)
    if BIAS in state and state[BIAS].any():
        raise ValueError(f"{path}: {BIAS} must be zero, since CLIP projects without a bias; this head is a classifier")
    return read(timm_links(depth(state, "blocks.")), state, f"{path} (timm names)", (BIAS,))


def text_tower(path: Path) -> tuple[State, Traceless]:
    """The text tower under our names, and the temperature where there is one."""
    settings = path.with_name("config.json")
    if not settings.is_file():
        raise FileNotFoundError(f"{settings}, which tells the text tower's heads and activation, is missing")
    fields = read_json(settings)
    config = CLIPTextConfig.from_dict(fields.get("text_config") or fields)
    transformers_clip.check_end(config, str(settings))
    state = read_tensors(path)
    layout = transformers_clip.LAYOUT
    links = transformers_clip.text_links(depth(state, layout.blocks[1]))
    if "logit_scale" in state:
        links.append(Link(("temperature.log_scale",), ("logit_scale",), leading=1))
    vision = [name for name in state if name.startswith((transformers_clip.VISION, "visual_projection"))]
    text_state = read(links, state, f"{path} (transformers names)", [*layout.ignored, *vision])
    return text_state, Traceless(config.hidden_act, text_heads=config.num_attention_heads)
