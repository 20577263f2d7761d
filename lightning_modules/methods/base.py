"""The base class of methods: encoder, optimiser, training step and validation. A method adds ``losses`` and reads like
its paper.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from datamodules.batch import Batch, Grain, RaggedTexts, TextSlots
from datamodules.datamodule import GranularityData
from lightning_modules.checkpoints import instantiate
from lightning_modules.checkpoints.metadata import KEY, named_source, provenance, warn_of_changed_settings
from lightning_modules.checkpoints.weight_interpolation import fit_averaged
from lightning_modules.distributed.wrapping import shard, sharded
from lightning_modules.methods.batch_indices import scattered, select_texts, text_rows
from lightning_modules.methods.data_check import PLURALS, DataCheck, check_precision, check_sharding
from lightning_modules.methods.feature_cache_check import FeatureCacheCheck
from lightning_modules.methods.freezing import FreezeConfig, freeze_towers
from lightning_modules.methods.gradient_cache import MemoryConfig, encode_by_parts, shared_casts
from lightning_modules.methods.optimizers import OptimConfig, adamw, clamp_temperatures, clip_gradients, warmup_cosine
from lightning_modules.methods.starting_encoder import starting_encoder
from lightning_modules.methods.validation_metrics import MeanLosses, Validation
from lightning_modules.networks import Encoder, EncoderConfig, ImageFeatures, TextConditionedPooling, TextFeatures
from lightning_modules.networks.contract import plain_config
from lightning_modules.networks.frozen_features import FrozenFeatures
from lightning_modules.networks.lora import LoraConfig, add_adapters
from lightning_modules.networks.temperature import LogitBias
from lightning_modules.networks.text_encoding import encode_strings
from losses import ClipLoss, MultiPositiveClipLoss, SigmoidLoss
from losses.core.host_copies import on_host

SETTINGS = (EncoderConfig, FreezeConfig, LoraConfig, MemoryConfig, OptimConfig)  # checkpoints contain them
torch.serialization.add_safe_globals(list(SETTINGS))

LossTerms = dict[str, Float[Tensor, ""]]  # a method's loss terms by name, weighted


class Features(NamedTuple):
    """A batch, embedded: images, and every unique text once."""

    images: ImageFeatures
    texts: TextFeatures

    def texts_at(self, slots: TextSlots) -> Float[Tensor, "B K D"]:
        """Text vectors of a grain, of unit norm; an invalid slot holds some other text's vector."""
        return self.texts.text[slots.index]


