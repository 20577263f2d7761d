"""Grounding of phrases by a map over patches: the pointing game, and the best of candidate boxes.

A map scores how much each patch of the squashed image belongs to the phrase; it is upsampled to the image's size
(bicubic). Pointing (AMC, ALBEF): a hit where the map's largest value, the first row by row, lies strictly inside one of
the phrase's boxes. Box score (ALBEF): of the candidates, a detector's boxes, the one with the largest sum of the map
over area^0.4 is chosen; a hit where its overlap with a box of the phrase is at least a half, counted in whole pixels.
Where a release has no detector's boxes, the boxes annotated in the image can be the candidates. They are fewer, and
each shows an object, so this number has a name of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from datamodules.formats.layout import XYWH
from eval.data.image_preprocessing import SQUASHED, squash, whole_fit
from eval.data.records import read_json
from eval.data.sources import ImageFile, ImageSource, Xywh
from eval.interfaces import AttentiveModel, EvalContext, Model
from eval.protocols.embed import as_pixels, batch_ranges, embed_texts, gather_batches, load_batches, patches_of
from eval.results.per_item import Items, Mean

ALPHA = 0.4
OVERLAP = 0.5
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
Maps = Callable[[Any, Tensor, Tensor, Tensor], Tensor]  # model, texts [T, D], dense [B, D, h, w], image [T] -> [T, P]


class Phrase(NamedTuple):
    """A phrase about an image, and its boxes."""

    image: int
    text: str
    boxes: list[Corners]
    name: str


class GroundingHits(NamedTuple):
    """For each phrase, whether pointing hit it, and for each kind of candidates whether the best of them is right."""

    pointed: Bool[Tensor, " N"]
    boxed: dict[str, Bool[Tensor, " N"]]


def read_detections(path: Path) -> tuple[dict[str, list[Xywh]], str]:
    """Read ``dets.json`` as ALBEF releases it: boxes x, y, width, height by image id; and the file's SHA-256.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a box is not four numbers.
    """
    document, checksum = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: the JSON must be an object, got {type(document).__name__}")
    detections: dict[str, list[Xywh]] = {}
    for number, boxes in document.items():
        for box in boxes if isinstance(boxes, list) else [boxes]:
            if not isinstance(box, list) or not XYWH.holds(box[:4]):
                raise ValueError(f"{path}: '{number}' must be a list of {XYWH.words}, got {box!r:.80}")
            detections.setdefault(number, []).append((box[0], box[1], box[2], box[3]))
    return detections, checksum


def by_similarity(
    model: Model, texts: Float[Tensor, "T D"], dense: Float[Tensor, "B D h w"], image: Int[Tensor, " T"]
) -> Float[Tensor, "T P"]:
    """Cosine of each patch with the text, which any CLIP has."""
    del model
    patches = functional.normalize(dense.float().flatten(2), dim=1)
    return torch.einsum("tdp,td->tp", patches[image], texts)


def by_attention(
    model: AttentiveModel, texts: Float[Tensor, "T D"], dense: Float[Tensor, "B D h w"], image: Int[Tensor, " T"]
) -> Float[Tensor, "T P"]:
    """The text-conditioned attention over the patches. Raises ValueError where the model has none."""
    return model.attend(texts, dense, image)


def ground_phrases(
    name: str,
    model: Model,
    run: EvalContext,
    images: Sequence[ImageSource],
    phrases: Sequence[Phrase],
    maps: Maps,
    candidates: Mapping[str, Sequence[Sequence[Xywh]]],
) -> GroundingHits:
    """Ground every phrase; the phrases must be sorted by image. Collective.

    ``candidates`` are the boxes of each image, by their kind.
    """
    fit = whole_fit(name, run.fit, squash, SQUASHED)
    texts = embed_texts(model, run, [phrase.text for phrase in phrases], name)
    counts = torch.bincount(torch.tensor([phrase.image for phrase in phrases]), minlength=len(images))
    first = [0, *counts.cumsum(0).tolist()]

    def load(number: int) -> tuple[Tensor, tuple[int, int], int]:
        source = images[number]
        image, turn = source.open_turned() if isinstance(source, ImageFile) else (source.open(), 1)
        return as_pixels(fit(image, model.image_size)), image.size, turn

    batches = batch_ranges(len(images), run.batch_size)
    spans = {batch: range(first[batch[0]], first[batch[-1] + 1]) for batch in batches}  # their phrases
    rows = []
    for batch, loaded in load_batches(load, batches, run, f"{name}: images"):
        span = spans[batch]
        dense = patches_of(model.encode_image(torch.stack([square for square, *_ in loaded])))
        image = torch.tensor([phrases[n].image - batch[0] for n in span], device=dense.device)
        heats = maps(model, texts[span.start : span.stop].to(dense.device), dense, image).float().cpu()
        for n, heat in zip(span, heats, strict=True):
            row, right = phrases[n].image, phrases[n].boxes
            _, size, turn = loaded[row - batch[0]]
            pixel_map = turn_back(upsample_map(heat, size), turn)
            boxed = [best_box_is_right(pixel_map, boxes[row], right) for boxes in candidates.values()]
            rows.append(torch.tensor([[peak_is_inside(pixel_map, right), *boxed]], dtype=torch.float32))
    pointed, *boxed = gather_batches(rows, list(spans.values())).bool().unbind(1)
    return GroundingHits(pointed, dict(zip(candidates, boxed, strict=True)))


def upsample_map(heat: Float[Tensor, " P"], size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """A square map of patches, row by row, upsampled to the image's width and height."""
    side = math.isqrt(len(heat))
    grid = heat.view(1, 1, side, side)
    return functional.interpolate(grid, size=(size[1], size[0]), mode="bicubic", align_corners=False)[0, 0]


