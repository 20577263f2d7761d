"""The published β-CLIP layout (fzohra/B-CLIP): timm's image tower, a text tower of OpenAI's names with q, k, v apart.

Like Long-CLIP it stores two position tables, of which each counts in part. The pooling block comes with its own
temperature.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lightning_modules.networks.weights.checkpoint_format import Layout
from lightning_modules.networks.weights.parameter_map import POSITIONS, Link, State, read, same

POOLING = "text_conditioned_patches_block."


def links(image_layers: int, text_layers: int) -> list[Link]:
    """All parameters of the dual encoder."""
    tower = "text_tower.transformer."
    all_links = [
        Link(("temperature.log_scale",), ("logit_scale",), leading=1),
        Link(("image_tower.projection.weight",), ("image_projection",), transposed=True),
        Link(("text_tower.projection.weight",), ("text_projection",), transposed=True),
        *(Link((f"image_tower.{name}",), (f"visual.{name}",)) for name in ("cls_token", "pos_embed")),
        *same("image_tower.patch_embed.proj", "visual.patch_embed.proj", ".weight"),
        *same("image_tower.norm_pre", "visual.norm_pre"),
        *same("image_tower.norm", "visual.norm"),
        Link((POSITIONS,), ("positional_embedding",)),
        *same(f"{tower}embeddings.token_embedding", "token_embedding", ".weight"),
        *same(f"{tower}final_layer_norm", "ln_final"),
    ]
    for i in range(image_layers):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            all_links += same(f"image_tower.blocks.{i}.{part}", f"visual.blocks.{i}.{part}")
    for i in range(text_layers):
        ours, theirs = f"{tower}encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            all_links += same(f"{ours}self_attn.{part}", f"{theirs}attn.{part}")
        parts = (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"))
        for part, name in parts:
            all_links += same(ours + part, theirs + name)
    return all_links


LAYOUT = Layout("β-CLIP", ("visual.blocks.", "transformer.resblocks."), links)


def pooling_links() -> list[Link]:
    """The pooling block's parameters."""
    return [
        Link(("temperature.log_scale",), (f"{POOLING}logit_scale",), leading=1),
        *same("attn", f"{POOLING}attn", ".in_proj_weight", ".in_proj_bias", ".out_proj.weight", ".out_proj.bias"),
        *same("norm", f"{POOLING}ln_2"),
        *same("mlp.0", f"{POOLING}mlp.c_fc"),
        *same("mlp.2", f"{POOLING}mlp.c_proj"),
    ]


def pooling_state(state: Mapping[str, Tensor], source: str) -> State:
    """The state dict of ``TextConditionedPooling`` from a published model's."""
    return read(pooling_links(), {name: t for name, t in state.items() if name.startswith(POOLING)}, source)
