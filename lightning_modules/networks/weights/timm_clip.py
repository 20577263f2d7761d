"""open_clip's layout of a model of timm beside CLIP's text tower (its ``CustomTextCLIP``).

timm's model is ``visual.trunk``, the projection ``visual.head.proj``; the text tower is OpenAI's under ``text.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg
from torch import Tensor

from lightning_modules.networks.config import TIMM, EncoderConfig
from lightning_modules.networks.weights.checkpoint_format import depth
from lightning_modules.networks.weights.open_clip_config import channels
from lightning_modules.networks.weights.openai_clip import text_config, text_links
from lightning_modules.networks.weights.parameter_map import POSITIONS, Link, State, read, same

TRUNK, THEIR_TRUNK = "image_tower.trunk.", "visual.trunk."
TEXT = "text."
PLAIN_VISION = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}  # how we write it
VISION = {"timm_model_name", "image_size", *PLAIN_VISION}
TEXT_SIZES = {"context_length", "vocab_size", "width", "heads", "layers"}


def links(names: list[str], text_layers: int) -> list[Link]:
    """All parameters; ``names`` are those of timm's model, without a prefix."""
    return [
        Link(("temperature.log_scale",), ("logit_scale",), leading=1),
        *same("image_tower.projection", "visual.head.proj", ".weight"),
        *(Link((TRUNK + name,), (THEIR_TRUNK + name,)) for name in names),
        *text_links(text_layers, TEXT),
    ]


def written(config: EncoderConfig, state: Mapping[str, Tensor]) -> list[Link]:
    """The links by which an encoder's whole state is written."""
    return links([name.removeprefix(TRUNK) for name in state if name.startswith(TRUNK)], config.text_layers)


def model_config(config: EncoderConfig) -> dict[str, Any]:
    """The ``model_cfg`` of ``open_clip_config.json``."""
    assert config.image_tower is not None
    name = config.image_tower.removeprefix(TIMM)
    return {
        "embed_dim": config.embed_dim,
        "quick_gelu": config.activation == "quick_gelu",
        "custom_text": True,
        "vision_cfg": {"image_size": config.image_size, "timm_model_name": name, **PLAIN_VISION},
        "text_cfg": text_config(config),
    }


def is_plain(model: Mapping[str, Any], preprocess: Mapping[str, Any]) -> bool:
    """True if a ``model_cfg`` is one that ``model_config`` may have written, with the pixels of timm's model."""
    vision, text = model["vision_cfg"], model["text_cfg"]
    plain = all(vision.get(name) == value for name, value in PLAIN_VISION.items())
    if not (plain and vision.keys() == VISION and text.keys() == TEXT_SIZES and model.get("custom_text")):
        return False
    settings = get_pretrained_cfg(vision["timm_model_name"])
    if settings is None:
        return False
    pixels = (channels(preprocess, "mean"), settings.mean), (channels(preprocess, "std"), settings.std)
    return all(abs(ours - theirs) < 1e-6 for pair in pixels for ours, theirs in zip(*pair, strict=True))


def read_state(settings: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> tuple[EncoderConfig, State]:
    """Sizes and weights under our names. Raises ValueError naming what is missing, or what is there and unknown."""
    names = [name.removeprefix(THEIR_TRUNK) for name in state if name.startswith(THEIR_TRUNK)]
    ours = read(links(names, depth(state, f"{TEXT}transformer.resblocks.")), state, f"{path} (open_clip names)")
    text = settings["text_cfg"]
    config = EncoderConfig(
        image_size=settings["vision_cfg"]["image_size"],
        image_tower=TIMM + settings["vision_cfg"]["timm_model_name"],
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        embed_dim=settings["embed_dim"],
        vocab_size=text["vocab_size"],
        context_length=ours[POSITIONS].shape[0],
        activation="quick_gelu" if settings.get("quick_gelu") else "gelu",
        init_scale=ours["temperature.log_scale"].float().exp().item(),
    )
    return config, ours
