"""A data set's boxes as shards store them: fractions of the image's sides, clipped to the image.

What cannot be a box of the image raises ``Rejected``: no area, outside the image, or in the other unit. The unit is
judged by size: the coordinates of a box in fractions, even of one that overhangs, stay below 2; a box in pixels that
lies in the image's first pixel is no box anyone drew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from datamodules.formats.coco import CocoBox
from datamodules.prepare.rejected import Rejected, Rejects
from datamodules.sample import Box

T = TypeVar("T")

_LARGEST_FRACTION = 2.0


def usable_boxes(
    items: Iterable[T], to_box: Callable[[T], Box], rejects: Rejects, name: Callable[[T], object]
) -> Iterator[tuple[T, Box]]:
    """Each item that ``to_box`` makes a box of, with the box. The others are counted under their ``name``."""
    for item in items:
        try:
            box = to_box(item)
        except Rejected as error:
            rejects.add(error.reason, name(item))
        else:
            yield item, box


def from_pixels(corners: Sequence[float], width: float, height: float) -> Box:
    """``[x0, y0, x1, y1]`` in pixels of an image of ``width`` × ``height``, as fractions. Raises ``Rejected``."""
    if min(corners) >= 0 and max(corners) <= 1 and _has_area(corners):
        raise Rejected("box in fractions, not pixels")
    x0, y0, x1, y1 = corners
    return _clipped((x0 / width, y0 / height, x1 / width, y1 / height))


def from_fractions(corners: Sequence[float]) -> Box:
    """``[x0, y0, x1, y1]``, fractions already. Raises ``Rejected``."""
    if max(map(abs, corners)) > _LARGEST_FRACTION:
        raise Rejected("box in pixels, not fractions")
    return _clipped(corners)


def from_coco(box: CocoBox, size: tuple[float, float]) -> Box:
    """``box`` in fractions of an image of ``size``, width and height. Raises ``Rejected``, for a crowd's box too."""
    if box.crowd:
        raise Rejected("crowd box")
    return from_pixels(box.corners, *size)


def reject_boxes(boxes: Iterable[CocoBox], rejects: Rejects) -> None:
    """Count the boxes of an image that is left out."""
    for box in boxes:
        rejects.add("crowd box" if box.crowd else "box of an image left out", box.id)


def _has_area(corners: Sequence[float]) -> bool:
    x0, y0, x1, y1 = corners
    return x0 < x1 and y0 < y1


def _clipped(corners: Sequence[float]) -> Box:
    if not _has_area(corners):
        raise Rejected("box without area")
    x0, y0, x1, y1 = (round(min(max(value, 0.0), 1.0), 6) for value in corners)
    if not _has_area((x0, y0, x1, y1)):
        raise Rejected("box outside the image")
    return x0, y0, x1, y1
