"""Heat maps: the peak marked is the map's, and figures hold what they are given."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from eval.drawing.canvas import pixels, png, scale_strip
from eval.drawing.heat import Heat, heat_figure, overlay, sized


def test_the_ring_is_where_the_map_is_largest():
    heat = torch.zeros(16)
    heat[4 * 2 + 3] = 1.0  # third row, last column
    drawn = np.asarray(overlay(Image.new("RGB", (160, 80), "black"), heat, (0.0, 1.0))).astype(int)
    white = np.argwhere((drawn == 255).all(-1))
    y, x = white.mean(0)
    assert 40 < y < 60  # row 2 of 4 of 80 pixels
    assert 120 < x < 160  # column 3 of 4 of 160 pixels
    cold, warm = drawn[5, 5], drawn[50, 125]
    assert cold[0] > cold[1]  # viridis begins in purple
    assert warm[1] > warm[0]  # and goes through green


def test_maps_that_say_nothing_are_drawn_too():
    heat = Heat(torch.full((2, 4), 0.25), "attention")
    low, high = heat.limits()
    assert low < high
    figure = heat_figure(Image.new("RGB", (30, 20)), ["$x_1$ é 漢字", "word " * 60], heat, "all alike")
    assert pixels(figure).shape[2] == 3
    assert png(figure).startswith(b"\x89PNG")
    assert scale_strip(10, 2).size == (10, 2)
    assert sized(Image.new("RGB", (30, 20)), 60).size == (60, 40)
