"""OpenAI's layout, which open_clip and Long-CLIP kept: q, k and v fused in both towers, projections as plain matrices.

Long-CLIP stores two position tables of 248 rows; the first 20 rows of one and the other rows of the other count.
"""

from __future__ import annotations

from typing import Any

from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.weights.checkpoint_format import Layout
from lightning_modules.networks.weights.parameter_map import POSITIONS, Link, same


def links(image_layers: int, text_layers: int) -> list[Link]:
    """All parameters."""
    all_links = [
        Link(("temperature.log_scale",), ("logit_scale",), leading=1),
        Link(("image_tower.cls_token",), ("visual.class_embedding",), leading=2),
        Link(("image_tower.pos_embed",), ("visual.positional_embedding",), leading=1),
        Link(("image_tower.projection.weight",), ("visual.proj",), transposed=True),
        *same("image_tower.patch_embed.proj", "visual.conv1", ".weight"),
        *same("image_tower.norm_pre", "visual.ln_pre"),
        *same("image_tower.norm", "visual.ln_post"),
        *text_links(text_layers),
    ]
    for i in range(image_layers):
        ours, theirs = f"image_tower.blocks.{i}.", f"visual.transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            all_links.append(Link((f"{ours}attn.qkv.{kind}",), (f"{theirs}attn.in_proj_{kind}",)))
        parts = (("attn.proj", "attn.out_proj"), ("norm1", "ln_1"), ("norm2", "ln_2"))
        for part, name in (*parts, ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
            all_links += same(ours + part, theirs + name)
    return all_links


def text_links(layers: int, prefix: str = "") -> list[Link]:
    """The text tower's parameters, whose names there begin with ``prefix``."""
    tower = "text_tower.transformer."
    all_links = [
        Link((POSITIONS,), (f"{prefix}positional_embedding",)),
        Link(("text_tower.projection.weight",), (f"{prefix}text_projection",), transposed=True),
        *same(f"{tower}embeddings.token_embedding", f"{prefix}token_embedding", ".weight"),
        *same(f"{tower}final_layer_norm", f"{prefix}ln_final"),
    ]
    for i in range(layers):
        ours, theirs = f"{tower}encoder.layers.{i}.", f"{prefix}transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            split = tuple(f"{ours}self_attn.{part}_proj.{kind}" for part in ("q", "k", "v"))
            all_links.append(Link(split, (f"{theirs}attn.in_proj_{kind}",)))
        parts = (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"))
        for part, name in (*parts, ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
            all_links += same(ours + part, theirs + name)
    return all_links


LAYOUT = Layout(
    "OpenAI",
    ("visual.transformer.resblocks.", "transformer.resblocks."),
    links,
    ("input_resolution", "context_length", "vocab_size", "attn_mask"),
)


def model_config(config: EncoderConfig) -> dict[str, Any]:
    """The ``model_cfg`` of ``open_clip_config.json`` for an encoder."""
    return {
        "embed_dim": config.embed_dim,
        "quick_gelu": config.activation == "quick_gelu",
        "vision_cfg": {
            "image_size": config.image_size,
            "layers": config.image_layers,
            "width": config.image_width,
            "head_width": config.image_width // config.image_heads,
            "patch_size": config.patch_size,
        },
        "text_cfg": text_config(config),
    }


def text_config(config: EncoderConfig) -> dict[str, Any]:
    """The ``text_cfg`` in it."""
    return {
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "width": config.text_width,
        "heads": config.text_heads,
        "layers": config.text_layers,
    }
