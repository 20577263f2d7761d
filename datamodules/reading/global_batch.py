"""The batch size: of each rank, or of all ranks together and divided among them.

A contrastive loss compares the images of one batch over all ranks, so this number belongs to the training; the number
of ranks should not. Accumulated gradients are of several such batches, each compared apart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

logger = logging.getLogger("grainclip")


@dataclass(frozen=True)
class GlobalBatch:
    """``each`` rank's images, or ``whole``, those of all ranks together, which then counts."""

    each: int
    whole: int | None

    def on(self, ranks: int) -> int:
        """Images per batch on each of ``ranks``."""
        return self.each if self.whole is None else self.whole // ranks

    def complaint(self, ranks: int) -> str | None:
        """An error message if the batch cannot be divided among so many ranks; else None."""
        if self.whole is None or self.whole % ranks == 0:
            return None
        return f"data.global_batch_size must be a multiple of the {ranks} ranks, got {self.whole}"

    def tell(self, ranks: int, parts: int) -> None:
        """Say how it is shared out, and what losses compare where ``parts`` batches make a step."""
        all_images = self.on(ranks) * ranks
        if self.whole is not None:
            logger.info("batches of %d images: %d on each rank", all_images, self.on(ranks))
        if parts > 1:
            logger.info(
                "gradients of %d batches make a step, but losses compare the %d images of one batch, not %d; for that "
                "raise the batch size and set model.memory.grad_cache_chunk",
                parts, all_images, parts * all_images,
            )  # fmt: skip


def tell_of_another(checkpoint_batch: int, run_batch: int) -> None:
    """Say that a checkpoint's global batch was another one."""
    logger.warning(
        "the checkpoint was trained in batches of %d images over all ranks, this run has %d: the losses compare "
        "others; --data.global_batch_size %d goes on as before",
        checkpoint_batch, run_batch, checkpoint_batch,
    )  # fmt: skip
