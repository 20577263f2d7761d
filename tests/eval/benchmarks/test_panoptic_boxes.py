"""COCO's panoptic segments: boxes of things from the annotation, of stuff from the PNG."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from eval.benchmarks.panoptic_boxes import FINECLIP, coco_panoptic_boxes
from eval.interfaces import EvalContext
from eval.protocols import panoptic_files
from eval.protocols.panoptic_files import read_panoptic, segment_ids, tight_box
from tests.eval.official import ColourModel, rows, write_json, write_panoptic


def read(root, skip_missing=False):
    return read_panoptic(EvalContext(root, skip_missing=skip_missing))


def test_things_from_the_annotation_and_stuff_from_the_mask(tmp_path):
    write_panoptic(tmp_path)
    data = read(tmp_path)
    assert data.classes == ("red thing", "blue", "green-merged or grass")
    assert [(box.label, box.box) for box in data.images[0].segments] == [
        (0, (0, 0, 0.5, 1)),
        (2, (21 / 40, 2 / 20, 39 / 40, 18 / 20)),
    ]
    assert data.counts == {"box under 8² or over 1024² pixels": 2}


def test_numbers_by_hand(tmp_path):
    write_panoptic(tmp_path)
    model = ColourModel()
    result = coco_panoptic_boxes(model, EvalContext(tmp_path))
    assert result.numbers["coco_panoptic_boxes/class_mean_top1"] == 1.0
    assert result.numbers["coco_panoptic_boxes/boxes"] == 2
    assert result.settings["prompts per class"] == 63
    assert result.settings["image"] == "squash_bilinear, 16×16"
    assert "This is a photo of a red thing." in model.texts
    assert "itap of a green-merged or grass." in model.texts


def test_ids_are_three_digits_of_base_256(tmp_path):
    Image.fromarray(np.array([[[1, 2, 3], [255, 255, 255]]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert segment_ids(tmp_path / "a.png").tolist() == [[1 + 2 * 256 + 3 * 65536, 256**3 - 1]]


def test_a_tight_box_goes_from_the_first_pixel_to_the_last():
    mask = np.zeros((9, 12), dtype=bool)
    mask[[2, 7], [3, 10]] = True
    assert tight_box(mask) == (3, 2, 7, 5)


def test_patches_weigh_alike_before_pooling():
    dense = torch.randn(2, 8, 2, 2) * torch.rand(2, 1, 2, 2)
    torch.testing.assert_close(FINECLIP.prepare(dense), functional.normalize(dense, dim=1))


@pytest.mark.parametrize(
    ("wide", "high", "counts"), [(8, 8, True), (8, 7.9, False), (1024, 1024, True), (1024, 1025, False)]
)
def test_limits_of_the_area(tmp_path, wide, high, counts):
    file = write_panoptic(tmp_path)
    document = rows(file)
    document["images"][0] |= {"width": 2000, "height": 2000}
    document["annotations"][0]["segments_info"] = [{"id": 1, "category_id": 1, "bbox": [0, 0, wide, high]}]
    write_json(file, document)
    assert len(read(tmp_path).images[0].segments) == counts


def test_at_most_so_many_segments_of_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(panoptic_files, "MOST_SEGMENTS", 1)
    write_panoptic(tmp_path)
    data = read(tmp_path)
    assert [box.label for box in data.images[0].segments] == [0]
    assert data.counts == {"segment after the first 1 of an image": 3}


def test_missing_maps_and_images(tmp_path):
    write_panoptic(tmp_path)
    file = tmp_path / "annotations" / "panoptic_val2017" / "000000000005.png"
    data = file.read_bytes()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 1 files of .* missing, such as .*panoptic_val2017.*5\.png"):
        read(tmp_path)
    assert read(tmp_path, skip_missing=True).counts["image missing"] == 1
    file.write_bytes(data)
    (tmp_path / "val2017" / "000000000005.png").unlink()
    with pytest.raises(FileNotFoundError, match="val2017"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"category_id": 3},
            r"'annotations\[0\].segments_info\[1\].category_id' must be the id of one of 'categories'",
        ),
        ({"id": 4}, r"panoptic_val2017.*5\.png must hold segment 4 of its annotation, got none"),
        ({"id": "4"}, r"'annotations\[0\].segments_info\[1\].id' must be a whole number, got '4'"),
        ({"bbox": None}, r"'annotations\[0\].segments_info\[1\].bbox' must be \[x, y, width, height\]"),
    ],
)
def test_bad_segments_are_refused(tmp_path, fields, message):
    file = write_panoptic(tmp_path)
    document = rows(file)
    document["annotations"][0]["segments_info"][1] |= fields
    write_json(file, document)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_other_layouts_are_refused(tmp_path):
    file = write_panoptic(tmp_path)
    good = rows(file)
    write_json(file, good | {"annotations": good["annotations"] * 2})
    with pytest.raises(ValueError, match="'annotations' must be one an image, got 5 twice"):
        read(tmp_path)
    write_json(file, good | {"images": [good["images"][0] | {"height": 21}]})
    with pytest.raises(ValueError, match=r"5\.png must have 40×21 pixels, got 40×20"):
        read(tmp_path)
    write_json(file, good | {"categories": [{"id": 1, "name": "red"}]})
    with pytest.raises(ValueError, match=r"'categories\[0\].isthing' must be 0 or 1, got None"):
        read(tmp_path)
