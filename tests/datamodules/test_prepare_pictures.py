"""Images on their way into shards: turned ones keep their boxes, damaged ones are counted and never let through."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from datamodules import GrainSampling, Squash
from datamodules.batching.collate import SamplePreprocessor
from datamodules.batching.region_sampling import RegionSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.image_decoding import open_image, turned_size, upright_size
from datamodules.prepare import prepare_grit, prepare_grounded, prepare_table
from datamodules.prepare.images import check_image, shrink_to
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import Rejected
from tests.datamodules.prepared import read
from tests.datamodules.small_coco import Coco
from tests.helpers.tiny import TURNS, picture, turned_away

BOX = (20, 5, 10, 10)  # x, y, width, height in pixels of the upright image of 40 × 20


def marked() -> Image.Image:
    """A grey image of 40 × 20, white in ``BOX``."""
    image = Image.new("RGB", (40, 20), (90, 90, 90))
    image.paste("white", (20, 5, 30, 15))
    return image


def as_stored(turn: int) -> tuple[tuple[int, int], list[int]]:
    """Size and box, x y width height, as somebody sees them who ignores EXIF."""
    with Image.open(io.BytesIO(turned_away(marked(), turn, "PNG"))) as image:
        ys, xs = np.nonzero(np.asarray(image)[..., 0] > 200)
        return image.size, [int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]


def shows_white(sample) -> bool:
    """True if training sees white in the sample's only box, in the square and in its crop."""
    item = SamplePreprocessor(
        40, Squash(), GrainSampling(1, 1), Tokenizer(77), True, RegionSampling(crops=1, context=1.0)
    )(sample, random.Random(0))
    x0, y0, x1, y1 = (round(v * 40) for v in item.boxes[0])
    assert (x1 - x0, y1 - y0) == (10, 20)
    inside = item.pixels[:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
    return bool(inside.min() > 230 and item.crops[0, :, 4:-4, 4:-4].min() > 230)


def coco_of(folder, data: bytes, size, box) -> Coco:
    coco = Coco(folder)
    coco.files["1.jpg"] = data
    coco.captions["images"][0] |= {"width": size[0], "height": size[1]}
    coco.instances["annotations"] = [{"id": 7, "image_id": 1, "category_id": 18, "bbox": box}]
    return coco


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("max_side", [None, 32])
def test_boxes_of_the_upright_image(tmp_path, turn, max_side):
    coco = coco_of(tmp_path, turned_away(marked(), turn), (40, 20), list(BOX))
    sample = coco.prepare(extractor="rules", max_side=max_side)["000000000001"]
    assert {region.box for region in sample.regions} == {(0.5, 0.25, 0.75, 0.75)}
    assert upright_size(open_image(sample.image)) == ((40, 20) if max_side is None else (32, 16))
    assert shows_white(sample)


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
@pytest.mark.parametrize("max_side", [None, 32])
def test_boxes_of_the_stored_pixels_are_turned_with_them(tmp_path, turn, max_side):
    size, box = as_stored(turn)
    assert size == (20, 40)
    coco = coco_of(tmp_path, turned_away(marked(), turn), size, box)
    coco.proposals = {"annotations": [{"image_id": 1, "bbox": box}]}
    sample = coco.prepare(extractor="rules", max_side=max_side)["000000000001"]
    assert {region.box for region in sample.regions} == {(0.5, 0.25, 0.75, 0.75)}
    assert coco.manifest["rejects"]["proposal equal to another box"] == 1
    assert shows_white(sample)


def test_a_size_that_fits_neither_is_counted(tmp_path):
    coco = coco_of(tmp_path, turned_away(marked(), 6), (40, 30), list(BOX))
    assert list(coco.prepare(extractor="rules")) == ["000000000002"]
    assert coco.manifest["rejects"] == {
        "image shape differs from its annotation's": 1, "box of an image left out": 1
    }  # fmt: skip


def test_an_image_that_is_almost_square_is_compared_both_ways():
    upright = Image.new("RGB", (101, 100))
    assert check_image(turned_away(upright, 6), (101, 100)).turn == 1
    assert check_image(turned_away(upright, 6), (100, 101)).turn == 6
    assert check_image(turned_away(upright, 3), (101, 100)).turn == 1


@pytest.mark.parametrize("turn", [6, 8])
@pytest.mark.parametrize("convention", ["upright", "stored"])
def test_grounded_captions_and_grit(tmp_path, turn, convention):
    size, box = ((40, 20), list(BOX)) if convention == "upright" else as_stored(turn)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(turned_away(marked(), turn))
    row = {"id": 1, "file_name": "1.jpg", "width": size[0], "height": size[1], "caption": "a white box on a wall"}
    boxes = [{"id": 1, "image_id": 1, "bbox": box, "tokens_positive": [[0, 11]]}]
    (tmp_path / "g.json").write_text(json.dumps({"images": [row], "annotations": boxes}))
    prepare_grounded(tmp_path / "images", tmp_path / "g.json", PrepareJob(tmp_path / "grounded", extractor="rules"))
    x, y, width, height = (v / size[n % 2] for n, v in enumerate(box))
    chunk = [0, 11, x, y, x + width, y + height, 0.9]
    record = {"caption": row["caption"], "width": size[0], "height": size[1], "noun_chunks": [chunk]}
    (tmp_path / "images" / "1.json").write_text(json.dumps(record))
    prepare_grit(str(tmp_path / "images"), PrepareJob(tmp_path / "grit", extractor="rules"))
    for folder in ("grounded", "grit"):
        (sample,) = read(tmp_path / folder).values()
        assert [region.box for region in sample.regions] == [(0.5, 0.25, 0.75, 0.75)]
        assert shows_white(sample)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("keep", [0.4, 0.9])
def test_cut_files_are_left_out_and_counted(tmp_path, form, keep):
    data = picture(2, 400, 300, form)
    cut = data[: int(len(data) * keep)]
    with pytest.raises(Rejected) as left:
        check_image(cut)
    assert left.value.reason in ("image cut or damaged", "image unreadable")
    (tmp_path / "a.img").write_bytes(data)
    (tmp_path / "b.img").write_bytes(cut)
    table = tmp_path / "t.csv"
    table.write_text("image,caption\na.img,A red cube.\nb.img,A blue ball.\n")
    manifest = prepare_table(tmp_path, table, PrepareJob(tmp_path / "out", extractor="rules"))
    assert manifest is not None
    assert (manifest["samples"], manifest["rejects"]) == (1, {left.value.reason: 1})


def test_what_training_would_refuse_is_no_sample():
    for data in (picture(0, 7, 100), picture(0, 100, 7, "PNG")):
        with pytest.raises(Rejected, match="image unreadable"):
            check_image(data)


def test_smaller_copies_have_the_colours_that_training_sees():
    file = io.BytesIO()
    image = Image.new("RGBA", (100, 50), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (50, 0, 100, 50))
    image.save(file, "PNG")
    small = shrink_to(check_image(file.getvalue()), 40)
    pixels = np.asarray(Image.open(io.BytesIO(small.data))).astype(int)
    assert np.abs(pixels[:, :16] - [255, 0, 0]).max() < 8
    assert np.abs(pixels[:, 24:] - 255).max() < 8
    assert (small.width, small.height) == turned_size((20, 40), 6)
