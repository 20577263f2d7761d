"""Image outputs of the loggers: TensorBoard, ``log_image`` (Weights & Biases), PNG files beside a CSV file."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from tensorboard.compat.proto import summary_pb2

MESSAGES: Any = summary_pb2  # its classes are made when it is imported
Sink = Callable[[str, bytes, int], None]  # tag, PNG file, step


def image_sinks(loggers: Iterable[Logger]) -> tuple[list[Sink], list[str]]:
    """An image output for each logger that takes images, and the class names of the loggers that take none."""
    sinks: list[Sink] = []
    without = []
    for logger in loggers:
        if isinstance(logger, DummyLogger):  # of a trial run, which logs nothing
            continue
        if isinstance(logger, TensorBoardLogger):
            sinks.append(_to_tensorboard(logger))
        elif isinstance(logger, CSVLogger):
            sinks.append(_to_folder(Path(logger.log_dir) / "images"))
        elif callable(log_image := getattr(logger, "log_image", None)):
            sinks.append(_to_log_image(log_image))
        else:
            without.append(type(logger).__name__)
    return sinks, without


def _to_tensorboard(logger: TensorBoardLogger) -> Sink:
    """Writes a PNG file as it is; the writer's ``add_image`` would compress it again, slowly."""

    def write(tag: str, png: bytes, step: int) -> None:
        width, height = Image.open(io.BytesIO(png)).size
        kind = MESSAGES.Summary
        image = kind.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        writer: Any = logger.experiment.file_writer
        writer.add_summary(kind(value=[kind.Value(tag=tag, image=image)]), step)

    return write


def _to_log_image(log_image: Callable[..., Any]) -> Sink:
    def write(tag: str, png: bytes, step: int) -> None:
        log_image(key=tag, images=[Image.open(io.BytesIO(png)).convert("RGB")], step=step)

    return write


def _to_folder(folder: Path) -> Sink:
    """``images/attention/sample_1/step-00000440.png``."""

    def write(tag: str, png: bytes, step: int) -> None:
        tag_folder = folder.joinpath(*(re.sub(r"[^0-9A-Za-z._-]+", "_", part) for part in tag.split("/")))
        tag_folder.mkdir(parents=True, exist_ok=True)
        (tag_folder / f"step-{step:08d}.png").write_bytes(png)

    return write
