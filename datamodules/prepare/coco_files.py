"""Read COCO's annotation files: captions and instances, each field checked before it is used.

Any data set in COCO's layout will do; ``width``, ``height`` and ``iscrowd`` may be missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

ImageId: TypeAlias = int | str


class LayoutError(ValueError):
    """A file is not laid out as COCO's; the message names the file, the field and the rule."""


class CocoImage(NamedTuple):
    """A row of ``images``. Sizes are in pixels, None where the file gives none."""

    id: ImageId
    file_name: str
    width: int | None
    height: int | None


class CocoBox(NamedTuple):
    """A row of an instances file's ``annotations``; ``xywh`` in pixels, ``crowd`` where it outlines many at once."""

    id: ImageId
    label: str
    xywh: tuple[float, float, float, float]
    crowd: bool


def read_captions(path: Path) -> tuple[list[CocoImage], dict[ImageId, list[str]]]:
    """The images of a ``captions_*.json`` in the file's order, and each one's captions in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, or a field is missing, of the wrong type, or doubled.
    """
    document = _load(path)
    images: dict[ImageId, CocoImage] = {}
    for row in _rows(path, document, "images", {"id": _ID, "file_name": _PATH, "width": _SIZE, "height": _SIZE}):
        image = CocoImage(row["id"], row["file_name"], row.get("width"), row.get("height"))
        if images.setdefault(image.id, image) is not image:
            raise LayoutError(f"{path}: image ids must differ, got {image.id!r} twice in 'images'")
    captions: dict[ImageId, list[str]] = {}
    for row in _rows(path, document, "annotations", {"image_id": _ID, "caption": _CAPTION}):
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return list(images.values()), captions


def read_boxes(path: Path) -> tuple[list[str], dict[ImageId, list[CocoBox]]]:
    """The category names of an ``instances_*.json``, and the boxes of each image, all in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, a field is missing or of the wrong type, or a box names an unknown category.
    """
    document = _load(path)
    names = {row["id"]: row["name"] for row in _rows(path, document, "categories", {"id": _ID, "name": _NAME})}
    boxes: dict[ImageId, list[CocoBox]] = {}
    fields = {"image_id": _ID, "category_id": _ID, "bbox": _BBOX}
    for index, row in enumerate(_rows(path, document, "annotations", fields)):
        if row["category_id"] not in names:
            where = f"{path}: 'annotations[{index}].category_id'"
            raise LayoutError(f"{where} must be the id of one of 'categories', got {row['category_id']!r}")
        box = CocoBox(row.get("id", index), names[row["category_id"]], tuple(row["bbox"]), bool(row.get("iscrowd")))
        boxes.setdefault(row["image_id"], []).append(box)
    return list(names.values()), boxes


class _Rule(NamedTuple):
    words: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_inner_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and not {"..", "/"} & set(PurePosixPath(value).parts)


_ID = _Rule("a whole number or a text", lambda v: isinstance(v, (int, str)) and not isinstance(v, bool))
_PATH = _Rule("a path inside the images' folder", _is_inner_path)
_SIZE = _Rule("a number of pixels above 0", lambda v: v is None or (_is_number(v) and v > 0))
_NAME = _Rule("a text that is not empty", lambda v: isinstance(v, str) and bool(v.strip()))
_CAPTION = _Rule("a text (is this a captions file?)", lambda v: isinstance(v, str))
_BBOX = _Rule(
    "[x, y, width, height] in pixels", lambda v: isinstance(v, list) and len(v) == 4 and all(map(_is_number, v))
)


def _rows(path: Path, document: dict[str, Any], section: str, fields: Mapping[str, _Rule]) -> Iterator[dict[str, Any]]:
    rows = document.get(section)
    if not isinstance(rows, list):
        raise LayoutError(f"{path}: '{section}' must be a list, as in COCO's files, got {type(rows).__name__}")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise LayoutError(f"{path}: '{section}[{index}]' must be an object, got {row!r}")
        for name, rule in fields.items():
            if not rule.holds(row.get(name)):
                raise LayoutError(f"{path}: '{section}[{index}].{name}' must be {rule.words}, got {row.get(name)!r}")
        yield row


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"the annotation file {path} does not exist")
    try:
        document = json.loads(path.read_bytes(), object_hook=_without_outline)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise LayoutError(f"{path}: the JSON must be an object, got {type(document).__name__}")
    return document


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Polygons are nine tenths of an instances file; dropped while reading they take no memory."""
    record.pop("segmentation", None)
    return record
