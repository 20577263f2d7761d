"""Pictures of fixed validation samples in TensorBoard while a model trains: what it looks at, confuses and finds.

Only the first rank draws, and only where there is a TensorBoard logger to take the pictures. A picture that cannot be
drawn never ends a training: it is reported once, and there are none from then on.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from matplotlib.figure import Figure
from tensorboard.compat.proto import summary_pb2
from typing_extensions import override

from datamodules.batch import Batch
from eval.drawing.canvas import png
from lightning_modules.base import Method
from lightning_modules.callbacks.diagnostics import Diagnostics
from lightning_modules.dashboards import pictures
from lightning_modules.dashboards.projector import add_embeddings
from lightning_modules.dashboards.seen import Seen, first_samples, looking

logger = logging.getLogger("grainclip")
MESSAGES: Any = summary_pb2  # its classes are made when it is imported


class Pictures(Callback):
    """Attention, boxes, similarity matrices, galleries, targets and embeddings of the first validation samples.

    Args:
        every_n_steps: optimiser's steps between two drawings; one more is made at the end. 0: none at all.
        samples: how many samples are drawn one by one; matrices and galleries show as many, retrieval is among the
            whole first batch.

    Raises:
        ValueError: where a number is out of range.
    """

    def __init__(self, every_n_steps: int = 500, samples: int = 2) -> None:
        if every_n_steps < 0:
            raise ValueError(f"pictures.every_n_steps must be at least 0, got {every_n_steps}")
        if samples < 1:
            raise ValueError(f"pictures.samples must be at least 1, got {samples}")
        self.every_n_steps, self.samples = every_n_steps, samples
        self._batch: Batch | None = None
        self._last = -1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batch, self._last = None, trainer.global_step
        if self.every_n_steps and trainer.is_global_zero and _writer(trainer) is not None:
            if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
                logger.info("no pictures in TensorBoard: the weights are spread over ranks")
            elif isinstance(pl_module, Method):
                self._batch = first_samples(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self._batch is not None and step % self.every_n_steps == 0 and step != self._last:
            self._draw(trainer, pl_module, last=False)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._batch is not None:
            self._draw(trainer, pl_module, last=True)
        self._batch = None

    def _draw(self, trainer: Trainer, pl_module: LightningModule, last: bool) -> None:
        assert isinstance(pl_module, Method)
        assert self._batch is not None
        writer, step = _writer(trainer), trainer.global_step
        data: Any = vars(trainer)["datamodule"]
        try:
            with looking(pl_module, self._batch) as seen:
                for one in vars(trainer)["callbacks"]:
                    if isinstance(one, Diagnostics):
                        one.join(trainer, seen, last)
                if step != self._last:
                    for tag, figure in self._figures(pl_module, seen, step, data.label_names()):
                        _add(writer, tag, figure, step)
                if last:
                    add_embeddings(writer, seen, step)
        except Exception:
            logger.exception("no more pictures in TensorBoard, this one failed")
            self._batch = None
        self._last = step

    def _figures(self, method: Method, seen: Seen, step: int, labels: tuple[str, ...]) -> pictures.Tagged:
        samples = min(self.samples, len(seen.batch.images))
        yield from chain(
            pictures.attention(seen, samples, step),
            pictures.boxes(seen, samples, step, labels),
            pictures.similarities(seen, samples, step),
            pictures.galleries(seen, samples, step),
            pictures.targets(method, seen, samples),
            pictures.plane(seen, step),
        )


def _add(writer: Any, tag: str, figure: Figure, step: int) -> None:
    """As ``add_image`` does, which takes its time to make the file a little smaller."""
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    kind = MESSAGES.Summary
    image = kind.Image(height=height, width=width, colorspace=3, encoded_image_string=png(figure))
    writer.file_writer.add_summary(kind(value=[kind.Value(tag=tag, image=image)]), step)


def _writer(trainer: Trainer) -> Any:
    """TensorBoard's writer; None where none is set up."""
    found = [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]
    return found[0].experiment if found else None
