"""The pointing game on Flickr30k Entities' test split (Plummer et al., 2015): where is each phrase of each caption?

Read from the release and Flickr30k's pictures::

    flickr30k_entities/{Sentences/ID.txt,Annotations/ID.xml,test.txt}  flickr30k-images/ID.jpg

Phrases without a box do not count. ``flickr30k_pointing`` takes the cosines of patches and phrase, which any CLIP has;
``flickr30k_pointing_attention`` β-CLIP's text-conditioned attention.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from datamodules.prepare.flickr30k_files import read_objects, read_sentences, read_split
from datamodules.prepare.layout import LayoutError
from eval.benchmark import Model, Result, Run
from eval.cache import digest
from eval.fits import squash
from eval.localisation import Maps, Phrase, by_attention, by_similarity, locate, located_items, located_numbers
from eval.pictures import present
from eval.places import first_there, place
from eval.sources import ImageFile, Source


def flickr30k_pointing(model: Model, run: Run) -> Result:
    """By cosines of patches."""
    return _point("flickr30k_pointing", model, run, by_similarity)


def flickr30k_pointing_attention(model: Model, run: Run) -> Result:
    """By text-conditioned attention."""
    return _point("flickr30k_pointing_attention", model, run, by_attention)


def _point(name: str, model: Model, run: Run, maps: Maps) -> Result:
    folder = place(run.root, "flickr30k_entities/Sentences", "Sentences").parent
    counts: Counter[str] = Counter()
    pictures = [run.root / f for f in ("flickr30k-images", "flickr30k_images", "images")]
    try:
        listed = [(first_there([f / f"{n}.jpg" for f in pictures]), n) for n in read_split(folder / "test.txt")]
        there = set(present(listed, folder / "test.txt", run.skip_missing, counts))
        images: list[Source] = []
        phrases: list[Phrase] = []
        for file, number in run.track([(f, n) for f, n in listed if n in there], f"{name}: annotations"):
            found = _phrases(folder, number, len(images), counts)
            if found:
                images.append(ImageFile(file, file.name))
                phrases += found
    except LayoutError as error:
        raise ValueError(str(error)) from error
    if not phrases:
        raise ValueError(f"{folder}: no phrase with a box is left; left out: {dict(counts)}")
    located = locate(name, model, run, images, phrases, maps)
    settings = {
        "protocol": f"pointing game, strictly inside any box of the phrase, maps {maps.__name__}",
        "picture": f"{(run.fit or squash).__name__}, {model.image_size}×{model.image_size}",
        "pictures": len(images),
        "split sha256": digest(f"{p.name} {p.text} {p.boxes}" for p in phrases),
        "counts": dict(counts),
    }
    numbers = located_numbers(name, located, boxed=False)
    return Result(numbers, settings, dict(counts), {name: located_items(name, images, phrases, located, boxed=False)})


def _phrases(folder: Path, number: str, image: int, counts: Counter[str]) -> list[Phrase]:
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for box in read_objects(folder / "Annotations" / f"{number}.xml").boxes:
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
