"""The README's picture, by ``make picture``: where a model looks when it reads the grains of a held-out scene.

Shown are the maps of the caption, of its last sentence and of the longest phrase of each thing, whether they point at
their box or not. The maps are the pooling block's attention where the model has one, as in ``lightning explain``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamodules import scenes
from datamodules.atomic_write import atomic_write
from datamodules.image_decoding import as_rgb, open_image
from datamodules.sample import Box, Sample
from eval.drawing.canvas import COLOURS, canvas, frame, pixels, show, write
from eval.drawing.heat import margin, overlay, resized, with_margin
from eval.drawing.words import wrapped
from eval.protocols.phrase_grounding import peak_is_inside, upsample_map
from lightning_modules.cli.evaluate import load_model
from lightning_modules.cli.explain import explain
from lightning_modules.inference.evaluation_model import EvaluationModel
from tests.study.rows import STUDIES

SCENE = 32  # of the held-out ones: one of those in which more phrases than usual point
COLUMNS, TILE, WORDS, GAP = 5, 1.7, 0.62, 0.16  # inches
BLACK = "#000000"


class Grain(NamedTuple):
    """A text to read, and where what it names stands."""

    kind: str
    text: str
    box: Box | None = None
    colour: str = BLACK


def grains(sample: Sample) -> list[Grain]:
    """The caption, its last sentence, and the longest phrase of each box."""
    phrases: dict[Box, list[str]] = {}
    for region in sample.regions:
        if region.phrase is not None:
            phrases.setdefault(region.box, []).append(sample.phrases[region.phrase].text)
    boxed = [
        Grain(f"phrase, box {number}", max(texts, key=len), box, COLOURS[(number - 1) % (len(COLOURS) - 1)])
        for number, (box, texts) in enumerate(phrases.items(), 1)
    ]
    return [Grain("caption", sample.caption), Grain("sentence", sample.sentences[-1]), *boxed]


def picture(model: EvaluationModel, sample: Sample) -> tuple[Figure, int, int]:
    """The picture; how many of all phrases with a box have their peak in it, and how many there are."""
    image = as_rgb(open_image(sample.image))
    shown = grains(sample)
    boxed = [(sample.phrases[r.phrase].text, r.box) for r in sample.regions if r.phrase is not None]
    heat, _ = explain(model, image, [*(grain.text for grain in shown), *(text for text, _ in boxed)])
    maps, of_phrases = heat.maps[: len(shown)], heat.maps[len(shown) :]
    hits = [_points(patches, box, image.size) for patches, (_, box) in zip(of_phrases, boxed, strict=True)]
    large = resized(image, round(TILE * 200))
    rows = -(-(len(shown) + 2) // COLUMNS)  # the image comes first, the caption's words come last
    around = margin(large) / 200
    with canvas(COLUMNS * (TILE + GAP) + GAP, 0.2 + rows * (TILE + WORDS)) as figure:
        panels = [with_margin(large), *(overlay(large, patches) for patches in maps)]
        for number, (panel, grain) in enumerate(zip(panels, [Grain("a held-out scene", ""), *shown], strict=True)):
            row, column = divmod(number, COLUMNS)
            left, top = GAP + column * (TILE + GAP), WORDS + row * (TILE + WORDS)
            show(figure, panel, left - around, top - around, TILE + 2 * around, TILE + 2 * around)
            for one in shown if number == 0 else [grain]:
                _outline(figure, one, left, top)
            words = "\n".join([grain.kind, wrapped(grain.text, 30, 2)] if grain.text else [grain.kind])
            style = {"ha": "center", "va": "bottom", "fontsize": 7.5, "color": grain.colour}
            write(figure, words, left + TILE / 2, top - around - 0.02, **style)
        row, column = divmod(len(shown) + 1, COLUMNS)
        left, top = GAP + column * (TILE + GAP), WORDS + row * (TILE + WORDS)
        caption = wrapped(sample.caption, 19 * (COLUMNS - column), 12)
        write(figure, caption, left, top, va="top", fontsize=8)
    return figure, sum(hits), len(hits)


def _points(patches: torch.Tensor, box: Sequence[float], size: tuple[int, int]) -> bool:
    corners = tuple(share * size[n % 2] for n, share in enumerate(box))
    return peak_is_inside(upsample_map(patches.float(), size), [(corners[0], corners[1], corners[2], corners[3])])


def _outline(figure: Figure, grain: Grain, left: float, top: float) -> None:
    if grain.box is not None:
        x0, y0, x1, y1 = (TILE * share for share in grain.box)
        place = (left + x0, top + y0, x1 - x0, y1 - y0)
        frame(figure, *place, fill=False, edgecolor="white", linewidth=3)
        frame(figure, *place, fill=False, edgecolor=grain.colour, linewidth=1.6)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, or any model that `lightning explain` reads")
    parser.add_argument("--scene", type=int, default=SCENE, help=f"number of the held-out scene (default: {SCENE})")
    parser.add_argument("--out", type=Path, default=STUDIES / "results" / "where.png", help="the picture")
    given = parser.parse_args()
    model, _ = load_model(given.model, torch.device("cpu"))
    figure, hits, phrases = picture(model, scenes.sample(given.scene, "held_out"))
    with atomic_write(given.out) as draft:
        colours = Image.fromarray(pixels(figure)).quantize(256, kmeans=3, dither=Image.Dither.NONE)  # half the size
        colours.save(draft, "PNG", optimize=True)
    sys.stdout.write(f"{hits} of {phrases} phrases have their peak in their box; written: {given.out}\n")


if __name__ == "__main__":
    main()
