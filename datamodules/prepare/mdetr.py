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
from datamodules.prepare.boxes import drawn_box, leave_out_boxes, usable
from datamodules.prepare.captions import tidy_caption
from datamodules.prepare.grounding import Grounded, grounded_sample
from datamodules.prepare.images import look_into, read_picture, require_pictures, sample_key
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.rejected import LeftOut, Rejects
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
    job.finder.require()
    settings = {"annotations": described(annotations)}
    listed, boxes = read_grounded(annotations)
    if not skip_missing:
        require_pictures((images / image.file_name for image in listed), annotations)
    rejects, known = Rejects(), {image.id for image in listed}
    leave_out_boxes((own.box for i, named in boxes.items() if i not in known for own in named), rejects)
    return write_units(
        in_units(((image, boxes.get(image.id, [])) for image in listed), job.samples_per_shard),
        GroundedReader(images, job).samples,
        job,
        source="grounded",
        settings=settings,
        rejects=rejects,
    )


class CaptionedImage(NamedTuple):
    """A row of ``images``: an image, its width and height in pixels, and one caption."""

    id: ImageId
    file_name: str
    size: tuple[float, float]
    caption: str


class NamedBox(NamedTuple):
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


def read_grounded(path: Path) -> tuple[list[CaptionedImage], dict[ImageId, list[NamedBox]]]:
    """The captioned images, and the boxes of each, in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        LayoutError: it is not JSON, or a field is missing, of the wrong type, or doubled.
    """
    file = AnnotationFile(path)
    images = [
        CaptionedImage(number, row["file_name"], (row["width"], row["height"]), row["caption"])
        for number, row in file.by_id("images", _IMAGE).items()
    ]
    boxes: dict[ImageId, list[NamedBox]] = {}
    fields = {"image_id": layout.ID, "bbox": layout.XYWH, "tokens_positive": _SPANS}
    for index, row in enumerate(file.rows("annotations", fields)):
        spans = [Span(*pair) for pair in row["tokens_positive"]]
        boxes.setdefault(row["image_id"], []).append(NamedBox(as_box(row, index, None), spans))
    return images, boxes


class GroundedReader(NamedTuple):
    """From rows of ``images``, each with its boxes, to samples."""

    folder: Path
    job: PrepareJob

    def samples(self, rows: Iterable[tuple[CaptionedImage, list[NamedBox]]], rejects: Rejects) -> Iterator[Sample]:
        """A sample a row. What has no caption, or whose file is no good, is counted with its boxes."""
        for image, named in rows:
            name = f"{image.file_name} ({image.id})"
            try:
                yield self._sample(image, named, name, rejects)
            except LeftOut as left:
                rejects.add(left.reason, name)
                leave_out_boxes((own.box for own in named), rejects)

    def _sample(self, image: CaptionedImage, named: list[NamedBox], name: str, rejects: Rejects) -> Sample:
        spans = [span for _, spans in named for span in spans]
        data = read_picture(self.folder / image.file_name)
        picture = look_into(data, image.size)
        caption, moved = tidy_caption(image.caption, spans, self.job.finder, rejects, name)
        boxes = usable(named, lambda n: picture.upright(drawn_box(n.box, image.size)), rejects, lambda n: n.box.id)
        linked = [(corners, [moved[span] for span in own.spans if span in moved]) for own, corners in boxes]
        record = Grounded(sample_key(image.id), name, self.job.fitted(picture), caption, linked)
        return grounded_sample(record, self.job.finder, source="grounded", rejects=rejects)
