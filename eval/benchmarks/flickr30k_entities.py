"""Flickr30k Entities' test split (Plummer et al., 2015): where is each phrase of each caption? Pointing and box score.

Read from the release and Flickr30k's images::

    flickr30k_entities/{Sentences/ID.txt,Annotations/ID.xml,test.txt}  flickr30k-images/ID.jpg
    flickr30k_entities/dets.json                        (optional: a detector's boxes, in ALBEF's form, for each ID)

Phrases without a box do not count; of several boxes any one is right. ``flickr30k_entities`` takes the cosines of
patches and phrase, which any CLIP has; ``flickr30k_entities_attention`` β-CLIP's text-conditioned attention.
``box_accuracy`` chooses among the detector's boxes, ``annotated_box_accuracy`` among all that the release draws in the
image.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from datamodules.formats.flickr30k_entities import ChainBox, read_objects, read_sentences, read_split
from eval.data.cache import digest
from eval.data.detections import read_detections
from eval.data.find_file import first_there, place
from eval.data.image_files import present
from eval.data.image_preprocessing import squash
from eval.data.sources import ImageFile, Source
from eval.interfaces import EvalContext, Model, Result
from eval.protocols.image_text_retrieval import text_counts
from eval.protocols.phrase_grounding import (
    Corners,
    Maps,
    Phrase,
    Xywh,
    as_xywh,
    by_attention,
    by_similarity,
    locate,
    located_items,
)
from eval.results.compare import numbers_of


def flickr30k_entities(model: Model, run: EvalContext) -> Result:
    """By cosines of patches."""
    return _locate("flickr30k_entities", model, run, by_similarity)


def flickr30k_entities_attention(model: Model, run: EvalContext) -> Result:
    """By text-conditioned attention."""
    return _locate("flickr30k_entities_attention", model, run, by_attention)


class _Release(NamedTuple):
    """Images with phrases that have boxes: their ids, all boxes drawn in each, and the phrases."""

    images: list[Source]
    numbers: list[str]
    drawn: list[list[Xywh]]
    phrases: list[Phrase]


def _read(name: str, folder: Path, run: EvalContext, counts: Counter[str]) -> _Release:
    images = [run.root / f for f in ("flickr30k-images", "flickr30k_images", "images")]
    listed = [(first_there([f / f"{n}.jpg" for f in images]), n) for n in read_split(folder / "test.txt")]
    there = set(present(listed, folder / "test.txt", run.skip_missing, counts))
    found = _Release([], [], [], [])
    for file, number in run.track([(f, n) for f, n in listed if n in there], f"{name}: annotations"):
        objects = read_objects(folder / "Annotations" / f"{number}.xml")
        drawn, (width, height) = objects.boxes, objects.size
        phrases = _phrases(folder, number, drawn, len(found.images), counts)
        if phrases:
            found.images.append(ImageFile(file, file.name, (int(width), int(height))))
            found.numbers.append(number)
            found.drawn.append([as_xywh(box.corners) for box in drawn])
            found.phrases.extend(phrases)
    if not found.phrases:
        raise ValueError(f"{folder}: no phrase with a box is left; left out: {dict(counts)}")
    return found


def _locate(name: str, model: Model, run: EvalContext, maps: Maps) -> Result:
    folder = place(run.root, "flickr30k_entities/Sentences", "Sentences").parent
    counts: Counter[str] = Counter()
    images, numbers, drawn, phrases = _read(name, folder, run, counts)
    candidates, files = {"annotated_box": drawn}, {}
    if (folder / "dets.json").is_file():
        boxes, files["dets.json"] = read_detections(folder / "dets.json")
        candidates = {"box": [boxes.get(number, []) for number in numbers], **candidates}
    else:
        counts["box score left out: no dets.json"] = 1
    counts += text_counts(model, [phrase.text for phrase in phrases])
    located = locate(name, model, run, images, phrases, maps, candidates)
    settings = {
        "protocol": "pointing strictly inside any box of the phrase; box score with area^0.4, half of any box of the "
        f"phrase; maps {maps.__name__}",
        "image": f"{(run.fit or squash).__name__}, {model.image_size}×{model.image_size}",
        "images": len(images),
        "split sha256": digest(f"{p.name} {p.text} {p.boxes}" for p in phrases),
        "files": files,
        "counts": dict(counts),
    }
    table = located_items(name, images, phrases, located)
    numbers = numbers_of(table) | {f"{name}/phrases": float(len(phrases))}
    return Result(numbers, settings, dict(counts), {name: table})


def _phrases(folder: Path, number: str, drawn: list[ChainBox], image: int, counts: Counter[str]) -> list[Phrase]:
    boxes: dict[str, list[Corners]] = {}
    for box in drawn:
        for chain in box.chains:
            boxes.setdefault(chain, []).append(box.corners)
    found = []
    for line, caption in enumerate(read_sentences(folder / "Sentences" / f"{number}.txt")):
        for place_, entity in enumerate(caption.entities):
            own = boxes.get(entity.chain)
            if own is None:
                counts["phrase without a box"] += 1
                continue
            start, end = entity.span
            found.append(Phrase(image, caption.text[start:end], own, f"{number}#{line}.{place_}"))
    return found
