"""Fits against torchvision's transforms, and what stays in the image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import pad, resize

from eval.data.image_preprocessing import centre_crop, letterbox, longest, squash, squash_bilinear
from eval.protocols.embed import as_pixels


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (333, 500), (224, 224), (225, 300), (51, 30), (301, 224)])
@pytest.mark.parametrize("side", [16, 224])
def test_the_centre_crop_is_openai_s(size, side):
    image = noise(*size)
    oracle = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side)])
    assert torch.equal(as_pixels(centre_crop(image, side)), as_pixels(oracle(image)))


def test_squashes_are_pil_s():
    image = noise(50, 31)
    assert torch.equal(as_pixels(squash(image, 16)), as_pixels(image.resize((16, 16), Image.Resampling.BICUBIC)))
    oracle = Resize((16, 16), InterpolationMode.BILINEAR)
    assert torch.equal(as_pixels(squash_bilinear(image, 16)), as_pixels(oracle(image)))


def test_the_longest_side_fits_and_the_rest_is_black():
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    square = as_pixels(longest(image, 16))
    assert (square[0, :8] == 255).all()
    assert not square[:, 8:].any()


@pytest.mark.parametrize("size", [(50, 31), (31, 50), (40, 39), (16, 16), (3, 90)])
def test_the_letterbox_is_clipself_s_crop(size):
    image, scale = noise(*size), 16 / max(size)
    width, height = (max(1, round(length * scale)) for length in size)
    left, top = (16 - width) // 2, (16 - height) // 2
    resized = resize(image, [height, width], InterpolationMode.BICUBIC)
    oracle = pad(resized, [left, top, 16 - width - left, 16 - height - top])
    assert torch.equal(as_pixels(letterbox(image, 16)), as_pixels(oracle))
