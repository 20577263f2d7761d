"""MDETR's JSON as shards: each span a phrase, each box linked to all of its own, nothing lost uncounted."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from datamodules.formats.layout import LayoutError
from datamodules.prepare import prepare_grounded
from datamodules.prepare.job import PrepareJob
from lightning_modules.cli.main import main
from tests.datamodules.prepared import linked, read
from tests.helpers.tiny import picture

CAPTION = "Two men in a boat &amp; a dog. They row."


def spans(*phrases: str) -> list[list[int]]:
    return [[CAPTION.index(phrase), CAPTION.index(phrase) + len(phrase)] for phrase in phrases]


class Mdetr:
    """A small file in MDETR's layout with its images; change its parts, then ``prepare``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures = {"1.jpg": picture(1), "vg/2.png": picture(2, format="PNG")}
        size = {"height": 80, "width": 96}  # the images are copies of half the size
        self.document: dict = {
            "info": {},
            "licenses": [],
            "images": [
                {"id": 0, "file_name": "1.jpg", **size, "caption": CAPTION, "tokens_negative": [[0, 9]]},
                {"id": 1, "file_name": "1.jpg", **size, "caption": "Nobody."},
                {"id": 2, "file_name": "vg/2.png", **size, "caption": "a red bus"},
            ],
            "annotations": [
                self.box(0, [24, 20, 24, 20], spans("Two men", "They"), 1),
                self.box(0, [48, 0, 60, 80], spans("a boat"), 2),
                self.box(2, [0, 0, 96, 40], [[0, 9]], 3),
                self.box(0, [0, 0, 96, 80], [], 4),
                self.box(0, [24, 20, 24, 20], spans("a dog"), 5),
            ],
            "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
        }

    @staticmethod
    def box(image_id: int, bbox: list[float], tokens_positive: object, number: int, **more) -> dict:
        fixed = {"area": 1, "iscrowd": 0, "category_id": 1}
        return {**fixed, "image_id": image_id, "bbox": bbox, "tokens_positive": tokens_positive, "id": number, **more}

    def prepare(self, max_side: int | None = None, **options):
        for name, data in self.pictures.items():
            path = self.folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (self.folder / "grounded.json").write_text(json.dumps(self.document))
        self.manifest = prepare_grounded(
            self.folder / "images",
            self.folder / "grounded.json",
            PrepareJob(self.folder / "out", max_side=max_side),
            **options,
        )
        return read(self.folder / "out")


@pytest.fixture
def mdetr(tmp_path: Path, nltk_data) -> Mdetr:
    return Mdetr(tmp_path)


def test_a_small_set(mdetr):
    samples = mdetr.prepare()
    assert list(samples) == [f"{number:012d}" for number in range(3)]
    men, nobody, bus = samples.values()
    assert men.caption == "Two men in a boat & a dog. They row."
    assert men.sentences == ("Two men in a boat & a dog.", "They row.")
    assert [(p.text, p.sentence, p.lemma) for p in men.phrases] == [
        ("Two men", 0, "man"),
        ("a boat", 0, "boat"),
        ("a dog", 0, "dog"),
        ("They", 1, ""),
    ]
    box = (0.25, 0.25, 0.5, 0.5)
    assert linked(men) == [
        ("Two men", None, box),
        ("They", None, box),
        ("a boat", None, (0.5, 0, 1, 1)),
        (None, None, (0, 0, 1, 1)),
        ("a dog", None, box),
    ]
    assert (nobody.image, nobody.regions) == (men.image, ())
    assert (bus.extension, bus.source, linked(bus)) == ("png", "grounded", [("a red bus", None, (0, 0, 1, 0.5))])
    assert mdetr.manifest["rejects"] == {"no box": 1}


def test_smaller_pictures_keep_their_boxes(mdetr):
    men, _, bus = mdetr.prepare(max_side=32).values()
    assert max(Image.open(io.BytesIO(men.image)).size) == 32
    assert linked(men)[0] == ("Two men", None, (0.25, 0.25, 0.5, 0.5))
    assert (bus.extension, linked(bus)) == ("jpg", [("a red bus", None, (0, 0, 1, 0.5))])


