"""Images of a benchmark: in files, parts of files, tars or arrays. Each has a name, and opens as RGB.

All are turned upright (``datamodules.image_decoding``). Boxes are those of the upright image. Where the width and
height that an annotation tells are those of the stored pixels alone, its boxes were drawn on these and are turned with
them; any other size is refused.

``stamp`` tells whether the pixels may have changed since embeddings were cached: of a file its size and time.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.image_decoding import UNREADABLE, as_rgb, orientation, turn_box, upright_size

PixelBox = tuple[int, int, int, int]  # left, top, right, bottom


class Source(Protocol):
    """An image."""

    @property
    def name(self) -> str:
        """Unique within its data set."""
        ...

    def stamp(self) -> str:
        """Changes with the pixels."""
        ...

    def open(self) -> Image.Image:
        """RGB pixels at full resolution. Raises ValueError, naming the file, where it is no image."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """A file; ``name`` is its path below the folder of the images.

    ``size`` is the width and height in pixels that ``told_by`` tells, where it tells them: boxes rely on it.
    """

    file: Path
    name: str
    size: tuple[int, int] | None = None
    told_by: str = "its annotation"

    def stamp(self) -> str:
        """From the file's name, size and time."""
        found = self.file.stat()
        return f"{self.name} {found.st_size} {found.st_mtime_ns}"

    def open(self) -> Image.Image:
        """The upright image in RGB. Raises ValueError where it is no such image."""
        return self.open_turned()[0]

    def open_turned(self) -> tuple[Image.Image, int]:
        """The upright image in RGB, and the orientation by which its annotation's boxes must be turned, mostly 1.

        Raises ValueError where it is no image, or of another size than its annotation says.
        """
        try:
            with Image.open(self.file) as image:
                stored, upright, turn = image.size, upright_size(image), orientation(image)
                found = as_rgb(image)
        except UNREADABLE as error:
            raise ValueError(f"{self.file} is not an image that can be read: {error}") from error
        if self.size in (None, upright):
            return found, 1
        if self.size != stored:
            must, got = (f"{width}×{height}" for width, height in (self.size, upright))
            raise ValueError(f"{self.file} must have {must} pixels, as {self.told_by} says, got {got}")
        return found, turn


@dataclass(frozen=True)
class Crop:
    """A part of a file, in pixels; PIL fills what lies outside the image with black."""

    whole: ImageFile
    box: PixelBox

    @property
    def name(self) -> str:
        """The file's, and the box."""
        return f"{self.whole.name} {self.box}"

    def stamp(self) -> str:
        """That of the file, and the box."""
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
        """From the tar's size and time, and the place in it."""
        found = self.tar.stat()
        return f"{self.name} {self.offset} {self.size} {found.st_size} {found.st_mtime_ns}"

    def open(self) -> Image.Image:
        """RGB pixels; ValueError, naming the tar, where it is no image."""
        try:
            with self.tar.open("rb") as file:
                file.seek(self.offset)
                return as_rgb(Image.open(io.BytesIO(file.read(self.size))))
        except UNREADABLE as error:
            raise ValueError(f"{self.tar}: {self.name} is not an image that can be read: {error}") from error


@dataclass(frozen=True)
class Encoded:
    """A file's bytes in memory."""

    name: str
    data: bytes

    def stamp(self) -> str:
        """From the bytes."""
        return f"{self.name} {hashlib.sha256(self.data).hexdigest()}"

    def open(self) -> Image.Image:
        """RGB pixels; ValueError, naming it, where it is no image."""
        try:
            return as_rgb(Image.open(io.BytesIO(self.data)))
        except UNREADABLE as error:
            raise ValueError(f"{self.name} is not an image that can be read: {error}") from error


@dataclass(frozen=True)
class Pixels:
    """An image in memory."""

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]

    def stamp(self) -> str:
        """From the pixels."""
        return f"{self.name} {hashlib.sha256(self.pixels.tobytes()).hexdigest()}"

    def open(self) -> Image.Image:
        """The image."""
        return Image.fromarray(self.pixels)
