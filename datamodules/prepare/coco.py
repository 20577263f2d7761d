"""COCO captions and boxes as shards, or any data set whose files are laid out like COCO's.

An image's captions, five in COCO, are joined into one text whose sentences they are. Phrases are cut by NLTK, and every
box is linked to each phrase whose head noun names its category ("two men" and a box of "person"); which of several
persons a phrase means, COCO does not tell. Proposals, boxes of anything that a detector or segmenter found, say nothing
about what they show: they come without phrase and label, for methods that compare regions with crops of them
(CLIPSelf, FineCLIP, HarmoCLIP).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.granularity import extract_phrases
from datamodules.nltk_data import require_nltk_data
from datamodules.prepare.boxes import Box, usable
from datamodules.prepare.coco_files import (
    CocoBox,
    CocoImage,
    ImageId,
    drawn_box,
    read_boxes,
    read_captions,
    read_proposals,
)
from datamodules.prepare.coco_names import CategoryNames
from datamodules.prepare.pictures import find_missing, look_into, sample_key
from datamodules.prepare.rejects import LeftOut, Rejects
from datamodules.prepare.text import as_sentence
from datamodules.prepare.writing import write_source
from datamodules.sample import Phrase, Region, Sample
from datamodules.shard_writer import require_free


def prepare_coco(
    images: Path,
    captions: Path,
    out: Path,
    instances: Path | None = None,
    samples_per_shard: int = 1000,
    overwrite: bool = False,
    skip_missing: bool = False,
    proposals: Path | None = None,
    max_proposals: int = 100,
) -> dict[str, Any]:
    """Write shards from COCO captions, with COCO instances and proposals as regions.

    Args:
        images: the folder of the pictures, where the captions file's `file_name` begins (train2017).
        captions: COCO's captions_*.json.
        out: the folder to write shards and manifest.json to.
        instances: COCO's instances_*.json; without it, or proposals, the samples have no regions.
        samples_per_shard: how many samples a shard holds.
        overwrite: replace the shards that `out` already holds.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.
        proposals: class-agnostic boxes, laid out as instances; categories may be missing, each box may have a `score`.
        max_proposals: how many proposals an image keeps, those with the highest score.

    Returns:
        The manifest that was written.

    Raises:
        NltkDataError: NLTK's data is missing.
        FileNotFoundError: an annotation file or, without ``skip_missing``, an image is missing.
        FileExistsError: ``out`` holds shards, and ``overwrite`` is off.
        LayoutError: an annotation file is not in COCO's layout.
        ValueError: ``max_proposals`` is below 1, or no image was left to write.
    """
    if max_proposals < 1:
        raise ValueError(f"max_proposals must be at least 1, got {max_proposals}")
    require_nltk_data()
    require_free(out, overwrite=overwrite)
    listed, texts = read_captions(captions)
    categories, boxes = read_boxes(instances) if instances is not None else ([], {})
    proposed = _Proposals(read_proposals(proposals) if proposals is not None else {}, max_proposals)
    missing = find_missing(images, [image.file_name for image in listed], captions, skip_missing)
    reader = _Reader(images, texts, boxes, CategoryNames(categories), proposed)
    reader.leave_out(listed, missing)
    return write_source(
        [image for image in listed if image.file_name not in missing],
        reader.sample,
        out,
        source="coco",
        rejects=reader.rejects,
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
    )


class _Proposals(NamedTuple):
    boxes: Mapping[ImageId, list[CocoBox]]  # the best first
    most: int  # an image


class _Reader:
    """From an image of the captions file to a sample. What is left out is counted in ``rejects``."""

    def __init__(
        self,
        folder: Path,
        texts: Mapping[ImageId, list[str]],
        boxes: Mapping[ImageId, list[CocoBox]],
        names: CategoryNames,
        proposals: _Proposals,
    ) -> None:
        self.folder, self.texts, self.boxes, self.names, self.proposals = folder, texts, boxes, names, proposals
        self.rejects = Rejects()

    def leave_out(self, listed: Sequence[CocoImage], missing: set[str]) -> None:
        """Count the listed images without a file, and the boxes of images that are not listed."""
        for image in listed:
            if image.file_name in missing:
                self._reject(image, "image missing")
        known = {image.id for image in listed}
        for image_id in dict.fromkeys([*self.boxes, *self.proposals.boxes]):
            if image_id not in known:
                self._reject_boxes(image_id)

    def sample(self, image: CocoImage) -> Sample | None:
        """The sample of ``image``; None, and counted, where it has no captions or its file is no good."""
        sentences = [sentence for sentence in map(as_sentence, self.texts.get(image.id, ())) if sentence]
        try:
            if not sentences:
                raise LeftOut("no caption")
            picture = look_into((self.folder / image.file_name).read_bytes(), image.size)
        except LeftOut as left:
            return self._reject(image, left.reason)
        for _ in range(len(self.texts[image.id]) - len(sentences)):
            self.rejects.add("caption without words", image.file_name)
        caption = " ".join(sentences)
        phrases = extract_phrases(caption, sentences)
        regions = self._regions(image.id, image.size or (picture.width, picture.height), phrases)
        return Sample(
            key=sample_key(image.id),
            image=picture.data,
            caption=caption,
            sentences=tuple(sentences),
            phrases=tuple(phrases),
            regions=tuple(regions),
            source="coco",
            extension=picture.extension,
        )

    def _regions(self, image_id: ImageId, size: tuple[float, float], phrases: Sequence[Phrase]) -> list[Region]:
        """Boxes, each once for every phrase that names it, once without where none does; then the best proposals."""
        boxes = self.boxes.get(image_id, [])
        naming = self.names.phrases_by_label(phrases, {box.label for box in boxes if box.label is not None})
        regions: list[Region] = []
        for box, corners in self._in_picture(boxes, size):
            regions += [Region(corners, phrase, box.label) for phrase in naming.get(box.label or "") or [None]]
        there, most = {region.box for region in regions}, self.proposals.most
        for box, corners in self._in_picture(self.proposals.boxes.get(image_id, []), size):
            if corners in there:
                self.rejects.add("proposal equal to another box", box.id)
            elif most == 0:
                self.rejects.add("proposal past max_proposals", box.id)
            else:
                regions.append(Region(corners))
                there.add(corners)
                most -= 1
        return regions

    def _in_picture(self, boxes: Sequence[CocoBox], size: tuple[float, float]) -> Iterator[tuple[CocoBox, Box]]:
        """The boxes that lie in the picture, and their corners in fractions of it."""
        return usable(boxes, lambda box: drawn_box(box, size), self.rejects, lambda box: box.id)

    def _reject(self, image: CocoImage, reason: str) -> None:
        self.rejects.add(reason, image.file_name)
        self._reject_boxes(image.id)

    def _reject_boxes(self, image_id: ImageId) -> None:
        for box in [*self.boxes.get(image_id, []), *self.proposals.boxes.get(image_id, [])]:
            self.rejects.add("crowd box" if box.crowd else "box of an image left out", box.id)
