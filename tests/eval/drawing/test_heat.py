"""Heat maps: the peak marked is the map's, and figures hold what they are given."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from eval.drawing.canvas import pixels, png, scale_strip
from eval.drawing.curves import curves_figure
from eval.drawing.heat import Heat, heat_figure, margin, overlay, resized, with_margin
from eval.drawing.words import joined, wrapped


def black():
    return Image.new("RGB", (160, 80), "black")


def without_margin(image):
    wide = margin(black())
    return np.asarray(image).astype(int)[wide:-wide, wide:-wide]


def test_the_ring_is_where_the_map_is_largest():
    heat = torch.zeros(16)
    heat[4 * 2 + 3] = 1.0  # third row, last column
    pixels = without_margin(overlay(black(), heat))
    white = np.argwhere((pixels[..., :3] == 255).all(-1))
    y, x = white.mean(0)
    assert 40 < y < 60  # row 2 of 4 of 80 pixels
    assert 120 < x < 160  # column 3 of 4 of 160 pixels
    cold, warm = pixels[5, 5], pixels[50, 125]
    assert cold[0] > cold[1]  # viridis begins in purple
    assert warm[1] > warm[0]  # and goes through green


def test_a_ring_at_any_edge_is_whole():
    image = overlay(black(), torch.eye(16)[5])
    ring = (np.asarray(image)[..., :3] == 255).all(-1) & (np.asarray(image)[..., 3] > 0)
    for corner in (0, 3, 12, 15):
        # so steep that the bicubic map is largest in the corner's own pixel
        heat = torch.full((16,), -1000.0)
        heat[corner] = 1.0
        pixels = np.asarray(overlay(black(), heat))
        white = (pixels[..., :3] == 255).all(-1) & (pixels[..., 3] > 0)
        assert abs(int(white.sum()) - int(ring.sum())) <= 2
        assert white[:, 0].sum() == white[:, -1].sum() == white[0].sum() == white[-1].sum() == 0  # black is outside
    assert with_margin(black()).size == image.size
    assert np.asarray(with_margin(black()))[0, 0, 3] == 0


def test_each_map_has_a_scale_of_its_own_and_its_peak_above_it():
    maps = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    maps[1] *= 1e-2
    assert np.array_equal(overlay(black(), maps[1]), overlay(black(), maps[1] * 100))
    heat = Heat(torch.stack([12.4 * torch.eye(16)[3], torch.full((16,), 0.5)]), "attention")
    texts = [text.get_text() for text in heat_figure(black(), ["a Red cube", "the ball"], heat, "title").texts]
    assert texts[:4] == ["title", "image", "a Red cube\npeak 12.4", "the ball\npeak 0.5"]
    assert {"lowest", "peak", "attention"} <= set(texts)


def test_maps_that_say_nothing_are_drawn_too():
    heat = Heat(torch.full((2, 4), 0.25), "attention")
    figure = heat_figure(Image.new("RGB", (30, 20)), ["$x_1$ é 漢字", "word " * 60], heat, "all alike")
    assert pixels(figure).shape[2] == 3
    assert png(figure).startswith(b"\x89PNG")
    assert scale_strip(10, 2).size == (10, 2)
    assert resized(Image.new("RGB", (30, 20)), 60).size == (60, 40)


def test_words_as_people_write_them():
    assert joined("the dog 's tail , it isn 't red ( or so ) .") == "the dog's tail, it isn't red (or so)."
    assert wrapped("one, two. three", 10, 1) == "one, two…"


def test_curves_of_one_run_differ_in_colour_and_in_style():
    for runs in (["a"], ["a", "b"]):
        figure = curves_figure({(run, name): [(0, 1.0), (9, 2.0)] for run in runs for name in "xy"}, "t")
        looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()]
        assert len(set(looks)) == len(looks)
        assert len({style for _, style in looks}) == 2
        assert len({colour for colour, _ in looks}) == 2