class Method(LightningModule, ABC):
    """A way to train a dual encoder.

    Args:
        encoder: sizes of the towers; with ``pretrained`` they come from the checkpoint.
        optim: learning rates and schedule.
        pretrained: hub id, folder or file of a CLIP checkpoint to start from; None: from scratch.
        memory: how memory is saved.
        global_loss: of whole images and whole texts: ``softmax`` (CLIP), ``sigmoid`` (SigLIP), or what the encoder was
            made with (``auto``: sigmoid where it has a logit bias).
        freeze: parts of the towers that are not trained, and how much of what they give is kept.
        lora: low-rank adapters to train in place of a tower's weights; None: none.

    Raises:
        ValueError: where the checkpoint's images have another size than ``encoder.image_size``, the vocabulary is
            smaller than the tokenizer's, the method needs patch features and the image tower gives none, or ``freeze``
            or ``lora`` does not fit the towers.
    """

    student_share = 1.0  # of the inference weights; the rest is the teacher's
    softmax_loss: type[ClipLoss | MultiPositiveClipLoss] = ClipLoss
    needs_dense = True  # False where the losses read no patch features: training then spares them where it can
    extra_metric_groups: Collection[str] = ()  # prefixes of the tags of ``extra_metrics``, for TensorBoard's charts

    def __init__(
        self,
        encoder: EncoderConfig = EncoderConfig(),
        optim: OptimConfig = OptimConfig(),
        pretrained: str | None = None,
        memory: MemoryConfig = MemoryConfig(),
        global_loss: Literal["auto", "softmax", "sigmoid"] = "auto",
        freeze: FreezeConfig = FreezeConfig(),
        lora: LoraConfig | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        if global_loss not in ("auto", "softmax", "sigmoid"):
            raise ValueError(f"global_loss must be auto, softmax or sigmoid, got {global_loss!r}")
        self.encoder: Encoder = starting_encoder(encoder, pretrained)
        if self.needs_dense and not self.encoder.has_dense:
            name = type(self).__name__
            raise ValueError(
                f"{name} compares texts with patches, and the image tower of {pretrained} gives none: "
                "train it with ClipFinetune or MultiPositiveClip (or set needs_dense = False if its losses read none)"
            )
        self.clip, self.logit_bias = self._global_loss(global_loss)
        freeze_towers(self.encoder, freeze, lora)
        if lora is not None:
            add_adapters(self.encoder, lora)
        self.frozen_features = FrozenFeatures(self.encoder, gib) if (gib := freeze.feature_cache_gib) > 0 else None
        self.encoder.set_grad_checkpointing(memory.activation_checkpointing)
        self.averaged: Encoder | None = None  # the running average of the encoder, where a callback keeps one
        self.optim, self.memory, self.lora = optim, memory, lora
        self.start = None if pretrained is None else named_source(pretrained)  # the weights before training
        self.validation, self.validation_losses = Validation(), MeanLosses()
        self.numbers: dict[str, float] = {}  # of the last validation
        self.numbers_step: int | None = None  # at which they were measured
        self._validated: tuple[Encoder, ...] = ()  # the encoder, while it is validated; no submodule

    def _global_loss(
        self, kind: Literal["auto", "softmax", "sigmoid"]
    ) -> tuple[ClipLoss | MultiPositiveClipLoss | SigmoidLoss, LogitBias | None]:
        """The global loss, and the bias that it needs where the encoder has none."""
        bias = self.encoder.bias
        sigmoid = kind == "sigmoid" or (kind == "auto" and bias is not None)
        if bias is not None:
            bias.requires_grad_(sigmoid)  # DDP waits for the gradient of whatever asks for one
        return (SigmoidLoss(), LogitBias() if bias is None else None) if sigmoid else (self.softmax_loss(), None)

    def contrast_globally(
        self,
        image: Float[Tensor, "B D"],
        text: Float[Tensor, "B D"] | Float[Tensor, "B K D"],
        valid: Bool[Tensor, " B"] | Bool[Tensor, "B K"] | None = None,
        text_id: Int[Tensor, " B"] | Int[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, ""]:
        """The contrast of whole images and whole texts, by softmax or sigmoid as ``global_loss`` says."""
        scale = self.encoder.logit_scale
        if not isinstance(self.clip, SigmoidLoss):
            return self.clip(image, text, scale=scale, valid=valid, text_id=text_id)
        bias = self.encoder.logit_bias if self.logit_bias is None else self.logit_bias()
        return self.clip(image, text, scale=scale, bias=bias, valid=valid, text_id=text_id)

    @abstractmethod
    def losses(self, batch: Batch, features: Features) -> LossTerms:
        """The method's loss terms by name, already weighted; their sum is minimised."""

    def new_modules(self) -> Iterable[nn.Module]:
        """Modules that the method adds to the encoder; they have their own learning rate."""
        return ()

    def extra_metrics(self, batch: Batch, features: Features) -> LossTerms:
        """Extra scalars by the tag under which they are logged; computed without gradient on logging steps.

        ``extra_metric_groups`` lists the tags' prefixes.
        """
        del batch, features  # most methods have none
        return {}

    def text_pooling(self) -> TextConditionedPooling | None:
        """The block by which a text attends to patches; None where the method has none. Used for drawing."""
        return None

    def target_matrices(self, valid: Bool[Tensor, "B K"]) -> dict[str, Float[Tensor, "B K K"]]:
        """Target matrices [B, K, K] of an image's views and texts for several settings (TensorBoard only)."""
        del valid  # most methods have one positive each
        return {}

    def inference_encoder(self) -> Encoder:
        """The encoder for validation, evaluation and export."""
        return self.encoder

    def logit_scales(self) -> dict[str, Float[Tensor, " 1"]]:
        """Temperatures by name, as the factor on the cosines."""
        return {"global": self.encoder.logit_scale}

    def required_grains(self) -> Collection[Grain]:
        """Grains whose text vectors the losses need; training encodes no others."""
        return tuple(Grain)

    def brought(self, batch: Batch) -> dict[str, Tensor | int]:
        """Number of inputs of each kind that the losses need in a batch, by plural noun; training stops where a kind
        never comes.
        """
        return {PLURALS[grain]: int(on_host(batch.grains[grain].valid).sum()) for grain in self.required_grains()}

    def further_images(self, batch: Batch) -> float:
        """Crops that a step embeds besides the images, in units of a trained image (a pass without gradients counts a
        third).
        """
        del batch  # most methods have none
        return 0.0

    def remedy(self, name: str) -> str:
        """Advice for the error message where a run gets no input of the kind ``name`` of ``brought``."""
        return f"use shards that have {name}, or ask for none: data.sampling.{name} 0 and no loss of them"

    @override
    def configure_callbacks(self) -> list[Callback]:
        cache = self.frozen_features
        return [DataCheck()] if cache is None else [DataCheck(), FeatureCacheCheck(cache)]

    def features(self, batch: Batch) -> Features:
        """Embed a batch: one pass of each tower. In training, texts of grains that the losses do not need are zero."""
        if self._validated:
            encoder = self._active_encoder()
            encode_image = self._encode_pixels if encoder is self.encoder else encoder.encode_image
            return Features(encode_image(batch.images), encoder.encode_text(batch.texts))
        count = len(batch.texts.ids)
        if not self.training or len(rows := text_rows(batch, self.required_grains())) == count:
            return self._encode(batch.images, batch.texts)
        selected = select_texts(batch.texts, rows)
        images, texts = self._encode(batch.images, selected.texts)
        text = scattered(texts.text, selected.rows, count)
        tokens = scattered(texts.tokens, selected.token_rows, len(batch.texts.tokens))
        return Features(images, TextFeatures(text, tokens))

    def _encode(self, pixels: Float[Tensor, "B 3 H W"], texts: RaggedTexts) -> Features:
        chunk = self.memory.grad_cache_chunk
        if chunk is not None and torch.is_grad_enabled():
            return Features(*encode_by_parts(self.encoder, self._encode_pixels, pixels, texts, chunk, self.needs_dense))
        return Features(self._encode_pixels(pixels, self.needs_dense), self.encoder.encode_text(texts))

    def _encode_pixels(self, pixels: Float[Tensor, "B 3 H W"], dense: bool = True) -> ImageFeatures:
        encode_image = self.encoder.encode_image if self.frozen_features is None else self.frozen_features
        return encode_image(pixels, dense)

    @torch.no_grad()
    def encode_image(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Normalised pixels to unit vectors."""
        return self._active_encoder().encode_image(pixels.to(self.device)).image

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Texts to unit vectors; a text beyond the context is cut."""
        return encode_strings(self._active_encoder(), texts, self.device)

    def _active_encoder(self) -> Encoder:
        return self._validated[0] if self._validated else self.inference_encoder()

    @override
    def configure_model(self) -> None:
        """Shard the weights over the ranks under FSDP2, once; without FSDP2 do nothing."""
        if self.device_mesh is None or any(sharded(self)):
            return
        check_sharding(self)
        shard(self, self.device_mesh["data_parallel"])

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises ``ValueError`` where the trainer's settings cannot train this method; ``lightning fit`` asks first."""
        check_precision(trainer.precision)
        if isinstance(trainer.strategy, ModelParallelStrategy):
            check_sharding(self)

    @override
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw the adapters' dropout from the step, so that a resumed run draws what the whole run would."""
        if self.lora is not None and self.lora.dropout > 0:
            seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) + self.current_epoch * 2**32
            torch.manual_seed(seed + batch_idx * self.trainer.world_size + self.global_rank)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        features = self.features(batch)
        terms = self.losses(batch, features)
        loss = torch.stack(list(terms.values())).sum()
        images = len(batch.images)
        self.log("train/loss", loss, batch_size=images)
        self.log_dict({f"train/loss_{name}": term.detach() for name, term in terms.items()}, batch_size=images)
        if self._logs_this_step():
            with torch.no_grad():
                metrics = self.extra_metrics(batch, features)
            self.log_dict(dict(metrics), batch_size=images)
            # Lightning reads what its bar shows at every step, logged or not: a number of the host's makes it no wait.
            self.log("loss", loss.detach().cpu(), prog_bar=True, logger=False, batch_size=images)
        return loss * self._window_factor(batch_idx)

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        by_parts = self.memory.grad_cache_chunk is not None and not any(sharded(self))
        with shared_casts(self.device) if by_parts else nullcontext():
            super().backward(loss, *args, **kwargs)

    def _window_factor(self, batch_idx: int) -> float:
        """Correction of the loss in an epoch's last window of accumulated batches, where it is shorter: Lightning
        divides by ``accumulate_grad_batches`` there too.
        """
        window, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        last_window = int(batches % window) if math.isfinite(batches) else 0
        return window / last_window if batch_idx >= batches - last_window else 1.0

    def _logs_this_step(self) -> bool:
        every = vars(self.trainer)["log_every_n_steps"]
        return every > 0 and (self.global_step + 1) % every == 0

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by ``clip_gradients``: Lightning's own refuses fused optimisers, even without a loss scale to undo."""
        if gradient_clip_val is not None and gradient_clip_val > 0:
            clip_gradients(optimizer, gradient_clip_val, by_value=gradient_clip_algorithm == "value")

    @override
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Make an optimiser step, and clamp the temperatures before a callback saves or averages them."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        clamp_temperatures(self)

    @override
    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        self.log_dict({f"logit_scale/{name}": scale.detach().squeeze() for name, scale in self.logit_scales().items()})

    @override
    def on_validation_epoch_start(self) -> None:
        self._validated = (self.inference_encoder(),)
        label_names = getattr(getattr(self.trainer, "datamodule", None), "label_names", tuple)
        self.validation.prepare(label_names(), self.encode_text)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation metrics. All ranks are called equally often: a rank without samples gets an
        empty batch, whose losses are 0 with weight 0.
        """
        features = self.features(batch)
        terms = self.losses(batch, features)
        self.validation_losses.update(terms, len(batch.images))
        self.validation.update(batch, features.images, features.texts)

    @override
    def on_validation_epoch_end(self) -> None:
        self._validated = ()
        self.numbers, self.numbers_step = self.validation.compute(), self.trainer.global_step
        losses = {f"loss_{name}": value for name, value in self.validation_losses.compute().items()}
        self.validation.reset()
        self.validation_losses.reset()
        self.log_dict({f"val/{name}": value for name, value in (self.numbers | losses).items()}, rank_zero_only=False)

    @override
    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        features = self.features(batch)
        self.validation.update(batch, features.images, features.texts)

    @override
    def on_test_epoch_end(self) -> None:
        self._validated = ()
        numbers = self.validation.compute()
        self.validation.reset()
        self.log_dict({f"test/{name}": value for name, value in numbers.items()}, rank_zero_only=False)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the model's provenance. ``pretrained`` becomes None: the checkpoint itself has the weights."""
        checkpoint[KEY] = provenance(self)
        settings = checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]
        sizes, is_plain = self.encoder.config, isinstance(settings["encoder"], dict)
        settings |= {"pretrained": None, "encoder": plain_config(sizes) if is_plain else sizes}
        if is_plain and not isinstance(sizes, EncoderConfig):
            settings["_instantiator"] = instantiate.NAME

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.frozen_features is not None:
            self.frozen_features.clear()
        saved = checkpoint.get(KEY, {})
        self.numbers, self.numbers_step = saved.get("numbers", {}), saved.get("numbers_step")
        self.start = self.start or saved.get("start")
        fit_averaged(checkpoint.get("state_dict", {}), self.averaged is not None)
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, GranularityData):
            data.fit_checkpoint(checkpoint)
        if self._trainer is not None and self._trainer.training:
            warn_of_changed_settings(self, checkpoint)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        check_precision(self.trainer.precision)
        # A fused step undoes the loss scale inside itself, after the gradients have been clipped.
        fused = self.trainer.gradient_clip_val is None or getattr(self.trainer.precision_plugin, "scaler", None) is None
        optimizer = adamw(self, self.new_modules(), self.optim, fused)
        schedule = warmup_cosine(optimizer, self.optim, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
