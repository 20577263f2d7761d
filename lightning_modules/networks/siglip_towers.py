"""SigLIP's towers (transformers' own), with a feature for each patch and each token.

Image: a vision transformer without a class token. Its head pools the patches x by attention of one learned probe, and
an MLP follows; the image embedding is the head's output. A patch's dense feature is the head applied where attention
sees this patch alone: whatever the probe asks, softmax over one key is 1, so queries and keys drop out, and

    o_p = Wo (Wv x_p + bv) + bo,   f_p = o_p + MLP(LN(o_p))

as FG-CLIP 2 reads SigLIP 2 (arXiv 2510.10921). It lies in the joint space, and costs one more pass of the head.

Text: a transformer without a causal mask. It is trained on rows of exactly its own length, filled up with padding that
is not masked: every token sees the padding, and the text's feature stands at the row's last place. So texts are not
packed into rows, as CLIP's are: each has a row of its own, filled up here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel

from datamodules.batch import RaggedTexts
from lightning_modules.networks.attention import TEXT_ATTENTION
from lightning_modules.networks.image_positions import stretch_grid
from lightning_modules.networks.long_context import PositionTable
from lightning_modules.networks.siglip_settings import SiglipSettings
from lightning_modules.networks.text_tower import checkpoint_blocks
from losses.core.host_copies import on_host


class SiglipImageTower(nn.Module):
    """Images to their embedding and to a feature of each patch, row by row; neither is normalised."""

    def __init__(self, settings: SiglipSettings) -> None:
        super().__init__()
        config = vision_config(settings)
        config._attn_implementation = TEXT_ATTENTION
        self.transformer = SiglipVisionModel(config)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them (while training)."""
        checkpoint_blocks(self.transformer, enable)

    def forward(
        self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B P D"]]:
        """Features of normalised pixels; P = 0 without ``dense``."""
        output = self.transformer(pixel_values=pixels)
        patches = output.last_hidden_state[:, : None if dense else 0]
        return output.pooler_output, patch_features(self.transformer.head, patches)

    def stretch(self, side: int) -> None:
        """Read images of ``side`` by ``side`` patches from now on."""
        embeddings: Any = self.transformer.embeddings
        table = stretch_grid(embeddings.position_embedding.weight.detach()[None], side, leading=0)[0]
        embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
        embeddings.num_patches = embeddings.num_positions = side**2
        embeddings.image_size = side * embeddings.patch_size
        embeddings.position_ids = torch.arange(side**2, device=table.device)[None]


def patch_features(head: nn.Module, patches: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
    """The head's output for each patch alone, by its value path."""
    attention = head.get_submodule("attention")
    assert isinstance(attention, nn.MultiheadAttention)
    width = attention.embed_dim
    value = functional.linear(patches, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    output = attention.out_proj(value)
    return output + head.get_submodule("mlp")(head.get_submodule("layernorm")(output))


class SiglipTextTower(nn.Module):
    """Ragged texts to their embedding and to a feature of each of their tokens; neither is normalised."""

    def __init__(self, settings: SiglipSettings) -> None:
        super().__init__()
        config = text_config(settings)
        config._attn_implementation = TEXT_ATTENTION
        self.transformer = SiglipTextModel(config)
        table = self.transformer.embeddings.position_embedding.weight
        positions = PositionTable(table, settings.frozen_positions)
        self.transformer.embeddings.register_module("position_embedding", positions)
        self.context_length, self.pad_id, self.pad_side = settings.context_length, settings.pad_id, settings.pad_side

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them (while training)."""
        checkpoint_blocks(self.transformer, enable)

    def forward(self, texts: RaggedTexts) -> tuple[Float[Tensor, "U D"], Float[Tensor, "T D"]]:
        """Features of texts and of tokens, in the order of ``texts.tokens``; of padding there are none.

        Raises:
            ValueError: where there is no text, or one is longer than the context.
        """
        tokens = texts.tokens
        lengths, first = texts.offsets.diff().to(tokens.device), texts.offsets[:-1].to(tokens.device)
        count = len(lengths)
        if count == 0:
            raise ValueError("texts must hold at least one text, got none")
        if (longest := int(np.diff(on_host(texts.offsets)).max())) > self.context_length:
            raise ValueError(f"a text must have at most context_length = {self.context_length} tokens, got {longest}")
        start = torch.arange(count, device=tokens.device) * self.context_length  # of each text's row
        if self.pad_side == "left":
            start = start + self.context_length - lengths
        shift = torch.repeat_interleave(start - first, lengths, output_size=len(tokens))
        places = torch.arange(len(tokens), device=tokens.device) + shift
        rows = tokens.new_full((count * self.context_length,), self.pad_id).index_copy(0, places, tokens)
        output = self.transformer(input_ids=rows.view(count, self.context_length))
        return output.pooler_output, self.transformer.head(output.last_hidden_state.flatten(0, 1)[places])


def vision_config(settings: SiglipSettings) -> SiglipVisionConfig:
    """The image tower in transformers' terms."""
    return SiglipVisionConfig(
        hidden_size=settings.image_width,
        intermediate_size=settings.image_hidden,
        num_hidden_layers=settings.image_layers,
        num_attention_heads=settings.image_heads,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        hidden_act=settings.activation,
        layer_norm_eps=settings.layer_norm_eps,
    )


def text_config(settings: SiglipSettings) -> SiglipTextConfig:
    """The text tower in transformers' terms."""
    return SiglipTextConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.text_width,
        intermediate_size=settings.text_hidden,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.text_heads,
        max_position_embeddings=settings.context_length,
        hidden_act=settings.activation,
        layer_norm_eps=settings.layer_norm_eps,
        projection_size=settings.image_width,
        pad_token_id=settings.pad_id,
        bos_token_id=None,
        eos_token_id=None,
    )
