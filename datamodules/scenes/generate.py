"""Samples: a scene's image, its text at every grain, its boxes, and questions about them."""

from __future__ import annotations

from random import Random

from datamodules.sample import Choice, Region, Sample
from datamodules.scenes.draw import render
from datamodules.scenes.questions import questions
from datamodules.scenes.sentences import describe
from datamodules.scenes.world import COLOURS, SHAPES, Split, draw_scene

SOURCE = "scenes"
ASKED = 2  # things of a scene with questions
LABELS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def sample(index: int, split: Split, seed: int = 0, size: int = 64, asked: int = ASKED) -> Sample:
    """Sample ``index`` of a split: a function of its arguments alone, in any process and any order.

    ``size`` is the image's side in pixels. A dev or held-out sample has questions about ``asked`` of its things, four
    each. A region's label is the thing's colour and shape, of ``LABELS``. A thing has a region for each phrase that
    names it, all with the same box.

    Raises ``ValueError`` where ``split`` is unknown, ``index`` or ``asked`` negative, or ``size`` below 32.
    """
    for name, value in (("index", index), ("asked", asked)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    scene = draw_scene(index, split, seed)
    rng = Random(f"scenes/sample/{seed}/{split}/{index}")
    caption = describe(scene, rng)
    image, boxes = render(scene, rng, size)
    regions: list[Region] = []
    choices: list[Choice] = []
    first_region: list[int] = []
    for number, (thing, box) in enumerate(zip(scene.things, boxes, strict=True)):
        first_region.append(len(regions))
        regions.extend(
            Region(box, p, f"{thing.colour} {thing.shape}")
            for p, thing_number in enumerate(caption.things)
            if thing_number == number
        )
    if split != "train":
        for number in rng.sample(range(len(scene.things)), min(asked, len(scene.things))):
            for level, texts in questions(scene.things[number], split, seed, rng):
                choices.append(Choice(first_region[number], level, texts))
    return Sample(
        key=f"{split}-{index:06d}",
        image=image,
        caption=caption.text,
        sentences=caption.sentences,
        phrases=caption.phrases,
        regions=tuple(regions),
        choices=tuple(choices),
        summary=caption.sentences[0],
        source=SOURCE,
        extension="png",
    )
