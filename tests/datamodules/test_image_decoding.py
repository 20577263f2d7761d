"""Images of every mode and orientation are read as a viewer shows them, and boxes stay on what they show."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import GrainSampling, Squash
from datamodules.batching.collate import SamplePreprocessor
from datamodules.batching.image_transforms import CenterCrop
from datamodules.batching.region_sampling import RegionSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.image_decoding import as_rgb, open_image, orientation, turn_box, upright_size
from datamodules.sample import Region, SampleError
from eval.data.sources import EncodedImage, ImageFile, TarMember
from tests.helpers.tiny import TURNS, make_sample, picture, turned_away

BOX = (0.5, 0.125, 0.75, 0.5)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(as_rgb(open_image(data))).astype(int)


def ramp(dtype, top: float) -> Image.Image:
    """Grey from 0 to ``top``, left to right."""
    return Image.fromarray(np.tile(np.linspace(0, top, 256), (16, 1)).astype(dtype))


@pytest.mark.parametrize(
    ("image", "form"),
    [
        (ramp(np.uint8, 255), "PNG"),
        (ramp(np.uint16, 65535), "PNG"),
        (ramp(np.int32, 65535), "TIFF"),
        (ramp(np.int32, 255), "TIFF"),
        (ramp(np.int32, 1e9), "TIFF"),
        (ramp(np.float32, 1), "TIFF"),
        (ramp(np.float32, 255), "TIFF"),
        (Image.fromarray(np.tile(np.linspace(-3, 5, 256), (16, 1)).astype(np.float32)), "TIFF"),
    ],
)
def test_grey_of_any_depth_keeps_its_levels(image, form):
    grey = decoded(encoded(image, form))
    assert grey.shape == (16, 256, 3)
    assert np.abs(grey - np.arange(256)[None, :, None]).max() <= 1


def test_a_dark_image_of_16_bits_stays_dark():
    assert decoded(encoded(ramp(np.uint16, 6553))).max() in (25, 26)


def test_grey_that_is_not_finite_is_refused():
    image = Image.fromarray(np.full((16, 16), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="finite"):
        as_rgb(open_image(encoded(image, "TIFF")))


def halves(mode: str) -> Image.Image:
    """The left half (200, 40, 40), or grey 200; the right half transparent, over another colour."""
    left, right = ((200, 40, 40), (0, 90, 0)) if mode != "LA" else ((200,), (0,))
    image = Image.new("RGBA" if mode == "P" else mode, (32, 16), (*left, 255))
    image.paste((*right, 0), (16, 0, 32, 16))
    return image.quantize(8) if mode == "P" else image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(mode):
    pixels = decoded(encoded(halves(mode)))
    assert np.abs(pixels[:, :14] - ([200] * 3 if mode == "LA" else [200, 40, 40])).max() <= 2
    assert (pixels[:, 18:] == 255).all()


def test_a_transparent_colour_is_laid_over_white():
    for image, colour in ((Image.new("RGB", (16, 16), (1, 2, 3)), (1, 2, 3)), (Image.new("L", (16, 16), 7), 7)):
        image.paste("black" if image.mode == "RGB" else 0, (0, 0, 8, 16))
        pixels = decoded(encoded(image, transparency=colour))
        assert (pixels[:, :8] == 0).all()
        assert (pixels[:, 8:] == 255).all()


def test_half_transparent_is_half_white():
    assert decoded(encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 128)))).max() == 127


def test_colours_of_print_palettes_and_bits():
    cmyk = decoded(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95))
    assert np.abs(cmyk - [0, 255, 255]).max() < 6
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert (decoded(encoded(palette)) == [10, 200, 30]).all()
    bits = Image.new("1", (16, 16))
    bits.paste(1, (0, 0, 8, 16))
    assert decoded(encoded(bits)).mean(axis=(0, 2)).tolist() == [255] * 8 + [0] * 8


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (decoded(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_images_are_turned_upright(turn, form):
    upright = Image.open(io.BytesIO(picture(3, 120, 80)))
    data = turned_away(upright, turn, form)
    image = open_image(data)
    assert (orientation(image), upright_size(image)) == (turn, (120, 80))
    assert image.size == ((80, 120) if turn > 4 else (120, 80))
    assert np.abs(decoded(data) - np.asarray(upright)).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_image():
    data = encoded(Image.new("RGB", (16, 16), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert upright_size(open_image(data)) == (16, 16)
    assert np.abs(decoded(data) - [254, 0, 0]).max() < 3


def marked() -> Image.Image:
    """Grey, a white box at ``BOX``."""
    image = Image.new("RGB", (160, 64), (90, 90, 90))
    x0, y0, x1, y1 = BOX
    image.paste("white", (round(x0 * 160), round(y0 * 64), round(x1 * 160), round(y1 * 64)))
    return image


@pytest.mark.parametrize("turn", TURNS)
def test_boxes_turn_with_their_image(turn):
    """A box around what is white in the stored pixels, turned, is the upright image's."""
    stored = np.asarray(Image.open(io.BytesIO(turned_away(marked(), turn, "PNG"))))
    rows, columns = np.nonzero(stored[..., 0] > 200)
    height, width = stored.shape[:2]
    box = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert turn_box(box, turn) == pytest.approx(BOX)


