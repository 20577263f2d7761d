"""A dual encoder as benchmarks use it: pixels from 0 to 255 and strings in, on its device, without gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lightning_modules.networks import Encoder, ImageFeatures, TextConditionedPooling, pool_regions
from lightning_modules.networks.contract import patch_tokens, plain_config
from lightning_modules.networks.normalize import unit
from lightning_modules.networks.text_encoding import encode_strings


class EvaluationModel:
    """The encoder, put into evaluation mode on ``device``; ``pooling`` is its text-conditioned attention, if any."""

    def __init__(self, encoder: Encoder, device: torch.device, pooling: TextConditionedPooling | None = None) -> None:
        self.encoder, self.device = encoder.eval().to(device), device
        self.pooling = None if pooling is None else pooling.eval().to(device)
        self.image_size = encoder.image_size
        self.context_length = encoder.context_length
        self.tokenizer = encoder.tokenizer
        self._weights = ""

    @property
    def digest(self) -> str:
        """SHA-256 of ``weights`` and the kind of device, whose rounding differs."""
        return hashlib.sha256(f"{self.weights} {self.device.type}".encode()).hexdigest()

    @property
    def weights(self) -> str:
        """SHA-256 of the sizes and the weights; computed once."""
        self._weights = self._weights or self._sha256()
        return self._weights

    def _sha256(self) -> str:
        digest = hashlib.sha256(str(plain_config(self.encoder.config)).encode())
        for name, weight in self.encoder.state_dict().items():
            raw = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
            digest.update(raw.numpy().data)
        return digest.hexdigest()

    def token_count(self, text: str) -> int:
        """Tokens of the whole text."""
        return self.tokenizer.length(text)

    def with_grid(self, side: int) -> EvaluationModel:
        """The same model on larger images."""
        return EvaluationModel(self.encoder.with_grid(side), self.device, self.pooling)

    @torch.no_grad()
    def encode_image(self, squares: UInt8[Tensor, "B 3 S S"]) -> ImageFeatures:
        """Features of the images."""
        pixels = self.encoder.input_format.normalise(squares.to(self.device))
        return self.encoder.encode_image(pixels.to(self.encoder.dtype))

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit vectors of the texts; a text beyond the context is cut and keeps its EOT."""
        return encode_strings(self.encoder, texts, self.device)

    @torch.no_grad()
    def pool_regions(
        self, dense: Float[Tensor, "B D h w"], boxes: Float[Tensor, "R 4"], image: Int[Tensor, " R"]
    ) -> Float[Tensor, "R D"]:
        """Unit vectors of the boxes."""
        return pool_regions(dense, boxes, image)

    @torch.no_grad()
    def attend(
        self, texts: Float[Tensor, "T D"], dense: Float[Tensor, "B D h w"], image: Int[Tensor, " T"]
    ) -> Float[Tensor, "T P"]:
        """Attention of each text over its image's patches."""
        return self._block().attention(texts[:, None], unit(patch_tokens(dense))[image])[:, 0]

    @torch.no_grad()
    def condition(
        self, texts: Float[Tensor, "T D"], dense: Float[Tensor, "B D h w"], image: Int[Tensor, " T"]
    ) -> Float[Tensor, "T D"]:
        """Each text's image as that text sees it. An image's patches are projected once, whatever its texts."""
        order = image.argsort(stable=True)
        counts = image.bincount(minlength=len(dense))
        first = counts.cumsum(0) - counts
        place = torch.empty_like(image)
        place[order] = torch.arange(len(image), device=image.device) - first[image[order]]
        queries = texts.new_zeros(len(dense), int(counts.max()), texts.shape[1]).index_put((image, place), texts)
        return self._block()(queries, unit(patch_tokens(dense)))[image, place]

    def _block(self) -> TextConditionedPooling:
        if self.pooling is None:
            raise ValueError(
                "this benchmark needs text-conditioned attention: --model must be a checkpoint of BetaClip or GrainClip"
            )
        return self.pooling
