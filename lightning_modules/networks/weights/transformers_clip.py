"""transformers' layout (``CLIPModel``): q, k and v apart in both towers, vectors where we have [1, 1, C]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from datamodules.batching.tokenizer import EOT
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.text_tower import text_config
from lightning_modules.networks.weights.checkpoint_format import Layout, Traceless
from lightning_modules.networks.weights.parameter_map import POSITIONS, Link, same

VISION, TEXT = "vision_model.", "text_model."


def image_links(layers: int) -> list[Link]:
    """The image tower."""
    all_links = [
        Link(("image_tower.cls_token",), (f"{VISION}embeddings.class_embedding",), leading=2),
        Link(("image_tower.pos_embed",), (f"{VISION}embeddings.position_embedding.weight",), leading=1),
        *same("image_tower.patch_embed.proj", f"{VISION}embeddings.patch_embedding", ".weight"),
        *same("image_tower.norm_pre", f"{VISION}pre_layrnorm"),
        *same("image_tower.norm", f"{VISION}post_layernorm"),
        *same("image_tower.projection", "visual_projection", ".weight"),
    ]
    for i in range(layers):
        ours, theirs = f"image_tower.blocks.{i}.", f"{VISION}encoder.layers.{i}."
        for kind in (".weight", ".bias"):
            parts = (f"{theirs}self_attn.q_proj", f"{theirs}self_attn.k_proj", f"{theirs}self_attn.v_proj")
            all_links.append(Link((f"{ours}attn.qkv{kind}",), tuple(part + kind for part in parts)))
        all_links += same(f"{ours}attn.proj", f"{theirs}self_attn.out_proj")
        for part, name in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("mlp.fc1",) * 2, ("mlp.fc2",) * 2):
            all_links += same(ours + part, theirs + name)
    return all_links


def text_links(layers: int) -> list[Link]:
    """The text tower: the very same names behind another prefix."""
    ours = "text_tower.transformer."
    all_links = [
        Link((POSITIONS,), (f"{TEXT}embeddings.position_embedding.weight",)),
        *same(f"{ours}embeddings.token_embedding", f"{TEXT}embeddings.token_embedding", ".weight"),
        *same(f"{ours}final_layer_norm", f"{TEXT}final_layer_norm"),
        *same("text_tower.projection", "text_projection", ".weight"),
    ]
    attention = tuple(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out"))
    for i in range(layers):
        for part in (*attention, "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
            all_links += same(f"{ours}encoder.layers.{i}.{part}", f"{TEXT}encoder.layers.{i}.{part}")
    return all_links


def links(image_layers: int, text_layers: int) -> list[Link]:
    """All parameters."""
    return [
        Link(("temperature.log_scale",), ("logit_scale",), leading=1),
        *image_links(image_layers),
        *text_links(text_layers),
    ]


LAYOUT = Layout(
    "transformers",
    (f"{VISION}encoder.layers.", f"{TEXT}encoder.layers."),
    links,
    (f"{VISION}embeddings.position_ids", f"{TEXT}embeddings.position_ids"),
)


def traceless(fields: Mapping[str, Any], source: str) -> Traceless:
    """Heads and activation from the fields of ``config.json``.

    Raises:
        ValueError: where the two towers, or the norms, are of a kind that this encoder does not build, or texts end
            otherwise than with CLIP's tokenizer.
    """
    if fields.get("model_type") != "clip":
        raise ValueError(f"{source}: model_type must be clip, got {fields.get('model_type')}")
    vision = CLIPVisionConfig.from_dict(fields.get("vision_config") or {})
    text = CLIPTextConfig.from_dict(fields.get("text_config") or {})
    if vision.hidden_act != text.hidden_act:
        raise ValueError(f"{source}: hidden_act must agree, got {vision.hidden_act} and {text.hidden_act}")
    check_end(text, source)
    for name, tower in (("vision_config", vision), ("text_config", text)):
        if tower.layer_norm_eps != 1e-5:
            raise ValueError(f"{source}: {name}.layer_norm_eps must be 1e-05, got {tower.layer_norm_eps}")
        if tower.intermediate_size != 4 * tower.hidden_size:
            raise ValueError(
                f"{source}: {name}.intermediate_size must be 4 x hidden_size = {4 * tower.hidden_size}, "
                f"got {tower.intermediate_size}"
            )
    return Traceless(text.hidden_act, vision.num_attention_heads, text.num_attention_heads)


def check_end(text: CLIPTextConfig, source: str) -> None:
    """Raises ValueError where a text's feature does not stand at the EOT of CLIP's tokenizer.

    Configs of older versions have 2 there, and mean the largest id; a smaller vocabulary ends with EOT.
    """
    allowed = (None, 2, EOT, min(EOT, text.vocab_size - 1))
    if text.eos_token_id not in allowed:
        raise ValueError(
            f"{source}: text_config.eos_token_id must be {EOT}, the end of texts in CLIP's tokenizer, "
            f"got {text.eos_token_id}"
        )


def model_config(config: EncoderConfig) -> CLIPConfig:
    """The ``config.json`` of an encoder; texts are read at the first EOT of ``text_config``."""
    vision = {
        "hidden_size": config.image_width,
        "intermediate_size": 4 * config.image_width,
        "projection_dim": config.embed_dim,
        "num_hidden_layers": config.image_layers,
        "num_attention_heads": config.image_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": config.activation,
    }
    return CLIPConfig(
        text_config=text_config(config).to_dict(),
        vision_config=vision,
        projection_dim=config.embed_dim,
        logit_scale_init_value=math.log(config.init_scale),
        architectures=["CLIPModel"],
    )
