"""open_clip's two towers, each with its dense features in the joint space.

Embeddings are the library's. The features of an image's places and of a text's tokens come from the same pass: each is
what the tower's own head (pooling, norm, projection) makes of an image, or a text, that has this one place or token
alone, so it lies where embeddings lie and may be compared with them. By kind of image tower that is

- open_clip's vision transformer with class token or mean: the last block's patch, final norm, projection. Patches have
  seen each other in that block (its value-only form, which `DualEncoder` has, is not the library's);
- the same with attentional pooling (CoCa): the patch's value in the pooling, then norm and projection. The embedding is
  a mixture of those values;
- CLIP's ResNet: the value in its attention pooling of the last map's place, with the place's position;
- timm's towers: a place of the last map, or a patch after the final norm, through ``forward_head`` and projection. With
  mean pooling and a linear head the mean of the places is the embedding; with SigLIP's probe (``map``) the probe
  attends to this patch alone.

A tower whose head cannot take a place by itself (DeiT's, which reads two tokens) has none.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

UNFIT = (RuntimeError, ValueError, AssertionError, IndexError, TypeError)  # of a head that is given one place


class OpenClipImageTower(nn.Module):
    """An image tower of open_clip's, of any kind.

    Batch norms keep their statistics while the tower is trained, and normalise by them: a batch's own would depend on
    how it is spread over ranks and parts. Their scales and shifts are trained.

    Args:
        visual: open_clip's tower.
        size: side of the image in pixels.

    Attributes:
        grid: rows and columns of the dense features; 0 and 0 where the head takes no single place.
        shape: of an image's embedding, which should be a vector.
    """

    def __init__(self, visual: nn.Module, size: int) -> None:
        super().__init__()
        self.visual: Any = visual
        self._head = _head_of(visual)
        self.grid, self.shape = self._measure(size)

    @override
    def train(self, mode: bool = True) -> OpenClipImageTower:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D h w"]]:
        """Image embeddings and dense features, neither normalised."""
        if self._head is None or 0 in self.grid:
            pooled = self.visual(pixels)
            return pooled, pooled.new_zeros(*pooled.shape, 0, 0)
        return self._head(self.visual, pixels)

    def blocks(self) -> list[nn.Module]:
        """The blocks, or a convolutional network's stages, from the pixels up; [] where the kind is not known."""
        trunk = getattr(self.visual, "trunk", None)
        if trunk is None and hasattr(self.visual, "transformer"):
            return list(self.visual.transformer.resblocks)
        parent = self.visual if trunk is None else trunk
        for name in ("blocks", "stages", "layers"):
            if isinstance(modules := getattr(parent, name, None), (nn.Sequential, nn.ModuleList)):
                return list(modules)
        return [layer for n in range(1, 5) if isinstance(layer := getattr(parent, f"layer{n}", None), nn.Module)]

    @torch.no_grad()
    def _measure(self, size: int) -> tuple[tuple[int, int], list[int]]:
        """Grid and shape, from one image."""
        training, pixels, grid = self.training, torch.zeros(1, 3, size, size), (0, 0)
        self.eval()
        try:
            pooled, dense = (
                self._head(self.visual, pixels) if self._head else (self.visual(pixels), pixels[..., :0, :0])
            )
            grid = dense.shape[2], dense.shape[3]
        except UNFIT:
            pooled = self.visual(pixels)
        self.train(training)
        return grid, list(pooled.shape[1:])


def _head_of(visual: nn.Module) -> Any:
    """The function that gives embedding and dense features of a kind of tower; None where there is none."""
    heads = {"VisionTransformer": _vision_transformer, "ModifiedResNet": _modified_resnet, "TimmModel": _timm}
    return heads.get(type(visual).__name__)


Features = tuple[Tensor, Tensor]  # [B, D], [B, D, h, w]; a head without pooling gives other shapes


def _vision_transformer(visual: Any, pixels: Float[Tensor, "B 3 H W"]) -> Features:
    output = visual.forward_intermediates(pixels, indices=1, output_fmt="NLC")
    (patches,) = output["image_intermediates"]
    if visual.attn_pool is not None:
        patches = _value(visual.attn_pool, patches)
    dense = visual.ln_post(patches) @ visual.proj
    return output["image_features"], dense.mT.unflatten(2, visual.grid_size)


def _value(pooler: Any, tokens: Float[Tensor, "B P C"]) -> Float[Tensor, "B P D"]:
    """The output of an attentional pooler for each token alone: with nothing else to attend to, no query changes it."""
    attention, width = pooler.attn, pooler.attn.embed_dim
    joint = attention.in_proj_weight
    weight = attention.v_proj_weight if joint is None else joint[2 * width :]
    values = functional.linear(pooler.ln_k(tokens), weight, attention.in_proj_bias[2 * width :])
    return attention.out_proj(values)


