"""Word-patch reconstruction, MulCLIP's loss within each image (arXiv 2512.07128, L_Word).

The tokens v of an image and t of its caption reconstruct each other by attention, and each token is contrasted with the
reconstructions of the same image:

    v~ = softmax(v t^T / τ_a) t,   t~ = softmax(t v^T / τ_a) v
    L_v = mean over images and tokens of 1/2 [CE(row j of v v~^T / τ) + CE(column j)],   L_t alike,   L = L_v + L_t

The paper's page gives this structure (two directions, summed, within each sample, matching pairs contrasted), but
neither the attention nor its temperatures; these are MGCA's (arXiv 2210.06044): cosines, 0.1 and 0.1. Every alternative
is an argument. All images have the same weight, however many words their captions have.

No other image enters the loss, so ranks only share the mean. The [N, M], [N, N] and [M, M] matrices of at most `PAIRS`
pairs of tokens are in memory at a time; larger batches are split into chunks whose matrices backward recomputes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from losses.core.checks import token_mask
from losses.core.process_group import shared_mean

PAIRS = 2**22


class WordPatchLoss(nn.Module):
    """Contrast of tokens with their reconstructions from the other modality.

    Args:
        attention_temperature: divides the cosines of the attention.
        temperature: divides the cosines of the contrast.
        rebuild: image tokens are reconstructed from text tokens and the reverse (``"cross"``), or from themselves by
        way
            of the other modality (``"cycle"``: softmax(v t^T / τ_a) softmax(t v^T / τ_a) v).
        symmetric: each token is classified among the reconstructions and the reverse; False: only the former.
        projected: width of the vectors, for attention between learnt projections of queries, keys and values (one set
            per direction, initialised as the identity: plain cosines). None: no projections.

    Raises:
        ValueError: where an argument is out of its range.
    """

    def __init__(
        self,
        attention_temperature: float = 0.1,
        temperature: float = 0.1,
        rebuild: Literal["cross", "cycle"] = "cross",
        symmetric: bool = True,
        projected: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("attention_temperature", attention_temperature), ("temperature", temperature)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if rebuild not in ("cross", "cycle"):
            raise ValueError(f'rebuild must be "cross" or "cycle", got {rebuild!r}')
        self.attention_temperature, self.temperature = attention_temperature, temperature
        self.rebuild, self.symmetric = rebuild, symmetric
        self.from_text, self.from_image = (None if projected is None else _Projections(projected) for _ in range(2))

    def forward(
        self,
        image_tokens: Float[Tensor, "B N D"],
        text_tokens: Float[Tensor, "B M D"],
        text_valid: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, scaled so that its mean over ranks is that of the whole batch; 0 where no image has a text token.

        Args:
            image_tokens, text_tokens: unit vectors of the same B images.
            text_valid: True for text tokens, False for padding, whose contents, NaN included, have no effect; all True
            by
                default.

        Raises:
            ValueError: where shapes do not agree.
        """
        text_valid = token_mask(image_tokens, text_tokens, text_valid)
        with torch.autocast(image_tokens.device.type, enabled=False):
            dtype = torch.promote_types(image_tokens.dtype, torch.float32)
            text = torch.where(text_valid[..., None], text_tokens, 0).to(dtype)
            inputs = (image_tokens.to(dtype), text, text_valid)
            pairs = (image_tokens.shape[1] + text_tokens.shape[1]) ** 2
            size = max(1, PAIRS // max(pairs, 1))
            if len(text) <= size:
                losses = self._image_losses(*inputs)
            else:
                chunks = zip(*(x.split(size) for x in inputs), strict=True)
                losses = torch.cat([checkpoint(self._image_losses, *c, use_reentrant=False) for c in chunks])
            has_text = text_valid.any(1)
            return shared_mean(torch.where(has_text, losses, 0).sum(), has_text.sum().to(losses))

    def attention(
        self,
        image_tokens: Float[Tensor, "B N D"],
        text_tokens: Float[Tensor, "B M D"],
        text_valid: Bool[Tensor, "B M"] | None = None,
    ) -> tuple[Float[Tensor, "B N M"], Float[Tensor, "B M N"]]:
        """Attention of image tokens over text tokens and the reverse, of the whole batch at once; rows sum to one."""
        text_valid = token_mask(image_tokens, text_tokens, text_valid)
        text = torch.where(text_valid[..., None], text_tokens, 0).to(image_tokens.dtype)
        return (
            self._attend(image_tokens, text, text_valid, self.from_text)[0],
            self._attend(text, image_tokens, None, self.from_image)[0],
        )

    def _image_losses(
        self, image: Float[Tensor, "B N D"], text: Float[Tensor, "B M D"], valid: Bool[Tensor, "B M"]
    ) -> Float[Tensor, " B"]:
        """The loss of each image, both directions."""
        at_text, text_values = self._attend(image, text, valid, self.from_text)
        at_image, image_values = self._attend(text, image, None, self.from_image)
        if self.rebuild == "cycle":
            text_values, image_values = at_image @ image_values, at_text @ text_values
        everywhere = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
        return self._contrast(image, at_text @ text_values, everywhere) + self._contrast(
            text, at_image @ image_values, valid
        )

    def _attend(
        self, queries: Tensor, keys: Tensor, valid: Tensor | None, projections: _Projections | None
    ) -> tuple[Float[Tensor, "B Q K"], Float[Tensor, "B K D"]]:
        """Attention over the valid keys, and the values that it averages."""
        values = keys
        if projections is not None:
            queries, keys, values = projections(queries, keys)
        logits = queries @ keys.mT / self.attention_temperature
        if valid is not None:
            logits = logits.masked_fill(~valid[:, None, :], torch.finfo(logits.dtype).min)
        return logits.softmax(-1), values

    def _contrast(
        self, tokens: Float[Tensor, "B N D"], rebuilt: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"]
    ) -> Float[Tensor, " B"]:
        """Each valid token against the reconstructions of its image; the mean per image."""
        z = tokens @ F.normalize(rebuilt, dim=-1).mT / self.temperature
        lowest = torch.finfo(z.dtype).min
        partition = z.masked_fill(~valid[:, None, :], lowest).logsumexp(2)
        if self.symmetric:
            partition = (partition + z.masked_fill(~valid[:, :, None], lowest).logsumexp(1)) / 2
        losses = torch.where(valid, partition - z.diagonal(dim1=1, dim2=2), 0)
        return losses.sum(1) / valid.sum(1).clamp(min=1)


class _Projections(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        for linear in (self.query, self.key, self.value):
            nn.init.eye_(linear.weight)

    def forward(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        input_dtype, dtype = queries.dtype, self.query.weight.dtype  # the weights may be in half precision
        queries, keys = queries.to(dtype), keys.to(dtype)
        query, key, value = (x.to(input_dtype) for x in (self.query(queries), self.key(keys), self.value(keys)))
        return F.normalize(query, dim=-1), F.normalize(key, dim=-1), value
