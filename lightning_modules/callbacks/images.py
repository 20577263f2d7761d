"""Draws fixed validation samples during training: attention, similarities, retrieval.

Only the first rank draws, and only where a logger shows images (``boards.all_boards``). An image that cannot be drawn
never ends a training: it is reported once, and there are none from then on.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override

from datamodules.batch import Batch
from datamodules.reading.text_notes import FirstSamples
from eval.drawing.canvas import png
from lightning_modules.boards import images
from lightning_modules.boards.all_boards import Boards
from lightning_modules.boards.projector import embedding_table
from lightning_modules.boards.snapshot import Snapshot, differing, first_samples, looking
from lightning_modules.callbacks.diagnostics import Diagnostics
from lightning_modules.methods.base import Method

logger = logging.getLogger("grainclip")


class SampleImages(Callback):
    """Attention, boxes, similarity matrices, galleries, targets and embeddings of the first validation samples.

    They are drawn before training, after each validation, every ``every_n_steps`` steps and at the end.

    Args:
        every_n_steps: optimiser's steps between two drawings. 0: no images at all.
        samples: number of samples, chosen to differ, that are drawn; retrieval is among the whole first batch.

    Raises:
        ValueError: where a number is out of range.
    """

    def __init__(self, every_n_steps: int = 500, samples: int = 2) -> None:
        if every_n_steps < 0:
            raise ValueError(f"images.every_n_steps must be at least 0, got {every_n_steps}")
        if samples < 1:
            raise ValueError(f"images.samples must be at least 1, got {samples}")
        self.every_n_steps, self.samples = every_n_steps, samples
        self._samples: FirstSamples | None = None
        self._chosen: list[int] = []
        self._boards = Boards([])
        self._last = -1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        begun = trainer.global_step > 0  # and drawn by the run that this one goes on from
        self._samples, self._last = None, trainer.global_step if begun else -1
        if not (self.every_n_steps and trainer.is_global_zero and isinstance(pl_module, Method)):
            return
        self._boards = Boards(trainer.loggers, ("images", "embeddings"))
        if not self._boards.show("images"):
            return
        if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
            logger.info("no images: the weights are spread over ranks")
            return
        self._samples = first_samples(trainer)
        if self._samples is not None:
            self._chosen = differing(self._samples.batch, self.samples)
            if not begun:
                self._draw(trainer, pl_module, last=False)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self._samples is not None and step % self.every_n_steps == 0 and step != self._last:
            self._draw(trainer, pl_module, last=False)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.global_step != self._last:
            self._draw(trainer, pl_module, last=False)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, last=True)
        self._samples = None

    def _draw(self, trainer: Trainer, pl_module: LightningModule, last: bool) -> None:
        """Draw now, where this rank draws at all; ``last`` ends the training."""
        if self._samples is None or not isinstance(pl_module, Method):
            return
        step = trainer.global_step
        data: Any = vars(trainer)["datamodule"]
        try:
            with looking(pl_module, self._samples) as snapshot:
                for callback in vars(trainer)["callbacks"]:
                    if isinstance(callback, Diagnostics):
                        callback.join(trainer, snapshot, last)
                if step != self._last:
                    for tag, figure in self._figures(pl_module, snapshot, step, data.label_names()):
                        self._boards.image(tag, png(figure), step)
                if last and self._boards.show("embeddings"):
                    self._boards.embeddings("embeddings", embedding_table(snapshot), step)
        except Exception:
            logger.exception("no more images, this one failed")
            self._samples = None
        self._last = step

    def _figures(self, method: Method, snapshot: Snapshot, step: int, labels: tuple[str, ...]) -> images.Tagged:
        if snapshot.model.encoder.has_dense:
            yield from images.attention(snapshot, self._chosen, step)
            yield from images.boxes(snapshot, self._chosen, step, labels)
        yield from chain(
            images.similarities(snapshot, self._chosen, step),
            images.galleries(snapshot, self._chosen, step),
            images.targets(method, snapshot, self._chosen),
            images.plane(snapshot, step),
        )
