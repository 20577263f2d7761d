"""Pictures as they go into shards: the file's own bytes, looked into far enough to know that a reader can open them, or
a smaller copy.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datamodules.prepare.rejects import LeftOut
from datamodules.transforms import UNREADABLE

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
JPEG_QUALITY = 92
_SAME_SHAPE = 0.02  # how far, relatively, an image's shape may be from its annotation's


class Picture(NamedTuple):
    """An encoded image, the extension of its format, and its size in pixels."""

    data: bytes
    extension: str
    width: int
    height: int


def look_into(data: bytes, size: tuple[float, float] | None = None) -> Picture:
    """What ``data`` holds. Only the header is decoded.

    Args:
        data: an encoded image.
        size: width and height in pixels that the annotation gives. The image may be a smaller copy, but not turned or
            cropped, or the annotation's boxes would lie elsewhere.

    Raises:
        LeftOut: not an image, of a format that shards do not hold, or of another shape than ``size``.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            form, (width, height) = image.format, image.size
    except UNREADABLE as error:
        raise LeftOut("image unreadable") from error
    if form not in _EXTENSIONS:
        raise LeftOut(f"image format {form}")
    if size is not None and abs(size[0] * height / (size[1] * width) - 1) > _SAME_SHAPE:
        raise LeftOut("image shape differs from its annotation's")
    return Picture(data, _EXTENSIONS[form], width, height)


def at_most(picture: Picture, side: int) -> Picture:
    """The picture with its longer side at most ``side`` pixels, as JPEG; untouched where it is small enough.

    Raises:
        LeftOut: it cannot be decoded.
    """
    share = side / max(picture.width, picture.height)
    if share >= 1:
        return picture
    size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    try:
        with Image.open(io.BytesIO(picture.data)) as image:
            image.draft("RGB", size)
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except UNREADABLE as error:
        raise LeftOut("image unreadable") from error
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    return Picture(file.getvalue(), "jpg", *size)


def read_picture(path: Path) -> bytes:
    """The file's bytes. Raises ``LeftOut`` where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise LeftOut("image missing") from error


def require_pictures(folder: Path, names: Sequence[str], listed_in: Path) -> None:
    """See that the files ``names`` are in ``folder``. Call it before any long work.

    Raises:
        FileNotFoundError: some are not.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} images of {listed_in} are not in {folder}: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; --images must be the folder in which these names begin "
            f"(--skip_missing true leaves them out)"
        )


def sample_key(image_id: int | str) -> str:
    """The sample's key: COCO's twelve digits, or the letters and digits of an id that is no number."""
    return f"{image_id:012d}" if isinstance(image_id, int) else re.sub(r"[^\w-]", "_", image_id)
