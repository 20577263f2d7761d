"""The batch size: per rank, or of all ranks together and divided among them.

A contrastive loss compares the images of one batch over all ranks, so the global batch size decides what is trained;
the number of ranks should not. Gradient accumulation adds the gradients of several batches, each compared by itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

logger = logging.getLogger("grainclip")


@dataclass(frozen=True)
class GlobalBatch:
    """Images ``per_rank``, or in ``total`` over all ranks; ``total`` counts where it is set."""

    per_rank: int
    total: int | None

    def of_rank(self, ranks: int) -> int:
        """Images per batch on each of ``ranks``."""
        return self.per_rank if self.total is None else self.total // ranks

    def problem(self, ranks: int) -> str | None:
        """An error message if the batch cannot be divided among so many ranks; else None."""
        if self.total is None or self.total % ranks == 0:
            return None
        return f"data.global_batch_size must be a multiple of the {ranks} ranks, got {self.total}"

    def log(self, ranks: int, parts: int) -> None:
        """Log how the batch is divided, and what losses compare where ``parts`` batches make a step."""
        all_images = self.of_rank(ranks) * ranks
        if self.total is not None:
            logger.info("batches of %d images: %d on each rank", all_images, self.of_rank(ranks))
        if parts > 1:
            logger.info(
                "gradients of %d batches make a step, but losses compare the %d images of one batch, not %d; for that "
                "raise the batch size and set model.memory.grad_cache_chunk",
                parts, all_images, parts * all_images,
            )  # fmt: skip


def warn_changed_batch(checkpoint_batch: int, run_batch: int) -> None:
    """Warn that the checkpoint's global batch differs from this run's."""
    logger.warning(
        "the checkpoint was trained in batches of %d images over all ranks, this run has %d: the losses compare "
        "others; --data.global_batch_size %d goes on as before",
        checkpoint_batch, run_batch, checkpoint_batch,
    )  # fmt: skip
