"""Boxes of COCO val2017's panoptic segments (things and stuff, 133 classes), classified as FineCLIP and CLIPSelf do.

A thing's box is its annotation's. A stuff's is drawn around its segment, from its first pixel to its last (as in the
published code, which does not add the last pixel's own width). Of a picture's first 100 segments those count whose box
holds 8² to 1024² pixels. Read from the official files under the root::

    annotations/panoptic_val2017.json  annotations/panoptic_val2017/*.png  val2017/*.jpg

Where we differ: class vectors always come from the model under test; the published ones were stored with the pretrained
text tower, which is right only while that stays frozen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from eval.annotations import CATEGORY, FLAG, ID, IMAGE, LIST, PATH, XYWH, AnnotationFile
from eval.benchmark import Model, Result, Run, Track
from eval.box_classification import (
    BoxedPicture,
    BoxProtocol,
    BoxSet,
    LabelledBox,
    all_alike,
    classify,
    fraction_box,
)
from eval.pictures import Photograph, present
from eval.prompts import VILD_TEMPLATES, vild_name

FINECLIP = BoxProtocol(
    templates=lambda: VILD_TEMPLATES,
    resize=Image.Resampling.BILINEAR,
    before_pooling=all_alike,
    words="FineCLIP: things and stuff, ViLD's prompts by the model's own text tower, RoIAlign 1×1 of patches of unit "
    "norm; published numbers are class_mean_top1 and class_mean_top5",
)
MOST_SEGMENTS = 100
SMALLEST, LARGEST = 8**2, 1024**2  # area of a box in pixels


def coco_panoptic_boxes(model: Model, run: Run) -> Result:
    """COCO val2017's panoptic segments, 133 classes."""
    return classify("coco_panoptic_boxes", model, run, read_panoptic(run.root, run.skip_missing, run.track), FINECLIP)


def read_panoptic(root: Path, skip_missing: bool, track: Track) -> BoxSet:
    """The segments' boxes; a class's number is the rank of its id, names are as ViLD puts them into prompts.

    Raises:
        FileNotFoundError: the annotation file or, unless ``skip_missing``, a picture or a segment map is missing.
        ValueError: a field is not as COCO's are, refers to what is not there, or a map does not fit its picture.
    """
    annotations = AnnotationFile(root / "annotations" / "panoptic_val2017.json")
    categories = annotations.by_id("categories", CATEGORY | {"isthing": FLAG})
    reader = _Reader(annotations, {n: (i, bool(categories[n]["isthing"])) for i, n in enumerate(sorted(categories))})
    images = annotations.by_id("images", IMAGE | {"file_name": PATH})
    listed: list[tuple[Path, _Segmented]] = []
    seen: set[int] = set()
    fields = {"image_id": ID, "file_name": PATH, "segments_info": LIST}
    for index, row in enumerate(annotations.rows("annotations", fields)):
        annotations.refer(f"annotations[{index}].image_id", row["image_id"], images, "images")
        if row["image_id"] in seen:
            raise ValueError(f"{annotations.path}: 'annotations' must be one an image, got {row['image_id']} twice")
        seen.add(row["image_id"])
        image, where = images[row["image_id"]], f"annotations[{index}].segments_info"
        photograph = Photograph(root / "val2017" / image["file_name"], image["width"], image["height"])
        map_file = root / "annotations" / "panoptic_val2017" / row["file_name"]
        segments = reader.segments(where, row["segments_info"])
        if segments:
            listed.append((photograph.file, _Segmented(str(row["image_id"]), photograph, map_file, segments)))
    there = present(listed, annotations.path, skip_missing, reader.counts)
    there = present([(s.map_file, s) for s in there], annotations.path, skip_missing, reader.counts)
    pictures = [reader.picture(segmented) for segmented in track(there, "panoptic segments")]
    classes = tuple(vild_name(categories[number]["name"]) for number in sorted(categories))
    return BoxSet(classes, pictures, {annotations.path.name: annotations.sha256}, reader.counts)


@dataclass(frozen=True)
class _Segment:
    id: int
    label: int
    thing: bool
    xywh: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Segmented:
    """A picture, its map of segments and what the segments are."""

    key: str
    photograph: Photograph
    map_file: Path
    segments: list[_Segment]


class _Reader:
    """From segments to boxes; what is left out is counted."""

    def __init__(self, annotations: AnnotationFile, categories: dict[int, tuple[int, bool]]) -> None:
        self.annotations, self.categories = annotations, categories
        self.counts: Counter[str] = Counter()

    def segments(self, where: str, rows: list[Any]) -> list[_Segment]:
        """The segments of a picture that may count."""
        fields = {"id": ID, "category_id": ID, "bbox": XYWH}
        found: list[_Segment] = []
        for index, row in enumerate(self.annotations.checked(where, rows, fields)):
            name = f"{where}[{index}].category_id"
            self.annotations.refer(name, row["category_id"], self.categories, "categories")
            label, thing = self.categories[row["category_id"]]
            found.append(_Segment(row["id"], label, thing, tuple(row["bbox"])))
        if len(found) > MOST_SEGMENTS:
            self.counts[f"segment after the first {MOST_SEGMENTS} of a picture"] += len(found) - MOST_SEGMENTS
        return found[:MOST_SEGMENTS]

    def picture(self, segmented: _Segmented) -> BoxedPicture:
        """The picture with the boxes that count."""
        ids = None if all(s.thing for s in segmented.segments) else segment_ids(segmented.map_file)
        photograph = segmented.photograph
        if ids is not None and ids.shape != (photograph.height, photograph.width):
            must = f"{photograph.width}×{photograph.height}"
            raise ValueError(f"{segmented.map_file} must have {must} pixels, got {ids.shape[1]}×{ids.shape[0]}")
        boxes: list[LabelledBox] = []
        for segment in segmented.segments:
            xywh = segment.xywh
            if ids is not None and not segment.thing:
                mask = ids == segment.id
                if not mask.any():
                    raise ValueError(f"{segmented.map_file} must hold segment {segment.id} of its annotation, got none")
                xywh = tight_box(mask)
            if not SMALLEST <= xywh[2] * xywh[3] <= LARGEST:
                self.counts["box under 8² or over 1024² pixels"] += 1
                continue
            box = fraction_box(xywh, photograph, self.counts)
            if box is not None:
                boxes.append(LabelledBox(box, segment.label))
        return BoxedPicture(segmented.key, photograph, boxes)


def segment_ids(file: Path) -> Int[np.ndarray, "H W"]:
    """The segment of every pixel of a panoptic PNG: R + 256 G + 256² B."""
    try:
        with Image.open(file) as image:
            rgb = np.asarray(image.convert("RGB"), dtype=np.int32)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is not a picture that can be read: {error}") from error
    return rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]


def tight_box(mask: Bool[np.ndarray, "H W"]) -> tuple[float, float, float, float]:
    """x, y of a mask's first column and row, and how far it is to its last ones."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(xs[0]), float(ys[0]), float(xs[-1] - xs[0]), float(ys[-1] - ys[0])
