"""COCO's panoptic segments, as CLIPSelf and FineCLIP take them: things and stuff of val2017, 133 classes.

The box of a thing is its annotation's. The box of stuff spans its segment, from the first pixel to the last (as in the
published code, which does not add the last pixel's width). Of an image's first 100 segments those count whose box holds
8² to 1024² pixels, crowds included. Read from the official files under the root::

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

from datamodules.formats.layout import CATEGORY, FLAG, IMAGE, LIST, PATH, WHOLE, XYWH, AnnotationFile, checked
from eval.data.find_file import find_path, with_files
from eval.data.sources import ImageFile, Xywh, image_errors
from eval.interfaces import EvalContext
from eval.protocols.box_classification import fraction_box
from eval.protocols.prompts import vild_name
from eval.protocols.regions import Box

MOST_SEGMENTS = 100
SMALLEST, LARGEST = 8**2, 1024**2  # area of a box in pixels
Ids = Int[np.ndarray, "H W"]
Mask = Bool[np.ndarray, "H W"]
MaskSummary = Callable[[Mask], Any]  # a benchmark's summary of a segment's mask


class Segment(NamedTuple):
    """A segment that counts: its box in fractions of the image and in pixels, the number of its class, whether it is a
    thing, and the summary of its mask.
    """

    box: Box
    xywh: Xywh
    label: int
    thing: bool
    mask: Any


class SegmentedImage(NamedTuple):
    """An image of known size and its segments."""

    image: ImageFile
    segments: list[Segment]


@dataclass
class SegmentSet:
    """Class names by number, as ViLD puts them into prompts; images; the files read with their SHA-256; and counts of
    the segments and images that were left out or cut, by reason.
    """

    classes: tuple[str, ...]
    images: list[SegmentedImage]
    files: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)


def read_panoptic(run: EvalContext, summarise: MaskSummary | None = None) -> SegmentSet:
    """Read the segments; a class's number is the rank of its id. ``summarise`` is called with every segment's mask;
    without it, the segment maps of images that hold only things are not opened.

    Raises:
        FileNotFoundError: the annotation file or, unless the run skips them, an image or a segment map is missing.
        ValueError: a field breaks COCO's format or refers to a missing record, or a map does not fit its image.
    """
    annotations = AnnotationFile(find_path(run.root, "annotations/panoptic_val2017.json"))
    categories = annotations.by_id("categories", CATEGORY | {"isthing": FLAG})
    labels = {n: (i, bool(categories[n]["isthing"])) for i, n in enumerate(sorted(categories))}
    reader = _Reader(annotations, labels, summarise)
    images = annotations.by_id("images", IMAGE | {"file_name": PATH})
    items: list[tuple[Path, _AnnotatedImage]] = []
    image_ids: set[int] = set()
    fields = {"image_id": WHOLE, "file_name": PATH, "segments_info": LIST}
    for index, row in enumerate(annotations.rows("annotations", fields)):
        annotations.refer(f"annotations[{index}].image_id", row["image_id"], images, "images")
        if row["image_id"] in image_ids:
            raise ValueError(f"{annotations.path}: 'annotations' must be one an image, got {row['image_id']} twice")
        image_ids.add(row["image_id"])
        image, field = images[row["image_id"]], f"annotations[{index}].segments_info"
        name, size = image["file_name"], (image["width"], image["height"])
        map_file = run.root / "annotations" / "panoptic_val2017" / row["file_name"]
        rows = reader.rows(field, row["segments_info"])
        if rows:
            source = ImageFile(run.root / "val2017" / name, name, size)
            items.append((source.file, _AnnotatedImage(source, map_file, rows)))
    present = with_files(items, annotations.path, run.skip_missing, reader.counts)
    items = [(image.map_file, image) for image in present]
    present = with_files(items, annotations.path, run.skip_missing, reader.counts)
    segmented = [reader.segmented(image) for image in run.track(present, "panoptic segments")]
    classes = tuple(vild_name(categories[number]["name"]) for number in sorted(categories))
    return SegmentSet(classes, segmented, {annotations.path.name: annotations.sha256}, reader.counts)


class _Row(NamedTuple):
    id: int
    label: int
    thing: bool
    xywh: Xywh


class _AnnotatedImage(NamedTuple):
    """An image, its segment map and the annotation's rows about the segments."""

    image: ImageFile
    map_file: Path
    rows: list[_Row]


class _Reader:
    """Makes segments from the annotation's rows, and counts those left out."""

    def __init__(
        self, annotations: AnnotationFile, categories: dict[int, tuple[int, bool]], summarise: MaskSummary | None
    ) -> None:
        self.annotations, self.categories, self.summarise = annotations, categories, summarise
        self.counts: Counter[str] = Counter()

    def rows(self, field: str, segments: list[Any]) -> list[_Row]:
        """The segments of an image that may count."""
        fields = {"id": WHOLE, "category_id": WHOLE, "bbox": XYWH}
        rows: list[_Row] = []
        for index, row in enumerate(checked(self.annotations.path, field, segments, fields)):
            name = f"{field}[{index}].category_id"
            self.annotations.refer(name, row["category_id"], self.categories, "categories")
            rows.append(_Row(row["id"], *self.categories[row["category_id"]], tuple(row["bbox"])))
        if len(rows) > MOST_SEGMENTS:
            self.counts[f"segment after the first {MOST_SEGMENTS} of an image"] += len(rows) - MOST_SEGMENTS
        return rows[:MOST_SEGMENTS]

    def segmented(self, image: _AnnotatedImage) -> SegmentedImage:
        """The image with the segments that count."""
        size = image.image.size
        assert size is not None  # from the annotation
        ids = None if self.summarise is None and all(row.thing for row in image.rows) else _ids(image.map_file, size)
        segments: list[Segment] = []
        for row in image.rows:
            xywh = row.xywh if row.thing else tight_box(_mask(ids, row, image.map_file))
            if not SMALLEST <= xywh[2] * xywh[3] <= LARGEST:
                self.counts["box under 8² or over 1024² pixels"] += 1
                continue
            box = fraction_box(xywh, size, self.counts)
            if box is not None:
                mask = None if self.summarise is None else self.summarise(_mask(ids, row, image.map_file))
                segments.append(Segment(box, xywh, row.label, row.thing, mask))
        return SegmentedImage(image.image, segments)


def _mask(ids: Ids | None, row: _Row, file: Path) -> Mask:
    assert ids is not None  # read wherever a mask is needed
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
    """The segment of every pixel of a panoptic PNG: R + 256 G + 256² B. Raises ValueError where the file cannot be
    read.
    """
    with image_errors(file), Image.open(file) as image:
        rgb = np.asarray(image.convert("RGB"), dtype=np.int32)
    return rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]


def tight_box(mask: Mask) -> Xywh:
    """x, y of a mask's first column and row, and the distances to its last column and row."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(xs[0]), float(ys[0]), float(xs[-1] - xs[0]), float(ys[-1] - ys[0])
