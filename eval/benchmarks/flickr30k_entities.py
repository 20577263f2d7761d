"""Flickr30k Entities' test split (Plummer et al., 2015): each phrase of a caption is located by pointing and box score.

Read from the release and Flickr30k's images::

    flickr30k_entities/{Sentences/ID.txt,Annotations/ID.xml,test.txt}  flickr30k-images/ID.jpg
    flickr30k_entities/dets.json                        (optional: a detector's boxes, in ALBEF's form, for each ID)

Phrases without a box do not count; of several boxes any one is right. ``flickr30k_entities`` uses the cosines of
patches and phrase, which any CLIP has; ``flickr30k_entities_attention`` uses β-CLIP's text-conditioned attention.
``box_accuracy`` chooses among the detector's boxes, ``annotated_box_accuracy`` among all boxes that the release
annotates in the image.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from datamodules.formats.flickr30k_entities import ChainBox, read_objects, read_sentences, read_split
from eval.data.cache import digest
from eval.data.find_file import find_path, first_file, with_files
from eval.data.image_preprocessing import fit_setting, squash
from eval.data.sources import ImageFile, ImageSource
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
    ground_phrases,
    grounding_items,
    read_detections,
)
from eval.results.compare import numbers_of


def flickr30k_entities(model: Model, run: EvalContext) -> Result:
    """By cosines of patches."""
    return _locate("flickr30k_entities", model, run, by_similarity)


def flickr30k_entities_attention(model: Model, run: EvalContext) -> Result:
    """By text-conditioned attention."""
    return _locate("flickr30k_entities_attention", model, run, by_attention)


class _Release(NamedTuple):
    """Images with phrases that have boxes: their ids, all annotated boxes of each, and the phrases."""

    images: list[ImageSource]
    numbers: list[str]
    annotated: list[list[Xywh]]
    phrases: list[Phrase]


def _read(name: str, folder: Path, run: EvalContext, counts: Counter[str]) -> _Release:
    images = [run.root / f for f in ("flickr30k-images", "flickr30k_images", "images")]
    items = [(first_file([f / f"{n}.jpg" for f in images]), n) for n in read_split(folder / "test.txt")]
    present = set(with_files(items, folder / "test.txt", run.skip_missing, counts))
    release = _Release([], [], [], [])
    for file, number in run.track([(f, n) for f, n in items if n in present], f"{name}: annotations"):
        objects = read_objects(folder / "Annotations" / f"{number}.xml")
        boxes, (width, height) = objects.boxes, objects.size
        phrases = _phrases(folder, number, boxes, len(release.images), counts)
        if phrases:
            release.images.append(ImageFile(file, file.name, (int(width), int(height))))
            release.numbers.append(number)
            release.annotated.append([as_xywh(box.corners) for box in boxes])
            release.phrases.extend(phrases)
    if not release.phrases:
        raise ValueError(f"{folder}: no phrase with a box is left; left out: {dict(counts)}")
    return release


def _locate(name: str, model: Model, run: EvalContext, maps: Maps) -> Result:
    folder = find_path(run.root, "flickr30k_entities/Sentences", "Sentences").parent
    counts: Counter[str] = Counter()
    images, numbers, annotated, phrases = _read(name, folder, run, counts)
    candidates, files = {"annotated_box": annotated}, {}
    if (folder / "dets.json").is_file():
        boxes, files["dets.json"] = read_detections(folder / "dets.json")
        candidates = {"box": [boxes.get(number, []) for number in numbers], **candidates}
    else:
        counts["box score left out: no dets.json"] = 1
    counts += text_counts(model, [phrase.text for phrase in phrases])
    hits = ground_phrases(name, model, run, images, phrases, maps, candidates)
    settings = {
        "protocol": "pointing strictly inside any box of the phrase; box score with area^0.4, half of any box of the "
        f"phrase; maps {maps.__name__}",
        "image": fit_setting(run.fit or squash, model.image_size),
        "images": len(images),
        "split sha256": digest(f"{p.name} {p.text} {p.boxes}" for p in phrases),
        "files": files,
        "counts": dict(counts),
    }
    table = grounding_items(name, images, phrases, hits)
    numbers = numbers_of(table) | {f"{name}/phrases": float(len(phrases))}
    return Result(numbers, settings, dict(counts), {name: table})


def _phrases(folder: Path, number: str, chain_boxes: list[ChainBox], image: int, counts: Counter[str]) -> list[Phrase]:
    boxes: dict[str, list[Corners]] = {}
    for box in chain_boxes:
        for chain in box.chains:
            boxes.setdefault(chain, []).append(box.corners)
    phrases = []
    for line, caption in enumerate(read_sentences(folder / "Sentences" / f"{number}.txt")):
        for position, entity in enumerate(caption.entities):
            phrase_boxes = boxes.get(entity.chain)
            if phrase_boxes is None:
                counts["phrase without a box"] += 1
                continue
            start, end = entity.span
            phrases.append(Phrase(image, caption.text[start:end], phrase_boxes, f"{number}#{line}.{position}"))
    return phrases
