"""Image transforms: boxes follow the pixels, draft decoding changes next to nothing, bad images are named."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.batching.image_transforms import CenterCrop, RandomCrop, Squash, move_boxes
from datamodules.image_decoding import open_image
from datamodules.sample import SampleError
from tests.helpers.tiny import picture


def marked(box: tuple[float, float, float, float], width: int, height: int) -> bytes:
    """A black image with one white box, given in fractions."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    x0, y0, x1, y1 = (round(v * s) for v, s in zip(box, (width, height, width, height), strict=True))
    pixels[y0:y1, x0:x1] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("transform", [Squash(), CenterCrop(), RandomCrop((0.6, 1.0))])
@pytest.mark.parametrize(("width", "height"), [(200, 120), (90, 160), (128, 128)])
def test_boxes_follow_the_pixels(transform, width, height):
    box = (0.4, 0.3, 0.6, 0.7)
    for seed in range(5):
        pixels, boxes, kept = transform(
            open_image(marked(box, width, height)), np.array([box]), 64, random.Random(seed)
        )
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, 64, 64)
        if not kept[0]:
            continue
        white = (pixels.float().mean(0) > 127).nonzero().float()
        y0, x0 = (white.min(0).values / 64).tolist()
        y1, x1 = ((white.max(0).values + 1) / 64).tolist()
        assert np.allclose(boxes[0], [x0, y0, x1, y1], atol=1.5 / 64)


def test_a_box_that_is_mostly_cut_off_is_dropped():
    part = np.array([0.5, 0.0, 1.0, 1.0])
    boxes = np.array([[0.1, 0.1, 0.6, 0.5], [0.45, 0.1, 0.95, 0.5], [0.6, 0.6, 0.8, 1.0]])
    moved, kept = move_boxes(boxes, part)
    assert kept.tolist() == [False, True, True]
    assert np.allclose(moved[1], [0.0, 0.1, 0.9, 0.5])
    assert np.allclose(moved[2], [0.2, 0.6, 0.6, 1.0])


def test_draft_decoding_is_close_to_full_decoding():
    data = picture(1, 1024, 768)
    fast, _, _ = Squash()(open_image(data), np.zeros((0, 4)), 64, random.Random(0))
    full = Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(fast.permute(1, 2, 0).numpy().astype(int) - np.asarray(full).astype(int)).mean() < 1.5


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an image"),
        (b"\xff\xd8\xff\xe0 no jpeg at all", "not an image"),
        (picture(width=1, height=1, format="PNG"), "1×1 pixels"),
        (picture(width=4000, height=3), "4000×3 pixels"),
    ],
)
def test_bad_pictures(data, says):
    with pytest.raises(SampleError, match=says) as error:
        open_image(data)
    assert error.value.reason == "image"


def test_a_picture_cut_in_the_middle():
    data = picture(width=400, height=300)
    image = open_image(data[: len(data) // 2])
    with pytest.raises(SampleError, match="cannot be decoded"):
        Squash()(image, np.zeros((0, 4)), 32, random.Random(0))


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 1.5), (0.9, 0.5)])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match="scale must satisfy"):
        RandomCrop(scale)


def test_random_crop_keeps_its_area():
    for seed in range(50):
        left, top, right, bottom = RandomCrop((0.5, 0.7)).crop(300, 200, random.Random(seed))
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        assert 0.499 <= (right - left) * (bottom - top) / 60000 <= 0.701


def test_random_crop_with_views_has_so_many_for_each_size():
    crop = RandomCrop((0.5, 0.7), views=3)
    rng = random.Random(0)
    for size in ((300, 200), (200, 300)):
        crops = [crop.crop(*size, rng) for _ in range(200)]
        assert len(set(crops)) == 3
        assert min(crops.count(one) for one in set(crops)) > 40
        for left, top, right, bottom in crops:
            assert 0.499 <= (right - left) * (bottom - top) / 60000 <= 0.701
    with pytest.raises(ValueError, match="views must be 1 or more, got 0"):
        RandomCrop(views=0)
