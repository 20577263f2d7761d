"""COCO's panoptic segments, as CLIPSelf and FineCLIP take them: things and stuff of val2017, 133 classes.

A thing's box is its annotation's. A stuff's is drawn around its segment, from its first pixel to its last (as in the
published code, which does not add the last pixel's own width). Of an image's first 100 segments those count whose box
holds 8² to 1024² pixels, crowds too. Read from the official files under the root::

    annotations/panoptic_val2017.json  annotations/panoptic_val2017/*.png  val2017/*.jpg
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from datamodules.formats.layout import CATEGORY, FLAG, IMAGE, LIST, PATH, WHOLE, XYWH, AnnotationFile
from datamodules.image_decoding import UNREADABLE
from eval.data.find_file import place
from eval.data.image_files import present
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext
from eval.protocols.box_classification import fraction_box
from eval.protocols.prompts import vild_name
from eval.protocols.regions import Box

MOST_SEGMENTS = 100
SMALLEST, LARGEST = 8**2, 1024**2  # area of a box in pixels
Xywh = tuple[float, float, float, float]
Ids = Int[np.ndarray, "H W"]
Mask = Bool[np.ndarray, "H W"]
Look = Callable[[Mask], Any]  # what a benchmark keeps of a segment's mask


class Segment(NamedTuple):
    """A segment that counts: its box in fractions of the image and in pixels, the number of its class, whether it is
    a thing, and what was kept of its mask.
    """

    box: Box
    xywh: Xywh
    label: int
    thing: bool
    kept: Any


class SegmentedImage(NamedTuple):
    """An image of known size and its segments."""

    image: ImageFile
    segments: list[Segment]


@dataclass
class SegmentSet:
    """Class names by number, as ViLD puts them into prompts; images; the files read with their SHA-256; and how many
    segments and images were left out or cut, by reason.
    """

    classes: tuple[str, ...]
    images: list[SegmentedImage]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)


def read_panoptic(run: EvalContext, look: Look | None = None) -> SegmentSet:
    """The segments; a class's number is the rank of its id. ``look`` sees every segment's mask; without it the maps of
    images of things alone are not opened.

    Raises:
        FileNotFoundError: the annotation file or, unless the run skips them, an image or a segment map is missing.
        ValueError: a field is not as COCO's are, refers to what is not there, or a map does not fit its image.
    """
    annotations = AnnotationFile(place(run.root, "annotations/panoptic_val2017.json"))
    categories = annotations.by_id("categories", CATEGORY | {"isthing": FLAG})
    labels = {n: (i, bool(categories[n]["isthing"])) for i, n in enumerate(sorted(categories))}
    reader = _Reader(annotations, labels, look)
    images = annotations.by_id("images", IMAGE | {"file_name": PATH})
    listed: list[tuple[Path, _Listed]] = []
    seen: set[int] = set()
    fields = {"image_id": WHOLE, "file_name": PATH, "segments_info": LIST}
    for index, row in enumerate(annotations.rows("annotations", fields)):
        annotations.refer(f"annotations[{index}].image_id", row["image_id"], images, "images")
        if row["image_id"] in seen:
            raise ValueError(f"{annotations.path}: 'annotations' must be one an image, got {row['image_id']} twice")
        seen.add(row["image_id"])
        image, where = images[row["image_id"]], f"annotations[{index}].segments_info"
        name, size = image["file_name"], (image["width"], image["height"])
        map_file = run.root / "annotations" / "panoptic_val2017" / row["file_name"]
        found = reader.listed(where, row["segments_info"])
        if found:
            source = ImageFile(run.root / "val2017" / name, name, size)
            listed.append((source.file, _Listed(source, map_file, found)))
    there = present(listed, annotations.path, run.skip_missing, reader.counts)
    there = present([(s.map_file, s) for s in there], annotations.path, run.skip_missing, reader.counts)
    segmented = [reader.segmented(one) for one in run.track(there, "panoptic segments")]
    classes = tuple(vild_name(categories[number]["name"]) for number in sorted(categories))
    return SegmentSet(classes, segmented, {annotations.path.name: annotations.sha256}, reader.counts)


class _Row(NamedTuple):
    id: int
    label: int
    thing: bool
    xywh: Xywh


class _Listed(NamedTuple):
    """An image, its map of segments and what the annotation says of them."""

    image: ImageFile
    map_file: Path
    rows: list[_Row]


class _Reader:
    """From rows to segments; what is left out is counted."""

    def __init__(self, annotations: AnnotationFile, categories: dict[int, tuple[int, bool]], look: Look | None) -> None:
        self.annotations, self.categories, self.look = annotations, categories, look
        self.counts: Counter[str] = Counter()

    def listed(self, where: str, rows: list[Any]) -> list[_Row]:
        """The segments of an image that may count."""
        fields = {"id": WHOLE, "category_id": WHOLE, "bbox": XYWH}
        found: list[_Row] = []
        for index, row in enumerate(self.annotations.checked(where, rows, fields)):
            name = f"{where}[{index}].category_id"
            self.annotations.refer(name, row["category_id"], self.categories, "categories")
            found.append(_Row(row["id"], *self.categories[row["category_id"]], tuple(row["bbox"])))
        if len(found) > MOST_SEGMENTS:
            self.counts[f"segment after the first {MOST_SEGMENTS} of an image"] += len(found) - MOST_SEGMENTS
        return found[:MOST_SEGMENTS]

    def segmented(self, listed: _Listed) -> SegmentedImage:
        """The image with the segments that count."""
        size = listed.image.size
        assert size is not None  # the annotation tells it
        ids = None if self.look is None and all(row.thing for row in listed.rows) else _ids(listed.map_file, size)
        found: list[Segment] = []
        for row in listed.rows:
            xywh = row.xywh if row.thing else tight_box(_mask(ids, row, listed.map_file))
            if not SMALLEST <= xywh[2] * xywh[3] <= LARGEST:
                self.counts["box under 8² or over 1024² pixels"] += 1
                continue
            box = fraction_box(xywh, size, self.counts)
            if box is not None:
                kept = None if self.look is None else self.look(_mask(ids, row, listed.map_file))
                found.append(Segment(box, xywh, row.label, row.thing, kept))
        return SegmentedImage(listed.image, found)


def _mask(ids: Ids | None, row: _Row, file: Path) -> Mask:
    assert ids is not None  # read where a mask is asked for
    mask = ids == row.id
    if not mask.any():
        raise ValueError(f"{file} must hold segment {row.id} of its annotation, got none")
    return mask


def _ids(file: Path, size: tuple[int, int]) -> Ids:
    ids = segment_ids(file)
    if ids.shape != size[::-1]:
        raise ValueError(f"{file} must have {size[0]}×{size[1]} pixels, got {ids.shape[1]}×{ids.shape[0]}")
    return ids


def segment_ids(file: Path) -> Ids:
    """The segment of every pixel of a panoptic PNG: R + 256 G + 256² B. Raises ValueError for what is no image."""
    try:
        with Image.open(file) as image:
            rgb = np.asarray(image.convert("RGB"), dtype=np.int32)
    except UNREADABLE as error:
        raise ValueError(f"{file} is not an image that can be read: {error}") from error
    return rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]


def tight_box(mask: Mask) -> Xywh:
    """x, y of a mask's first column and row, and how far it is to its last ones."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(xs[0]), float(ys[0]), float(xs[-1] - xs[0]), float(ys[-1] - ys[0])
