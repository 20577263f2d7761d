"""Tells of a feature cache that is of no use: the second pass over the training data brought none of the same pixels.

Counted are the images of training steps. Those of validation come again in any case, and gradient caching embeds each
part of a batch again in the backward pass.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lightning import Callback, Trainer
from torch import Tensor
from typing_extensions import override

from datamodules.batch import Batch

if TYPE_CHECKING:
    from lightning_modules.methods.base import Method
    from lightning_modules.networks.frozen_features import FrozenFeatures

logger = logging.getLogger("grainclip")


class FeatureCacheCheck(Callback):
    """Counts the images that came again in a training pass; a `Method` with a feature cache adds this callback itself.

    Args:
        cache: the method's.
    """

    def __init__(self, cache: FrozenFeatures) -> None:
        self.cache = cache
        self._passes = 0  # that began with their first batch; a resumed one may not
        self._came_again = self._found_before = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._passes = 0

    @override
    def on_train_batch_start(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, trainer: Trainer, pl_module: Method, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._passes, self._came_again = self._passes + 1, 0
        self._found_before = self.cache.found

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: Method, loss: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._came_again += self.cache.found - self._found_before

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Method) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        second_is_whole = self._passes == 2 and trainer.is_last_batch
        if second_is_whole and self._came_again == 0 and trainer.is_global_zero:
            logger.warning(
                "freeze.feature_cache_gib: no image came again with the same pixels; random crops make other ones each "
                "time (datamodules.Squash does not, nor datamodules.RandomCrop with views)"
            )