@pytest.mark.parametrize("turn", TURNS)
def test_training_sees_boxes_and_crops_upright(turn):
    """Draft decoding, the box in the square, and the crop around it: as of an image that is stored upright."""
    regions = (Region(BOX),)
    stored = make_sample(0, image=turned_away(marked(), turn, "JPEG"), regions=regions)
    upright = make_sample(0, image=encoded(marked(), "JPEG", quality=95), regions=regions)
    preparer = SamplePreprocessor(
        32, Squash(), GrainSampling(1, 1), Tokenizer(77), True, RegionSampling(crops=1, context=1.0)
    )
    one, other = (preparer(sample, random.Random(0)) for sample in (stored, upright))
    x0, y0, x1, y1 = (round(v * 32) for v in one.boxes[0])
    assert one.pixels[:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].min() > 240
    assert one.crops[0, :, 4:-4, 4:-4].min() > 240
    assert (one.pixels.int() - other.pixels.int()).abs().float().mean() < 3
    assert (one.crops.int() - other.crops.int()).abs().float().mean() < 3
    centred = [CenterCrop()(open_image(s.image), np.zeros((0, 4)), 32, random.Random(0))[0] for s in (stored, upright)]
    assert (centred[0].int() - centred[1].int()).abs().float().mean() < 3


def test_a_large_jpeg_is_still_drafted(monkeypatch):
    """A photograph of 1600 × 1200, turned: never decoded at full scale for a square of 64."""
    data = turned_away(Image.open(io.BytesIO(picture(1, 1600, 1200))), 6, "JPEG")
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, *a, **k: (sizes.append(self.size), resize(self, *a, **k))[1]
    )
    Squash()(open_image(data), np.zeros((0, 4)), 64, random.Random(0))
    assert sizes == [(200, 150)]


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_cut_file_is_a_bad_sample_in_squares_and_crops(keep, form):
    data = picture(1, 400, 300, form)
    data = data[: int(len(data) * keep)]
    for use in (
        lambda: Squash()(open_image(data), np.zeros((0, 4)), 32, random.Random(0)),
        lambda: RegionSampling(crops=1).cut(data, np.array([BOX]), 32),
    ):
        with pytest.raises(SampleError) as caught:
            use()
        assert caught.value.reason == "image"


def test_evaluation_reads_by_the_same_rule(tmp_path):
    for data in (encoded(halves("RGBA")), encoded(ramp(np.uint16, 65535)), turned_away(marked(), 6, "JPEG")):
        file = tmp_path / "a"
        file.write_bytes(data)
        expected = np.asarray(as_rgb(open_image(data)))
        for source in (ImageFile(file, "a"), EncodedImage("a", data), TarMember(file, "a", 0, len(data))):
            assert np.array_equal(np.asarray(source.open()), expected)


def test_a_16_bit_image_trains_with_its_levels():
    """Grey of 16 bits in a sample, as training reads it: the levels of the same ramp in 8 bits."""
    squares = [
        Squash()(open_image(encoded(ramp(*depth))), np.zeros((0, 4)), 32, random.Random(0))[0].float()
        for depth in ((np.uint16, 65535), (np.uint8, 255))
    ]
    assert torch.allclose(squares[0], squares[1], atol=1)
    assert squares[0].mean() == pytest.approx(127.5, abs=1)
