"""Images as they go into shards: the file's own bytes, decoded once to know that they are whole, or a smaller copy.

Boxes in shards are fractions of the upright image, as training reads it (``datamodules.image_decoding``). A data set's
boxes are taken for the upright image's. Where its width and height are those of the stored pixels alone, the boxes were
drawn on these, and are turned with them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datamodules.image_decoding import UNREADABLE, as_rgb, draft, open_image, orientation, turn_box, upright_size
from datamodules.prepare.rejected import IMAGE_MISSING, Rejected
from datamodules.sample import Box, SampleError

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
JPEG_QUALITY = 92
_SAME_SHAPE = 0.02  # how far, relatively, an image's shape may be from its annotation's


class CheckedImage(NamedTuple):
    """An encoded image, the extension of its format, and the size of the upright image in pixels.

    ``turn`` is the orientation by which the data set's boxes must be turned: 1 where they are the upright image's.
    """

    data: bytes
    extension: str
    width: int
    height: int
    turn: int = 1

    def upright(self, box: Box) -> Box:
        """A box of the data set, in fractions, as one of the upright image."""
        if self.turn == 1:
            return box
        x0, y0, x1, y1 = (round(value, 6) for value in turn_box(box, self.turn))
        return x0, y0, x1, y1


def check_image(data: bytes, size: tuple[float, float] | None = None) -> CheckedImage:
    """The image in ``data`` with its type and size. It is decoded to its end, a JPEG at an eighth of its size.

    Args:
        data: an encoded image.
        size: width and height in pixels that the annotation gives. The image may be a smaller copy, and stored turned
            if its EXIF orientation says so, but not cropped, or the annotation's boxes would lie elsewhere.

    Raises:
        Rejected: not an image, cut or damaged, of a format that shards do not hold, too small or too large for
            training, or of another shape than ``size``.
    """
    try:
        image = open_image(data)
        format_name, stored, upright, turn = image.format, image.size, upright_size(image), orientation(image)
        if format_name not in EXTENSIONS:
            raise Rejected(f"image format {format_name}")
        draft(image, (1, 1))
        image.load()
    except SampleError as error:
        raise Rejected("image unreadable") from error
    except UNREADABLE as error:
        raise Rejected("image cut or damaged") from error
    boxes_turn = 1
    if size is not None:
        misfit, misfit_stored = (_misfit(size, pixels) for pixels in (upright, stored))
        if min(misfit, misfit_stored) > _SAME_SHAPE:
            raise Rejected("image shape differs from its annotation's")
        boxes_turn = turn if misfit_stored < misfit else 1
    return CheckedImage(data, EXTENSIONS[format_name], *upright, boxes_turn)


def _misfit(size: tuple[float, float], pixels: tuple[int, int]) -> float:
    """Relative difference of the aspect ratios of ``size`` and ``pixels``."""
    return abs(size[0] * pixels[1] / (size[1] * pixels[0]) - 1)


def shrink_to(encoded: CheckedImage, side: int) -> CheckedImage:
    """The image with its longer side at most ``side`` pixels, as an upright JPEG; untouched where it is small enough.

    Raises:
        Rejected: it cannot be decoded.
    """
    scale = side / max(encoded.width, encoded.height)
    if scale >= 1:
        return encoded
    size = max(1, round(encoded.width * scale)), max(1, round(encoded.height * scale))
    try:
        image = open_image(encoded.data)
        draft(image, size)
        small = as_rgb(image).resize(size, Image.Resampling.LANCZOS)
    except UNREADABLE as error:
        raise Rejected("image cut or damaged") from error
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    return CheckedImage(file.getvalue(), "jpg", *size, encoded.turn)


def read_image(path: Path) -> bytes:
    """The file's bytes. Raises ``Rejected`` where there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Rejected(IMAGE_MISSING) from error


def require_images(files: Iterable[Path], listed_in: Path) -> None:
    """Check before any long work that the image ``files``, which ``listed_in`` names, exist.

    Raises:
        FileNotFoundError: some are missing; the message has their number and the first of them.
    """
    total, missing, first = 0, 0, Path()
    for file in files:
        total += 1
        if not file.is_file():
            first = file if missing == 0 else first
            missing += 1
    if missing:
        raise FileNotFoundError(
            f"{missing} of the {total} images of {listed_in.name} are missing, such as {first}; --images must be the "
            "folder in which their names begin (--skip_missing true leaves them out)"
        )


def sample_key(image_id: int | str) -> str:
    """The sample's key: COCO's twelve digits, or the letters and digits of an id that is no number."""
    return f"{image_id:012d}" if isinstance(image_id, int) else re.sub(r"[^\w-]", "_", image_id)
