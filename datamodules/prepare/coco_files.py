"""Read COCO's annotation files: captions, instances and proposals, each field checked before it is used.

Any data set in COCO's layout will do; ``width``, ``height`` and ``iscrowd`` may be missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from datamodules.prepare import layout
from datamodules.prepare.boxes import Box, from_pixels
from datamodules.prepare.layout import LayoutError, Rule, load_json, rows
from datamodules.prepare.rejected import LeftOut, Rejects

ImageId: TypeAlias = int | str

_SCORE = Rule("a number (all boxes have a score, or none has)", layout.is_number)


class CocoImage(NamedTuple):
    """A row of ``images``. ``size`` is width and height in pixels, None where the file does not give both."""

    id: ImageId
    file_name: str
    size: tuple[float, float] | None


class CocoBox(NamedTuple):
    """A row of ``annotations``: ``corners`` x0, y0, x1, y1 in pixels; ``crowd`` where it outlines many at once.

    A proposal has no ``label``.
    """

    id: ImageId
    label: str | None
    corners: tuple[float, float, float, float]
    crowd: bool


def read_captions(path: Path) -> tuple[list[CocoImage], dict[ImageId, list[str]]]:
    """The images of a ``captions_*.json`` in the file's order, and each one's captions in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, or a field is missing, of the wrong type, or doubled.
    """
    document = load_json(path)
    images: dict[ImageId, CocoImage] = {}
    fields = {
        **{"id": layout.ID, "file_name": layout.PATH},
        **{"width": layout.PIXELS_OR_NONE, "height": layout.PIXELS_OR_NONE},
    }
    for row in rows(path, document, "images", fields):
        width, height = row.get("width"), row.get("height")
        image = CocoImage(row["id"], row["file_name"], (width, height) if width and height else None)
        if images.setdefault(image.id, image) is not image:
            raise LayoutError(f"{path}: image ids must differ, got {image.id!r} twice in 'images'")
    captions: dict[ImageId, list[str]] = {}
    for row in rows(path, document, "annotations", {"image_id": layout.ID, "caption": layout.CAPTION}):
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return list(images.values()), captions


def read_boxes(path: Path) -> tuple[list[str], dict[ImageId, list[CocoBox]]]:
    """The category names of an ``instances_*.json``, and the boxes of each image, all in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, a field is missing or of the wrong type, or a box names an unknown category.
    """
    document = load_json(path)
    categories = rows(path, document, "categories", {"id": layout.ID, "name": layout.NAME})
    names = {row["id"]: row["name"] for row in categories}
    boxes: dict[ImageId, list[CocoBox]] = {}
    fields = {"image_id": layout.ID, "category_id": layout.ID, "bbox": layout.XYWH}
    for index, row in enumerate(rows(path, document, "annotations", fields)):
        if row["category_id"] not in names:
            where = f"{path}: 'annotations[{index}].category_id'"
            raise LayoutError(f"{where} must be the id of one of 'categories', got {row['category_id']!r}")
        boxes.setdefault(row["image_id"], []).append(as_box(row, index, names[row["category_id"]]))
    return list(names.values()), boxes


def read_proposals(path: Path) -> dict[ImageId, list[CocoBox]]:
    """Each image's class-agnostic boxes, the highest ``score`` first; in the file's order where there are no scores.

    The file is laid out as instances are; categories are not read and may be missing.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, a field is missing or of the wrong type, or some boxes only have a score.
    """
    document = load_json(path)
    found = list(rows(path, document, "annotations", {"image_id": layout.ID, "bbox": layout.XYWH}))
    if any("score" in row for row in found):
        for index, row in enumerate(found):
            _SCORE.check(f"{path}: 'annotations[{index}].score'", row.get("score"))
    boxes: dict[ImageId, list[CocoBox]] = {}
    for index, row in sorted(enumerate(found), key=lambda numbered: -numbered[1].get("score", 0)):
        boxes.setdefault(row["image_id"], []).append(as_box(row, index, None))
    return boxes


def leave_out_boxes(boxes: Iterable[CocoBox], rejects: Rejects) -> None:
    """Count boxes of an image that is left out."""
    for box in boxes:
        rejects.add("crowd box" if box.crowd else "box of an image left out", box.id)


def as_box(row: dict[str, Any], index: int, label: str | None) -> CocoBox:
    """A checked row of ``annotations``; its place in the list is its name where it has no id."""
    x, y, width, height = row["bbox"]
    return CocoBox(row.get("id", index), label, (x, y, x + width, y + height), bool(row.get("iscrowd")))


def drawn_box(box: CocoBox, size: tuple[float, float]) -> Box:
    """``box`` in fractions of an image of ``size``. Raises ``LeftOut`` for a crowd's box, or none of the picture."""
    if box.crowd:
        raise LeftOut("crowd box")
    return from_pixels(box.corners, *size)
