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
from datamodules.prepare.boxes import Box, drawn_box, leave_out_boxes, usable
from datamodules.prepare.coco_names import CategoryNames
from datamodules.prepare.images import Picture, look_into, read_picture, require_pictures, sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import LeftOut, Rejects
from datamodules.prepare.shard_jobs import Manifest, in_units, write_units
from datamodules.prepare.text_cleaning import as_sentence
from datamodules.sample import Phrase, Region, Sample


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
    job.finder.require()
    files = {"captions": captions, "instances": instances, "proposals": proposals}
    settings = {name: described(path) for name, path in files.items() if path} | {"max_proposals": max_proposals}
    listed, texts = read_captions(captions)
    categories, boxes = read_boxes(instances) if instances is not None else ([], {})
    proposed = read_proposals(proposals) if proposals is not None else {}
    if not skip_missing:
        require_pictures((images / image.file_name for image in listed), captions)
    rejects, known = Rejects(), {image.id for image in listed}
    for of in (boxes, proposed):
        leave_out_boxes((box for image_id in of if image_id not in known for box in of[image_id]), rejects)
    items = (
        Annotated(image, texts.get(image.id, ()), boxes.get(image.id, ()), proposed.get(image.id, ()))
        for image in listed
    )
    return write_units(
        in_units(items, job.samples_per_shard),
        CocoReader(images, CategoryNames(categories), max_proposals, job).samples,
        job,
        source="coco",
        settings=settings,
        rejects=rejects,
    )


class Annotated(NamedTuple):
    """The annotations of one image."""

    image: CocoImage
    captions: Sequence[str]
    boxes: Sequence[CocoBox]
    proposals: Sequence[CocoBox]  # the best first


class CocoReader(NamedTuple):
    """From images of the captions file to samples. ``most``: proposals an image keeps."""

    folder: Path
    names: CategoryNames
    most: int
    job: PrepareJob
    source: str = "coco"

    def samples(self, images: Iterable[Annotated], rejects: Rejects) -> Iterator[Sample]:
        """A sample an image. What has no captions, or whose file is no good, is counted with its boxes."""
        for one in images:
            try:
                yield self._sample(one, rejects)
            except LeftOut as left:
                rejects.add(left.reason, one.image.file_name)
                leave_out_boxes([*one.boxes, *one.proposals], rejects)

    def _sample(self, one: Annotated, rejects: Rejects) -> Sample:
        image = one.image
        sentences = [sentence for sentence in map(as_sentence, one.captions) if sentence]
        if not sentences:
            raise LeftOut("no caption")
        picture = look_into(read_picture(self.folder / image.file_name), image.size)
        for _ in range(len(one.captions) - len(sentences)):
            rejects.add("caption without words", image.file_name)
        caption = " ".join(sentences)
        found = cut_phrases(caption, sentences, self.job.finder)
        regions = self._regions(one, picture, found.phrases, rejects)
        picture = self.job.fitted(picture)
        return Sample(
            key=sample_key(image.id),
            image=picture.data,
            caption=caption,
            sentences=tuple(sentences),
            phrases=found.phrases,
            stop_phrases=found.stop_phrases,
            regions=tuple(regions),
            source=self.source,
            extension=picture.extension,
        )

    def _regions(self, one: Annotated, picture: Picture, phrases: Sequence[Phrase], rejects: Rejects) -> list[Region]:
        """Boxes, each once for every phrase that names it, once without where none does; then the best proposals."""
        naming = self.names.phrases_by_label(phrases, {box.label for box in one.boxes if box.label is not None})
        regions: list[Region] = []
        for box, corners in _in_picture(one.boxes, one.image, picture, rejects):
            regions += [Region(corners, phrase, box.label) for phrase in naming.get(box.label or "") or [None]]
        there, most = {region.box for region in regions}, self.most
        for box, corners in _in_picture(one.proposals, one.image, picture, rejects):
            if corners in there:
                rejects.add("proposal equal to another box", box.id)
            elif most == 0:
                rejects.add("proposal past max_proposals", box.id)
            else:
                regions.append(Region(corners))
                there.add(corners)
                most -= 1
        return regions


def _in_picture(
    boxes: Sequence[CocoBox], image: CocoImage, picture: Picture, rejects: Rejects
) -> Iterator[tuple[CocoBox, Box]]:
    """The boxes that lie in the image, and their corners in fractions of it."""
    size = image.size or (picture.width, picture.height)
    return usable(boxes, lambda box: picture.upright(drawn_box(box, size)), rejects, lambda box: box.id)
