"""A small data set in COCO's layout, to be changed and prepared by tests."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from datamodules.prepare import prepare_coco
from datamodules.prepare.job import PrepareJob
from datamodules.sample import Sample
from tests.datamodules.prepared import read

DOG = [(phrase, "dog", (0.25, 0.25, 0.75, 0.75)) for phrase in ("a dog", "Two dogs")]
MAN = [("A man", "person", (0.75, 0.0, 1.0, 0.5))]


def picture(form: str = "JPEG", size: tuple[int, int] = (40, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, form)
    return file.getvalue()


class Coco:
    """A small data set in COCO's layout, written to ``folder``; change its parts, then ``prepare``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {"1.jpg": picture(), "sub/2.png": picture("PNG")}
        self.captions: dict = {
            "images": [
                {"id": 1, "file_name": "1.jpg", "width": 40, "height": 20},
                {"id": 2, "file_name": "sub/2.png", "width": 40, "height": 20},
            ],
            "annotations": [
                {"image_id": 1, "caption": "A man  walks\na dog "},
                {"image_id": 2, "caption": "A red bus."},
                {"image_id": 1, "caption": "Two dogs &amp; a bench!"},
            ],
        }
        self.instances: dict = {
            "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 6, "name": "bus"}],
            "annotations": [
                {"id": 7, "image_id": 1, "category_id": 18, "bbox": [10, 5, 20, 10], "iscrowd": 0},
                {"id": 8, "image_id": 1, "category_id": 1, "bbox": [30, -5, 20, 15], "segmentation": [[1, 2]]},
            ],
        }
        self.proposals: dict | None = None

    def prepare(self, **options) -> dict[str, Sample]:
        for name, data in self.files.items():
            path = self.folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        documents = {name: getattr(self, name) for name in ("captions", "instances", "proposals")}
        places = {name: self.folder / f"{name}.json" for name, document in documents.items() if document is not None}
        for name, path in places.items():
            document = documents[name]
            path.write_text(document if isinstance(document, str) else json.dumps(document))
        arguments = {name: options.pop(name) for name in ("max_proposals", "skip_missing") if name in options}
        job = PrepareJob(self.folder / "out", **options)
        self.manifest = prepare_coco(self.folder / "images", job=job, **places, **arguments)
        return read(self.folder / "out")


def proposed(*boxes: list[float], scores: tuple[float, ...] = (), **more: object) -> dict:
    """A proposals file for image 1."""
    rows = [{"image_id": 1, "bbox": box, **more} for box in boxes]
    for row, score in zip(rows, scores, strict=False):
        row["score"] = score
    return {"annotations": rows}


def change(name: str, *path: object, value: object) -> Callable[[Coco], None]:
    """A function that sets one field of a ``Coco``; ``value`` "gone" deletes it."""

    def apply(coco: Coco) -> None:
        *above, last = (name, *path)
        target: object = coco.__dict__
        for step in above:
            target = target[step]
        if value == "gone":
            del target[last]
        else:
            target[last] = value

    return apply