def test_each_thing_left_out_is_counted(mdetr, caplog):
    size = {"height": 80, "width": 96}
    mdetr.document["images"] += [
        {"id": 3, "file_name": "3.jpg", **size, "caption": "A cat"},
        {"id": 4, "file_name": "1.jpg", **size, "caption": " "},
        {"id": 5, "file_name": "1.jpg", "height": 96, "width": 80, "caption": "A cat"},
    ]
    mdetr.document["annotations"] += [
        *(mdetr.box(number, [1, 1, 5, 5], [[0, 5]], 10 + number) for number in (3, 4, 5, 99)),
        mdetr.box(2, [1, 1, 5, 0], [[0, 5]], 20),
        mdetr.box(2, [1, 1, 5, -3], [[0, 5]], 21),
        mdetr.box(2, [96, 1, 5, 5], [[0, 5]], 22),
        mdetr.box(2, [0.1, 0.1, 0.5, 0.5], [[0, 5]], 23),
        mdetr.box(2, [1, 1, 5, 5], [[0, 5]], 24, iscrowd=1),
        mdetr.box(2, [48, 1, 500, 39], [[2, 10], [5, 5], [-2, 3], [5, 6], [6, 9]], 25),
    ]
    with caplog.at_level(logging.INFO, "grainclip"):
        samples = mdetr.prepare(skip_missing=True)
    assert linked(samples["000000000002"]) == [
        ("a red bus", None, (0, 0, 1, 0.5)),
        ("bus", None, (0.5, 0.0125, 1, 0.5)),
    ]
    assert mdetr.manifest["rejects"] == {
        "box in fractions, not pixels": 1,
        "box of an image left out": 4,
        "box outside the image": 1,
        "box without area": 2,
        "crowd box": 1,
        "image missing": 1,
        "image shape differs from its annotation's": 1,
        "no box": 1,
        "no caption": 1,
        "phrase outside the caption": 3,
        "phrase without words": 1,
    }
    assert "left out: 1 × crowd box (24)" in caplog.text
    assert "left out: 1 × phrase without words (vg/2.png (2) [5, 6])" in caplog.text


def test_missing_images_stop_the_run(mdetr):
    mdetr.document["images"][2]["file_name"] = "gone.png"
    with pytest.raises(
        FileNotFoundError, match=r"^1 of the 3 images of grounded\.json are missing, such as .*gone\.png;"
    ):
        mdetr.prepare()
    assert not (mdetr.folder / "out").exists()


@pytest.mark.parametrize(
    ("section", "index", "field", "value", "message"),
    [
        ("images", 1, "caption", None, r"'images\[1\]\.caption' must be a text \(is this a file of grounded captions"),
        ("images", 1, "width", None, r"'images\[1\]\.width' must be a number of pixels above 0, got None"),
        ("images", 1, "height", -4, r"'images\[1\]\.height' must be a number of pixels above 0, got -4"),
        ("images", 1, "file_name", "../1.jpg", r"file_name' must be a path inside"),
        ("images", 1, "id", 0, r"grounded\.json: ids must differ, got 0 twice in 'images'"),
        ("annotations", 2, "bbox", [1, 2, 3], r"'annotations\[2\]\.bbox' must be \[x, y, width, height\] in pixels"),
        ("annotations", 2, "tokens_positive", None, r"tokens_positive' must be a list of \[start, end\]"),
        ("annotations", 2, "tokens_positive", [0, 9], r"tokens_positive' must be .* got \[0, 9\]"),
        ("annotations", 2, "tokens_positive", [[0, 9.5]], r"tokens_positive' must be .* got \[\[0, 9\.5\]\]"),
        ("annotations", 2, "image_id", None, r"'annotations\[2\]\.image_id' must be a whole number or a text"),
    ],
)
def test_a_wrong_layout_is_named(mdetr, section, index, field, value, message):
    mdetr.document[section][index][field] = value
    with pytest.raises(LayoutError, match=message):
        mdetr.prepare()
    assert not (mdetr.folder / "out").exists()


def test_the_command_line_can_be_built(mdetr):
    mdetr.prepare()
    arguments = [f"--images={mdetr.folder / 'images'}", f"--annotations={mdetr.folder / 'grounded.json'}"]
    assert main(["prepare", "grounded", *arguments, f"--out={mdetr.folder / 'cli'}"]) == 0
    assert len(read(mdetr.folder / "cli")) == 3
