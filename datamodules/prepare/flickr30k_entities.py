"""Flickr30k Entities (Plummer et al., 2015) as shards: five captions an image, their entities boxed by people.

The five are joined into one text whose sentences they are. Entities are the phrases; every box is linked to each phrase
of its chains in all five. Phrases without a box stay, those of chain 0 ("notvisual") always. The release's captions are
tokenised ("a man 's hat ."): the tokeniser's spaces are taken out again, so that training reads captions as people
write them, which is also how retrieval is measured ("a man's hat.").
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.formats.flickr30k_entities import NOT_VISUAL, Objects, read_objects, read_sentences, read_split
from datamodules.formats.layout import described, described_folder
from datamodules.granularity.cutting import Span
from datamodules.granularity.extractors import Extractor
from datamodules.granularity.nltk_data import NltkDataError, missing_nltk_data
from datamodules.prepare.boxes import from_pixels, usable_boxes
from datamodules.prepare.grounding import CutCaption, GroundedImage, grounded_sample, move_spans
from datamodules.prepare.images import check_image, read_image, require_images
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import Rejected, Rejects
from datamodules.prepare.shard_jobs import Manifest, in_units, write_units
from datamodules.prepare.text_cleaning import as_sentence
from datamodules.sample import Sample

logger = logging.getLogger("grainclip")


def prepare_flickr30k_entities(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    split: Literal["train", "val", "test"] = "train",
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from the Flickr30k Entities release.

    Args:
        images: the folder of Flickr30k's images, ID.jpg.
        annotations: the release's folder, with Sentences, Annotations, train.txt, val.txt and test.txt.
        job: where to, and how.
        split: which images; only `train` is fair where Flickr30k's retrieval is measured afterwards.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work. Without NLTK's data the phrases have no lemmas, and the log
        says so.

    Raises:
        FileNotFoundError: a file of the release or, without ``skip_missing``, an image is missing.
        FileExistsError: the folder holds shards made with other settings, and ``job.overwrite`` is off.
        LayoutError: a file is not in the release's layout.
        ValueError: no image was left to write.
    """
    lemmatiser = _lemmatiser(job.text_extractor)
    listing = annotations / f"{split}.txt"
    ids = read_split(listing)
    folders = (("Sentences", "txt"), ("Annotations", "xml"))
    parts = [annotations / folder / f"{image_id}.{end}" for folder, end in folders for image_id in ids]
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(f"{listing} lists an image whose {part} does not exist")
    if not skip_missing:
        require_images((images / f"{image_id}.jpg" for image_id in ids), listing)
    return write_units(
        in_units(ids, job.samples_per_shard),
        EntitiesReader(images, annotations, job, lemmatiser).samples,
        job,
        source="flickr30k_entities",
        settings={
            "split": described(listing),
            "annotations": described_folder(annotations, parts),
            "lemmatiser": lemmatiser,
        },
    )


def _lemmatiser(extractor: Extractor) -> Extractor | None:
    """The extractor; None, with a warning, where its data is missing: only the lemmas need it here."""
    try:
        extractor.require()
    except NltkDataError:
        logger.warning("NLTK's data is missing (%s): phrases get no lemmas", ", ".join(missing_nltk_data()))
        return None
    return extractor


class EntitiesReader(NamedTuple):
    """Turns images' ids into samples."""

    images: Path
    annotations: Path
    job: PrepareJob
    lemmatiser: Extractor | None

    def samples(self, ids: Iterable[str], rejects: Rejects) -> Iterator[Sample]:
        """A sample an image. An image without caption, or with an unusable file, is counted with its boxes."""
        for image_id in ids:
            objects = read_objects(self.annotations / "Annotations" / f"{image_id}.xml")
            try:
                yield self._sample(image_id, objects, rejects)
            except Rejected as error:
                rejects.add_image(error.reason, image_id, len(objects.boxes))

    def _sample(self, image_id: str, objects: Objects, rejects: Rejects) -> Sample:
        image = check_image(read_image(self.images / f"{image_id}.jpg"), objects.size)
        caption, chains = self._caption(image_id, rejects)
        if not caption.text:
            raise Rejected("no caption")
        boxes = usable_boxes(
            objects.boxes,
            lambda b: image.upright(from_pixels(b.corners, *objects.size)),
            rejects,
            lambda b: f"{image_id} {b}",
        )
        linked = [(box, [span for name in b.chains for span in chains.get(name, ())]) for b, box in boxes]
        grounded = GroundedImage(image_id, image_id, self.job.shrink(image), caption, linked)
        return grounded_sample(grounded, self.lemmatiser, source="flickr30k_entities", rejects=rejects)

    def _caption(self, image_id: str, rejects: Rejects) -> tuple[CutCaption, dict[str, list[Span]]]:
        """The captions joined, with their entities as phrases; and the phrases of each visible chain."""
        lines: list[str] = []
        sentences: list[Span] = []
        labels: dict[Span, str] = {}
        chains: dict[str, list[Span]] = {}
        for number, line in enumerate(read_sentences(self.annotations / "Sentences" / f"{image_id}.txt"), 1):
            sentence, name = as_sentence(line.text), f"{image_id} line {number}"
            if not sentence:
                rejects.add("caption without words", name)
                continue
            start = sum(len(text) + 1 for text in lines)
            lines.append(sentence)
            sentences.append(Span(start, start + len(sentence)))
            moved = move_spans(line.text, sentence, [entity.span for entity in line.entities], rejects, name)
            for entity in line.entities:
                if entity.span in moved:
                    span = Span(*(start + offset for offset in moved[entity.span]))
                    labels[span] = entity.label
                    chains.setdefault(entity.chain, []).append(span)
        chains.pop(NOT_VISUAL, None)
        return CutCaption(" ".join(lines), sentences, list(labels), labels), chains
