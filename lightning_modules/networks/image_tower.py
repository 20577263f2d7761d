"""CLIP's vision transformer (timm's), whose patches keep to themselves in the last block.

In an ordinary ViT the last block mixes all tokens, and patch tokens lose their place in the image. Here, as in β-CLIP
(arXiv 2512.12678; first in MaskCLIP and CLIPSelf), the class token attends in the last block as ever, so CLIP's image
embedding is untouched, while a patch passes on its own value: attention with the identity in place of softmax(q k).

    u = LN1(x),  o_cls = Wo softmax(q_cls kᵀ/√d) v + bo,  o_p = Wo v_p + bo,  y = x + o,  z = y + MLP(LN2(y))

The final norm and CLIP's projection are applied to every token. All blocks but the last are shared by both paths, so
dense features cost nothing extra. Where we differ from the published code: attention is fused (the same numbers), and
activation checkpointing works, because the blocks run inside timm's own forward.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from lightning_modules.networks.attention import attend
from lightning_modules.networks.config import EncoderConfig
from lightning_modules.networks.flops import image_flops


class AttentionBlock(Block):
    """A timm block, parameters and names included, with the attention of this package."""

    attn: Attention

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Tokens as this block leaves them."""
        x = x + self._mix(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _mix(self, u: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        q, k, v = self.attn.qkv(u).unflatten(-1, (3, self.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.attn.proj(self._attend(q, k, v).transpose(1, 2).flatten(2))

    def _attend(
        self, q: Float[Tensor, "B H N D"], k: Float[Tensor, "B H N D"], v: Float[Tensor, "B H N D"]
    ) -> Float[Tensor, "B H N D"]:
        return attend(q, k, v)


class ValueOnlyBlock(AttentionBlock):
    """The last block: token 0 attends, every other token passes on its own value; without ``dense`` it leaves token 0
    alone.
    """

    @override
    def forward(self, x: Float[Tensor, "B N C"], dense: bool = True) -> Float[Tensor, "B M C"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if dense:
            return super().forward(x)
        q, k, v = self.attn.qkv(self.norm1(x)).unflatten(-1, (3, self.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x[:, :1] + self.attn.proj(attend(q[:, :, :1], k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))

    @override
    def _attend(
        self, q: Float[Tensor, "B H N D"], k: Float[Tensor, "B H N D"], v: Float[Tensor, "B H N D"]
    ) -> Float[Tensor, "B H N D"]:
        return torch.cat([attend(q[:, :, :1], k, v), v[:, :, 1:]], dim=2)


class ImageTower(VisionTransformer):
    """Images to N = 1 + P tokens in the joint space, not normalised: the class token, then the patches row by row.

    Attributes:
        grid: rows and columns of the patches.
    """

    def __init__(self, config: EncoderConfig) -> None:
        width = config.image_width
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=width,
            depth=config.image_layers,
            num_heads=config.image_heads,
            pre_norm=True,
            norm_layer=nn.LayerNorm,  # eps 1e-5, CLIP's; timm's own default is 1e-6
            act_layer=config.activation,
            block_fn=AttentionBlock,
        )
        act = type(self.blocks[-1].get_submodule("mlp.act"))
        last = ValueOnlyBlock(width, config.image_heads, qkv_bias=True, norm_layer=nn.LayerNorm, act_layer=act)
        last.load_state_dict(self.blocks[-1].state_dict())  # the names are timm's, and so is the initialisation
        self.blocks[-1] = last
        side = config.image_size // config.patch_size
        self.grid = side, side
        self.config = config
        self.projection = nn.Linear(width, config.embed_dim, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward_flops(self, dense: bool = True) -> float:
        """Operations of an image's forward pass."""
        return image_flops(self.config, dense)

    def forward(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> Float[Tensor, "B N D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Tokens of normalised pixels; without ``dense`` the class token alone, N = 1."""
        return self.projection(self.forward_features(pixels) if dense else self._class_token(pixels))

    def _class_token(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 C"]:
        """The class token of ``forward_features``, as timm computes it but for the last block."""
        x = self.norm_pre(self._pos_embed(self.patch_embed(pixels)))
        if self.grad_checkpointing:
            x = checkpoint_seq(self.blocks[:-1], x)
            x = checkpoint(self.blocks[-1], x, False, use_reentrant=False)
        else:
            x = self.blocks[-1](self.blocks[:-1](x), False)
        return self.norm(x)
