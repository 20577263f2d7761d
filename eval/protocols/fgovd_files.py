"""FG-OVD's two forms: the official files in LVIS's manner, and FG-CLIP's, a line per box. Both give the same items.

In the official files a caption is a category, and a box names its own and its wrong ones by number.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from datamodules.formats.layout import IMAGE, LIST, NAME, PATH, SIDE, TEXTS, WHOLE, XYWH, AnnotationFile, Rule
from eval.data.find_file import first_there
from eval.data.records import read_records
from eval.data.sources import ImageFile
from eval.protocols.box_classification import Box

ONE_TEXT = Rule("a list of one text", lambda v: isinstance(v, list) and len(v) == 1 and NAME.holds(v[0]))


class Described(NamedTuple):
    """A box x, y, width, height in pixels of its image; the first of ``texts`` describes it."""

    image: ImageFile
    box: Box
    texts: tuple[str, ...]
    name: str


def read_official(file: Path, root: Path) -> tuple[list[Described], str]:
    """Boxes of an official file, and its SHA-256. Raises ValueError where a field is not as it should be."""
    annotations = AnnotationFile(file)
    images = annotations.by_id("images", IMAGE | {"file_name": PATH})
    captions = annotations.by_id("categories", {"id": WHOLE, "name": NAME})
    sources = {n: _image_file(root, i["file_name"], i["width"], i["height"]) for n, i in images.items()}
    found = []
    fields = {"id": WHOLE, "image_id": WHOLE, "category_id": WHOLE, "bbox": XYWH, "neg_category_ids": LIST}
    for number, row in annotations.by_id("annotations", fields).items():
        where = f"annotations[id {number}]"
        annotations.refer(f"{where}.image_id", row["image_id"], images, "images")
        chosen = [row["category_id"], *row["neg_category_ids"]]
        for one in chosen:
            annotations.refer(f"{where}.neg_category_ids", one, captions, "categories")
        texts = tuple(_full_stop(captions[one]["name"]) for one in chosen)
        found.append(Described(sources[row["image_id"]], tuple(row["bbox"]), texts, str(number)))
    return found, annotations.sha256


def read_released_again(file: Path, root: Path) -> tuple[list[Described], str]:
    """Boxes of FG-CLIP's file, and its SHA-256. Raises ValueError where a field is not as it should be."""
    fields = {"img_path": PATH, "bbox": XYWH, "pos_expression": ONE_TEXT, "neg_expression": TEXTS}
    records = read_records(file, fields | {"width": SIDE, "height": SIDE})
    found = []
    for number, row in enumerate(records.rows):
        image = _image_file(root, row["img_path"], row["width"], row["height"])
        texts = (*row["pos_expression"], *row["neg_expression"])
        found.append(Described(image, tuple(row["bbox"]), texts, str(row.get("sent_id", number))))
    return found, records.sha256


def _image_file(root: Path, name: str, width: int, height: int) -> ImageFile:
    return ImageFile(first_there([root / name, root / "coco" / name]), name, (width, height))


def _full_stop(text: str) -> str:
    """As in FG-CLIP's files."""
    return text if text.endswith(".") else f"{text}."