def turn_back(pixel_map: Shaped[Tensor, "H W"], turn: int) -> Shaped[Tensor, "h w"]:
    """A map over the upright image, turned back to the stored pixels, whose EXIF orientation is ``turn``."""
    if turn in (5, 7):
        pixel_map = pixel_map.T
    turns = {
        2: pixel_map.flip(1),
        4: pixel_map.flip(0),
        3: pixel_map.rot90(2),
        7: pixel_map.rot90(2),
        6: pixel_map.rot90(1),
    }
    return pixel_map.rot90(-1) if turn == 8 else turns.get(turn, pixel_map)


def peak_is_inside(pixel_map: Float[Tensor, "H W"], boxes: Sequence[Corners]) -> bool:
    """True if the largest value lies strictly inside any box."""
    y, x = divmod(int(pixel_map.flatten().argmax()), pixel_map.shape[1])
    return any(x0 < x < x1 and y0 < y < y1 for x0, y0, x1, y1 in boxes)


def best_box_is_right(pixel_map: Float[Tensor, "H W"], candidates: Sequence[Xywh], right: Sequence[Corners]) -> bool:
    """True if the best of the candidates overlaps a right box by half; False without candidates."""
    best, score = None, -math.inf
    for x, y, width, height in candidates:
        inside = pixel_map[int(y) : int(y + height), int(x) : int(x + width)]
        if width * height > 0 and (value := float(inside.sum()) / (width * height) ** ALPHA) > score:
            best, score = (x, y, width, height), value
    return best is not None and any(overlap(best, as_xywh(box)) >= OVERLAP for box in right)


def as_xywh(box: Corners) -> Xywh:
    """Corners to x, y, width, height."""
    x0, y0, x1, y1 = box
    return x0, y0, x1 - x0, y1 - y0


def overlap(a: Xywh, b: Xywh) -> float:
    """Intersection over union in whole pixels, as the RefCOCO evaluations count it."""
    x0, y0 = max(a[0], b[0]), max(a[1], b[1])
    x1, y1 = (min(a[i] + a[i + 2] - 1, b[i] + b[i + 2] - 1) for i in (0, 1))
    inner = (x1 - x0 + 1) * (y1 - y0 + 1) if x0 < x1 and y0 < y1 else 0.0
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)


def grounding_items(head: str, images: Sequence[ImageSource], phrases: Sequence[Phrase], hits: GroundingHits) -> Items:
    """A row per phrase."""
    columns: dict[str, list[Any]] = {
        "phrase": [phrase.name for phrase in phrases],
        "image": [images[phrase.image].name for phrase in phrases],
        "text": [phrase.text for phrase in phrases],
        "pointed": hits.pointed.tolist(),
        **{kind: boxed.tolist() for kind, boxed in hits.boxed.items()},
    }
    means = {f"{head}/pointing_accuracy": Mean("pointed")}
    means |= {f"{head}/{kind}_accuracy": Mean(kind) for kind in hits.boxed}
    return Items(columns, means, "image")
