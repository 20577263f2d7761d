"""Data sets of a few images in the official layouts, and a model that sees nothing but colours."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from lightning_modules.networks import pool_regions

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourModel:
    """The mean colour of each 4×4 patch of a 16×16 square; a text means the first colour in it."""

    image_size = 16
    context_length = 20
    digest = "colours"

    def __init__(self):
        self.texts: list[str] = []

    def encode_image(self, squares):
        dense = functional.avg_pool2d(squares.float() / 255, 4)
        return SimpleNamespace(image=functional.normalize(dense.mean((2, 3)), dim=-1), dense=dense)

    def with_grid(self, side):
        larger = copy(self)
        larger.image_size, larger.digest = 4 * side, f"{self.digest} {side}"
        return larger

    def token_count(self, text):
        return len(text.split()) + 2

    def encode_text(self, texts):
        self.texts += texts
        names = [next(c for word in text.split() for c in COLOURS if c in word) for text in texts]
        return torch.eye(3)[[list(COLOURS).index(name) for name in names]]

    pool_regions = staticmethod(pool_regions)


def paint(file: Path, size: tuple[int, int], *patches: tuple[str, tuple[int, int, int, int]]) -> None:
    """A black image with coloured rectangles x0, y0, x1, y1, the last outside."""
    image = Image.new("RGB", size)
    for colour, box in patches:
        image.paste(COLOURS[colour], box)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def write_json(file: Path, document) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))


def rows(file: Path) -> dict:
    return json.loads(file.read_text())


def write_coco(root: Path) -> Path:
    """Two images of 40×20 and one without boxes; ids of categories are not in their order in the file."""
    for number in (1, 2):
        paint(root / "val2017" / f"{number:012d}.png", (40, 20), ("red", (0, 0, 20, 20)), ("green", (20, 0, 40, 20)))
    left, right = [0, 0, 20, 20], [20.0, 0.0, 20.0, 20.0]
    boxes = [(1, left, 1), (1, right, 7), (2, left, 7), (2, right, 7), (2, left, 1)]  # the third one is wrong
    document = {
        "images": [{"id": i, "file_name": f"{i:012d}.png", "width": 40, "height": 20} for i in (1, 2, 3)],
        "annotations": [
            {
                "id": 10 + n,
                "image_id": i,
                "bbox": box,
                "category_id": c,
                "iscrowd": n % 2,
                "area": 1,
                "segmentation": [],
            }
            for n, (i, box, c) in enumerate(boxes)
        ],
        "categories": [{"id": 7, "name": "green"}, {"id": 1, "name": "red"}, {"id": 9, "name": "blue"}],
    }
    file = root / "annotations" / "instances_val2017.json"
    write_json(file, document)
    return file


def write_lvis(root: Path) -> Path:
    """An image of val2017 and one of train2017, named by their URLs only."""
    host = "http://images.cocodataset.org"
    images = []
    for number, folder in ((21, "val2017"), (22, "train2017")):
        paint(root / folder / f"{number:012d}.png", (30, 30), ("blue", (0, 0, 30, 30)))
        url = f"{host}/{folder}/{number:012d}.png"
        images.append({"id": number, "coco_url": url, "width": 30, "height": 30, "not_exhaustive_category_ids": []})
    document = {
        "images": images,
        "annotations": [
            {"id": n, "image_id": n, "bbox": [3.5, 0, 20, 30], "category_id": c} for n, c in ((21, 2), (22, 3))
        ],
        "categories": [{"id": i, "name": f"deep_{c}_(colour)"} for i, c in ((3, "green"), (2, "blue"), (1, "red"))],
    }
    file = root / "annotations" / "lvis_v1_val.json"
    write_json(file, document)
    return file


def write_panoptic(root: Path) -> Path:
    """One image of 40×20: a thing, a stuff whose annotation's box is wrong, a small stuff and a small thing."""
    paint(root / "val2017" / "000000000005.png", (40, 20), ("red", (0, 0, 20, 20)), ("green", (20, 0, 40, 20)))
    things, stuff, small = 70_000, 3, 256
    ids = np.full((20, 40), things)
    ids[2:19, 21:40], ids[0:3, 0:3] = stuff, small
    maps = root / "annotations" / "panoptic_val2017"
    maps.mkdir(parents=True, exist_ok=True)
    channels = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1)
    Image.fromarray(channels.astype(np.uint8)).save(maps / "000000000005.png")
    segments = [
        {"id": things, "category_id": 1, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 1},
        {"id": stuff, "category_id": 200, "bbox": [0, 0, 20, 20], "area": 1, "iscrowd": 0},
        {"id": small, "category_id": 200, "bbox": [0, 0, 40, 20], "area": 9, "iscrowd": 0},
        {"id": 999, "category_id": 1, "bbox": [0, 0, 7, 9], "area": 63, "iscrowd": 0},
    ]
    document = {
        "images": [{"id": 5, "file_name": "000000000005.png", "width": 40, "height": 20}],
        "annotations": [{"image_id": 5, "file_name": "000000000005.png", "segments_info": segments}],
        "categories": [
            {"id": 200, "name": "Green-merged/grass", "isthing": 0},
            {"id": 1, "name": "red_thing", "isthing": 1},
            {"id": 90, "name": "blue", "isthing": 1},
        ],
    }
    file = root / "annotations" / "panoptic_val2017.json"
    write_json(file, document)
    return file
