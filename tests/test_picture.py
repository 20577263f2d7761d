"""The README's picture: every box has its map, and what points is counted."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.nn import functional

from datamodules import scenes
from tests.study import picture

SIDE = 8  # patches


class Pointing:
    """A model each of whose texts is seen in one patch: a phrase in the middle of its box, moved by ``off`` patches."""

    image_size, pooling = 64, None

    def __init__(self, sample, off=0):
        self.places = {}
        for region in sample.regions:
            x0, y0, x1, y1 = (SIDE * share / 2 for share in region.box)
            self.places[sample.phrases[region.phrase].text] = int(y0 + y1) * SIDE + int(x0 + x1)
        self.off = off

    def encode_image(self, pixels):
        assert pixels.shape == (1, 3, 64, 64)
        return SimpleNamespace(image=torch.ones(1, SIDE**2), dense=torch.eye(SIDE**2).view(1, SIDE**2, SIDE, SIDE))

    def encode_text(self, texts):
        place = torch.tensor([self.places.get(text, 0) for text in texts])
        return functional.one_hot((place + self.off) % SIDE**2, SIDE**2).float()


def test_phrases_that_point_are_counted():
    sample = scenes.sample(picture.SCENE, "held_out")
    phrases = sum(region.phrase is not None for region in sample.regions)
    figure, hits, asked = picture.picture(Pointing(sample), sample)
    assert (hits, asked) == (phrases, phrases)
    written = " ".join(text.get_text() for text in figure.texts)
    assert all(f"phrase, box {n}" in written for n in range(1, 1 + len({region.box for region in sample.regions})))
    assert picture.picture(Pointing(sample, off=SIDE * SIDE // 2), sample)[1] < phrases / 2


def test_each_box_has_its_longest_phrase():
    sample = scenes.sample(picture.SCENE, "held_out")
    caption, sentence, *boxed = picture.grains(sample)
    assert (caption.text, sentence.text) == (sample.caption, sample.sentences[-1])
    assert [grain.box for grain in boxed] == list(dict.fromkeys(region.box for region in sample.regions))
    for grain in boxed:
        own = [sample.phrases[r.phrase].text for r in sample.regions if r.box == grain.box]
        assert len(grain.text) == max(map(len, own))


@pytest.mark.slow
def test_the_command_draws_a_file(tmp_path, monkeypatch, capsys):
    file = tmp_path / "where.png"
    monkeypatch.setattr(sys, "argv", ["picture.py", "scenes-base", "--scene", "4", "--out", str(file)])
    picture.main()
    assert "of 12 phrases have their peak in their box" in capsys.readouterr().out
    with Image.open(file) as image:
        assert image.width == pytest.approx(100 * (5 * (picture.TILE + picture.GAP) + picture.GAP), abs=1)
