"""A data set's boxes as shards store them: fractions of the image's sides, cut to the picture.

What cannot be a box of the image raises ``LeftOut``: no area, outside the image, or in the other unit. The unit is
judged by size: the coordinates of a box in fractions, even of one that overhangs, stay below 2; a box in pixels that
lies in the image's first pixel is no box anyone drew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar

from datamodules.formats.coco import CocoBox
from datamodules.prepare.rejected import LeftOut, Rejects

Box: TypeAlias = tuple[float, float, float, float]

T = TypeVar("T")

_LARGEST_FRACTION = 2.0


def usable(
    items: Iterable[T], to_box: Callable[[T], Box], rejects: Rejects, name: Callable[[T], object]
) -> Iterator[tuple[T, Box]]:
    """Those of ``items`` that ``to_box`` makes a box of, and the box. The others are counted under their ``name``."""
    for item in items:
        try:
            box = to_box(item)
        except LeftOut as left:
            rejects.add(left.reason, name(item))
        else:
            yield item, box


def from_pixels(corners: Sequence[float], width: float, height: float) -> Box:
    """``[x0, y0, x1, y1]`` in pixels of an image of ``width`` × ``height``, as fractions."""
    if min(corners) >= 0 and max(corners) <= 1 and _has_area(corners):
        raise LeftOut("box in fractions, not pixels")
    x0, y0, x1, y1 = corners
    return _cut((x0 / width, y0 / height, x1 / width, y1 / height))


def from_fractions(corners: Sequence[float]) -> Box:
    """``[x0, y0, x1, y1]``, fractions already."""
    if max(map(abs, corners)) > _LARGEST_FRACTION:
        raise LeftOut("box in pixels, not fractions")
    return _cut(corners)


def leave_out_boxes(boxes: Iterable[CocoBox], rejects: Rejects) -> None:
    """Count boxes of an image that is left out."""
    for box in boxes:
        rejects.add("crowd box" if box.crowd else "box of an image left out", box.id)


def drawn_box(box: CocoBox, size: tuple[float, float]) -> Box:
    """``box`` in fractions of an image of ``size``. Raises ``LeftOut`` for a crowd's box, or none of the picture."""
    if box.crowd:
        raise LeftOut("crowd box")
    return from_pixels(box.corners, *size)


def _has_area(corners: Sequence[float]) -> bool:
    x0, y0, x1, y1 = corners
    return x0 < x1 and y0 < y1


def _cut(corners: Sequence[float]) -> Box:
    if not _has_area(corners):
        raise LeftOut("box without area")
    x0, y0, x1, y1 = (round(min(max(value, 0.0), 1.0), 6) for value in corners)
    if not _has_area((x0, y0, x1, y1)):
        raise LeftOut("box outside the image")
    return x0, y0, x1, y1
