"""Images of scenes: boxes are tight on the drawn pixels, and colours and sizes are those named."""

from __future__ import annotations

import io
from random import Random

import numpy as np
import pytest
from PIL import Image

from datamodules import scenes
from datamodules.scenes.draw import PALETTE, PIXELS, SHADE, png_bytes, render, second_tone
from datamodules.scenes.generate import LABELS
from datamodules.scenes.world import SHAPES, SIZES, TEXTURES, Scene, Thing, draw_scene

MANY = 300


def test_boxes_are_tight_and_things_stay_in_their_cells() -> None:
    for i in range(MANY):
        scene = draw_scene(i, "train", 0)
        picture, boxes = _rendered(scene, i)
        empty, _ = _rendered(scene._replace(things=(), cells=()), i)
        drawn = (picture != empty).any(axis=2)
        for box, cell in zip(boxes, scene.cells, strict=True):
            x0, y0, x1, y1 = (round(64 * side) for side in box)
            row, column = divmod(cell, 3)
            assert 64 * column // 3 <= x0 < x1 <= 64 * (column + 1) // 3
            assert 64 * row // 3 <= y0 < y1 <= 64 * (row + 1) // 3
            inside = drawn[y0:y1, x0:x1]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            assert inside.mean() > 0.3
            drawn[y0:y1, x0:x1] = False
        assert not drawn.any()


def test_colours_are_those_named() -> None:
    for i in range(MANY):
        scene = draw_scene(i, "train", 0)
        picture, boxes = _rendered(scene, i)
        for thing, box in zip(scene.things, boxes, strict=True):
            x0, y0, x1, y1 = (round(64 * side) for side in box)
            pixels = picture[y0:y1, x0:x1].reshape(-1, 3)
            if thing.texture == "solid":
                shares = {name: _near(pixels, colour) for name, colour in PALETTE.items()}
                assert shares[thing.colour] > 0.15
                assert max(shares, key=lambda name: shares[name]) == thing.colour
            else:
                assert _near_fade(pixels, thing.colour) > 0.15, thing


def test_palette_colours_cannot_be_confused() -> None:
    names = list(PALETTE)
    for k, name in enumerate(names):
        for other in names[:k]:
            assert max(abs(a - b) for a, b in zip(PALETTE[name], PALETTE[other], strict=True)) > 4 * SHADE
        assert max(abs(a - b) for a, b in zip(PALETTE[name], second_tone(PALETTE[name]), strict=True)) > 60


@pytest.mark.parametrize("size", [32, 64, 65, 100, 224])
def test_sizes_are_those_named(size: int) -> None:
    for i in range(15):
        scene = draw_scene(i, "train", 0)
        data, boxes = render(scene, Random(i), size)
        assert Image.open(io.BytesIO(data)).size == (size, size)
        for thing, box in zip(scene.things, boxes, strict=True):
            assert all(0 <= side <= 1 for side in box)
            longer = max(box[2] - box[0], box[3] - box[1]) * size
            low, high = (value * size / 64 for value in PIXELS[thing.size])
            assert low - 1.5 <= longer <= high + 1, (thing, longer)
    assert PIXELS["small"][1] < PIXELS["medium"][0] < PIXELS["medium"][1] < PIXELS["large"][0]


def test_shapes_and_textures_look_different() -> None:
    """Any two shapes (solid) and any two textures (of one shape) differ in an eighth of their box or more."""
    for size in SIZES:
        for things in (
            [Thing(shape, "red", size, "solid") for shape in SHAPES],
            [Thing("square", "red", size, texture) for texture in TEXTURES],
        ):
            pictures = [_centred(thing) for thing in things]
            for k, one in enumerate(pictures):
                for other in pictures[:k]:
                    assert (abs(one - other).max(axis=2) > 40).mean() > 0.125


def test_labels_are_colour_and_shape_and_regions_link_all_phrases_of_a_thing() -> None:
    for i in range(MANY):
        scene, sample = draw_scene(i, "train", 0), scenes.sample(i, "train")
        boxes = list(dict.fromkeys(region.box for region in sample.regions))
        assert len(boxes) == len(scene.things)
        labels = {region.box: region.label for region in sample.regions}
        assert [labels[box] for box in boxes] == [f"{thing.colour} {thing.shape}" for thing in scene.things]
        assert set(labels.values()) <= set(LABELS)
        assert all(region.label == labels[region.box] for region in sample.regions)
        phrases = [region.phrase for region in sample.regions]
        assert None not in phrases
        assert len(set(phrases)) == len(phrases)


def test_png_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    picture = Image.open(io.BytesIO(png_bytes(Image.fromarray(pixels))))
    picture.verify()
    again = Image.open(io.BytesIO(png_bytes(Image.fromarray(pixels))))
    assert (again.mode, again.format) == ("RGB", "PNG")
    assert (np.asarray(again) == pixels).all()


def _near(pixels: np.ndarray, colour: tuple) -> float:
    """The share of pixels that have a colour."""
    return float((abs(pixels.astype(int) - colour).max(axis=1) <= SHADE).mean())


def _near_fade(pixels: np.ndarray, name: str) -> float:
    """The share of pixels on the way from a colour to its second tone."""
    start, end = np.array(PALETTE[name]), np.array(second_tone(PALETTE[name]))
    steps = start + np.linspace(0, 1, 40)[:, None] * (end - start)
    distance = abs(pixels[:, None].astype(float) - steps).max(axis=2).min(axis=1)
    return float((distance <= SHADE + 2).mean())


def _rendered(scene: Scene, seed: int) -> tuple[np.ndarray, list]:
    data, boxes = render(scene, Random(seed))
    return np.asarray(Image.open(io.BytesIO(data))), boxes


def _centred(thing: Thing) -> np.ndarray:
    """The crop of a thing on a plain background, brought to 16 × 16."""
    data, (box,) = render(Scene((thing,), (4,), "light blue", "plain"), Random(0))
    x0, y0, x1, y1 = (64 * side for side in box)
    return np.asarray(Image.open(io.BytesIO(data)).resize((16, 16), box=(x0, y0, x1, y1))).astype(int)
