"""Decode images in the same way everywhere: upright, in RGB, the first frame, transparency over white.

Orientation: an image is turned as its EXIF (or XMP) orientation says, as every viewer and annotation tool shows it, and
boxes are those of the upright image. The header alone tells orientation and size, so a JPEG can still be drafted, that
is decoded at a smaller scale, before it is turned.

Colours: PIL clips 16-bit grey at 255, so that it becomes white, and drops the alpha channel; ``as_rgb`` scales the grey
values and blends transparent pixels with white.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from datamodules.sample import Box, SampleError

MIN_SIDE = 8  # pixels; below this an image holds nothing to learn from
MAX_PIXELS = 178_956_970  # PIL's own bound against decompression bombs

UNREADABLE = (  # what PIL raises on damaged and on malicious files
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

_UPRIGHT = 1
_SWAPPED = (5, 6, 7, 8)  # orientations whose width is the upright image's height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_RANGES = (1, 255, 65535)  # white of floating-point, 8-bit and 16-bit grey


def open_image(data: bytes) -> Image.Image:
    """Open encoded bytes without decoding the pixels; ``SampleError`` if they are no image or its size is absurd."""
    try:
        image = Image.open(io.BytesIO(data))
    except UNREADABLE as error:
        raise SampleError("image", f"not an image that PIL can read ({len(data)} bytes): {error}") from error
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise SampleError("image", f"the image has {width}×{height} pixels; each side must have at least {MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise SampleError("image", f"the image has {width}×{height} pixels; at most {MAX_PIXELS} are accepted")
    return image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8, by which the stored pixels must be turned; 1 where there is none.

    A PNG is decoded for it, since its EXIF may stand behind the pixels; raises what PIL raises on damaged pixels.
    """
    if image.format == "TIFF":  # PIL turns it itself
        return _UPRIGHT
    if image.format == "PNG":
        image.load()
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    except (*UNREADABLE, AttributeError):  # damaged EXIF, the pixels may be whole
        return _UPRIGHT
    return value if isinstance(value, int) and value in _TURNS else _UPRIGHT


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the upright image in pixels."""
    return turned_size(image.size, orientation(image))


def turned_size(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """Width and height of an image of ``size`` once it is turned by orientation ``turn``."""
    return (size[1], size[0]) if turn in _SWAPPED else size


def draft(image: Image.Image, size: tuple[int, int]) -> None:
    """Let a JPEG be decoded at the smallest scale that still covers ``size``, width and height of the upright image."""
    image.draft("RGB", turned_size(size, orientation(image)))


def as_rgb(image: Image.Image) -> Image.Image:
    """The upright image in RGB, the first frame of an animated one.

    16-bit grey (``I;16``) is scaled by 65535. The modes ``I`` and ``F`` have no white of their own: they are scaled by
    the smallest of 1, 255 and 65535 that holds all values, or from their least value to their largest. Transparency,
    that of palettes too, is laid over white.

    Raises:
        one of ``UNREADABLE``: the pixels are damaged, or not finite.
    """
    image.load()
    turn = _TURNS.get(orientation(image))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        rgb = Image.fromarray(_grey_levels(image)).convert("RGB")
    elif image.has_transparency_data:
        covered = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(covered, mask=covered.getchannel("A"))
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _grey_levels(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("its pixels must be finite numbers")
    low, high = 0.0, 65535.0
    if image.mode in ("I", "F"):
        low, high = float(values.min()), float(values.max())
        ranges = _GREY_RANGES[1:] if image.mode == "I" else _GREY_RANGES
        low, high = next(((0.0, float(white)) for white in ranges if low >= 0 and high <= white), (low, high))
    levels = ((values - low) * (255 / ((high - low) or 1)) + 0.5).astype(np.uint8)
    transparent = image.info.get("transparency")
    return np.where(values == transparent, np.uint8(255), levels) if isinstance(transparent, int) else levels


def turn_box(box: Box, turn: int) -> Box:
    """A box x0, y0, x1, y1 in fractions of the stored image, as fractions of the image turned by ``turn``."""
    x0, y0, x1, y1 = box
    if turn in (2, 3):
        x0, x1 = 1 - x1, 1 - x0
    if turn in (3, 4):
        y0, y1 = 1 - y1, 1 - y0
    if turn in _SWAPPED:
        x0, y0, x1, y1 = y0, x0, y1, x1
    if turn in (6, 7):
        x0, x1 = 1 - x1, 1 - x0
    if turn in (7, 8):
        y0, y1 = 1 - y1, 1 - y0
    return x0, y0, x1, y1
