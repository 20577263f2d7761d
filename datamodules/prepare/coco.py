"""COCO captions and boxes as shards, or any data set whose files are laid out like COCO's.

An image's captions, five in COCO, are joined into one text whose sentences they are. Every box is linked to each
phrase whose head noun names its category ("two men" and a box of "person"); which of several persons a phrase means,
COCO does not tell. Proposals, boxes of anything that a detector or segmenter found, say nothing about what they show:
they come without phrase and label, for methods that compare regions with crops of them (CLIPSelf, FineCLIP, HarmoCLIP).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.formats.coco import CocoBox, CocoImage, read_boxes, read_captions, read_proposals
from datamodules.formats.layout import described
from datamodules.granularity.cutting import cut_phrases
from datamodules.prepare.boxes import from_coco, reject_boxes, usable_boxes
from datamodules.prepare.coco_names import CategoryNames
from datamodules.prepare.images import CheckedImage, check_image, read_image, require_images, sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import Rejected, Rejects
from datamodules.prepare.shard_jobs import Manifest, in_units, write_units
from datamodules.prepare.text_cleaning import as_sentence
from datamodules.sample import Box, Phrase, Region, Sample


def prepare_coco(
    images: Path,
    captions: Path,
    job: PrepareJob,
    instances: Path | None = None,
    skip_missing: bool = False,
    proposals: Path | None = None,
    max_proposals: int = 100,
) -> Manifest | None:
    """Write shards from COCO captions, with COCO instances and proposals as regions.

    Args:
        images: the folder of the images, where the captions file's `file_name` begins (train2017).
        captions: COCO's captions_*.json.
        job: where to, and how.
        instances: COCO's instances_*.json; without it, or proposals, the samples have no regions.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.
        proposals: class-agnostic boxes, laid out as instances; categories may be missing, each box may have a `score`.
        max_proposals: how many proposals an image keeps, those with the highest score.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: an annotation file or, without ``skip_missing``, an image is missing.
        FileExistsError: the folder holds shards made with other settings, and ``job.overwrite`` is off.
        LayoutError: an annotation file is not in COCO's layout.
        ValueError: ``max_proposals`` is below 1, or no image was left to write.
    """
    if max_proposals < 1:
        raise ValueError(f"max_proposals must be at least 1, got {max_proposals}")
    job.text_extractor.require()
    files = {"captions": captions, "instances": instances, "proposals": proposals}
    settings = {name: described(path) for name, path in files.items() if path} | {"max_proposals": max_proposals}
    coco_images, captions_of = read_captions(captions)
    categories, boxes_of = read_boxes(instances) if instances is not None else ([], {})
    proposals_of = read_proposals(proposals) if proposals is not None else {}
    if not skip_missing:
        require_images((images / image.file_name for image in coco_images), captions)
    rejects, image_ids = Rejects(), {image.id for image in coco_images}
    for boxes_by_image in (boxes_of, proposals_of):
        reject_boxes((box for i, boxes in boxes_by_image.items() if i not in image_ids for box in boxes), rejects)
    annotated = (
        AnnotatedImage(i, captions_of.get(i.id, ()), boxes_of.get(i.id, ()), proposals_of.get(i.id, ()))
        for i in coco_images
    )
    return write_units(
        in_units(annotated, job.samples_per_shard),
        CocoReader(images, CategoryNames(categories), max_proposals, job).samples,
        job,
        source="coco",
        settings=settings,
        rejects=rejects,
    )


class AnnotatedImage(NamedTuple):
    """An image with its captions, boxes and proposals."""

    image: CocoImage
    captions: Sequence[str]
    boxes: Sequence[CocoBox]
    proposals: Sequence[CocoBox]  # the best first


class CocoReader(NamedTuple):
    """Turns annotated images into samples. ``folder`` has the image files."""

    folder: Path
    names: CategoryNames
    max_proposals: int
    job: PrepareJob
    source: str = "coco"

    def samples(self, images: Iterable[AnnotatedImage], rejects: Rejects) -> Iterator[Sample]:
        """A sample an image. An image without captions, or with an unusable file, is counted with its boxes."""
        for annotated in images:
            try:
                yield self._sample(annotated, rejects)
            except Rejected as error:
                rejects.add(error.reason, annotated.image.file_name)
                reject_boxes([*annotated.boxes, *annotated.proposals], rejects)

    def _sample(self, annotated: AnnotatedImage, rejects: Rejects) -> Sample:
        file_name = annotated.image.file_name
        sentences = [sentence for sentence in map(as_sentence, annotated.captions) if sentence]
        if not sentences:
            raise Rejected("no caption")
        image = check_image(read_image(self.folder / file_name), annotated.image.size)
        for _ in range(len(annotated.captions) - len(sentences)):
            rejects.add("caption without words", file_name)
        caption = " ".join(sentences)
        phrases, stop_phrases = cut_phrases(caption, sentences, self.job.text_extractor)
        regions = self._regions(annotated, image, phrases, rejects)
        image = self.job.shrink(image)
        return Sample(
            key=sample_key(annotated.image.id),
            image=image.data,
            caption=caption,
            sentences=tuple(sentences),
            phrases=phrases,
            stop_phrases=stop_phrases,
            regions=tuple(regions),
            source=self.source,
            extension=image.extension,
        )

    def _regions(
        self, annotated: AnnotatedImage, image: CheckedImage, phrases: Sequence[Phrase], rejects: Rejects
    ) -> list[Region]:
        """A region for each box and phrase that names it, or one where none does; then the best proposals."""
        labels = {box.label for box in annotated.boxes if box.label is not None}
        phrases_of = self.names.phrases_by_label(phrases, labels)
        regions: list[Region] = []
        for box, corners in _boxes_in_image(annotated.boxes, annotated.image, image, rejects):
            regions += [Region(corners, phrase, box.label) for phrase in phrases_of.get(box.label or "") or [None]]
        region_boxes, room = {region.box for region in regions}, self.max_proposals
        for box, corners in _boxes_in_image(annotated.proposals, annotated.image, image, rejects):
            if corners in region_boxes:
                rejects.add("proposal equal to another box", box.id)
            elif room == 0:
                rejects.add("proposal past max_proposals", box.id)
            else:
                regions.append(Region(corners))
                region_boxes.add(corners)
                room -= 1
        return regions


def _boxes_in_image(
    boxes: Sequence[CocoBox], coco_image: CocoImage, image: CheckedImage, rejects: Rejects
) -> Iterator[tuple[CocoBox, Box]]:
    """The boxes that lie in the image, and their corners in fractions of it."""
    size = coco_image.size or (image.width, image.height)
    return usable_boxes(boxes, lambda box: image.upright(from_coco(box, size)), rejects, lambda box: box.id)
