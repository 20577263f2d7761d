"""Boxes of COCO val2017 (80 classes) and LVIS v1 val (1203 classes), classified as FG-CLIP does.

Every annotation counts, small boxes and crowds included. Read from the official files under the root::

    annotations/instances_val2017.json  annotations/lvis_v1_val.json  val2017/*.jpg  train2017/*.jpg

LVIS names its images by URL; some of its validation images lie in COCO's train2017. Published code that only looks in
val2017 drops those silently; here they are missing files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.formats.layout import CATEGORY, IMAGE, NAME, PATH, WHOLE, XYWH, AnnotationFile, Rule
from eval.data.find_file import find_path, with_files
from eval.data.image_preprocessing import squash
from eval.data.sources import ImageFile
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.box_classification import (
    BoxedImage,
    BoxProtocol,
    BoxSet,
    LabelledBox,
    classify,
    fraction_box,
)
from eval.protocols.prompts import imagenet_templates
from eval.protocols.regions import raw_patches

FG_CLIP = BoxProtocol(
    templates=imagenet_templates,
    fit=squash,
    prepare=raw_patches,
    description="FG-CLIP: all annotations, OpenAI's ImageNet prompts, RoIAlign 1×1 of patches as they are; published "
    "numbers are top1 and top5",
)
LVIS_FOLDERS = ("train2017", "val2017")


def coco_boxes(model: Model, run: EvalContext) -> Result:
    """COCO val2017, 80 classes."""
    return classify("coco_boxes", model, run, read_coco(run.root, run.skip_missing), FG_CLIP)


def lvis_boxes(model: Model, run: EvalContext) -> Result:
    """LVIS v1 val, 1203 classes."""
    return classify("lvis_boxes", model, run, read_lvis(run.root, run.skip_missing), FG_CLIP)


def read_coco(root: Path, skip_missing: bool) -> BoxSet:
    """COCO's instances; classes in the order of their ids.

    Raises:
        FileNotFoundError: the annotation file or, unless ``skip_missing``, an image is missing.
        ValueError: a field breaks COCO's format, or refers to a missing record.
    """
    annotations = AnnotationFile(find_path(root, "annotations/instances_val2017.json"))
    categories = annotations.by_id("categories", CATEGORY)
    classes = {number: categories[number]["name"] for number in sorted(categories)}
    return _read(
        annotations, classes, {"file_name": PATH}, lambda image: root / "val2017" / image["file_name"], skip_missing
    )


def read_lvis(root: Path, skip_missing: bool) -> BoxSet:
    """LVIS's instances; a class's number is its id - 1, and underscores in its name become spaces.

    Raises:
        FileNotFoundError, ValueError: as ``read_coco``; also where category ids are not 1, 2, 3, ...
    """
    annotations = AnnotationFile(find_path(root, "annotations/lvis_v1_val.json"))
    categories = annotations.by_id("categories", CATEGORY)
    if sorted(categories) != list(range(1, len(categories) + 1)):
        ids = f"{min(categories)} to {max(categories)}" if categories else "none"
        raise ValueError(
            f"{annotations.path}: ids of 'categories' must be 1 to their number {len(categories)}, got {ids}"
        )
    classes = {number: categories[number]["name"].replace("_", " ") for number in sorted(categories)}
    return _read(annotations, classes, {"coco_url": COCO_URL}, lambda i: root / _in_coco(i["coco_url"]), skip_missing)


def _in_coco(url: str) -> PurePosixPath:
    """``http://images.cocodataset.org/val2017/000000397133.jpg`` -> ``val2017/000000397133.jpg``."""
    return PurePosixPath(*PurePosixPath(url).parts[-2:])


COCO_URL = Rule(
    "a URL that ends in train2017/NAME or val2017/NAME",
    lambda v: NAME.holds(v) and PATH.holds(str(_in_coco(v))) and _in_coco(v).parts[0] in LVIS_FOLDERS,
)


def _read(
    annotations: AnnotationFile,
    classes: dict[int, str],
    fields: dict[str, Rule],
    file_of: Callable[[dict[str, Any]], Path],
    skip_missing: bool,
) -> BoxSet:
    images = annotations.by_id("images", IMAGE | fields)
    labels = {number: label for label, number in enumerate(classes)}
    sources = {number: _image_file(file_of(image), image) for number, image in images.items()}
    boxes: dict[int, list[LabelledBox]] = {number: [] for number in images}
    counts: Counter[str] = Counter()
    rows = annotations.by_id("annotations", {"id": WHOLE, "image_id": WHOLE, "category_id": WHOLE, "bbox": XYWH})
    for number, row in rows.items():
        annotations.refer(f"annotations[id {number}].image_id", row["image_id"], images, "images")
        annotations.refer(f"annotations[id {number}].category_id", row["category_id"], classes, "categories")
        box = fraction_box(tuple(row["bbox"]), _size(images[row["image_id"]]), counts)
        if box is not None:
            boxes[row["image_id"]].append(LabelledBox(box, labels[row["category_id"]]))
    items = [(sources[n].file, BoxedImage(sources[n], image_boxes)) for n, image_boxes in boxes.items() if image_boxes]
    present = with_files(items, annotations.path, skip_missing, counts)
    lost = sum(len(p.boxes) for _, p in items) - sum(len(p.boxes) for p in present)
    if lost:
        counts["box of a missing image"] += lost
    return BoxSet(tuple(classes.values()), present, {annotations.path.name: annotations.sha256}, counts)


def _size(image: dict[str, Any]) -> tuple[int, int]:
    return image["width"], image["height"]


def _image_file(file: Path, image: dict[str, Any]) -> ImageFile:
    return ImageFile(file, "/".join(file.parts[-2:]), _size(image))
