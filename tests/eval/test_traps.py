"""Small traps of released data that no benchmark's own test holds."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from eval.data.caption_preprocessing import deduplicated, first_filled_line, first_line, lotlip, one_line, raw
from eval.data.image_preprocessing import covered, longest, squash
from eval.data.sources import EncodedImage, ImageFile
from eval.protocols.box_classification import fraction_box
from eval.protocols.regions import Boxes, raw_patches
from tests.eval.official import ColourModel


@pytest.mark.parametrize(("mode", "colour"), [("L", 77), ("CMYK", (10, 20, 30, 40)), ("P", 3)])
def test_images_of_all_modes_open_as_rgb(tmp_path, mode, colour):
    image = Image.new(mode, (5, 4), colour)
    image.save(tmp_path / "a.tiff")
    for source in (ImageFile(tmp_path / "a.tiff", "a", (5, 4)), EncodedImage("a", (tmp_path / "a.tiff").read_bytes())):
        opened = source.open()
        assert opened.mode == "RGB"
        assert np.array_equal(np.array(opened), np.array(image.convert("RGB")))


@pytest.mark.parametrize("size", [(0.0, 5.0), (5.0, 0.0), (-1.0, 5.0), (5.0, -1.0)])
def test_boxes_without_area_are_counted(size):
    counts = Counter()
    assert fraction_box((10.0, 10.0, *size), (40, 20), counts) is None
    assert counts == {"box without area": 1}


def test_a_box_of_a_fraction_of_a_pixel_counts():
    """FG-OVD has one whose side is 0.07 pixels; 260 are smaller than a cell of the grid."""
    counts = Counter()
    box = fraction_box((10.0, 10.0, 0.07, 5.0), (40, 20), counts)
    assert counts == {}
    assert box is not None
    dense = torch.randn(1, 3, 4, 4)
    vector = Boxes([[box]], [ImageFile(None, "a", (40, 20))], squash)(ColourModel(), dense, [0], [1])
    assert vector.isfinite().all()
    assert float(vector.norm()) == pytest.approx(1)


def test_boxes_move_with_an_image_that_is_not_squashed():
    assert covered(longest, (40, 20)) == (1.0, 0.5)
    assert covered(longest, (20, 40)) == (0.5, 1.0)
    assert covered(squash, (40, 20)) == (1.0, 1.0)
    images = [ImageFile(None, "a", (40, 20)), ImageFile(None, "b", (20, 40))]
    boxes = Boxes([[(0.5, 0.5, 1.0, 1.0)], [(0.0, 0.0, 1.0, 0.5)]], images, longest)
    assert [placed.tolist() for placed in boxes.boxes] == [[[0.5, 0.25, 1.0, 0.5]], [[0.0, 0.0, 0.5, 0.5]]]
    assert boxes.stamp() != Boxes([[(0.5, 0.5, 1.0, 1.0)], [(0.0, 0.0, 1.0, 0.5)]], images, squash).stamp()
    assert boxes.prepare is raw_patches


@pytest.mark.parametrize(
    ("wording", "expected"),
    [
        (raw, "\n A dog.\nA dog. It is 3.5 m."),
        (first_line, ""),
        (first_filled_line, "A dog."),
        (one_line, "  A dog. A dog. It is 3.5 m."),
        (lotlip, "A dog. A dog. It is 3. 5 m"),
        (deduplicated, "A dog. It is 3.5 m."),
    ],
)
def test_wordings(wording, expected):
    assert wording("\n A dog.\nA dog. It is 3.5 m.") == expected
