"""Read COCO's annotation files: captions, instances and proposals, each field checked before it is used.

Any data set in COCO's layout will do; ``width``, ``height`` and ``iscrowd`` may be missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from datamodules.formats import layout
from datamodules.formats.layout import AnnotationFile, Rule
from datamodules.sample import Box

ImageId: TypeAlias = int | str

_SCORE = Rule("a number (all boxes have a score, or none has)", layout.is_number)


class CocoImage(NamedTuple):
    """A row of ``images``. ``size`` is width and height in pixels, None where the file does not give both."""

    id: ImageId
    file_name: str
    size: tuple[float, float] | None


class CocoBox(NamedTuple):
    """A row of ``annotations``: ``corners`` x0, y0, x1, y1 in pixels; ``crowd`` where it outlines a group.

    A proposal has no ``label``.
    """

    id: ImageId
    label: str | None
    corners: Box
    crowd: bool


def read_captions(path: Path) -> tuple[list[CocoImage], dict[ImageId, list[str]]]:
    """The images of a ``captions_*.json`` in the file's order, and each one's captions in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, or a field is missing, of the wrong type, or doubled.
    """
    file, sides = AnnotationFile(path), {"width": layout.PIXELS_OR_NONE, "height": layout.PIXELS_OR_NONE}
    images = []
    for number, row in file.by_id("images", {"id": layout.ID, "file_name": layout.PATH, **sides}).items():
        width, height = row.get("width"), row.get("height")
        images.append(CocoImage(number, row["file_name"], (width, height) if width and height else None))
    captions: dict[ImageId, list[str]] = {}
    for row in file.rows("annotations", {"image_id": layout.ID, "caption": layout.CAPTION}):
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return images, captions


def read_boxes(path: Path) -> tuple[list[str], dict[ImageId, list[CocoBox]]]:
    """The category names of an ``instances_*.json``, and the boxes of each image, all in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, a field is missing or of the wrong type, or a box names an unknown category.
    """
    file = AnnotationFile(path)
    names = {row["id"]: row["name"] for row in file.rows("categories", {"id": layout.ID, "name": layout.NAME})}
    boxes: dict[ImageId, list[CocoBox]] = {}
    fields = {"image_id": layout.ID, "category_id": layout.ID, "bbox": layout.XYWH}
    for index, row in enumerate(file.rows("annotations", fields)):
        file.refer(f"annotations[{index}].category_id", row["category_id"], names, "categories")
        boxes.setdefault(row["image_id"], []).append(as_box(row, index, names[row["category_id"]]))
    return list(names.values()), boxes


def read_proposals(path: Path) -> dict[ImageId, list[CocoBox]]:
    """Each image's class-agnostic boxes, the highest ``score`` first; in the file's order where there are no scores.

    The file is laid out as instances are; categories are not read and may be missing.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, a field is missing or of the wrong type, or some boxes only have a score.
    """
    rows = list(AnnotationFile(path).rows("annotations", {"image_id": layout.ID, "bbox": layout.XYWH}))
    if any("score" in row for row in rows):
        for index, row in enumerate(rows):
            _SCORE.check(f"{path}: 'annotations[{index}].score'", row.get("score"))
    boxes: dict[ImageId, list[CocoBox]] = {}
    for index, row in sorted(enumerate(rows), key=lambda numbered: -numbered[1].get("score", 0)):
        boxes.setdefault(row["image_id"], []).append(as_box(row, index, None))
    return boxes


def as_box(row: dict[str, Any], index: int, label: str | None) -> CocoBox:
    """The box of a checked row of ``annotations``; its id is its index in the list where it has none."""
    x, y, width, height = row["bbox"]
    return CocoBox(row.get("id", index), label, (x, y, x + width, y + height), bool(row.get("iscrowd")))
