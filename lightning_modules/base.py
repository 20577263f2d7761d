"""What all methods share: an encoder, an optimiser, a step, a validation. A method adds ``losses`` and reads like its
paper.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from datamodules.batch import Batch, Slots
from datamodules.collate import pack_texts
from datamodules.tokenizer import Tokenizer
from lightning_modules.networks import DualEncoder, EncoderConfig, ImageFeatures, TextFeatures
from lightning_modules.optim import OptimConfig, adamw, warmup_cosine
from lightning_modules.validation import Validation

MAX_LOG_SCALE = math.log(100.0)


Terms = dict[str, Float[Tensor, ""]]  # a method's loss terms by name, weighted


class Features(NamedTuple):
    """A batch, embedded: images, and every unique text once."""

    images: ImageFeatures
    texts: TextFeatures

    def of(self, slots: Slots) -> Float[Tensor, "B K D"]:
        """Text vectors of a grain, of unit norm; an invalid slot holds some other text's vector."""
        return self.texts.text[slots.index]


class Method(LightningModule, ABC):
    """A way to train a dual encoder.

    Args:
        encoder: sizes of the towers; with ``pretrained`` they come from the checkpoint.
        optim: learning rates and schedule.
        pretrained: hub id or local folder of a transformers CLIP checkpoint to start from; None: from scratch.
    """

    def __init__(
        self,
        encoder: EncoderConfig = EncoderConfig(),
        optim: OptimConfig = OptimConfig(),
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = (
            DualEncoder(encoder)
            if pretrained is None
            else DualEncoder.from_pretrained(pretrained, context_length=encoder.context_length)
        )
        self.optim = optim
        self.validation = Validation()

    @abstractmethod
    def losses(self, batch: Batch, features: Features) -> Terms:
        """The method's loss terms by name, already weighted; their sum is minimised."""

    def new_modules(self) -> Iterable[nn.Module]:
        """Modules that the method adds to the encoder; they have their own learning rate."""
        return ()

    def scales(self) -> dict[str, Float[Tensor, " 1"]]:
        """Temperatures by name, as the factor on the cosines."""
        return {"global": self.encoder.scale}

    def features(self, batch: Batch) -> Features:
        """Embed a batch: one pass of each tower."""
        return Features(self.encoder.encode_image(batch.images), self.encoder.encode_text(batch.texts))

    @torch.no_grad()
    def encode_image(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Normalised pixels to unit vectors."""
        return self.encoder.encode_image(pixels.to(self.device)).image

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Texts to unit vectors; a text beyond the context is cut and keeps its EOT."""
        unique, index = pack_texts(texts, Tokenizer(self.encoder.config.context_length))
        moved = type(unique)(*(t.to(self.device) for t in unique))
        return self.encoder.encode_text(moved).text[index.to(self.device)]

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self.losses(batch, self.features(batch))
        loss = torch.stack(list(terms.values())).sum()
        images = len(batch.images)
        self.log("train/loss", loss, prog_bar=True, batch_size=images)
        self.log_dict({f"train/loss_{name}": term.detach() for name, term in terms.items()}, batch_size=images)
        return loss

    @override
    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Temperatures stay between 1 and 100, as in CLIP."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("log_scale"):
                    parameter.clamp_(0.0, MAX_LOG_SCALE)
        self.log_dict({f"temperature/{name}": scale.detach().squeeze() for name, scale in self.scales().items()})

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        features = self.features(batch)
        terms = self.losses(batch, features)
        images = len(batch.images)
        self.log_dict(
            {f"val/loss_{name}": term for name, term in terms.items()}, batch_size=images, sync_dist=True, on_epoch=True
        )
        self.validation.update(batch, features.images, features.texts)

    @override
    def on_validation_epoch_end(self) -> None:
        numbers = self.validation.compute()
        self.log_dict({f"val/{name}": value for name, value in numbers.items()}, rank_zero_only=False)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = adamw(self, self.new_modules(), self.optim)
        schedule = warmup_cosine(optimizer, self.optim, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
