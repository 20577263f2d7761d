"""Flickr30k Entities (Plummer et al., 2015) as shards: five captions an image, their entities boxed by people.

The five are joined into one text whose sentences they are. Entities are the phrases; every box is linked to each phrase
of its chains in all five. Phrases without a box stay, those of chain 0 ("notvisual") always. The release's captions are
tokenised ("a man 's hat ."): the spaces that put in are taken out again, so that training reads captions as people
write them, which is also how retrieval is measured ("a man's hat.").
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from datamodules.granularity import Span
from datamodules.nltk_data import missing_nltk_data
from datamodules.phrases import Found, phrases_of
from datamodules.prepare.boxes import from_pixels, usable
from datamodules.prepare.captions import Caption, move_spans
from datamodules.prepare.flickr30k_files import NOT_VISUAL, read_objects, read_sentences, read_split
from datamodules.prepare.grounding import Grounded, grounded_sample
from datamodules.prepare.pictures import find_missing
from datamodules.prepare.rejects import Rejects
from datamodules.prepare.text import as_sentence
from datamodules.prepare.writing import write_source
from datamodules.sample import Sample
from datamodules.shard_writer import require_free

logger = logging.getLogger("grainclip")


def prepare_flickr30k_entities(
    images: Path,
    annotations: Path,
    out: Path,
    split: Literal["train", "val", "test"] = "train",
    samples_per_shard: int = 1000,
    overwrite: bool = False,
    skip_missing: bool = False,
) -> dict[str, Any]:
    """Write shards from the Flickr30k Entities release.

    Args:
        images: the folder of Flickr30k's pictures, ID.jpg.
        annotations: the release's folder, with Sentences, Annotations, train.txt, val.txt and test.txt.
        out: the folder to write shards and manifest.json to.
        split: which images; only `train` is fair where Flickr30k's retrieval is measured afterwards.
        samples_per_shard: how many samples a shard holds.
        overwrite: replace the shards that `out` already holds.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest that was written. Without NLTK's data the phrases have no lemmas, and the log says so.

    Raises:
        FileNotFoundError: a file of the release or, without ``skip_missing``, an image is missing.
        FileExistsError: ``out`` holds shards, and ``overwrite`` is off.
        LayoutError: a file is not in the release's layout.
        ValueError: no image was left to write.
    """
    require_free(out, overwrite=overwrite)
    listing = annotations / f"{split}.txt"
    ids = read_split(listing)
    for part in (f"{folder}/{i}.{end}" for folder, end in (("Sentences", "txt"), ("Annotations", "xml")) for i in ids):
        if not (annotations / part).is_file():
            raise FileNotFoundError(f"{listing} lists an image whose {annotations / part} does not exist")
    missing = find_missing(images, [f"{image_id}.jpg" for image_id in ids], listing, skip_missing)
    reader = _Reader(images, annotations)
    for name in sorted(missing):
        objects = read_objects(annotations / "Annotations" / f"{name.removesuffix('.jpg')}.xml")
        reader.rejects.add_image("image missing", name, len(objects.boxes))
    return write_source(
        [image_id for image_id in ids if f"{image_id}.jpg" not in missing],
        reader.sample,
        out,
        source="flickr30k_entities",
        rejects=reader.rejects,
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
    )


class _Reader:
    """From an image's id to a sample. What is left out is counted in ``rejects``."""

    def __init__(self, images: Path, annotations: Path) -> None:
        self.images, self.annotations = images, annotations
        self.rejects = Rejects()
        self.find = phrases_of
        if absent := missing_nltk_data():
            logger.warning("NLTK's data is missing (%s): phrases get no lemmas", ", ".join(absent))
            self.find = _nothing

    def sample(self, image_id: str) -> Sample | None:
        """The sample of an image; None, and counted, where it has no captions or its file is no good."""
        objects = read_objects(self.annotations / "Annotations" / f"{image_id}.xml")
        caption, chains = self._caption(image_id)
        if not caption.text:
            self.rejects.add_image("no caption", image_id, len(objects.boxes))
            return None
        boxes = usable(
            objects.boxes, lambda b: from_pixels(b.corners, *objects.size), self.rejects, lambda b: f"{image_id} {b}"
        )
        linked = [(box, [span for name in b.chains for span in chains.get(name, ())]) for b, box in boxes]
        data = (self.images / f"{image_id}.jpg").read_bytes()
        image = Grounded(image_id, image_id, data, objects.size, caption, linked)
        return grounded_sample(image, self.find, source="flickr30k_entities", rejects=self.rejects)

    def _caption(self, image_id: str) -> tuple[Caption, dict[str, list[Span]]]:
        """The captions as one, its entities being the phrases, and each visible chain's phrases."""
        lines: list[str] = []
        sentences: list[Span] = []
        labels: dict[Span, str] = {}
        chains: dict[str, list[Span]] = {}
        for number, line in enumerate(read_sentences(self.annotations / "Sentences" / f"{image_id}.txt"), 1):
            sentence, name = as_sentence(line.text), f"{image_id} line {number}"
            if not sentence:
                self.rejects.add("caption without words", name)
                continue
            start = sum(len(text) + 1 for text in lines)
            lines.append(sentence)
            sentences.append(Span(start, start + len(sentence)))
            moved = move_spans(line.text, sentence, [entity.span for entity in line.entities], self.rejects, name)
            for entity in line.entities:
                if entity.span in moved:
                    span = Span(*(start + at for at in moved[entity.span]))
                    labels[span] = entity.label
                    chains.setdefault(entity.chain, []).append(span)
        chains.pop(NOT_VISUAL, None)
        return Caption(" ".join(lines), sentences, list(labels), labels), chains


def _nothing(_: str) -> list[Found]:
    """The noun phrases of a text where no tagger can find them."""
    return []