def _modified_resnet(visual: Any, pixels: Float[Tensor, "B 3 H W"]) -> Features:
    output = visual.forward_intermediates(pixels, indices=1)
    (places,), pool = output["image_intermediates"], visual.attnpool
    tokens = places.flatten(2).mT + pool.positional_embedding[1:].to(places.dtype)
    dense = pool.c_proj(pool.v_proj(tokens))
    return output["image_features"], dense.mT.unflatten(2, places.shape[2:])


def _timm(visual: Any, pixels: Float[Tensor, "B 3 H W"]) -> Features:
    trunk = visual.trunk
    features = trunk.forward_features(pixels)
    pooled = visual.head(trunk.forward_head(features))
    places, shape = _places(trunk, features)
    dense = visual.head(trunk.forward_head(places))
    return pooled, dense.unflatten(0, (pixels.shape[0], -1)).mT.unflatten(2, shape)


def _places(trunk: Any, features: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Every place of a batch of feature maps as a map of its own, and the number of their rows and columns."""
    if features.ndim == 4:
        last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        rows = features if last else features.permute(0, 2, 3, 1)
        flat = rows.flatten(0, 2)
        return flat[:, None, None] if last else flat[:, :, None, None], (rows.shape[1], rows.shape[2])
    special = getattr(trunk, "num_prefix_tokens", 0)
    patches = features[:, special:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise ValueError(f"patches must make a square, got {patches.shape[1]}")
    flat = patches.flatten(0, 1)[:, None]
    if getattr(trunk, "global_pool", "") in ("token", "map"):  # the pooling reads the first token, or all there are
        return flat, (side, side)
    prefix = features[:, :special].repeat_interleave(patches.shape[1], 0)
    return torch.cat([prefix, flat], 1), (side, side)


class OpenClipTextTower(nn.Module):
    """A text tower of open_clip's: its transformer, or one of transformers'.

    Args:
        text: open_clip's tower.
        length: of a row of token ids.

    Attributes:
        shape: of a text's embedding, which should be a vector.

    Raises:
        ValueError: where it is of another kind.
    """

    def __init__(self, text: nn.Module, length: int) -> None:
        super().__init__()
        self.text: Any = text
        kind = type(text).__name__
        if kind not in ("TextTransformer", "HFTextEncoder"):
            raise ValueError(f"the text tower must be open_clip's TextTransformer or HFTextEncoder, got {kind}")
        self._recomputes = False
        self._of_transformers = kind == "HFTextEncoder"
        with torch.no_grad():
            self.shape = list(self.text(torch.zeros(1, length, dtype=torch.long)).shape[1:])
        if not self._of_transformers:
            self.text.output_tokens = True

    def forward(
        self, rows: Int[Tensor, "U L"], places: Int[Tensor, " T"]
    ) -> tuple[Float[Tensor, "U D"], Float[Tensor, "T D"]]:
        """Text embeddings, and the features of the tokens at ``places`` of the flattened rows; neither normalised."""
        if self._of_transformers:
            mask = (rows != self.text.config.pad_token_id).long()
            output = self.text.transformer(input_ids=rows, attention_mask=mask)
            states = output.last_hidden_state.flatten(0, 1)[places]
            return self.text.proj(self.text.pooler(output, mask)), self.text.proj(self._alone(states))
        pooled, states = self.text(rows)
        states = states.flatten(0, 1)[places]
        if self.text.cls_emb is not None:  # its states come before the final norm
            states = self.text.ln_final(states)
        projection = self.text.text_projection
        if projection is not None:
            states = projection(states) if isinstance(projection, nn.Linear) else states @ projection
        return pooled, states

    def blocks(self) -> list[nn.Module]:
        """The blocks, from the tokens up; [] where the kind is not known."""
        transformer = self.text.transformer
        for path in ("resblocks", "encoder.layer", "layers", "block", "encoder.layers"):
            try:
                return list(transformer.get_submodule(path).children())
            except AttributeError:
                continue
        return []

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Recompute the blocks' activations in the backward pass."""
        if not self._of_transformers:
            self.text.set_grad_checkpointing(enable)
        elif enable != self._recomputes:  # open_clip's own can only enable it
            model = self.text.transformer
            (model.gradient_checkpointing_enable if enable else model.gradient_checkpointing_disable)()
        self._recomputes = enable

    def _alone(self, states: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
        """Each token's state as the pooling of transformers' class token, where there is one, makes it."""
        pooler = getattr(self.text.transformer, "pooler", None)
        return states if pooler is None else pooler(states[:, None])
