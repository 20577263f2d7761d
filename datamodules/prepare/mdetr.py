"""Grounded captions in MDETR's JSON as shards (Kamath et al., 2021; also GLIP's): Flickr30k and "mixed" grounding.

The file is laid out as COCO's, with a caption in each row of ``images`` and ``tokens_positive`` in each row of
``annotations``: the characters ``[[start, end], ...]`` of the caption that name the box. Each piece is a phrase, and
the box is linked to all of its own. An image with five captions stands in five rows, and gives five samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.formats import layout
from datamodules.formats.coco import CocoBox, ImageId, as_box
from datamodules.formats.layout import AnnotationFile, Rule, described
from datamodules.granularity.cutting import Span
from datamodules.prepare.boxes import from_coco, reject_boxes, usable_boxes
from datamodules.prepare.grounding import GroundedImage, grounded_sample, tidy_caption
from datamodules.prepare.images import check_image, read_image, require_images, sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import Rejected, Rejects
from datamodules.prepare.shard_jobs import Manifest, in_units, write_units
from datamodules.sample import Sample


def prepare_grounded(
    images: Path,
    annotations: Path,
    job: PrepareJob,
    skip_missing: bool = False,
) -> Manifest | None:
    """Write shards from grounded captions in MDETR's JSON (final_flickr_separateGT_train.json and the like).

    Args:
        images: the folder of the images, where the file's `file_name` begins.
        annotations: the JSON file, with `caption` in its images and `tokens_positive` in its annotations.
        job: where to, and how.
        skip_missing: leave out images whose file is missing, and count them; otherwise they stop the run.

    Returns:
        The manifest; None while other parts are at work.

    Raises:
        NltkDataError: NLTK's data is missing, and NLTK is to be the extractor.
        FileNotFoundError: the annotation file or, without ``skip_missing``, an image is missing.
        FileExistsError: the folder holds shards made with other settings, and ``job.overwrite`` is off.
        LayoutError: the annotation file is not in MDETR's layout.
        ValueError: no image was left to write.
    """
    job.text_extractor.require()
    settings = {"annotations": described(annotations)}
    captioned, boxes_of = read_grounded(annotations)
    if not skip_missing:
        require_images((images / image.file_name for image in captioned), annotations)
    rejects, image_ids = Rejects(), {image.id for image in captioned}
    reject_boxes((grounded.box for i, boxes in boxes_of.items() if i not in image_ids for grounded in boxes), rejects)
    return write_units(
        in_units(((image, boxes_of.get(image.id, [])) for image in captioned), job.samples_per_shard),
        GroundedReader(images, job).samples,
        job,
        source="grounded",
        settings=settings,
        rejects=rejects,
    )


class MdetrImage(NamedTuple):
    """A row of ``images``: an image, its width and height in pixels, and one caption."""

    id: ImageId
    file_name: str
    size: tuple[float, float]
    caption: str


class GroundedBox(NamedTuple):
    """A row of ``annotations``: a box and the characters of the caption that name it."""

    box: CocoBox
    spans: list[Span]


_SPANS = Rule(
    "a list of [start, end], characters of the caption",
    lambda v: isinstance(v, list) and all(map(_is_pair, v)),
)
_IMAGE = {
    **{"id": layout.ID, "file_name": layout.PATH, "width": layout.PIXELS, "height": layout.PIXELS},
    "caption": Rule("a text (is this a file of grounded captions?)", layout.CAPTION.holds),
}


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(layout.is_whole, value))


def read_grounded(path: Path) -> tuple[list[MdetrImage], dict[ImageId, list[GroundedBox]]]:
    """The captioned images, and the boxes of each, in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, or a field is missing, of the wrong type, or doubled.
    """
    file = AnnotationFile(path)
    images = [
        MdetrImage(number, row["file_name"], (row["width"], row["height"]), row["caption"])
        for number, row in file.by_id("images", _IMAGE).items()
    ]
    boxes: dict[ImageId, list[GroundedBox]] = {}
    fields = {"image_id": layout.ID, "bbox": layout.XYWH, "tokens_positive": _SPANS}
    for index, row in enumerate(file.rows("annotations", fields)):
        spans = [Span(*pair) for pair in row["tokens_positive"]]
        boxes.setdefault(row["image_id"], []).append(GroundedBox(as_box(row, index, None), spans))
    return images, boxes


class GroundedReader(NamedTuple):
    """Turns captioned images, each with its boxes, into samples. ``folder`` has the image files."""

    folder: Path
    job: PrepareJob

    def samples(self, rows: Iterable[tuple[MdetrImage, list[GroundedBox]]], rejects: Rejects) -> Iterator[Sample]:
        """A sample a row. A row without caption, or with an unusable file, is counted with its boxes."""
        for captioned, boxes in rows:
            name = f"{captioned.file_name} ({captioned.id})"
            try:
                yield self._sample(captioned, boxes, name, rejects)
            except Rejected as error:
                rejects.add(error.reason, name)
                reject_boxes((grounded.box for grounded in boxes), rejects)

    def _sample(self, captioned: MdetrImage, boxes: list[GroundedBox], name: str, rejects: Rejects) -> Sample:
        extractor, spans = self.job.text_extractor, [span for grounded in boxes for span in grounded.spans]
        image = check_image(read_image(self.folder / captioned.file_name), captioned.size)
        caption, moved = tidy_caption(captioned.caption, spans, extractor, rejects, name)
        usable = usable_boxes(
            boxes, lambda g: image.upright(from_coco(g.box, captioned.size)), rejects, lambda g: g.box.id
        )
        linked = [(corners, [moved[span] for span in grounded.spans if span in moved]) for grounded, corners in usable]
        grounded_image = GroundedImage(sample_key(captioned.id), name, self.job.shrink(image), caption, linked)
        return grounded_sample(grounded_image, extractor, source="grounded", rejects=rejects)
