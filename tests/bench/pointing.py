"""Does a text's map peak inside the box of the thing it names? Trained models beside untrained ones, on scenes.

    python tests/bench/pointing.py MODEL [MODEL...]

Every phrase of the embedded held-out scenes that names exactly one thing is looked for (the pointing game of
``protocols.phrase_grounding``), by the model's attention where it has any, else by similarity. The untrained
model has the same sizes, and a pooling block that starts as the run's did. Chance is the mean share
of the image that boxes cover.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamodules import scenes
from datamodules.shards.discovery import find_shards
from eval.data.shard_samples import ShardSample, read_shard_samples
from eval.interfaces import EvalContext
from eval.protocols.phrase_grounding import Maps, Phrase, by_attention, by_similarity, ground_phrases
from lightning_modules.checkpoints.metadata import KEY
from lightning_modules.cli.evaluate import load_model
from lightning_modules.cli.read_checkpoint import read
from lightning_modules.inference.evaluation_model import EvaluationModel
from lightning_modules.networks import DualEncoder, TextConditionedPooling


class Pointing(NamedTuple):
    """Accuracy of the peak, the number of phrases, and the accuracy by chance."""

    accuracy: float
    phrases: int
    chance: float


def named_things(samples: Sequence[ShardSample]) -> list[Phrase]:
    """The phrases that name exactly one box, in pixels of their image."""
    found = []
    for number, (image, sample) in enumerate(samples):
        width, height = image.open().size
        boxes = Counter(region.phrase for region in sample.regions)
        for region in sorted((r for r in sample.regions if r.phrase is not None), key=lambda r: r.phrase or 0):
            if region.phrase is not None and boxes[region.phrase] == 1:
                x0, y0, x1, y1 = region.box
                corners = (x0 * width, y0 * height, x1 * width, y1 * height)
                text = sample.phrases[region.phrase].text
                found.append(Phrase(number, text, [corners], f"{sample.key}/{region.phrase}"))
    return found


def pointing(model: EvaluationModel, samples: Sequence[ShardSample], maps: Maps | None = None) -> Pointing:
    """Measure one model by its ``maps``; None: by its attention where it has any, else by similarity."""
    images, phrases = [one.image for one in samples], named_things(samples)
    maps = maps or (by_similarity if model.pooling is None else by_attention)
    found = ground_phrases("pointing", model, EvalContext(Path()), images, phrases, maps, {})
    areas = [(x1 - x0) * (y1 - y0) for phrase in phrases for x0, y0, x1, y1 in phrase.boxes]
    whole = [width * height for width, height in (images[phrase.image].open().size for phrase in phrases)]
    chance = sum(area / pixels for area, pixels in zip(areas, whole, strict=True)) / len(phrases)
    return Pointing(found.pointed.double().mean().item(), len(phrases), chance)


def untrained(model: EvaluationModel, source: str, seed: int = 0) -> EvaluationModel:
    """A model of the same sizes before its first step."""
    torch.manual_seed(seed)
    encoder, pooling = DualEncoder(model.encoder.config), None
    if model.pooling is not None:
        settings = read(Path(source))[KEY]["settings"]
        pooling = TextConditionedPooling(encoder.config.embed_dim, settings["pooling_heads"])
        if settings["pooling_gain"] is not None:
            pooling.start_transparent(settings["pooling_gain"])
    return EvaluationModel(encoder, model.device, pooling)


def main(sources: Sequence[str]) -> None:
    """Measure and print."""
    shards = scenes.ensure_shards(train=7040).held_out  # the shipped configs' data
    samples = list(read_shard_samples(find_shards(list(map(str, shards)))))
    table = Table(title=f"peak inside the named thing's box, {len(samples)} held-out scenes", title_justify="left")
    for column in ("model", "map", "trained", "untrained", "chance", "phrases"):
        table.add_column(column)
    for source in sources:
        model, _ = load_model(source, torch.device("cpu"))
        after, before = pointing(model, samples), pointing(untrained(model, source), samples)
        kind = "similarity" if model.pooling is None else "attention"
        shares = [f"{100 * share:.1f} %" for share in (after.accuracy, before.accuracy, after.chance)]
        table.add_row(source, kind, *shares, str(after.phrases))
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
