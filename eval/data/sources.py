"""Images of a benchmark: in files, parts of files, tars or arrays. Each has a name, and opens as RGB.

All are turned upright (``datamodules.image_decoding``), and boxes refer to the upright image. Where the width and
height of an annotation are those of the stored pixels instead, its boxes were drawn on these and are turned with them;
any other size is refused.

``stamp`` changes where the pixels may have changed since embeddings were cached: of a file, its size and time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.image_decoding import UNREADABLE, as_rgb, orientation, turn_box, upright_size

PixelBox = tuple[int, int, int, int]  # left, top, right, bottom
Xywh = tuple[float, float, float, float]  # x, y, width, height in pixels


@contextmanager
def image_errors(name: object) -> Iterator[None]:
    """Turn the errors of PIL into ValueError, naming the file or image ``name``."""
    try:
        yield
    except UNREADABLE as error:
        raise ValueError(f"{name} is not an image that can be read: {error}") from error


class ImageSource(Protocol):
    """An image."""

    @property
    def name(self) -> str:
        """Unique within its data set."""
        ...

    def stamp(self) -> str:
        """Changes with the pixels."""
        ...

    def open(self) -> Image.Image:
        """RGB pixels at full resolution. Raises ValueError, naming the file, where it cannot be read."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """A file; ``name`` is its path below the folder of the images.

    ``size`` is the width and height in pixels that ``size_source`` gives, if any: boxes rely on it.
    """

    file: Path
    name: str
    size: tuple[int, int] | None = None
    size_source: str = "its annotation"

    def stamp(self) -> str:
        """From the file's name, size and time."""
        status = self.file.stat()
        return f"{self.name} {status.st_size} {status.st_mtime_ns}"

    def open(self) -> Image.Image:
        """The upright image in RGB. Raises ValueError as ``open_turned`` does."""
        return self.open_turned()[0]

    def open_turned(self) -> tuple[Image.Image, int]:
        """The upright image in RGB, and the orientation by which its annotation's boxes must be turned, mostly 1.

        Raises ValueError where it cannot be read, or has another size than its annotation says.
        """
        with image_errors(self.file), Image.open(self.file) as file:
            stored, upright, turn = file.size, upright_size(file), orientation(file)
            image = as_rgb(file)
        if self.size in (None, upright):
            return image, 1
        if self.size != stored:
            expected, got = (f"{width}×{height}" for width, height in (self.size, upright))
            raise ValueError(f"{self.file} must have {expected} pixels, as {self.size_source} says, got {got}")
        return image, turn


@dataclass(frozen=True)
class Crop:
    """A part of a file, in pixels; PIL fills what lies outside the image with black."""

    whole: ImageFile
    box: PixelBox

    @property
    def name(self) -> str:
        """The file's name and the box."""
        return f"{self.whole.name} {self.box}"

    def stamp(self) -> str:
        """From the file's stamp and the box."""
        return f"{self.whole.stamp()} {self.box}"

    def open(self) -> Image.Image:
        """RGB pixels of the box."""
        image, turn = self.whole.open_turned()
        if turn == 1:
            return image.crop(self.box)
        width, height = self.whole.size or image.size
        left, top, right, bottom = self.box
        turned = turn_box((left / width, top / height, right / width, bottom / height), turn)
        sides = (*image.size, *image.size)
        left, top, right, bottom = (round(v * side) for v, side in zip(turned, sides, strict=True))
        return image.crop((left, top, right, bottom))


@dataclass(frozen=True)
class TarMember:
    """An image within a tar that is not compressed: ``size`` bytes from ``offset`` on."""

    tar: Path
    name: str
    offset: int
    size: int

    def stamp(self) -> str:
        """From the tar's size and time, and the position in it."""
        status = self.tar.stat()
        return f"{self.name} {self.offset} {self.size} {status.st_size} {status.st_mtime_ns}"

    def open(self) -> Image.Image:
        """RGB pixels. Raises ValueError, naming the tar, where they cannot be read."""
        with image_errors(f"{self.tar}: {self.name}"), self.tar.open("rb") as file:
            file.seek(self.offset)
            return as_rgb(Image.open(io.BytesIO(file.read(self.size))))


@dataclass(frozen=True)
class EncodedImage:
    """An image file's bytes in memory."""

    name: str
    data: bytes

    def stamp(self) -> str:
        """From the bytes."""
        return f"{self.name} {hashlib.sha256(self.data).hexdigest()}"

    def open(self) -> Image.Image:
        """RGB pixels. Raises ValueError, naming the image, where they cannot be read."""
        with image_errors(self.name):
            return as_rgb(Image.open(io.BytesIO(self.data)))


@dataclass(frozen=True)
class ImagePixels:
    """RGB pixels in memory."""

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]

    def stamp(self) -> str:
        """From the pixels."""
        return f"{self.name} {hashlib.sha256(self.pixels.tobytes()).hexdigest()}"

    def open(self) -> Image.Image:
        """The image."""
        return Image.fromarray(self.pixels)
