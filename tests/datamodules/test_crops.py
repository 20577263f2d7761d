"""Boxes drawn and cut out as images of their own."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import GrainSampling, Squash
from datamodules.batching.collate import SamplePreprocessor, collate
from datamodules.batching.region_sampling import RegionSampling
from datamodules.batching.tokenizer import Tokenizer
from datamodules.sample import Region, SampleError
from tests.helpers.tiny import make_sample, picture

BOXES = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), (0.25, 0.25, 0.75, 0.75), (0.0, 0.9, 0.1, 1.0))


def quarters():
    """An image of four colours."""
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:20, :40, 0] = pixels[20:, 40:, 1] = pixels[:20, 40:, 2] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def prepared(regions, random_texts=True, seed=0):
    sample = make_sample(0, image=quarters(), extension="png", regions=tuple(Region(box) for box in BOXES))
    preparer = SamplePreprocessor(16, Squash(), GrainSampling(1, 1), Tokenizer(77), random_texts, regions)
    return preparer(sample, random.Random(seed))


def test_a_crop_shows_its_box_and_some_of_what_is_around():
    tight = RegionSampling(crops=4, context=1.0).cut(quarters(), np.array(BOXES), 16)
    assert tight.shape == (4, 3, 16, 16)
    assert tight.dtype == torch.uint8
    assert tight[0, 0, :14, :14].min() > 190  # bicubic resizing looks over the border
    assert tight[0, 1:, :14, :14].max() < 10
    wide = RegionSampling(crops=1, context=2.0).cut(quarters(), np.array(BOXES[:1]), 16)
    # the box of the upper left quarter, enlarged to three quarters of each side: 2/3 red, 1/3 of other colours
    assert wide[0, 0, :10, :10].min() > 190
    assert wide[0, 2, :10, 12:].min() > 190
    assert wide[0, 1, 12:, 12:].min() > 190
    outside = RegionSampling(crops=1, context=50.0).cut(quarters(), np.array(BOXES[3:]), 16)
    whole = RegionSampling(crops=1, context=1.0).cut(quarters(), np.array([[0.0, 0.0, 1.0, 1.0]]), 16)
    assert torch.equal(outside, whole)


def test_context_enlarges_a_box_around_its_centre():
    crop = RegionSampling(crops=1, context=1.5).cut(quarters(), np.array([[0.5, 0.25, 0.75, 0.75]]), 16)
    image = Image.open(io.BytesIO(quarters()))
    around = image.resize((16, 16), Image.Resampling.BICUBIC, (35.0, 5.0, 65.0, 35.0))  # of 80 × 40 pixels
    assert np.array_equal(crop[0].permute(1, 2, 0).numpy(), np.array(around))


def test_boxes_are_drawn_in_training_only():
    item = prepared(RegionSampling(boxes=2, crops=1))
    assert len(item.boxes) == len(item.labels) == 2
    assert item.crops.shape == (1, 3, 16, 16)
    drawn = {tuple(prepared(RegionSampling(boxes=1), seed=seed).boxes[0]) for seed in range(20)}
    assert drawn == set(BOXES)
    again = prepared(RegionSampling(boxes=2, crops=1))
    assert np.array_equal(again.boxes, item.boxes)
    assert torch.equal(again.crops, item.crops)
    evaluated = prepared(RegionSampling(boxes=2, crops=1, min_area=500.0), random_texts=False)
    assert [tuple(box) for box in evaluated.boxes] == list(BOXES)
    assert len(evaluated.crops) == 1


def test_small_boxes_are_left_out_and_counted():
    item = prepared(RegionSampling(min_area=100.0))  # of 80 × 40 pixels the last box has 8 × 4
    assert {tuple(box) for box in item.boxes} == set(BOXES[:3])
    assert item.counts["dropped/small box"] == 1
    assert prepared(RegionSampling(min_area=800.0)).counts["dropped/small box"] == 1  # three have just 40 × 20
    assert collate([item, prepared(RegionSampling())]).counts["dropped/small box"] == 1


def test_crops_know_their_region_in_the_batch():
    items = [prepared(RegionSampling(boxes=3, crops=2), seed=0), prepared(RegionSampling()), prepared(
        RegionSampling(crops=1), seed=1)]  # fmt: skip
    batch = collate(items)
    assert batch.crops.region.tolist() == [0, 1, 7]
    assert batch.regions.image[batch.crops.region].tolist() == [0, 0, 2]
    for pixels, region in zip(batch.crops.pixels, batch.crops.region.tolist(), strict=True):
        stored = batch.regions.boxes[region].double().numpy()[None]
        assert torch.equal(RegionSampling(crops=1).cut(quarters(), stored.round(6), 16)[0], pixels)


def test_a_picture_that_cannot_be_decoded():
    with pytest.raises(SampleError, match="the image cannot be decoded"):
        RegionSampling(crops=1).cut(picture()[:200], np.array(BOXES[:1]), 16)
